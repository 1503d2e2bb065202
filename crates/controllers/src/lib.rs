//! The controllers, one module each.
//!
//! A controller is a pure function from a key, the world and the time to a plan ([`Controller`], [`Plan`]); the runner
//! alone has queues, workers, retries and requests. What is level-triggered stays so: a change says which key to look
//! at, never what to do.

mod children;
pub mod clusterrole;
pub mod controller;
pub mod cronjob;
pub mod daemonset;
pub mod deployment;
mod discovery;
pub mod disruption;
pub mod endpoints;
pub mod ephemeral;
pub mod gc;
mod history;
pub mod job;
pub mod metrics;
pub mod namespace;
pub mod node;
pub mod persistentvolume;
pub mod plan;
pub mod pods;
pub mod protection;
pub mod quota;
pub mod refs;
pub mod replicaset;
mod runner;
pub mod serviceaccount;
#[cfg(test)]
mod sim;
pub mod statefulset;
mod template;
pub mod ttlafterfinished;
pub mod world;

pub use controller::{Controller, Watches};
pub use metrics::Metrics;
pub use plan::{Note, Op, Plan};
pub use world::World;

use client::{Client, Informers, Recorder};
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// What the controllers are told.
#[derive(Clone)]
pub struct Config {
    /// Of which nodes get their parts (`--cluster-cidr`); None to give none.
    pub cluster_cidr: Option<node::Cidr>,
    /// Bits of a node's part (`--node-cidr-mask-size`).
    pub node_cidr_mask: u8,
    /// PEM, published as `kube-root-ca.crt` (`--root-ca-file`); None to publish none.
    pub root_ca_pem: Option<String>,
    /// Workers of the busier controllers (`--concurrent-*-syncs`).
    pub concurrency: usize,
    /// Gives each controller the client of its own service account, so that upstream's bootstrap roles are enough: see
    /// [`client::identity`]. None: all act as the client they share, which must be allowed all they do.
    pub client_for: Option<client::identity::ClientFor>,
    /// Whether other instances may run: only the one that holds the lease acts.
    pub leader_elect: bool,
    /// Unique to this instance; the lease's holder.
    pub identity: String,
    pub metrics: Metrics,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster_cidr: None,
            node_cidr_mask: 24,
            root_ca_pem: None,
            concurrency: 5,
            client_for: None,
            leader_elect: false,
            identity: "kube-controller-manager".into(),
            metrics: Metrics::default(),
        }
    }
}

/// The name under which events are recorded and the lease is held.
const COMPONENT: &str = "kube-controller-manager";

/// Runs every controller until the shutdown, or until the lease is lost.
pub fn run(client: Client, config: Config, shutdown: CancellationToken) -> BoxFuture<'static, ()> {
    // boxed: its code is made here, once, and not again in the crate that polls it
    Box::pin(elected(client, config, shutdown))
}

async fn elected(client: Client, config: Config, shutdown: CancellationToken) {
    if !config.leader_elect {
        return run_all(client, config, shutdown).await;
    }
    let lease = client::leader::Config::new(COMPONENT, config.identity.clone());
    let elector = client::leader::Elector::new(client.clone(), lease);
    let metrics = config.metrics.clone();
    metrics.leads(COMPONENT, false);
    let lead = |leading| {
        metrics.leads(COMPONENT, true);
        run_all(client, config, leading)
    };
    elector.run(shutdown, lead).await;
    metrics.leads(COMPONENT, false);
}

async fn run_all(client: Client, config: Config, shutdown: CancellationToken) {
    let informers = Informers::new(client.clone());
    let world = World::watch(&informers);
    // The account, and the name under which events are recorded.
    let shell = |account: &str, component: &str| {
        let client = config.client_for.as_ref().map_or_else(|| client.clone(), |f| f(account));
        runner::Shell {
            recorder: Recorder::new(client.clone(), component, ""),
            client,
            world: world.clone(),
            metrics: config.metrics.clone(),
            meters: metrics::Meters::default(),
            shutdown: shutdown.clone(),
        }
    };
    let own = |name: &str| shell(name, name);
    let n = config.concurrency;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(own("deployment-controller").run(deployment::Deployments, n));
    tasks.spawn(own("replicaset-controller").run(replicaset::ReplicaSets, n));
    tasks.spawn(own("replication-controller").run(replicaset::ReplicationControllers, n));
    tasks.spawn(
        shell("daemon-set-controller", "daemonset-controller").run(daemonset::DaemonSets::default(), n),
    );
    tasks.spawn(own("statefulset-controller").run(statefulset::StatefulSets, n));
    tasks.spawn(own("endpoint-controller").run(endpoints::LegacyEndpoints, n));
    let slices = shell("endpointslice-controller", "endpoint-slice-controller");
    tasks.spawn(slices.run(endpoints::EndpointSlices, n));
    let mirroring = shell("endpointslicemirroring-controller", "endpoint-slice-mirroring-controller");
    tasks.spawn(mirroring.run(endpoints::EndpointSliceMirroring, n));
    tasks.spawn(own("service-account-controller").run(serviceaccount::ServiceAccounts, 1));
    if let Some(certificate) = config.root_ca_pem.clone() {
        tasks.spawn(own("root-ca-cert-publisher").run(serviceaccount::RootCa { certificate }, 1));
    }
    tasks.spawn(own("node-controller").run(node::NodeLifecycle::default(), n));
    let eviction = shell("node-controller", "taint-eviction-controller");
    tasks.spawn(eviction.run(node::TaintEviction::default(), n));
    tasks.spawn(own("ttl-controller").run(node::Ttl, 1));
    tasks.spawn(own("pod-garbage-collector").run(node::PodGc::default(), 1));
    if let Some(cluster) = config.cluster_cidr {
        let ipam = node::NodeIpam { cluster, node_prefix: config.node_cidr_mask };
        tasks.spawn(shell("node-controller", "cidrAllocator").run(ipam, 1));
    }
    tasks.spawn(own("job-controller").run(job::Jobs::default(), n));
    tasks.spawn(own("job-controller").run(job::TrackedPods, 1));
    tasks.spawn(own("cronjob-controller").run(cronjob::CronJobs::default(), n));
    tasks.spawn(own("ttl-after-finished-controller").run(ttlafterfinished::TtlAfterFinished, 1));
    let disruption = || shell("disruption-controller", disruption::EVENTS_FROM);
    tasks.spawn(disruption().run(disruption::Disruptions, 1));
    tasks.spawn(disruption().run(disruption::StaleDisruptions, 1));
    tasks.spawn(own("pvc-protection-controller").run(protection::ClaimProtection, n));
    let binder = shell("persistent-volume-binder", "persistentvolume-controller");
    tasks.spawn(binder.run(persistentvolume::Binder, 1));
    let ephemeral = shell("ephemeral-volume-controller", "ephemeral_volume");
    tasks.spawn(ephemeral.run(ephemeral::EphemeralVolumes, 1));
    tasks.spawn(own("pv-protection-controller").run(protection::VolumeProtection, n));
    let classes =
        shell("volumeattributesclass-protection-controller", "volumeattributesclass-protection-controller");
    tasks.spawn(classes.run(protection::ClassProtection, 1));
    tasks.spawn(own("clusterrole-aggregation-controller").run(clusterrole::ClusterRoleAggregation, 1));
    tasks.spawn(namespace::run(own("namespace-controller"), n));
    tasks.spawn(quota::run(own("resourcequota-controller"), informers.clone(), n));
    let collector = shell("generic-garbage-collector", "garbage-collector-controller");
    tasks.spawn(gc::run(collector, informers.clone(), n));
    tasks.join_all().await;
    info!("controllers stopped");
}
