//! The actor of one pod: looks, plans, acts, reports, and looks again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use meta::Time;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::execute::{Outcome, Round};
use crate::observe::{Seen, observe};
use crate::probes::{ProbeJob, ProbeKind, ProbeUpdate, Prober, Target};
use crate::report::Reporter;
use crate::resizing::{read_actuated, write_actuated};
use crate::shared::Shared;
use crate::sync::resize::Pending;
use crate::sync::{
    Action, ContainerKind, ContainerState, Failure, PodPlan, PodState, RuntimePod, containers,
    init_containers, is_sidecar, plan,
};

/// The pod is looked at again after this time even if nothing was heard (upstream's `syncFrequency`).
const RESYNC: Duration = Duration::from_secs(60);
/// Pause when the runtime does not answer.
const RUNTIME_RETRY: Duration = Duration::from_secs(1);
/// A container that was running when the kubelet started is probed at a random moment of its period.
const RESTART_JITTER: Duration = Duration::from_secs(10);
/// Contents of volumes that could not be brought up to date are tried again after this time.
const REFRESH_RETRY_SECONDS: i64 = 60;
/// The longest pause after failures that concern the whole pod (volumes, sandbox), in seconds.
const MAX_RETRY_SECONDS: i64 = 30;
/// Dead containers kept for each container, beside the newest.
const KEPT_DEAD: usize = 1;

/// What the actor is told about its pod.
#[derive(Clone)]
pub struct Input {
    /// With the resources it was granted, which may be others than it asks for.
    pub pod: Arc<Pod>,
    /// As it asks for, while that cannot be granted.
    pub desired: Option<Desired>,
    /// The generation that was granted last, since this kubelet runs.
    pub granted_generation: Option<i64>,
    /// The API's mirror of a static pod.
    pub mirror: Option<Arc<Pod>>,
    /// The API does not have it any more.
    pub gone: bool,
    /// It was refused, or must go.
    pub failure: Option<(Failure, bool)>,
}

/// A resize that waits.
#[derive(Clone)]
pub struct Desired {
    pub pod: Arc<Pod>,
    pub pending: Pending,
    pub since: Time,
}

impl Input {
    /// A pod as it starts.
    pub fn new(pod: Arc<Pod>) -> Self {
        Self { pod, desired: None, granted_generation: None, mirror: None, gone: false, failure: None }
    }
}

/// The way to reach an actor.
#[derive(Clone)]
pub struct Handle {
    pub input: watch::Sender<Input>,
    pub wake: Arc<Wake>,
    /// What it shows to others: the newest status and the runtime's view.
    pub view: watch::Receiver<View>,
    pub done: CancellationToken,
}

/// Reasons to look again.
#[derive(Default)]
pub struct Wake {
    notify: Notify,
    objects: std::sync::atomic::AtomicBool,
    collect: std::sync::atomic::AtomicBool,
}

impl Wake {
    /// Something happened in the runtime.
    pub fn runtime(&self) {
        self.notify.notify_one();
    }

    /// An object that the pod refers to changed.
    pub fn objects(&self) {
        self.objects.store(true, std::sync::atomic::Ordering::Release);
        self.notify.notify_one();
    }

    /// The disk is short: what is dead is to go.
    pub fn collect(&self) {
        self.collect.store(true, std::sync::atomic::Ordering::Release);
        self.notify.notify_one();
    }

    fn take_collect(&self) -> bool {
        self.collect.swap(false, std::sync::atomic::Ordering::AcqRel)
    }

    fn take_objects(&self) -> bool {
        self.objects.swap(false, std::sync::atomic::Ordering::AcqRel)
    }
}

/// The pod as others may see it.
#[derive(Clone, Default)]
pub struct View {
    pub status: Option<PodStatus>,
    pub observed: RuntimePod,
    pub finished: bool,
}

/// Starts the actor of a pod.
pub fn spawn(shared: Arc<Shared>, input: Input) -> Handle {
    let (view_tx, view) = watch::channel(View::default());
    let (input_tx, input_rx) = watch::channel(input);
    let wake = Arc::new(Wake::default());
    let done = CancellationToken::new();
    let stop = shared.stop.clone();
    let actor = Actor::new(shared, input_rx, wake.clone(), view_tx);
    let guard = done.clone().drop_guard();
    tokio::spawn(async move {
        let _guard = guard;
        // what is broken off is found and finished by the kubelet that comes after
        stop.run_until_cancelled(actor.run()).await;
    });
    Handle { input: input_tx, wake, view, done }
}

struct Actor {
    shared: Arc<Shared>,
    input: watch::Receiver<Input>,
    wake: Arc<Wake>,
    view: watch::Sender<View>,
    state: PodState,
    seen: Seen,
    prober: Prober,
    updates: mpsc::UnboundedReceiver<ProbeUpdate>,
    updates_tx: mpsc::UnboundedSender<ProbeUpdate>,
    /// Writes the status; a static pod without a mirror has nowhere to write.
    reporter: Option<Reporter>,
    mirror_uid: Option<String>,
    tokens_due: Option<Time>,
    /// Volumes are mounted, so that changed objects are to be written into them.
    mounted: bool,
    first_seen: Instant,
    /// Rounds in a row that failed for the whole pod.
    failures: u32,
    was_running: bool,
    /// The pod is to end.
    leaving: bool,
    /// The labels and annotations that volumes show.
    shown: Option<(Strings, Strings)>,
}

type Strings = Option<std::collections::BTreeMap<String, String>>;

impl Actor {
    fn new(
        shared: Arc<Shared>,
        input: watch::Receiver<Input>,
        wake: Arc<Wake>,
        view: watch::Sender<View>,
    ) -> Self {
        let pod = input.borrow().pod.clone();
        let (updates_tx, updates) = mpsc::unbounded_channel();
        let state = PodState {
            host_ips: shared.config.node_ips.clone(),
            runtime_name: shared.runtime_name.clone(),
            max_restart_seconds: Some(shared.config.max_container_restart_seconds),
            probes: remembered_probes(pod.status.as_ref()),
            actuated: read_actuated(&shared.config.pod_dir(pod.metadata.uid.as_deref().unwrap_or_default())),
            ..PodState::default()
        };
        Self {
            reporter: (!is_static(&pod)).then(|| Reporter::start(shared.client.clone(), &pod)),
            mirror_uid: None,
            shared,
            input,
            wake,
            view,
            state,
            seen: Seen::default(),
            prober: Prober::default(),
            updates,
            updates_tx,
            tokens_due: None,
            mounted: false,
            first_seen: Instant::now(),
            failures: 0,
            was_running: false,
            leaving: false,
            shown: None,
        }
    }

    async fn run(mut self) {
        loop {
            let input = self.take_input();
            self.drain_updates();
            let started = Instant::now();
            let Some((observed, plan)) = self.look(&input).await else {
                tokio::time::sleep(RUNTIME_RETRY).await;
                continue;
            };
            if plan.finished {
                break;
            }
            if !self.mounted && !plan.terminating && observed.has_running_container() {
                // the kubelet was started anew: the volumes are there, but may be out of date
                self.mounted = true;
                self.wake.objects();
            }
            let deletes = plan.actions.contains(&Action::DeleteFromApi);
            if !plan.actions.is_empty() {
                if deletes {
                    // the last status is worth more than a quick end
                    if let Some(reporter) = &self.reporter {
                        reporter.flushed().await;
                    }
                }
                self.act(&input, observed, plan).await;
                self.shared.metrics.pod_worker_duration.observe(started.elapsed().as_secs_f64());
                continue;
            }
            if self.wake.take_objects() && self.mounted {
                self.refresh_volumes(&input, observed).await;
            }
            if self.wake.take_collect() {
                self.remove_dead(&input).await;
            }
            self.wait(plan.wake_at).await;
        }
        self.view.send_modify(|v| v.finished = true);
    }

    fn take_input(&mut self) -> Input {
        let input = self.input.borrow_and_update().clone();
        let shown = (input.pod.metadata.labels.clone(), input.pod.metadata.annotations.clone());
        if self.shown.as_ref().is_some_and(|before| *before != shown) {
            // volumes may show them
            self.wake.objects();
        }
        self.shown = Some(shown);
        let leaving =
            input.gone || input.failure.is_some() || input.pod.metadata.deletion_timestamp.is_some();
        if leaving && !self.leaving {
            // what was to be tried again is of no interest any more
            self.state.retry_at = None;
            self.failures = 0;
        }
        self.leaving = leaving;
        self.state.gone |= input.gone;
        let mirror = input.mirror.as_ref().filter(|m| m.metadata.uid != self.mirror_uid);
        if let Some(mirror) = mirror {
            self.mirror_uid.clone_from(&mirror.metadata.uid);
            self.reporter = Some(Reporter::start(self.shared.client.clone(), mirror));
        }
        self.state.pending_resize = input.desired.as_ref().map(|d| d.pending.clone());
        if self.state.resize_generation != input.granted_generation {
            self.state.resize_generation = input.granted_generation;
            self.state.resize_error = None;
            self.state.resize_not_before = None;
        }
        if let Some((failure, rejected)) = &input.failure {
            self.state.failure = Some(failure.clone());
            self.state.rejected |= *rejected;
        }
        input
    }

    fn drain_updates(&mut self) {
        while let Ok(update) = self.updates.try_recv() {
            self.take_update(&update);
        }
    }

    fn take_update(&mut self, update: &ProbeUpdate) {
        let results = self.state.probes.entry(update.container_id.clone()).or_default();
        match update.kind {
            ProbeKind::Startup => results.startup = Some(update.result),
            ProbeKind::Liveness => results.liveness = Some(update.result),
            ProbeKind::Readiness => results.readiness = Some(update.result),
        }
    }

    /// Observes the pod, plans, and reports. `None` if the runtime does not answer.
    async fn look(&mut self, input: &Input) -> Option<(RuntimePod, PodPlan)> {
        let uid = input.pod.metadata.uid.clone().unwrap_or_default();
        let observed = match observe(&*self.shared.runtime, &uid, &mut self.seen).await {
            Ok(observed) => observed,
            Err(e) => {
                tracing::warn!(pod = ?input.pod.metadata.name, error = %e, "the runtime does not tell of a pod");
                return None;
            }
        };
        self.state.probes.retain(|id, _| observed.containers.iter().any(|c| &c.id == id));
        self.state.actuated.retain(|id, _| observed.containers.iter().any(|c| &c.id == id));
        let plan = plan(&input.pod, &observed, &self.state, now_seconds());
        for event in &plan.events {
            let container = event.container.as_ref().map(|(kind, name)| (*kind, name.as_str()));
            self.shared.event(&input.pod, container, event.warning, event.reason, event.message.clone());
        }
        self.state.waiting.clone_from(&plan.waiting);
        self.state.last_status = Some(plan.status.clone());
        if let Some(reporter) = self.reporter.as_ref().filter(|_| !self.state.gone) {
            reporter.report(&plan.status);
        }
        self.note_start(&plan.status);
        self.sync_probes(&input.pod, &observed, plan.terminating);
        self.view.send_replace(View {
            status: Some(plan.status.clone()),
            observed: observed.clone(),
            finished: plan.finished,
        });
        Some((observed, plan))
    }

    fn note_start(&mut self, status: &PodStatus) {
        let running = status.phase.as_deref() == Some("Running");
        if running && !self.was_running {
            self.shared.metrics.pod_start_duration.observe(self.first_seen.elapsed().as_secs_f64());
        }
        self.was_running = running;
    }

    /// Carries the plan out. Meanwhile statuses go on being reported, and a deletion, or a shorter grace
    /// period, breaks the round off: the next plan knows.
    async fn act(&mut self, input: &Input, observed: RuntimePod, plan: PodPlan) {
        let prepares = plan.actions.contains(&Action::Prepare);
        let hooked = plan.actions.iter().any(|a| has_post_start(&input.pod, a));
        self.state.backoff = plan.backoff;
        self.state.retry_at = None;
        let names: Vec<String> = plan
            .actions
            .iter()
            .filter_map(|a| match a {
                Action::StartContainer { name, .. } => Some(name.clone()),
                _ => None,
            })
            .collect();
        let round = self.round(input, observed).run(plan.actions);
        tokio::pin!(round);
        let mut changed = self.input.clone();
        let mut updates_open = true;
        let outcome = loop {
            tokio::select! {
                outcome = &mut round => break Some(outcome),
                Ok(()) = changed.changed() => {
                    if is_urgent(input, &changed.borrow_and_update(), plan.terminating) {
                        break None;
                    }
                }
                update = self.updates.recv(), if updates_open => match update {
                    Some(update) => {
                        self.take_update(&update);
                        if !hooked {
                            self.look(input).await;
                        }
                    }
                    None => updates_open = false,
                },
                () = self.wake.notify.notified() => {
                    if !hooked && !prepares {
                        self.look(input).await;
                    }
                }
            }
        };
        let Some(outcome) = outcome else { return };
        let complete = outcome.retry_at.is_none();
        if !outcome.actuated.is_empty() {
            self.state.actuated.extend(outcome.actuated.clone());
            self.note_actuated(input).await;
        }
        if let Some(error) = &outcome.resize_error {
            self.state.resize_error.clone_from(error);
            self.state.resize_not_before = outcome.resize_not_before;
        }
        if prepares && complete {
            self.mounted = true;
        }
        self.take_outcome(outcome, &names);
        if !names.is_empty() {
            self.remove_dead(input).await;
        }
    }

    /// Notes what containers were given, for a kubelet that starts anew.
    async fn note_actuated(&self, input: &Input) {
        let dir = self.shared.config.pod_dir(input.pod.metadata.uid.as_deref().unwrap_or_default());
        let actuated = self.state.actuated.clone();
        if let Err(e) = crate::execute::blocking(move || write_actuated(&dir, &actuated)).await {
            tracing::warn!(pod = ?input.pod.metadata.name, error = %e, "what containers were given cannot be noted");
        }
    }

    fn take_outcome(&mut self, outcome: Outcome, names: &[String]) {
        for name in names {
            self.state.not_before.remove(name);
        }
        for name in &outcome.started {
            self.state.waiting.remove(name);
        }
        self.state.waiting.extend(outcome.waiting);
        self.state.not_before.extend(outcome.not_before);
        self.failures = if outcome.retry_at.is_some() { self.failures.saturating_add(1) } else { 0 };
        let pause = (1 << self.failures.min(10)).min(MAX_RETRY_SECONDS);
        self.state.retry_at = outcome.retry_at.map(|_| crate::sync::later(client::now(), pause));
        self.state.torn_down |= outcome.torn_down;
        self.state.removed |= outcome.removed;
        self.state.gone |= outcome.deleted;
        if outcome.torn_down {
            self.mounted = false;
        }
        self.tokens_due = outcome.tokens_due.or(self.tokens_due);
    }

    /// Removes dead containers that nobody asks for, with their logs.
    async fn remove_dead(&mut self, input: &Input) {
        let uid = input.pod.metadata.uid.clone().unwrap_or_default();
        let Ok(observed) = observe(&*self.shared.runtime, &uid, &mut self.seen).await else { return };
        let mut kept = std::collections::HashMap::new();
        for seen in &observed.containers {
            let number = kept.entry(seen.name.clone()).or_insert(0_usize);
            *number += 1;
            if *number <= 1 + KEPT_DEAD || seen.state != ContainerState::Exited {
                continue;
            }
            let log = self.shared.runtime.container_status(&seen.id).await.map(|s| s.log_path);
            if self.shared.runtime.remove_container(&seen.id).await.is_ok() {
                let _ = log.map(std::fs::remove_file);
            }
        }
    }

    /// Writes changed objects into mounted volumes; containers that waited for an object try again.
    async fn refresh_volumes(&mut self, input: &Input, observed: RuntimePod) {
        self.state.not_before.clear();
        let mut round = self.round(input, observed);
        let failed = round.mount_volumes().await.is_err();
        self.tokens_due = round.outcome.tokens_due;
        if failed {
            self.tokens_due = Some(crate::sync::later(client::now(), REFRESH_RETRY_SECONDS));
        }
    }

    fn round(&self, input: &Input, observed: RuntimePod) -> Round {
        let host_ips = self.state.host_ips.clone();
        let mut round = Round::new(self.shared.clone(), input.pod.clone(), observed, host_ips, self.mounted);
        round.resize_error.clone_from(&self.state.resize_error);
        round
    }

    async fn wait(&mut self, wake_at: Option<Time>) {
        let now = client::now();
        let until = [wake_at, self.tokens_due].into_iter().flatten().min();
        let pause = until.map_or(RESYNC, |t| {
            let nanos = t.as_nanosecond() - now.as_nanosecond();
            Duration::from_nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX)).min(RESYNC)
        });
        tokio::select! {
            _ = self.input.changed() => {}
            Some(update) = self.updates.recv() => self.take_update(&update),
            () = self.wake.notify.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
        if self.wake.objects.load(std::sync::atomic::Ordering::Acquire) {
            // whoever waits for an object need not wait for the clock
            self.state.not_before.clear();
            self.state.retry_at = None;
        }
        if self.tokens_due.is_some_and(|t| t <= client::now()) {
            self.tokens_due = None;
            self.wake.objects();
        }
    }

    /// Starts and ends probes so that they fit the running containers.
    fn sync_probes(&mut self, pod: &Pod, observed: &RuntimePod, terminating: bool) {
        let ips = if pod.spec.as_ref().and_then(|s| s.host_network) == Some(true) {
            self.state.host_ips.clone()
        } else {
            observed.ips().to_vec()
        };
        let pod_ip = ips.first().cloned().unwrap_or_default();
        let running =
            |id: &str| observed.containers.iter().any(|c| c.id == id && c.state == ContainerState::Running);
        // on the way out only readiness still matters
        self.prober.retain(|id, kind| running(id) && (!terminating || kind == ProbeKind::Readiness));
        let probed = init_containers(pod).iter().filter(|c| is_sidecar(c)).chain(containers(pod));
        for container in probed {
            let Some(seen) = observed.find(&container.name).filter(|c| c.state == ContainerState::Running)
            else {
                continue;
            };
            let results = self.state.probes.get(&seen.id).copied().unwrap_or_default();
            let started = container.startup_probe.is_none() || results.startup == Some(true);
            for kind in ProbeKind::ALL {
                let probe = match kind {
                    ProbeKind::Startup => {
                        container.startup_probe.as_ref().filter(|_| results.startup.is_none())
                    }
                    ProbeKind::Liveness => container.liveness_probe.as_ref().filter(|_| started),
                    ProbeKind::Readiness => container.readiness_probe.as_ref().filter(|_| started),
                };
                let Some(probe) = probe else { continue };
                if self.prober.knows(&seen.id, kind) || (terminating && kind != ProbeKind::Readiness) {
                    continue;
                }
                let age = seen.started_at.map_or(Duration::ZERO, |t| {
                    let seconds = client::now().as_second() - t.as_second();
                    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
                });
                let job = self.job(pod, container, kind, probe.clone(), age, &seen.id, &pod_ip);
                self.prober.start(job);
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one call, all of it needed")]
    fn job(
        &self,
        pod: &Pod,
        container: &Container,
        kind: ProbeKind,
        probe: k8s_openapi::api::core::v1::Probe,
        age: Duration,
        id: &str,
        pod_ip: &str,
    ) -> ProbeJob {
        let shared = self.shared.clone();
        let about = pod.clone();
        let sidecar = init_containers(pod).iter().any(|c| c.name == container.name);
        let list = if sidecar { ContainerKind::Init } else { ContainerKind::Regular };
        let name = container.name.clone();
        ProbeJob {
            target: Target {
                runtime: self.shared.runtime.clone(),
                container_id: id.to_owned(),
                pod_ip: pod_ip.to_owned(),
            },
            container: container.clone(),
            kind,
            probe,
            age,
            jitter: self.shared.started.elapsed() < RESTART_JITTER && age > self.shared.started.elapsed(),
            updates: self.updates_tx.clone(),
            complain: Arc::new(move |reason, message| {
                shared.event(&about, Some((list, &name)), true, reason, message);
            }),
        }
    }
}

/// The time in whole seconds, as the API writes it.
fn now_seconds() -> Time {
    let now = client::now();
    Time::from_second(now.as_second()).unwrap_or(now)
}

fn has_post_start(pod: &Pod, action: &Action) -> bool {
    let Action::StartContainer { kind, name } = action else { return false };
    crate::sync::find_container(pod, *kind, name)
        .is_some_and(|c| c.lifecycle.is_some_and(|l| l.post_start.is_some()))
}

fn is_static(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key("kubernetes.io/config.source"))
}

/// Whether what changed cannot wait for the end of the round.
fn is_urgent(before: &Input, now: &Input, terminating: bool) -> bool {
    if !terminating {
        return now.gone || now.failure != before.failure || now.pod.metadata.deletion_timestamp.is_some();
    }
    let grace = |input: &Input| input.pod.metadata.deletion_grace_period_seconds.unwrap_or(i64::MAX);
    (now.gone && !before.gone) || grace(now) < grace(before)
}

/// After a restart of the kubelet what was ready is ready until a probe says otherwise.
fn remembered_probes(
    status: Option<&PodStatus>,
) -> std::collections::BTreeMap<String, crate::sync::ProbeResults> {
    let lists = status.map(|s| [&s.container_statuses, &s.init_container_statuses]);
    let statuses = lists.into_iter().flatten().flatten().flatten();
    statuses
        .filter_map(|s| {
            let (_, id) = s.container_id.as_deref()?.split_once("://")?;
            s.state.as_ref()?.running.as_ref()?;
            let results = crate::sync::ProbeResults {
                startup: (s.started == Some(true)).then_some(true),
                readiness: s.ready.then_some(true),
                liveness: None,
            };
            Some((id.to_owned(), results))
        })
        .collect()
}
