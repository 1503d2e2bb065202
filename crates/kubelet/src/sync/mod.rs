//! What to do next for one pod, and what to report about it.
//!
//! [`plan`] is a pure function: the pod's spec, what the runtime shows, what this kubelet remembers and
//! the time go in; actions, status and the next time to look come out. An actor carries the actions
//! out and calls again: from any state, also after a crash, the plan converges.

mod actions;
mod backoff;
mod conditions;
mod containers;
mod hash;
mod init;
mod phase;
pub mod resize;
mod status;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use meta::Time;

pub use actions::plan;
pub(crate) use backoff::add as later;
pub use backoff::{Backoff, BackoffEntry, CONTAINER_BACKOFF, IMAGE_BACKOFF};
pub use hash::container_hash;

/// Grace given at the least, so that no process is killed without SIGTERM (upstream's
/// `minimumGracePeriodInSeconds`).
pub const MINIMUM_GRACE_SECONDS: i64 = 2;
/// Grace of a pod that does not say.
pub const DEFAULT_GRACE_SECONDS: i64 = 30;

/// A container's state as the runtime reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    Created,
    Running,
    Exited,
    Unknown,
}

impl ContainerState {
    /// The word upstream uses in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Unknown => "unknown",
        }
    }
}

/// One container of the pod in the runtime, running or not.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedContainer {
    /// The runtime's id, without the runtime's name.
    pub id: String,
    pub name: String,
    pub image: String,
    pub image_ref: String,
    /// [`container_hash`] of the spec it was created from.
    pub hash: u64,
    pub restart_count: i32,
    pub state: ContainerState,
    pub created_at: Time,
    pub started_at: Option<Time>,
    pub finished_at: Option<Time>,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    /// What the runtime enforces, if it says so.
    pub resources: Option<ObservedResources>,
    pub user: Option<(i64, i64, Vec<i64>)>,
}

/// CPU and memory as the runtime enforces them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedResources {
    pub cpu_request_millis: Option<i64>,
    pub cpu_limit_millis: Option<i64>,
    pub memory_limit_bytes: Option<i64>,
}

/// One sandbox of the pod in the runtime.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedSandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    pub host_network: bool,
    pub ips: Vec<String>,
}

/// A pod in the runtime. Both lists are ordered newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuntimePod {
    pub sandboxes: Vec<ObservedSandbox>,
    pub containers: Vec<ObservedContainer>,
}

impl RuntimePod {
    /// The newest container of that name.
    pub fn find(&self, name: &str) -> Option<&ObservedContainer> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// Whether anything of the pod may still run.
    pub fn is_running(&self) -> bool {
        self.sandboxes.iter().any(|s| s.ready) || self.has_running_container()
    }

    /// Whether a container may still run.
    pub fn has_running_container(&self) -> bool {
        self.containers.iter().any(|c| matches!(c.state, ContainerState::Running | ContainerState::Unknown))
    }

    /// The addresses of the newest sandbox that is ready.
    pub fn ips(&self) -> &[String] {
        self.sandboxes.iter().find(|s| s.ready).map_or(&[], |s| &s.ips)
    }
}

/// Results of one container's probes; `None` where there is no result yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeResults {
    pub startup: Option<bool>,
    pub liveness: Option<bool>,
    pub readiness: Option<bool>,
}

/// Why a container waits: reason and message of the last failure to start it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub reason: String,
    pub message: String,
}

/// Why the pod must end although its containers might run on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    pub message: String,
    /// Time its containers have to end; what the pod says if `None`.
    pub grace_seconds: Option<i64>,
    /// The node ends it for its own sake: whoever counts failures does not count this one.
    pub disrupts: bool,
}

/// What this kubelet remembers about a pod between two plans.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodState {
    /// The status reported last; empty in the beginning, then the one of the API counts.
    pub last_status: Option<PodStatus>,
    /// Probe results by container id.
    pub probes: BTreeMap<String, ProbeResults>,
    /// Start failures by container name; removed when the container starts.
    pub waiting: BTreeMap<String, Waiting>,
    /// Restart back-off by container name, and the longest delay in seconds where it is not upstream's default.
    pub backoff: Backoff,
    pub max_restart_seconds: Option<i64>,
    /// Refused at admission, or evicted.
    pub failure: Option<Failure>,
    /// `failure` was there before anything ran: the status tells of nothing else.
    pub rejected: bool,
    /// What each container's cgroup was given last, by container id.
    pub actuated: BTreeMap<String, resize::Amounts>,
    /// A resize that waits for room on the node.
    pub pending_resize: Option<resize::Pending>,
    /// The generation whose resources were granted last.
    pub resize_generation: Option<i64>,
    /// Why the last try to give containers what they were granted failed, and when the next may be.
    pub resize_error: Option<String>,
    pub resize_not_before: Option<Time>,
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// `containerd` and so on: the prefix of container ids in the status.
    pub runtime_name: String,
    /// Whether the API still has the pod. A pod that is gone is ended like a deleted one.
    pub gone: bool,
    /// After a failure that concerns the whole pod (volumes, sandbox): nothing is tried before.
    pub retry_at: Option<Time>,
    /// After a failure to start a container (image, configuration): by name, not tried before.
    pub not_before: BTreeMap<String, Time>,
    /// Volumes and directories were undone.
    pub torn_down: bool,
    /// Nothing of it is left in the runtime.
    pub removed: bool,
}

/// The list a container is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContainerKind {
    Init,
    Regular,
    Ephemeral,
}

/// One step for the actor. Steps are carried out in order; the first failure ends the round.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Stop all containers, then all sandboxes. Sidecars stop after the others.
    KillPod {
        grace_seconds: Option<i64>,
    },
    /// Remove dead init containers of an earlier sandbox.
    PurgeInitContainers,
    /// Stop one container.
    KillContainer {
        id: String,
        name: String,
        message: String,
        grace_seconds: i64,
    },
    /// Give running containers, and the pod around them, the resources they were granted.
    Resize {
        updates: Vec<resize::Update>,
    },
    /// Directories, volumes and the pod's cgroup, idempotent.
    Prepare,
    CreateSandbox {
        attempt: u32,
    },
    /// Pull the image, create and start a container.
    StartContainer {
        kind: ContainerKind,
        name: String,
    },
    /// Unmount volumes, remove directories and the cgroup.
    Teardown,
    /// Remove sandboxes, containers and logs: nobody can ask for them any more.
    RemoveFromRuntime,
    /// Delete the pod from the API, with its uid as precondition.
    DeleteFromApi,
}

/// An event to record about the pod, or about one of its containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedEvent {
    pub container: Option<(ContainerKind, String)>,
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

/// What [`plan`] decides.
#[derive(Clone, Debug, PartialEq)]
pub struct PodPlan {
    pub actions: Vec<Action>,
    pub status: PodStatus,
    /// Why containers wait, to remember.
    pub waiting: BTreeMap<String, Waiting>,
    pub backoff: Backoff,
    pub events: Vec<PlannedEvent>,
    /// When to plan again although nothing happened.
    pub wake_at: Option<Time>,
    /// Nothing more is to be done for this pod, ever.
    pub finished: bool,
    /// The pod is on its way out: probes that could kill stop.
    pub terminating: bool,
}

pub(crate) fn init_containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().and_then(|s| s.init_containers.as_deref()).unwrap_or_default()
}

pub(crate) fn containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().map_or(&[], |s| &s.containers)
}

/// The ephemeral containers in the form of ordinary ones.
pub(crate) fn ephemeral_containers(pod: &Pod) -> Vec<Container> {
    let list = pod.spec.as_ref().and_then(|s| s.ephemeral_containers.as_deref()).unwrap_or_default();
    list.iter().map(meta::pod::as_container).collect()
}

/// A container of the pod by kind and name.
pub(crate) fn find_container(pod: &Pod, kind: ContainerKind, name: &str) -> Option<Container> {
    match kind {
        ContainerKind::Init => init_containers(pod).iter().find(|c| c.name == name).cloned(),
        ContainerKind::Regular => containers(pod).iter().find(|c| c.name == name).cloned(),
        ContainerKind::Ephemeral => ephemeral_containers(pod).into_iter().find(|c| c.name == name),
    }
}

/// The list that holds the container of that name.
pub(crate) fn kind_of(pod: &Pod, name: &str) -> Option<ContainerKind> {
    if containers(pod).iter().any(|c| c.name == name) {
        Some(ContainerKind::Regular)
    } else if init_containers(pod).iter().any(|c| c.name == name) {
        Some(ContainerKind::Init)
    } else {
        ephemeral_containers(pod).iter().any(|c| c.name == name).then_some(ContainerKind::Ephemeral)
    }
}

/// Whether it is a sidecar: an init container that is restarted for ever.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

pub(crate) fn restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("Always")
}

/// Whether a container that ended with `exit_code` starts again: its own rules first, then its own
/// policy, then the pod's (KEP-5307).
pub(crate) fn restarts_after(container: &Container, pod: &Pod, exit_code: i32) -> bool {
    for rule in container.restart_policy_rules.as_deref().unwrap_or_default() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.as_deref().unwrap_or_default().contains(&exit_code);
        let matches = match codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        if matches && rule.action == "Restart" {
            return true;
        }
    }
    match container.restart_policy.as_deref().unwrap_or_else(|| restart_policy(pod)) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// Whether the container must be started now or later.
pub(crate) fn should_restart(container: &Container, pod: &Pod, observed: &RuntimePod) -> bool {
    if pod.metadata.deletion_timestamp.is_some() {
        return false;
    }
    match observed.find(&container.name) {
        None => true,
        Some(c) => match c.state {
            ContainerState::Running => false,
            ContainerState::Unknown | ContainerState::Created => true,
            ContainerState::Exited => restarts_after(container, pod, c.exit_code),
        },
    }
}

/// `name_namespace(uid)`, the form of a pod in upstream's messages.
pub(crate) fn format_pod(pod: &Pod) -> String {
    let text = |v: &Option<String>| v.clone().unwrap_or_default();
    format!("{}_{}({})", text(&pod.metadata.name), text(&pod.metadata.namespace), text(&pod.metadata.uid))
}

/// Go's `%v` of a list of strings.
pub(crate) fn go_list<S: AsRef<str>>(items: &[S]) -> String {
    format!("[{}]", items.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" "))
}

pub(crate) fn container_names(pod: &Pod) -> BTreeSet<&str> {
    containers(pod).iter().map(|c| c.name.as_str()).collect()
}
