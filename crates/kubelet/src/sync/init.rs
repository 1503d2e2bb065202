//! Init containers: which one is next, which sidecar to restart.

use k8s_openapi::api::core::v1::{Container, Pod};

use super::actions::{Kill, KillReason, Wanted};
use super::resize;
use super::{
    ContainerState, ObservedContainer, PodState, RuntimePod, container_hash, containers, init_containers,
    is_sidecar, restart_policy, should_restart,
};

/// How far initialization is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Regular containers may run.
    Done,
    /// An init container is running or to be started.
    Going,
    /// An init container failed for good: the pod ends.
    Failed,
}

/// Decides about init containers; fills `wanted` with what to start and kill. The list is walked from
/// its end, because completed init containers may have been removed from the runtime: the last one
/// that is known tells how far the pod is.
pub(super) fn plan_init(pod: &Pod, observed: &RuntimePod, state: &PodState, wanted: &mut Wanted) -> Progress {
    let inits = init_containers(pod);
    if inits.is_empty() {
        return Progress::Done;
    }
    // a regular container that was created proves it; one that exited may stem from an older sandbox
    let mut initialized = containers(pod)
        .iter()
        .filter_map(|c| observed.find(&c.name))
        .any(|c| matches!(c.state, ContainerState::Created | ContainerState::Running));
    // whether the container looked at is known to have been passed before
    let mut passed = initialized;
    let mut start: Vec<usize> = Vec::new();
    for (i, container) in inits.iter().enumerate().rev() {
        let last = i + 1 == inits.len();
        let Some(seen) = observed.find(&container.name) else {
            if passed && is_sidecar(container) {
                start.push(i);
            }
            continue;
        };
        if passed && !is_sidecar(container) {
            continue;
        }
        let resize = if seen.state == ContainerState::Running {
            resize::need(pod, container, &seen.id, state)
        } else {
            resize::Need::Nothing
        };
        match seen.state {
            // the runtime could not start it: try again
            ContainerState::Created => start.push(i),
            ContainerState::Running if !is_sidecar(container) => {
                wanted.take_resize(resize);
            }
            ContainerState::Running => {
                let sidecar = look_at_sidecar(container, seen, state);
                if sidecar.started {
                    if last {
                        initialized = true;
                    } else if !passed {
                        start.push(i + 1);
                    }
                }
                let mut kill = sidecar.kill;
                if kill.is_none() && wanted.take_resize(resize) {
                    let message = format!("Init container {} resize requires restart", container.name);
                    kill = Some((message, KillReason::Other));
                }
                if let Some((message, reason)) = kill {
                    wanted.kill.push(Kill::new(seen, message, reason));
                    start.push(i);
                }
            }
            ContainerState::Exited if is_sidecar(container) => start.push(i),
            ContainerState::Exited if seen.exit_code == 0 => {
                if last {
                    initialized = true;
                } else {
                    start.push(i + 1);
                }
            }
            ContainerState::Exited => {
                if !should_restart(container, pod, observed) {
                    return Progress::Failed;
                }
                start.push(i);
            }
            ContainerState::Unknown => {
                let policy = container.restart_policy.as_deref().unwrap_or_else(|| restart_policy(pod));
                if !is_sidecar(container) && policy == "Never" {
                    return Progress::Failed;
                }
                let message = format!(
                    "Init container is in {:?} state, try killing it before restart",
                    seen.state.as_str()
                );
                wanted.kill.push(Kill::new(seen, message, KillReason::Other));
                start.push(i);
            }
        }
        passed = true;
    }
    if !passed {
        start.push(0);
    }
    start.sort_unstable();
    start.dedup();
    wanted.start_init.extend(start.into_iter().map(|i| inits[i].name.clone()));
    if initialized { Progress::Done } else { Progress::Going }
}

struct Sidecar {
    started: bool,
    kill: Option<(String, KillReason)>,
}

fn look_at_sidecar(container: &Container, seen: &ObservedContainer, state: &PodState) -> Sidecar {
    let probes = state.probes.get(&seen.id).copied().unwrap_or_default();
    if container.startup_probe.is_some() && probes.startup != Some(true) {
        let kill = (probes.startup == Some(false)).then(|| {
            (format!("Init container {} failed startup probe", container.name), KillReason::Startup)
        });
        return Sidecar { started: false, kill };
    }
    let kill = if seen.hash != container_hash(container) {
        Some((format!("Init container {} definition changed", container.name), KillReason::Other))
    } else if container.liveness_probe.is_some() && probes.liveness == Some(false) {
        Some((format!("Init container {} failed liveness probe", container.name), KillReason::Liveness))
    } else {
        None
    };
    Sidecar { started: true, kill }
}
