//! Feeds the core from informers and carries out what it decides: binds pods, explains in status and event,
//! evicts for preemption.

use crate::core::{Core, Explanation, Step};
use crate::plugins::default_profile;
use crate::pod::PodInfo;
use crate::preemption::Candidate;
use client::{Informer, Informers, Key, Options, Recorder};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{
    Binding, Namespace, Node, ObjectReference, Pod, PodCondition, ReplicationController, Service,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use meta::LabelSelector;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Upstream's name of the scheduler that pods get by default.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";
/// Name of the lease in `kube-system`.
pub const LEASE: &str = "kube-scheduler";
/// Bindings, explanations and evictions on their way to the API server at a time.
const WRITES_IN_FLIGHT: usize = 64;
/// Bound of one write. The pod is tried again after it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub struct Config {
    /// Schedules pods whose `spec.schedulerName` is this.
    pub scheduler_name: String,
    /// None runs without election, as the only scheduler.
    pub leader_election: Option<client::leader::Config>,
    /// How many nodes to find before scoring, in percent; 0 adapts to the size of the cluster.
    pub percentage_of_nodes_to_score: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            scheduler_name: DEFAULT_SCHEDULER.to_owned(),
            leader_election: None,
            percentage_of_nodes_to_score: 0,
        }
    }
}

/// Schedules until `shutdown`. With leader election, a scheduler that loses the lease runs for it again.
pub async fn run(client: Client, config: Config, shutdown: CancellationToken) {
    let Some(election) = config.leader_election.clone() else {
        return lead(client, config, shutdown).await;
    };
    while !shutdown.is_cancelled() {
        let elector = client::leader::Elector::new(client.clone(), election.clone());
        let (client, config) = (client.clone(), config.clone());
        elector.run(shutdown.clone(), |leading| lead(client, config, leading)).await;
    }
}

#[derive(Clone)]
struct Shell {
    core: Arc<Mutex<Core>>,
    /// Something may be there to schedule.
    work: Arc<Notify>,
    client: Client,
    recorder: Recorder,
}

async fn lead(client: Client, config: Config, stop: CancellationToken) {
    let mut profile = default_profile();
    profile.percentage_of_nodes_to_score = config.percentage_of_nodes_to_score;
    let recorder = Recorder::new(client.clone(), &config.scheduler_name, "");
    let core = Core::new(profile, &config.scheduler_name);
    let shell = Shell { core: Arc::new(Mutex::new(core)), work: Arc::default(), client, recorder };
    let watched = shell.watch();
    tokio::select! {
        () = stop.cancelled() => return,
        () = watched.synced() => {}
    }
    info!(scheduler = config.scheduler_name, nodes = shell.core.lock().snapshot.node_count(), "scheduling");
    let permits = Arc::new(Semaphore::new(WRITES_IN_FLIGHT));
    while let Some(permit) = or_stop(&stop, permits.clone().acquire_owned()).await.and_then(Result::ok) {
        // registered before looking: a change in between is not missed
        let work = shell.work.notified();
        let now = Instant::now();
        let (step, wake) = {
            let mut core = shell.core.lock();
            let step = core.next(rand::random(), now);
            (step, core.queue.next_wake())
        };
        match step {
            Some(step) => {
                let shell = shell.clone();
                tokio::spawn(async move {
                    shell.carry_out(step).await;
                    drop(permit);
                });
            }
            None => {
                drop(permit);
                let due = async {
                    match wake {
                        Some(at) => tokio::time::sleep_until(at.into()).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = work => {}
                    () = due => {}
                }
            }
        }
    }
    // what was decided is written before another may lead
    let _ = permits.acquire_many(WRITES_IN_FLIGHT as u32).await;
    drop(watched);
}

async fn or_stop<T>(stop: &CancellationToken, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        () = stop.cancelled() => None,
        value = future => Some(value),
    }
}

/// The informers, kept while the scheduler leads.
struct Watched {
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    namespaces: Informer<Namespace>,
    services: Informer<Service>,
    replica_sets: Informer<ReplicaSet>,
    stateful_sets: Informer<StatefulSet>,
    replication_controllers: Informer<ReplicationController>,
    budgets: Informer<PodDisruptionBudget>,
}

impl Watched {
    /// Returns when everything that decisions need has been seen once. What only preferences and preemption
    /// use may be missing where a cluster does not serve it.
    async fn synced(&self) {
        tokio::join!(self.nodes.synced(), self.pods.synced(), self.namespaces.synced());
        debug!(
            services = self.services.len(),
            replica_sets = self.replica_sets.len(),
            stateful_sets = self.stateful_sets.len(),
            replication_controllers = self.replication_controllers.len(),
            budgets = self.budgets.len(),
            "known so far"
        );
    }
}

impl Shell {
    /// Applies a change under the lock and lets the loop look.
    fn apply(&self, change: impl FnOnce(&mut Core, Instant)) {
        change(&mut self.core.lock(), Instant::now());
        self.work.notify_one();
    }

    fn watch(&self) -> Watched {
        let informers = Informers::new(self.client.clone());
        // ended pods take no room; there may be many
        let running = "status.phase!=Succeeded,status.phase!=Failed";
        let watched = Watched {
            nodes: informers.of(Options::all()),
            pods: informers.of(Options::all().fields(running)),
            namespaces: informers.of(Options::all()),
            services: informers.of(Options::all()),
            replica_sets: informers.of(Options::all().transform(|r: &mut ReplicaSet| {
                if let Some(spec) = &mut r.spec {
                    spec.template = None;
                }
            })),
            stateful_sets: informers.of(Options::all()),
            replication_controllers: informers.of(Options::all()),
            budgets: informers.of(Options::all()),
        };
        let shell = self.clone();
        watched.nodes.on_change(move |d| {
            shell.apply(|core, now| core.on_node(d.old.as_ref(), d.new.as_ref(), now));
        });
        let shell = self.clone();
        watched.pods.on_change(move |d| {
            shell.apply(|core, now| core.on_pod(&d.key, d.new.clone(), now));
        });
        let shell = self.clone();
        watched.namespaces.on_change(move |d| {
            let labels = d.new.as_ref().map(|n| n.metadata.labels.clone().unwrap_or_default());
            shell.apply(|core, now| core.on_namespace(&d.key.name, labels, now));
        });
        self.selectors(&watched.services, "Service", |s| {
            let selector = s.spec.as_ref()?.selector.as_ref().filter(|s| !s.is_empty())?;
            Some(LabelSelector::from_map(selector))
        });
        self.selectors(&watched.replica_sets, "ReplicaSet", |r| {
            LabelSelector::from_object(&r.spec.as_ref()?.selector).ok()
        });
        self.selectors(&watched.stateful_sets, "StatefulSet", |s| {
            LabelSelector::from_object(&s.spec.as_ref()?.selector).ok()
        });
        self.selectors(&watched.replication_controllers, "ReplicationController", |r| {
            Some(LabelSelector::from_map(r.spec.as_ref()?.selector.as_ref()?))
        });
        let shell = self.clone();
        watched.budgets.on_change(move |d| {
            shell.core.lock().snapshot.set_budget(d.key.clone(), d.new.clone());
        });
        watched
    }

    fn selectors<K: client::informer::Cached>(
        &self,
        informer: &Informer<K>,
        kind: &'static str,
        selector: fn(&K) -> Option<LabelSelector>,
    ) {
        let shell = self.clone();
        informer.on_change(move |d| {
            let selector = d.new.as_ref().and_then(|o| selector(o));
            shell.core.lock().snapshot.set_selector(&d.key.namespace, kind, &d.key.name, selector);
        });
    }

    fn pods(&self, key: &Key) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    async fn carry_out(&self, step: Step) {
        match step {
            Step::Bind { pod, placement } => self.bind(&pod, &placement.node).await,
            Step::Explain(explanation) => self.explain(explanation).await,
        }
    }

    async fn bind(&self, pod: &Arc<PodInfo>, node: &str) {
        let key = &pod.key;
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(key.name.to_string()),
                namespace: Some(key.namespace.to_string()),
                uid: Some(pod.uid.clone()),
                ..Default::default()
            },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..Default::default()
            },
        };
        let (api, params) = (self.pods(key), PostParams::default());
        let write = api.create_subresource::<_, Status>("binding", &key.name, &params, &binding);
        let (gone, why) = match tokio::time::timeout(WRITE_TIMEOUT, write).await {
            Ok(Ok(_)) => {
                self.core.lock().bound(pod);
                let message = format!("Successfully assigned {key} to {node}");
                self.recorder.normal(&about(pod), "Scheduled", message);
                return;
            }
            Ok(Err(e)) => (client::is_not_found(&e), e.to_string()),
            Err(_) => (false, "the API server did not answer in time".to_owned()),
        };
        let message = format!("binding rejected: running Bind plugin \"DefaultBinder\": {why}");
        warn!(pod = %key, node, "{message}");
        self.apply(|core, now| core.not_bound(pod, gone, now));
        if !gone {
            self.recorder.warning(&about(pod), "FailedScheduling", message.clone());
            self.write_status(pod, "SchedulerError", &message, None).await;
        }
    }

    async fn explain(&self, explanation: Explanation) {
        let Explanation { pod, message, preemption } = explanation;
        debug!(pod = %pod.key, "{message}");
        self.recorder.warning(&about(&pod), "FailedScheduling", message.clone());
        let nominated = preemption.as_ref().map(|c| c.node.as_str());
        // an earlier nomination that came to nothing is taken back
        let nomination = (nominated != pod.nominated_node()).then_some(nominated);
        self.write_status(&pod, "Unschedulable", &message, nomination).await;
        if let Some(candidate) = preemption {
            self.evict(&pod, &candidate).await;
        }
        self.apply(|core, _| core.explained(&pod));
    }

    /// Writes condition PodScheduled=False and, where given, the nominated node; nothing where they are so.
    async fn write_status(
        &self,
        pod: &PodInfo,
        reason: &str,
        message: &str,
        nominated: Option<Option<&str>>,
    ) {
        let conditions = pod.pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let was = conditions.iter().find(|c| c.type_ == "PodScheduled");
        let mut status = serde_json::Map::new();
        let same = |c: &PodCondition| {
            c.status == "False"
                && c.reason.as_deref() == Some(reason)
                && c.message.as_deref() == Some(message)
        };
        if !was.is_some_and(same) {
            let since = was.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
            let since = since.map_or_else(|| json!(seconds(client::now())), |t| json!(t));
            status.insert(
                "conditions".to_owned(),
                json!([{"type": "PodScheduled", "status": "False", "reason": reason, "message": message,
                    "observedGeneration": pod.pod.metadata.generation, "lastTransitionTime": since}]),
            );
        }
        if let Some(node) = nominated {
            status.insert("nominatedNodeName".to_owned(), json!(node));
        }
        if !status.is_empty() {
            self.patch_status(pod, json!({"metadata": {"uid": pod.uid}, "status": status})).await;
        }
    }

    async fn patch_status(&self, pod: &PodInfo, patch: Value) {
        let (api, params) = (self.pods(&pod.key), PatchParams::default());
        let patch = Patch::Strategic(patch);
        let write = api.patch_status(&pod.key.name, &params, &patch);
        match tokio::time::timeout(WRITE_TIMEOUT, write).await {
            Ok(Ok(_)) => {}
            Ok(Err(e)) if client::is_not_found(&e) => {}
            Ok(Err(e)) => warn!(pod = %pod.key, "writing the status: {e}"),
            Err(_) => warn!(pod = %pod.key, "writing the status: no answer in time"),
        }
    }

    async fn evict(&self, preemptor: &PodInfo, candidate: &Candidate) {
        for victim in candidate.victims.iter().filter(|v| !v.is_terminating()) {
            let message = format!("{DEFAULT_SCHEDULER}: preempting to accommodate a higher priority pod");
            let condition = json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [
                {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": message,
                 "observedGeneration": victim.pod.metadata.generation, "lastTransitionTime": seconds(client::now())}]}});
            self.patch_status(victim, condition).await;
            let params = DeleteParams::default()
                .preconditions(Preconditions { uid: Some(victim.uid.clone()), resource_version: None });
            match self.pods(&victim.key).delete(&victim.key.name, &params).await {
                Ok(_) => {
                    let note = format!("Preempted by pod {} on node {}", preemptor.uid, candidate.node);
                    self.recorder.normal(&about(victim), "Preempted", note);
                }
                Err(e) if client::is_not_found(&e) => {}
                Err(e) => warn!(pod = %victim.key, "preempting: {e}"),
            }
        }
    }
}

fn about(pod: &PodInfo) -> ObjectReference {
    client::events::reference(&*pod.pod)
}

/// A time as conditions carry it, to the second.
fn seconds(time: meta::Time) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
