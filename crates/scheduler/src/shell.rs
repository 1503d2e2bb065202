//! Feeds the core from informers and carries out what it decides: binds pods, explains in status and event,
//! evicts for preemption.

use crate::core::{Core, Explanation, Step};
use crate::framework::{Point, Status as Came};
use crate::metrics::{Metrics, Outcome};
use crate::plugins::default_profile;
use crate::plugins::volume_binding::progress::progress;
use crate::pod::PodInfo;
use crate::preemption::{Candidate, Room};
use crate::volumes::Reservation;
use client::{Informer, Informers, Key, Options, Recorder};
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{
    Binding, Namespace, Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, PodCondition,
    ReplicationController, Service,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use meta::LabelSelector;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
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
/// How long a pod waits for its volumes to be bound (upstream's `bindTimeoutSeconds`).
const VOLUMES_TIMEOUT: Duration = Duration::from_secs(600);
/// Pods that wait for their volumes at a time; more are tried again later.
const WAITS_FOR_VOLUMES: usize = 10_000;

/// How a scheduler is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Schedules pods whose `spec.schedulerName` is this.
    pub scheduler_name: String,
    /// None runs without election, as the only scheduler.
    pub leader_election: Option<client::leader::Config>,
    /// How many nodes to find before scoring, in percent; 0 adapts to the size of the cluster.
    pub percentage_of_nodes_to_score: usize,
    pub metrics: Metrics,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            metrics: Metrics::new(DEFAULT_SCHEDULER),
            scheduler_name: DEFAULT_SCHEDULER.to_owned(),
            leader_election: None,
            percentage_of_nodes_to_score: 0,
        }
    }
}

/// Schedules until `shutdown`. With leader election, a scheduler that loses the lease runs for it again.
pub fn run(client: Client, config: Config, shutdown: CancellationToken) -> BoxFuture<'static, ()> {
    // boxed: its code is made here, once, and not again in the crate that polls it
    Box::pin(elected(client, config, shutdown))
}

async fn elected(client: Client, config: Config, shutdown: CancellationToken) {
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
    /// Something changed that a pod which waits for its volumes may wait for.
    volumes: Arc<Notify>,
    writes: Arc<Semaphore>,
    waits: Arc<Semaphore>,
    stop: CancellationToken,
    client: Client,
    recorder: Recorder,
    metrics: Metrics,
}

async fn lead(client: Client, config: Config, stop: CancellationToken) {
    let mut profile = default_profile();
    profile.percentage_of_nodes_to_score = config.percentage_of_nodes_to_score;
    let recorder = Recorder::new(client.clone(), &config.scheduler_name, "");
    let core = Core::new(profile, &config.scheduler_name);
    let permits = Arc::new(Semaphore::new(WRITES_IN_FLIGHT));
    let shell = Shell {
        core: Arc::new(Mutex::new(core)),
        work: Arc::default(),
        volumes: Arc::default(),
        writes: permits.clone(),
        waits: Arc::new(Semaphore::new(WAITS_FOR_VOLUMES)),
        stop: stop.clone(),
        client,
        recorder,
        metrics: config.metrics.clone(),
    };
    shell.metrics.leads(&shell.core);
    let watched = shell.watch();
    tokio::select! {
        () = stop.cancelled() => return,
        () = watched.synced() => {}
    }
    info!(scheduler = config.scheduler_name, nodes = shell.core.lock().snapshot.node_count(), "scheduling");
    while let Some(permit) = or_stop(&stop, permits.clone().acquire_owned()).await.and_then(Result::ok) {
        // registered before looking: a change in between is not missed
        let work = shell.work.notified();
        let now = Instant::now();
        let (step, wake) = {
            let mut core = shell.core.lock();
            let step = core.next_probed(rand::random(), now, &mut shell.metrics.stopwatch());
            (step, core.queue.next_wake())
        };
        match step {
            Some(step) => {
                shell.metrics.decided(now.elapsed());
                let shell = shell.clone();
                tokio::spawn(async move { shell.carry_out(step, permit, now).await });
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
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    csi_nodes: Informer<CSINode>,
    drivers: Informer<CSIDriver>,
    attachments: Informer<VolumeAttachment>,
    /// Watched once a driver counts its room.
    capacities: Arc<OnceLock<Informer<CSIStorageCapacity>>>,
}

impl Watched {
    /// Returns when everything that decisions need has been seen once. What only preferences and preemption
    /// use may be missing where a cluster does not serve it.
    async fn synced(&self) {
        tokio::join!(self.nodes.synced(), self.pods.synced(), self.namespaces.synced());
        tokio::join!(self.claims.synced(), self.volumes.synced(), self.classes.synced());
        tokio::join!(self.csi_nodes.synced(), self.drivers.synced(), self.attachments.synced());
        debug!(
            services = self.services.len(),
            replica_sets = self.replica_sets.len(),
            stateful_sets = self.stateful_sets.len(),
            replication_controllers = self.replication_controllers.len(),
            budgets = self.budgets.len(),
            capacities = self.capacities.get().map_or(0, Informer::len),
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
            claims: informers.of(Options::all()),
            volumes: informers.of(Options::all()),
            classes: informers.of(Options::all()),
            csi_nodes: informers.of(Options::all()),
            drivers: informers.of(Options::all()),
            attachments: informers.of(Options::all()),
            capacities: Arc::default(),
        };
        self.watch_volumes(&watched, &informers);
        let shell = self.clone();
        watched.nodes.on_change(move |d| {
            shell.apply(|core, now| core.on_node(d.old.as_ref(), d.new.as_ref(), now));
        });
        let shell = self.clone();
        watched.pods.on_change(move |d| {
            shell.apply(|core, now| core.on_pod(&d.key, d.new.clone(), now));
            if d.new.is_none() {
                shell.volumes.notify_waiters();
            }
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

    /// What the volume plugins look at. A change of a claim or volume may be what a pod waits for.
    fn watch_volumes(&self, watched: &Watched, informers: &Informers) {
        let shell = self.clone();
        watched.claims.on_change(move |d| {
            shell.apply(|core, now| core.on_claim(d, now));
            shell.volumes.notify_waiters();
        });
        let shell = self.clone();
        watched.volumes.on_change(move |d| {
            shell.apply(|core, now| core.on_volume(d, now));
            shell.volumes.notify_waiters();
        });
        let shell = self.clone();
        watched.classes.on_change(move |d| shell.apply(|core, now| core.on_storage_class(d, now)));
        let shell = self.clone();
        watched.csi_nodes.on_change(move |d| shell.apply(|core, now| core.on_csi_node(d, now)));
        let shell = self.clone();
        watched.attachments.on_change(move |d| shell.apply(|core, now| core.on_attachment(d, now)));
        let (shell, informers, capacities) = (self.clone(), informers.clone(), watched.capacities.clone());
        watched.drivers.on_change(move |d| {
            let counts = |driver: &Arc<CSIDriver>| driver.spec.storage_capacity == Some(true);
            if d.new.as_ref().is_some_and(counts) {
                capacities.get_or_init(|| {
                    let informer = informers.of(Options::all());
                    let shell = shell.clone();
                    informer
                        .on_change(move |d| shell.apply(|core, now| core.on_csi_storage_capacity(d, now)));
                    informer
                });
            }
            shell.apply(|core, now| core.on_csi_driver(d, now));
        });
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

    /// `begun`: when the attempt began.
    async fn carry_out(&self, step: Step, permit: OwnedSemaphorePermit, begun: Instant) {
        let outcome = match step {
            Step::Bind { pod, placement, reservation } if reservation.is_empty() => {
                let outcome = self.bind(&pod, &placement.node, &reservation).await;
                drop(permit);
                outcome
            }
            Step::Bind { pod, placement, reservation } => {
                self.pre_bind(&pod, &placement.node, reservation, permit).await
            }
            Step::Explain(explanation) => {
                self.explain(explanation).await;
                drop(permit);
                Outcome::Unschedulable
            }
        };
        self.metrics.attempted(outcome, begun.elapsed());
    }

    /// Has the pod's volumes bound, then the pod. `permit` is given back while nothing is written.
    async fn pre_bind(
        &self,
        pod: &Arc<PodInfo>,
        node: &str,
        reservation: Reservation,
        permit: OwnedSemaphorePermit,
    ) -> Outcome {
        let begun = Instant::now();
        // what makes room, as the cluster autoscaler does, can tell that the node is taken
        self.write_status(pod, None, Some(Some(node)).filter(|n| *n != pod.nominated_node())).await;
        let written = match self.write_volumes(&reservation).await {
            Ok(written) => written,
            Err(why) => return self.volumes_failed(pod, &reservation, why).await,
        };
        drop(permit);
        let Ok(_waits) = self.waits.try_acquire() else {
            let why = "binding volumes: too many pods wait for their volumes".to_owned();
            return self.volumes_failed(pod, &reservation, why).await;
        };
        let bound = tokio::time::timeout(VOLUMES_TIMEOUT, self.volumes_bound(pod, node, &written));
        let bound = match or_stop(&self.stop, bound).await {
            // who leads next finds what was written
            None => return Outcome::Error,
            Some(Ok(bound)) => bound,
            Some(Err(_)) => Err("context deadline exceeded".to_owned()),
        };
        let Ok(_permit) = self.writes.acquire().await else { return Outcome::Error };
        let came = if bound.is_ok() { Came::Success } else { Came::Error };
        self.metrics.ended(Point::PreBind, came, begun.elapsed());
        match bound {
            Ok(()) => self.bind(pod, node, &reservation).await,
            Err(why) => self.volumes_failed(pod, &reservation, format!("binding volumes: {why}")).await,
        }
    }

    /// Gives the objects as the API server answers them.
    async fn write_volumes(&self, reservation: &Reservation) -> Result<Reservation, String> {
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let mut written = Reservation::default();
        for volume in &reservation.volumes {
            written.volumes.push(replace(&volumes, volume).await?);
        }
        for claim in &reservation.claims {
            let namespace = claim.metadata.namespace.as_deref().unwrap_or("");
            let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
            written.claims.push(replace(&claims, claim).await?);
        }
        Ok(written)
    }

    async fn volumes_bound(&self, pod: &PodInfo, node: &str, written: &Reservation) -> Result<(), String> {
        loop {
            let mut change = std::pin::pin!(self.volumes.notified());
            // registered before looking: a change in between is not missed
            change.as_mut().enable();
            if progress(&self.core.lock().snapshot, pod, node, written)? {
                return Ok(());
            }
            change.await;
        }
    }

    async fn volumes_failed(&self, pod: &Arc<PodInfo>, reservation: &Reservation, why: String) -> Outcome {
        let message = format!("running PreBind plugin \"VolumeBinding\": {why}");
        let gone = self.core.lock().snapshot.pod(&pod.key).is_none_or(|p| p.uid != pod.uid);
        self.apply(|core, now| core.not_bound(pod, reservation, gone, now));
        if gone {
            debug!(pod = %pod.key, "{message}");
            return Outcome::Error;
        }
        warn!(pod = %pod.key, "{message}");
        self.recorder.warning(&about(pod), "FailedScheduling", message.clone());
        self.write_status(pod, Some(("SchedulerError", &message)), Some(None)).await;
        Outcome::Error
    }

    async fn bind(&self, pod: &Arc<PodInfo>, node: &str, reservation: &Reservation) -> Outcome {
        let begun = Instant::now();
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
        let Err(Failed { gone, why }) = in_time(write).await else {
            let bound = self.core.lock().bound(pod, Instant::now());
            self.metrics.ended(Point::Bind, Came::Success, begun.elapsed());
            if let Some((attempts, waited)) = bound {
                self.metrics.bound(attempts, waited);
            }
            let message = format!("Successfully assigned {key} to {node}");
            self.recorder.normal(&about(pod), "Scheduled", message);
            return Outcome::Scheduled;
        };
        self.metrics.ended(Point::Bind, Came::Error, begun.elapsed());
        let message = format!("binding rejected: running Bind plugin \"DefaultBinder\": {why}");
        warn!(pod = %key, node, "{message}");
        self.apply(|core, now| core.not_bound(pod, reservation, gone, now));
        if !gone {
            self.recorder.warning(&about(pod), "FailedScheduling", message.clone());
            self.write_status(pod, Some(("SchedulerError", &message)), None).await;
        }
        Outcome::Error
    }

    async fn explain(&self, explanation: Explanation) {
        let Explanation { pod, message, room, displaced, tried_preemption } = explanation;
        if tried_preemption {
            let victims =
                if let Room::Made(candidate) = &room { Some(candidate.victims.len()) } else { None };
            self.metrics.preempted(victims);
        }
        debug!(pod = %pod.key, "{message}");
        self.recorder.warning(&about(&pod), "FailedScheduling", message.clone());
        let nominated = match &room {
            Room::Made(candidate) => Some(candidate.node.as_str()),
            Room::NotSought => pod.nominated_node(),
            Room::None => None,
        };
        let nomination = (nominated != pod.nominated_node()).then_some(nominated);
        self.write_status(&pod, Some(("Unschedulable", &message)), nomination).await;
        if let Room::Made(candidate) = room {
            self.evict(&pod, &candidate).await;
        }
        for lesser in displaced {
            self.write_status(&lesser, None, Some(None)).await;
        }
        self.apply(|core, _| core.explained(&pod));
    }

    /// Writes condition PodScheduled=False, where a reason and message are given, and the nominated node where
    /// it is; nothing where they are so.
    async fn write_status(
        &self,
        pod: &PodInfo,
        refused: Option<(&str, &str)>,
        nominated: Option<Option<&str>>,
    ) {
        let conditions = pod.pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let was = conditions.iter().find(|c| c.type_ == "PodScheduled");
        let mut status = serde_json::Map::new();
        let same = |c: &PodCondition, reason: &str, message: &str| {
            c.status == "False"
                && c.reason.as_deref() == Some(reason)
                && c.message.as_deref() == Some(message)
        };
        if let Some((reason, message)) = refused
            && !was.is_some_and(|c| same(c, reason, message))
        {
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
        if let Err(Failed { gone: false, why }) =
            in_time(api.patch_status(&pod.key.name, &params, &patch)).await
        {
            warn!(pod = %pod.key, "writing the status: {why}");
        }
    }

    async fn evict(&self, preemptor: &PodInfo, candidate: &Candidate) {
        for victim in candidate.victims.iter().filter(|v| !v.is_terminating()) {
            let scheduler = preemptor.scheduler_name();
            let message = format!("{scheduler}: preempting to accommodate a higher priority pod");
            let condition = json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [
                {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": message,
                 "observedGeneration": victim.pod.metadata.generation, "lastTransitionTime": seconds(client::now())}]}});
            self.patch_status(victim, condition).await;
            let params = DeleteParams::default()
                .preconditions(Preconditions { uid: Some(victim.uid.clone()), resource_version: None });
            match in_time(self.pods(&victim.key).delete(&victim.key.name, &params)).await {
                Ok(_) => {
                    let note = format!("Preempted by pod {} on node {}", preemptor.uid, candidate.node);
                    self.recorder.normal(&about(victim), "Preempted", note);
                }
                Err(Failed { gone: true, .. }) => {}
                Err(Failed { gone: false, why }) => warn!(pod = %victim.key, "preempting: {why}"),
            }
        }
    }
}

async fn replace<K>(api: &Api<K>, object: &K) -> Result<Arc<K>, String>
where
    K: kube::Resource + Clone + serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let name = object.meta().name.as_deref().unwrap_or("");
    let params = PostParams::default();
    in_time(api.replace(name, &params, object)).await.map(Arc::new).map_err(|failed| failed.why)
}

/// Why a write did not come to pass.
struct Failed {
    /// There is no such object.
    gone: bool,
    /// In the API server's words, where it answered.
    why: String,
}

/// Bounds a write.
async fn in_time<T>(write: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Failed> {
    match tokio::time::timeout(WRITE_TIMEOUT, write).await {
        Ok(Ok(written)) => Ok(written),
        Ok(Err(e)) => {
            let gone = client::is_not_found(&e);
            let why = if let kube::Error::Api(status) = e { status.message } else { e.to_string() };
            Err(Failed { gone, why })
        }
        Err(_) => Err(Failed { gone: false, why: "the API server did not answer in time".to_owned() }),
    }
}

fn about(pod: &PodInfo) -> ObjectReference {
    client::events::reference(&*pod.pod)
}

/// A time as conditions carry it, to the second.
fn seconds(time: meta::Time) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
