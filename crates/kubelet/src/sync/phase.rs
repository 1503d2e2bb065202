//! The pod's phase from its container statuses.

use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStatus, Pod};

use super::{containers, init_containers, is_sidecar, restarts_after};

/// What one status says about the phase.
enum View {
    Absent,
    Running {
        started: bool,
    },
    /// Terminated now, or waiting after a termination.
    Stopped {
        exit_code: i32,
        now: bool,
    },
    /// Waiting, never having run.
    Waiting,
}

fn view(statuses: &[ContainerStatus], name: &str) -> View {
    let Some(status) = statuses.iter().find(|s| s.name == name) else { return View::Absent };
    let state = status.state.clone().unwrap_or_default();
    let last =
        |s: &Option<ContainerState>| s.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code);
    match state {
        ContainerState { running: Some(_), .. } => View::Running { started: status.started == Some(true) },
        ContainerState { terminated: Some(t), .. } => View::Stopped { exit_code: t.exit_code, now: true },
        ContainerState { waiting: Some(_), .. } => match last(&status.last_state) {
            Some(exit_code) => View::Stopped { exit_code, now: false },
            None => View::Waiting,
        },
        _ => View::Absent,
    }
}

/// The phase (upstream's `getPhase`). `terminal`: nothing will be restarted any more. `initialized`:
/// a regular container of the present sandbox has been started.
pub(super) fn phase(
    pod: &Pod,
    statuses: &[ContainerStatus],
    terminal: bool,
    initialized: bool,
) -> &'static str {
    let restarts = |c: &Container, code: i32| restarts_after(c, pod, code);
    let (mut pending_init, mut pending_sidecars) = (0, 0);
    let (mut unknown, mut running, mut waiting, mut stopped, mut final_, mut succeeded) = (0, 0, 0, 0, 0, 0);
    for c in init_containers(pod) {
        let view = view(statuses, &c.name);
        if is_sidecar(c) {
            match view {
                View::Absent => unknown += 1,
                View::Running { started } => {
                    running += 1;
                    pending_sidecars += i32::from(!started);
                }
                View::Waiting => {
                    pending_sidecars += 1;
                    waiting += 1;
                }
                View::Stopped { .. } => {}
            }
            continue;
        }
        match view {
            View::Stopped { exit_code, .. } if exit_code != 0 && !restarts(c, exit_code) => return "Failed",
            View::Stopped { .. } => {}
            View::Absent | View::Running { .. } | View::Waiting => pending_init += 1,
        }
    }
    for c in containers(pod) {
        match view(statuses, &c.name) {
            View::Absent => unknown += 1,
            View::Running { .. } => running += 1,
            View::Waiting => waiting += 1,
            View::Stopped { exit_code, now } => {
                stopped += 1;
                final_ += i32::from(!restarts(c, exit_code));
                succeeded += i32::from(now && exit_code == 0);
            }
        }
    }
    if pending_init > 0 || (pending_sidecars > 0 && !initialized) || waiting > 0 {
        return "Pending";
    }
    if running > 0 && unknown == 0 {
        return "Running";
    }
    if running == 0 && stopped > 0 && unknown == 0 {
        let ended = if stopped == succeeded { "Succeeded" } else { "Failed" };
        return if terminal || stopped == final_ { ended } else { "Running" };
    }
    "Pending"
}
