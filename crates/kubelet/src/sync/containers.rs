//! Container statuses.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, ContainerUser, LinuxContainerUser, ResourceRequirements,
    VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time as ApiTime;

use super::status::StatusInput;
use super::{
    ContainerKind, ContainerState, ObservedContainer, ObservedResources, PodState, Waiting, container_names,
    init_containers, is_sidecar, should_restart,
};
use crate::quantity::{bytes_text, millis_text};

fn waiting(reason: &str, message: &str) -> ApiState {
    let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    let waiting = ContainerStateWaiting { reason: text(reason), message: text(message) };
    ApiState { waiting: Some(waiting), ..ApiState::default() }
}

fn terminated(t: ContainerStateTerminated) -> ApiState {
    ApiState { terminated: Some(t), ..ApiState::default() }
}

/// The statuses of one list of containers, in the spec's order.
pub(super) fn api_statuses(
    input: &StatusInput<'_>,
    reasons: &BTreeMap<String, Waiting>,
    specs: &[Container],
    kind: ContainerKind,
    old: &[ContainerStatus],
) -> Vec<ContainerStatus> {
    let mut list: Vec<_> = specs
        .iter()
        .map(|spec| api_status(input, reasons, spec, kind, old.iter().find(|s| s.name == spec.name)))
        .collect();
    if kind != ContainerKind::Init {
        // upstream sorts by name all but init containers
        list.sort_by(|a, b| a.name.cmp(&b.name));
    }
    list
}

fn api_status(
    input: &StatusInput<'_>,
    reasons: &BTreeMap<String, Waiting>,
    spec: &Container,
    kind: ContainerKind,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let mut seen = input.observed.containers.iter().filter(|c| c.name == spec.name);
    let mut status = match seen.next() {
        Some(newest) => {
            let mut status = from_runtime(input, spec, newest, old);
            match seen.next() {
                Some(before) => status.last_state = Some(state_of(input, before, None)),
                None => keep_last_state(&mut status, old),
            }
            status
        }
        None => from_memory(input, spec, old),
    };
    if kind == ContainerKind::Init && !is_sidecar(spec) && completed_or_forgotten(input, spec, &mut status) {
        return status;
    }
    if let Some(reason) = reasons.get(&spec.name).filter(|_| should_restart(spec, input.pod, input.observed))
    {
        if status.state.as_ref().is_some_and(|s| s.terminated.is_some()) {
            status.last_state = status.state.take();
        }
        status.state = Some(waiting(&reason.reason, &reason.message));
    }
    status
}

/// Whether a regular init container is past: it succeeded, or the runtime forgot it although regular
/// containers were created.
fn completed_or_forgotten(input: &StatusInput<'_>, spec: &Container, status: &mut ContainerStatus) -> bool {
    match input.observed.find(&spec.name) {
        Some(c) => c.state == ContainerState::Exited && c.exit_code == 0,
        None => {
            let names = container_names(input.pod);
            let created = input.observed.containers.iter().any(|c| names.contains(c.name.as_str()));
            let waits = status.state.as_ref().is_some_and(|s| s.waiting.is_some());
            if created && waits {
                status.state = Some(terminated(ContainerStateTerminated {
                    reason: Some("Completed".into()),
                    message: Some(
                        "Unable to get init container status from container runtime and pod has been initialized, \
                         treat it as exited normally"
                            .into(),
                    ),
                    ..ContainerStateTerminated::default()
                }));
            }
            created && waits
        }
    }
}

/// Dead containers are collected, and with them the runtime's memory of the last end.
fn keep_last_state(status: &mut ContainerStatus, old: Option<&ContainerStatus>) {
    let Some(old) = old else { return };
    let ended = |s: &Option<ApiState>| s.as_ref().is_some_and(|s| s.terminated.is_some());
    if old.container_id != status.container_id && ended(&old.state) {
        status.last_state = old.state.clone();
    } else if ended(&old.last_state) {
        status.last_state = old.last_state.clone();
    }
}

fn from_runtime(
    input: &StatusInput<'_>,
    spec: &Container,
    seen: &ObservedContainer,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let id = container_id(input.state, seen);
    ContainerStatus {
        name: spec.name.clone(),
        restart_count: seen.restart_count.max(old.map_or(0, |o| o.restart_count)),
        image: seen.image.clone(),
        image_id: seen.image_ref.clone(),
        container_id: Some(id),
        state: Some(state_of(input, seen, old)),
        last_state: Some(ApiState::default()),
        resources: Some(resources(spec, seen, input.state)),
        allocated_resources: spec
            .resources
            .as_ref()
            .and_then(|r| r.requests.clone())
            .filter(|r| !r.is_empty()),
        volume_mounts: volume_mounts(spec),
        user: seen.user.as_ref().map(|(uid, gid, groups)| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: *uid,
                gid: *gid,
                supplemental_groups: (!groups.is_empty()).then(|| groups.clone()),
            }),
        }),
        ..ContainerStatus::default()
    }
}

fn container_id(state: &PodState, seen: &ObservedContainer) -> String {
    format!("{}://{}", state.runtime_name, seen.id)
}

fn state_of(input: &StatusInput<'_>, seen: &ObservedContainer, old: Option<&ContainerStatus>) -> ApiState {
    let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    match seen.state {
        ContainerState::Running => ApiState {
            running: Some(ContainerStateRunning { started_at: seen.started_at.map(ApiTime) }),
            ..ApiState::default()
        },
        ContainerState::Exited => terminated(ContainerStateTerminated {
            exit_code: seen.exit_code,
            reason: text(&seen.reason),
            message: text(&seen.message),
            started_at: seen.started_at.map(ApiTime),
            finished_at: seen.finished_at.map(ApiTime),
            container_id: Some(container_id(input.state, seen)),
            signal: None,
        }),
        ContainerState::Unknown
            if old.is_some_and(|o| o.state.as_ref().is_some_and(|s| s.running.is_some())) =>
        {
            terminated(ContainerStateTerminated {
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".into()),
                message: Some("The container could not be located when the pod was terminated".into()),
                ..ContainerStateTerminated::default()
            })
        }
        ContainerState::Created | ContainerState::Unknown => waiting("", ""),
    }
}

/// The runtime does not know the container: it never ran, or was removed.
fn from_memory(input: &StatusInput<'_>, spec: &Container, old: Option<&ContainerStatus>) -> ContainerStatus {
    if let Some(old) = old.filter(|o| o.state.as_ref().is_some_and(|s| s.terminated.is_some())) {
        return old.clone();
    }
    let reason = if init_containers(input.pod).is_empty() { "ContainerCreating" } else { "PodInitializing" };
    let mut status = ContainerStatus {
        name: spec.name.clone(),
        image: spec.image.clone().unwrap_or_default(),
        state: Some(waiting(reason, "")),
        last_state: Some(ApiState::default()),
        restart_count: old.map_or(0, |o| o.restart_count),
        volume_mounts: volume_mounts(spec),
        ..ContainerStatus::default()
    };
    let Some(old) = old else { return status };
    let ended = old.last_state.as_ref().is_some_and(|s| s.terminated.is_some());
    status.last_state = old.last_state.clone().or(status.last_state);
    let ran = old.state.as_ref().is_some_and(|s| s.running.is_some());
    if ran && !ended {
        status.last_state = Some(terminated(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some(
                "The container could not be located when the pod was deleted.  The container used to be Running"
                    .into(),
            ),
            ..ContainerStateTerminated::default()
        }));
        if input.pod.metadata.deletion_timestamp.is_none() {
            status.restart_count += 1;
        }
    }
    status
}

fn volume_mounts(spec: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = spec.volume_mounts.as_deref().unwrap_or_default();
    let list: Vec<_> = mounts
        .iter()
        .map(|m| VolumeMountStatus {
            name: m.name.clone(),
            mount_path: m.mount_path.clone(),
            read_only: m.read_only,
            recursive_read_only: (m.read_only == Some(true)).then(|| "Disabled".to_owned()),
            ..VolumeMountStatus::default()
        })
        .collect();
    (!list.is_empty()).then_some(list)
}

/// The least CPU limit and request, in thousandths, that the kernel can tell from nothing.
const MIN_CPU_LIMIT_MILLIS: i64 = 10;
const MIN_CPU_REQUEST_MILLIS: i64 = 2;

fn resources(spec: &Container, seen: &ObservedContainer, state: &PodState) -> ResourceRequirements {
    let mut resources = spec.resources.clone().unwrap_or_default();
    let given = state.actuated.get(&seen.id).map(|given| {
        let some = |value: i64| (value != 0).then_some(value);
        let memory_request = some(given.memory_request_bytes);
        let actual = ObservedResources {
            cpu_request_millis: some(given.cpu_request_millis),
            cpu_limit_millis: some(given.cpu_limit_millis),
            memory_limit_bytes: some(given.memory_limit_bytes),
        };
        (actual, memory_request)
    });
    // what was given last is newer than what the runtime told at the container's start
    let actual = given.or_else(|| Some((seen.resources.clone()?, None)));
    let Some((actual, memory_request)) = actual.filter(|_| seen.state == ContainerState::Running) else {
        return resources;
    };
    let set = |list: &mut Option<BTreeMap<String, Quantity>>, name: &str, value: Option<i64>, least: i64| {
        let (Some(list), Some(value)) = (list.as_mut(), value) else { return };
        let Some(wanted) = list.get(name).and_then(|q| crate::quantity::millis(&q.0)) else { return };
        let (actual, text) = match name {
            "cpu" => (value, millis_text(value)),
            _ => (value.saturating_mul(1000), bytes_text(value)),
        };
        // equal amounts keep the text of the spec, and amounts below the kernel's least are alike
        if actual != wanted && (actual > least || wanted > least) {
            list.insert(name.to_owned(), Quantity(text));
        }
    };
    set(&mut resources.limits, "cpu", actual.cpu_limit_millis, MIN_CPU_LIMIT_MILLIS);
    set(&mut resources.limits, "memory", actual.memory_limit_bytes, 0);
    set(&mut resources.requests, "cpu", actual.cpu_request_millis, MIN_CPU_REQUEST_MILLIS);
    set(&mut resources.requests, "memory", memory_request, 0);
    resources
}

/// Whether probes decide about readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probed {
    Yes,
    /// A regular init container: it is ready once it succeeded.
    No,
}

/// Sets `started` and `ready` (upstream's probe manager).
pub(super) fn mark_probed(status: &mut ContainerStatus, spec: &Container, probed: Probed, state: &PodState) {
    let current = status.state.clone().unwrap_or_default();
    let id = status.container_id.as_deref().and_then(|id| id.split_once("://")).map_or("", |(_, id)| id);
    let results = state.probes.get(id).copied().unwrap_or_default();
    let running = current.running.is_some();
    let started = running && (spec.startup_probe.is_none() || results.startup == Some(true));
    status.started = Some(started);
    status.ready = match probed {
        Probed::No => current.terminated.is_some_and(|t| t.exit_code == 0),
        Probed::Yes => started && (spec.readiness_probe.is_none() || results.readiness == Some(true)),
    };
}
