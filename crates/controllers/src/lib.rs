//! The controllers, one module each.
//!
//! A controller is a pure function from a key, the world and the time to a plan ([`Controller`], [`Plan`]); the runner
//! alone has queues, workers, retries and requests. What is level-triggered stays so: a change says which key to look
//! at, never what to do.

pub mod clusterrole;
pub mod controller;
pub mod deployment;
mod discovery;
pub mod endpoints;
pub mod gc;
pub mod metrics;
pub mod namespace;
pub mod node;
pub mod plan;
pub mod pods;
pub mod refs;
pub mod replicaset;
mod runner;
pub mod serviceaccount;
#[cfg(test)]
mod sim;
pub mod world;

pub use controller::{Controller, Watches};
pub use metrics::Metrics;
pub use plan::{Note, Op, Plan};
pub use world::World;

use client::{Client, Informers, Recorder};
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
            leader_elect: false,
            identity: "kube-controller-manager".into(),
            metrics: Metrics::default(),
        }
    }
}

/// The name under which events are recorded and the lease is held.
const COMPONENT: &str = "kube-controller-manager";

/// Runs every controller until the shutdown, or until the lease is lost.
pub async fn run(client: Client, config: Config, shutdown: CancellationToken) {
    if !config.leader_elect {
        return run_all(client, config, shutdown).await;
    }
    let lease = client::leader::Config::new(COMPONENT, config.identity.clone());
    let elector = client::leader::Elector::new(client.clone(), lease);
    elector.run(shutdown, |leading| run_all(client, config, leading)).await;
}

async fn run_all(client: Client, config: Config, shutdown: CancellationToken) {
    let informers = Informers::new(client.clone());
    let shell = |component: &str| runner::Shell {
        client: client.clone(),
        recorder: Recorder::new(client.clone(), component, ""),
        world: World::watch(&informers),
        metrics: config.metrics.clone(),
        shutdown: shutdown.clone(),
    };
    let n = config.concurrency;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(shell("deployment-controller").run(deployment::Deployments, n));
    tasks.spawn(shell("replicaset-controller").run(replicaset::ReplicaSets, n));
    tasks.spawn(shell("replication-controller").run(replicaset::ReplicationControllers, n));
    tasks.spawn(shell("endpoint-controller").run(endpoints::LegacyEndpoints, n));
    tasks.spawn(shell("endpoint-slice-controller").run(endpoints::EndpointSlices, n));
    tasks.spawn(shell("serviceaccount-controller").run(serviceaccount::ServiceAccounts, 1));
    if let Some(certificate) = config.root_ca_pem.clone() {
        tasks.spawn(shell("root-ca-certificate-publisher").run(serviceaccount::RootCa { certificate }, 1));
    }
    tasks.spawn(shell("node-controller").run(node::NodeLifecycle::default(), n));
    tasks.spawn(shell("taint-eviction-controller").run(node::TaintEviction::default(), n));
    tasks.spawn(shell("pod-garbage-collector").run(node::PodGc::default(), 1));
    if let Some(cluster) = config.cluster_cidr {
        let ipam = node::NodeIpam { cluster, node_prefix: config.node_cidr_mask };
        tasks.spawn(shell("cidrAllocator").run(ipam, 1));
    }
    tasks.spawn(shell("clusterrole-aggregation-controller").run(clusterrole::ClusterRoleAggregation, 1));
    tasks.spawn(namespace::run(shell("namespace-controller"), n));
    tasks.spawn(gc::run(shell("garbage-collector-controller"), informers.clone(), n));
    tasks.join_all().await;
    info!("controllers stopped");
}
