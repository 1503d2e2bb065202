//! The plan itself: upstream's `SyncPod`, `SyncTerminatingPod` and `SyncTerminatedPod` as one decision.

use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use meta::Time;

use super::backoff::{CONTAINER_BACKOFF, Limits, add, go_seconds};
use super::init::{Progress, plan_init};
use super::resize::{self, Need, Update};
use super::status::{StatusInput, build_status, finalize_terminated};
use super::{
    Action, ContainerKind, ContainerState, DEFAULT_GRACE_SECONDS, Failure, MINIMUM_GRACE_SECONDS,
    ObservedContainer, PlannedEvent, PodPlan, PodState, RuntimePod, Waiting, container_hash, container_names,
    containers, ephemeral_containers, find_container, format_pod, init_containers, restart_policy,
    should_restart,
};

/// Why a container is killed, as far as the grace period depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KillReason {
    Liveness,
    Startup,
    Other,
}

/// A container to stop while the pod goes on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kill {
    pub id: String,
    pub name: String,
    pub message: String,
    pub reason: KillReason,
}

impl Kill {
    pub fn new(seen: &ObservedContainer, message: String, reason: KillReason) -> Self {
        Self { id: seen.id.clone(), name: seen.name.clone(), message, reason }
    }
}

/// What the runtime should do, before back-off.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Wanted {
    pub kill_pod: bool,
    /// The attempt number of a new sandbox.
    pub create_sandbox: Option<u32>,
    /// The sandbox that was there is replaced.
    pub sandbox_changed: bool,
    pub kill: Vec<Kill>,
    pub start_ephemeral: Vec<String>,
    pub start_init: Vec<String>,
    pub start: Vec<String>,
    /// Containers whose cgroups change; `Some` also if the pod's own has to because containers restart for it.
    pub resize: Option<Vec<Update>>,
}

impl Wanted {
    /// A container is to get other resources; whether it must be restarted for that, which is left to the caller.
    pub fn take_resize(&mut self, need: Need) -> bool {
        match need {
            Need::Nothing => false,
            Need::Update(update) => {
                let list = self.resize.get_or_insert_default();
                // what takes away goes first
                let at = if update.from.shrinks(update.to) { 0 } else { list.len() };
                list.insert(at, update);
                false
            }
            Need::Restart => {
                self.resize.get_or_insert_default();
                true
            }
        }
    }
}

/// Decides what to do for the pod now.
pub fn plan(pod: &Pod, observed: &RuntimePod, state: &PodState, now: Time) -> PodPlan {
    let deadline = active_deadline(pod, state, now);
    let failure = state.failure.clone().or_else(|| match deadline {
        Deadline::Passed => Some(Failure {
            reason: "DeadlineExceeded".into(),
            message: "Pod was active on the node longer than the specified deadline".into(),
            ..Failure::default()
        }),
        _ => None,
    });
    let leaving = pod.metadata.deletion_timestamp.is_some() || state.gone;
    let input = StatusInput { pod, observed, state, now, failure: failure.as_ref(), terminal: false };
    let mut status = build_status(&input, &state.waiting);
    // a terminal phase ends the pod, whatever its restart policy says
    let ended = failure.is_some() || matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if leaving || ended {
        return plan_end(&input, leaving);
    }

    let mut plan = PodPlan {
        actions: Vec::new(),
        status: PodStatus::default(),
        waiting: state.waiting.clone(),
        backoff: state.backoff.clone(),
        events: Vec::new(),
        wake_at: deadline.at(),
        finished: false,
        terminating: false,
    };
    if let Some(retry_at) = state.retry_at.filter(|t| *t > now) {
        plan.wake_at = earliest(plan.wake_at, Some(retry_at));
        plan.status = status;
        return plan;
    }
    let wanted = wanted(pod, observed, state);
    act(pod, observed, state, &wanted, now, &mut plan);
    // why containers wait has changed: the status says so
    if plan.waiting != state.waiting {
        status = build_status(&input, &plan.waiting);
    }
    if resize::tells_progress(state.last_status.as_ref()) && !resize::tells_progress(Some(&status)) {
        let generation = state.resize_generation.or(pod.metadata.generation);
        plan.events.push(PlannedEvent {
            container: None,
            warning: false,
            reason: "ResizeCompleted",
            message: resize::event_message("Pod resize completed", pod, generation, ""),
        });
    }
    plan.status = status;
    plan
}

/// The pod is deleted, failed or completed: stop it, undo it, and remove it from the API if asked.
fn plan_end(input: &StatusInput<'_>, leaving: bool) -> PodPlan {
    let StatusInput { pod, observed, state, .. } = *input;
    let input = StatusInput { terminal: true, ..*input };
    let mut status = build_status(&input, &state.waiting);
    let mut actions = Vec::new();
    let mut finished = false;
    if observed.is_running() {
        actions.push(Action::KillPod { grace_seconds: pod_grace(pod, state) });
    } else {
        if state.rejected {
            status.container_statuses = None;
            status.init_container_statuses = None;
            status.ephemeral_container_statuses = None;
        }
        finalize_terminated(pod, &mut status);
        if !state.torn_down {
            actions.extend(stop_sandboxes(pod, observed, state));
            actions.push(Action::Teardown);
        }
        if leaving && !state.gone {
            actions.push(Action::DeleteFromApi);
        } else if state.gone && !state.removed {
            actions.push(Action::RemoveFromRuntime);
        }
        finished = state.torn_down && state.gone && state.removed;
    }
    let wake_at = state.retry_at.filter(|t| *t > input.now);
    if wake_at.is_some() {
        actions.clear();
    }
    PodPlan {
        actions,
        status,
        waiting: state.waiting.clone(),
        backoff: state.backoff.clone(),
        events: Vec::new(),
        wake_at,
        finished,
        terminating: true,
    }
}

/// Stops what there is of the pod. A sandbox that is not ready is stopped too: where its start was broken off, as by the
/// deletion of the pod, its process and its network may be there all the same.
fn stop_sandboxes(pod: &Pod, observed: &RuntimePod, state: &PodState) -> Option<Action> {
    let is_there = !observed.sandboxes.is_empty() || observed.has_running_container();
    is_there.then(|| Action::KillPod { grace_seconds: pod_grace(pod, state) })
}

/// The grace period of the whole pod; `None` leaves it to each container.
fn pod_grace(pod: &Pod, state: &PodState) -> Option<i64> {
    if let Some(seconds) = pod.metadata.deletion_grace_period_seconds {
        return Some(seconds.max(0));
    }
    if let Some(seconds) = state.failure.as_ref().and_then(|f| f.grace_seconds) {
        return Some(seconds);
    }
    // forced deletion has already removed it from the API: nobody waits for it any more
    state.gone.then_some(MINIMUM_GRACE_SECONDS)
}

/// The grace period of one container of a pod that goes on (upstream's `setTerminationGracePeriod`).
fn container_grace(pod: &Pod, container: Option<&Container>, reason: KillReason) -> i64 {
    if let Some(seconds) = pod.metadata.deletion_grace_period_seconds {
        return seconds;
    }
    let own = container.and_then(|c| match reason {
        KillReason::Liveness => c.liveness_probe.as_ref()?.termination_grace_period_seconds,
        KillReason::Startup => c.startup_probe.as_ref()?.termination_grace_period_seconds,
        KillReason::Other => None,
    });
    own.or_else(|| pod.spec.as_ref()?.termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE_SECONDS)
}

enum Deadline {
    None,
    At(Time),
    Passed,
}

impl Deadline {
    fn at(&self) -> Option<Time> {
        match self {
            Self::At(t) => Some(*t),
            _ => None,
        }
    }
}

fn active_deadline(pod: &Pod, state: &PodState, now: Time) -> Deadline {
    let Some(seconds) = pod.spec.as_ref().and_then(|s| s.active_deadline_seconds) else {
        return Deadline::None;
    };
    let status = state.last_status.as_ref().or(pod.status.as_ref());
    let Some(start) = status.and_then(|s| s.start_time.as_ref()) else { return Deadline::None };
    let end = add(start.0, seconds);
    if end <= now { Deadline::Passed } else { Deadline::At(end) }
}

/// Whether a new sandbox is needed: its attempt number, and whether there was one before.
pub(super) fn sandbox_changed(pod: &Pod, observed: &RuntimePod) -> Option<(u32, bool)> {
    let Some(newest) = observed.sandboxes.first() else { return Some((0, false)) };
    let next = newest.attempt + 1;
    if observed.sandboxes.iter().filter(|s| s.ready).count() > 1 || !newest.ready {
        return Some((next, true));
    }
    let host_network = pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false);
    if newest.host_network != host_network {
        return Some((next, false));
    }
    (!host_network && newest.ips.is_empty()).then_some((next, true))
}

/// What the runtime should do (upstream's `computePodActions`).
fn wanted(pod: &Pod, observed: &RuntimePod, state: &PodState) -> Wanted {
    let mut wanted = Wanted::default();
    if let Some((attempt, sandbox_changed)) = sandbox_changed(pod, observed) {
        wanted.kill_pod = true;
        if restart_policy(pod) == "Never" && attempt != 0 && !observed.containers.is_empty() {
            return wanted;
        }
        let succeeded = |c: &Container| {
            observed.find(&c.name).is_some_and(|s| s.state == ContainerState::Exited && s.exit_code == 0)
        };
        let once = |c: &Container| c.restart_policy.as_deref().unwrap_or(restart_policy(pod)) == "OnFailure";
        let start: Vec<_> =
            containers(pod).iter().filter(|c| !(once(c) && succeeded(c))).map(|c| c.name.clone()).collect();
        let names = container_names(pod);
        if start.is_empty() && observed.containers.iter().any(|c| names.contains(c.name.as_str())) {
            return wanted;
        }
        wanted.create_sandbox = Some(attempt);
        wanted.sandbox_changed = sandbox_changed;
        match init_containers(pod).first() {
            Some(first) => wanted.start_init.push(first.name.clone()),
            None => wanted.start = start,
        }
        return wanted;
    }

    let ephemeral = ephemeral_containers(pod).into_iter().map(|c| c.name);
    wanted.start_ephemeral.extend(ephemeral.filter(|name| observed.find(name).is_none()));
    match plan_init(pod, observed, state, &mut wanted) {
        Progress::Done => {}
        Progress::Going => return wanted,
        Progress::Failed => {
            wanted.kill_pod = true;
            wanted.start_init.clear();
            return wanted;
        }
    }
    let mut kept = 0;
    for container in containers(pod) {
        match observed.find(&container.name) {
            Some(seen) if seen.state == ContainerState::Running => {
                let Some((mut message, reason, restart)) = unfit(container, seen, pod, state) else {
                    if wanted.take_resize(resize::need(pod, container, &seen.id, state)) {
                        let message = format!("Container {} resize requires restart", container.name);
                        wanted.kill.push(Kill::new(seen, message, KillReason::Other));
                        wanted.start.push(container.name.clone());
                    } else {
                        kept += 1;
                    }
                    continue;
                };
                if restart {
                    message.push_str(", will be restarted");
                    wanted.start.push(container.name.clone());
                }
                wanted.kill.push(Kill::new(seen, message, reason));
            }
            seen => {
                if !should_restart(container, pod, observed) {
                    continue;
                }
                wanted.start.push(container.name.clone());
                if let Some(seen) = seen.filter(|s| s.state == ContainerState::Unknown) {
                    let message = format!(
                        "Container is in {:?} state, try killing it before restart",
                        seen.state.as_str()
                    );
                    wanted.kill.push(Kill::new(seen, message, KillReason::Other));
                }
            }
        }
    }
    if kept == 0 && wanted.start.is_empty() {
        wanted.kill_pod = true;
        wanted.start_init.clear();
    }
    wanted
}

/// Why a running container must be killed, and whether it starts again.
fn unfit(
    container: &Container,
    seen: &ObservedContainer,
    pod: &Pod,
    state: &PodState,
) -> Option<(String, KillReason, bool)> {
    let name = &container.name;
    if seen.hash != container_hash(container) {
        return Some((format!("Container {name} definition changed"), KillReason::Other, true));
    }
    let restart = container.restart_policy.as_deref().unwrap_or_else(|| restart_policy(pod)) != "Never";
    let probes = state.probes.get(&seen.id)?;
    if container.liveness_probe.is_some() && probes.liveness == Some(false) {
        return Some((format!("Container {name} failed liveness probe"), KillReason::Liveness, restart));
    }
    if container.startup_probe.is_some() && probes.startup == Some(false) {
        return Some((format!("Container {name} failed startup probe"), KillReason::Startup, restart));
    }
    None
}

/// Turns what is wanted into steps; containers in back-off wait and say so.
fn act(pod: &Pod, observed: &RuntimePod, state: &PodState, wanted: &Wanted, now: Time, plan: &mut PodPlan) {
    if wanted.sandbox_changed && wanted.create_sandbox.is_some() {
        plan.events.push(PlannedEvent {
            container: None,
            warning: false,
            reason: "SandboxChanged",
            message: "Pod sandbox changed, it will be killed and re-created.".into(),
        });
    }
    if wanted.kill_pod {
        plan.actions.extend(stop_sandboxes(pod, observed, state));
        if wanted.create_sandbox.is_some() && !observed.sandboxes.is_empty() {
            plan.actions.push(Action::PurgeInitContainers);
        }
    } else {
        for kill in &wanted.kill {
            let kind = super::kind_of(pod, &kill.name).unwrap_or(ContainerKind::Regular);
            let grace_seconds =
                container_grace(pod, find_container(pod, kind, &kill.name).as_ref(), kill.reason);
            plan.actions.push(Action::KillContainer {
                id: kill.id.clone(),
                name: kill.name.clone(),
                message: kill.message.clone(),
                grace_seconds,
            });
        }
    }
    if let Some(updates) = wanted.resize.as_ref().filter(|_| !wanted.kill_pod) {
        match state.resize_not_before.filter(|t| *t > now) {
            Some(at) => plan.wake_at = earliest(plan.wake_at, Some(at)),
            None => plan.actions.push(Action::Resize { updates: updates.clone() }),
        }
    }
    let mut starts = Vec::new();
    let lists = [
        (ContainerKind::Ephemeral, &wanted.start_ephemeral),
        (ContainerKind::Init, &wanted.start_init),
        (ContainerKind::Regular, &wanted.start),
    ];
    for (kind, names) in lists {
        for name in names {
            let waits = back_off(pod, observed, state, (kind, name), now, plan);
            if !waits {
                starts.push(Action::StartContainer { kind, name: name.clone() });
            } else if kind == ContainerKind::Init
                && find_container(pod, kind, name).is_some_and(|c| !super::is_sidecar(&c))
            {
                // those behind it wait for it
                break;
            }
        }
    }
    if wanted.create_sandbox.is_none() && starts.is_empty() {
        return;
    }
    plan.actions.push(Action::Prepare);
    if let Some(attempt) = wanted.create_sandbox {
        plan.actions.push(Action::CreateSandbox { attempt });
    }
    plan.actions.append(&mut starts);
}

/// Whether the container has to wait before its next start; if not, its delay grows.
fn back_off(
    pod: &Pod,
    observed: &RuntimePod,
    state: &PodState,
    (kind, name): (ContainerKind, &str),
    now: Time,
    plan: &mut PodPlan,
) -> bool {
    if let Some(until) = state.not_before.get(name).filter(|t| **t > now) {
        plan.wake_at = earliest(plan.wake_at, Some(*until));
        return true;
    }
    let dead = observed.containers.iter().find(|c| c.name == name && c.state == ContainerState::Exited);
    let Some(since) = dead.and_then(|c| c.finished_at) else { return false };
    let longest = state.max_restart_seconds.unwrap_or(CONTAINER_BACKOFF.max_seconds);
    let limits =
        Limits { initial_seconds: CONTAINER_BACKOFF.initial_seconds.min(longest), max_seconds: longest };
    // a kill in this very plan: the container ends now, and its delay is judged when it has ended
    let Some(until) = plan.backoff.until(name, since, now, limits) else {
        plan.backoff.raise(name, since, now, limits);
        return false;
    };
    plan.wake_at = earliest(plan.wake_at, Some(until));
    let delay = go_seconds(plan.backoff.delay_seconds(name));
    let message = format!("back-off {delay} restarting failed container={name} pod={}", format_pod(pod));
    let waiting = Waiting { reason: "CrashLoopBackOff".into(), message };
    if plan.waiting.get(name) != Some(&waiting) {
        plan.events.push(PlannedEvent {
            container: Some((kind, name.to_owned())),
            warning: true,
            reason: "BackOff",
            message: format!("Back-off restarting failed container {name} in pod {}", format_pod(pod)),
        });
        plan.waiting.insert(name.to_owned(), waiting);
    }
    true
}

pub(super) fn earliest(a: Option<Time>, b: Option<Time>) -> Option<Time> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
