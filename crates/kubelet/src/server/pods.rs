//! The pods as the server sees them, and the containers that requests name.

use std::sync::Arc;

use cri::v1 as pb;
use cri::{Error as CriError, RuntimeApi};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

use crate::container_config::labels;

/// The pods of this node with their current status.
pub trait PodSource: Send + Sync + 'static {
    fn pods(&self) -> Vec<Arc<Pod>>;
    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>>;
}

impl PodSource for crate::pods::Pods {
    fn pods(&self) -> Vec<Arc<Pod>> {
        self.list().into_iter().map(|(pod, view)| with_status(pod, view.status)).collect()
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.find(namespace, name).map(|(pod, view)| with_status(pod, view.status))
    }
}

/// The pod with the kubelet's own view of its status, if there is one yet.
fn with_status(pod: Arc<Pod>, status: Option<PodStatus>) -> Arc<Pod> {
    match status {
        Some(status) => Arc::new(Pod { status: Some(status), ..Pod::clone(&pod) }),
        None => pod,
    }
}

/// Whether a pod's specification has a container of this name, and whether it has a terminal.
pub(super) fn container_tty(pod: &Pod, name: &str) -> Option<bool> {
    let spec = pod.spec.as_ref()?;
    let plain = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let plain = plain.map(|container| (&container.name, container.tty));
    let ephemeral =
        spec.ephemeral_containers.iter().flatten().map(|container| (&container.name, container.tty));
    plain.chain(ephemeral).find(|(n, _)| n.as_str() == name).map(|(_, tty)| tty == Some(true))
}

/// The id of the container whose log is wanted, from the pod's status; or why there is none, in
/// upstream's words.
pub(super) fn log_container(pod: &Pod, name: &str, previous: bool) -> Result<String, String> {
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let status = pod.status.as_ref();
    let lists =
        status.map(|s| [&s.container_statuses, &s.init_container_statuses, &s.ephemeral_container_statuses]);
    let mut all = lists.into_iter().flatten().flatten().flatten();
    let Some(status) = all.find(|status| status.name == name) else {
        return Err(format!("container {name:?} in pod {pod_name:?} is not available"));
    };
    let id =
        if previous { previous_id(status, name, pod_name)? } else { current_id(status, name, pod_name)? };
    // the status has it as `containerd://ID`
    Ok(id.split_once("://").map_or(id.as_str(), |(_, id)| id).to_owned())
}

fn last_terminated(status: &ContainerStatus) -> Option<Option<String>> {
    let terminated = status.last_state.as_ref()?.terminated.as_ref()?;
    Some(terminated.container_id.clone().filter(|id| !id.is_empty()))
}

fn previous_id(status: &ContainerStatus, name: &str, pod: &str) -> Result<String, String> {
    last_terminated(status)
        .flatten()
        .ok_or_else(|| format!("previous terminated container {name:?} in pod {pod:?} not found"))
}

fn current_id(status: &ContainerStatus, name: &str, pod: &str) -> Result<String, String> {
    let terminated_error = || format!("container {name:?} in pod {pod:?} is terminated");
    let state = status.state.as_ref();
    if state.is_some_and(|state| state.running.is_some()) {
        return Ok(status.container_id.clone().unwrap_or_default());
    }
    if let Some(terminated) = state.and_then(|state| state.terminated.as_ref()) {
        let own = terminated.container_id.clone().filter(|id| !id.is_empty());
        return own.or_else(|| last_terminated(status).flatten()).ok_or_else(terminated_error);
    }
    if let Some(last) = last_terminated(status) {
        return last.ok_or_else(terminated_error);
    }
    let what = format!("container {name:?} in pod {pod:?} is waiting to start");
    let reason =
        state.and_then(|state| state.waiting.as_ref()).map(|w| w.reason.as_deref().unwrap_or_default());
    Err(match reason {
        Some("ErrImagePull") => format!("{what}: image can't be pulled"),
        Some("ImagePullBackOff") => format!("{what}: trying and failing to pull image"),
        Some(reason) => format!("{what}: {reason}"),
        None => format!("{what} - no logs yet"),
    })
}

/// The id of a pod's running container of this name, as the runtime knows it.
pub(super) async fn running_container(
    runtime: &dyn RuntimeApi,
    uid: &str,
    name: &str,
) -> Result<Option<String>, CriError> {
    let selector = [(labels::POD_UID, uid), (labels::CONTAINER_NAME, name)];
    let filter = pb::ContainerFilter {
        state: Some(pb::ContainerStateValue { state: pb::ContainerState::ContainerRunning.into() }),
        label_selector: selector.map(|(n, v)| (n.to_owned(), v.to_owned())).into(),
        ..Default::default()
    };
    let found = runtime.list_containers(Some(filter)).await?;
    Ok(found.into_iter().max_by_key(|container| container.created_at).map(|container| container.id))
}

/// The id of a pod's sandbox that is ready.
pub(super) async fn ready_sandbox(runtime: &dyn RuntimeApi, uid: &str) -> Result<Option<String>, CriError> {
    let filter = pb::PodSandboxFilter {
        state: Some(pb::PodSandboxStateValue { state: pb::PodSandboxState::SandboxReady.into() }),
        label_selector: [(labels::POD_UID.to_owned(), uid.to_owned())].into(),
        ..Default::default()
    };
    let found = runtime.list_pod_sandboxes(Some(filter)).await?;
    Ok(found.into_iter().max_by_key(|sandbox| sandbox.created_at).map(|sandbox| sandbox.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[track_caller]
    fn check(status: Value, previous: bool, expect: Result<&str, &str>) {
        let mut status = status;
        status["name"] = json!("c");
        let pod = json!({ "metadata": { "name": "p" }, "status": { "containerStatuses": [status] } });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let found = log_container(&pod, "c", previous);
        assert_eq!(found.as_deref().map_err(String::as_str), expect);
    }

    #[test]
    fn the_container_whose_log_is_wanted_is_found_or_the_reason_told() {
        let ended = json!({ "terminated": { "exitCode": 1, "containerID": "containerd://old" } });
        let running =
            json!({ "containerID": "containerd://new", "state": { "running": {} }, "lastState": ended });
        check(running.clone(), false, Ok("new"));
        check(running, true, Ok("old"));
        check(
            json!({ "state": { "running": {} } }),
            true,
            Err("previous terminated container \"c\" in pod \"p\" not found"),
        );
        check(
            json!({ "state": { "waiting": { "reason": "CrashLoopBackOff" } }, "lastState": ended }),
            false,
            Ok("old"),
        );
        check(
            json!({ "state": { "waiting": { "reason": "ImagePullBackOff" } } }),
            false,
            Err("container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image"),
        );
        check(
            json!({ "state": { "waiting": { "reason": "ContainerCreating" } } }),
            false,
            Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating"),
        );
        let nobody: Pod = serde_json::from_value(json!({ "metadata": { "name": "p" } })).unwrap();
        assert_eq!(
            log_container(&nobody, "c", false),
            Err("container \"c\" in pod \"p\" is not available".to_owned())
        );
    }
}
