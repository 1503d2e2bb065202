//! How a table shows a pod: its STATUS sums up phase, conditions and container states as kubectl's users
//! know it (upstream's `printPod`).

use crate::kind::{Cell, Column};
use crate::support::{age, column, or, wide};
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodStatus,
};
use k8s_openapi::jiff::Timestamp;
use meta::pod::is_sidecar;

/// The status reason of a pod whose node the control plane has lost.
const NODE_LOST: &str = "NodeLost";

pub(super) const COLUMNS: &[Column<Pod>] = &[
    column("Ready", "The aggregate readiness state of this pod for accepting traffic.", |p| {
        let s = summary(p);
        Cell::str(format!("{}/{}", s.ready, s.total))
    }),
    column("Status", "The aggregate status of the containers in this pod.", |p| Cell::str(summary(p).reason)),
    column(
        "Restarts",
        "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
        |p| {
            let s = summary(p);
            Cell::CountSince(s.restarts, s.last_restart.filter(|_| s.restarts != 0))
        },
    ),
    age(),
    wide(
        "IP",
        "podIP address allocated to the pod. Routable at least within the cluster. Empty if not yet allocated.",
        |p| {
            let ips = status(p).and_then(|s| s.pod_ips.as_deref()).unwrap_or_default();
            Cell::str(or(ips.first().map_or("", |ip| &ip.ip), "<none>"))
        },
    ),
    wide(
        "Node",
        "NodeName indicates in which node this pod is scheduled. If empty, this pod is a candidate for scheduling by the scheduler defined in schedulerName. Once this field is set, the kubelet for this node becomes responsible for the lifecycle of this pod. This field should not be used to express a desire for the pod to be scheduled on a specific node. https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#nodename",
        |p| {
            let node = p.spec.as_ref().and_then(|s| s.node_name.as_deref());
            Cell::str(or(node.unwrap_or_default(), "<none>"))
        },
    ),
    wide(
        "Nominated Node",
        "nominatedNodeName is set only when this pod preempts other pods on the node, but it cannot be scheduled right away as preemption victims receive their graceful termination periods. This field does not guarantee that the pod will be scheduled on this node. Scheduler may decide to place the pod elsewhere if other nodes become available sooner. Scheduler may also decide to give the resources on this node to a higher priority pod that is created after preemption. As a result, this field may be different than PodSpec.nodeName when the pod is scheduled.",
        |p| {
            let node = status(p).and_then(|s| s.nominated_node_name.as_deref());
            Cell::str(or(node.unwrap_or_default(), "<none>"))
        },
    ),
    wide(
        "Readiness Gates",
        "If specified, all readiness gates will be evaluated for pod readiness. A pod is ready when all its containers are ready AND all conditions specified in the readiness gates have status equal to \"True\" More info: https://git.k8s.io/enhancements/keps/sig-network/580-pod-readiness-gates",
        |p| Cell::str(readiness_gates(p)),
    ),
];

fn status(pod: &Pod) -> Option<&PodStatus> {
    pod.status.as_ref()
}

fn readiness_gates(pod: &Pod) -> String {
    let gates = pod.spec.as_ref().and_then(|s| s.readiness_gates.as_deref()).unwrap_or_default();
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let holds = |gate: &str| status(pod).is_some_and(|s| condition(s, gate) == Some("True"));
    format!("{}/{}", gates.iter().filter(|g| holds(&g.condition_type)).count(), gates.len())
}

fn condition<'a>(status: &'a PodStatus, kind: &str) -> Option<&'a str> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind).map(|c| c.status.as_str())
}

#[derive(Debug, Default, PartialEq)]
struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

fn ended(container: &ContainerStatus) -> Option<Timestamp> {
    let last = container.last_state.as_ref()?.terminated.as_ref()?;
    last.finished_at.as_ref().map(|t| t.0)
}

/// Exit reason, or signal, or exit code.
fn end_reason(end: &ContainerStateTerminated) -> String {
    match (end.reason.as_deref().unwrap_or_default(), end.signal.unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", end.exit_code),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn waiting_reason(state: &ContainerState) -> Option<&str> {
    state.waiting.as_ref().and_then(|w| w.reason.as_deref()).filter(|r| !r.is_empty())
}

fn summary(pod: &Pod) -> Summary {
    let no_status = PodStatus::default();
    let no_spec = Default::default();
    let status = status(pod).unwrap_or(&no_status);
    let spec = pod.spec.as_ref().unwrap_or(&no_spec);
    let phase = status.phase.as_deref().unwrap_or_default();
    let pod_reason = status.reason.as_deref().unwrap_or_default();
    let mut s = Summary {
        total: spec.containers.len(),
        reason: or(pod_reason, phase).to_owned(),
        ..Default::default()
    };
    let conditions = status.conditions.as_deref().unwrap_or_default();
    if conditions.iter().any(|c| c.type_ == "PodScheduled" && c.reason.as_deref() == Some("SchedulingGated"))
    {
        s.reason = "SchedulingGated".to_owned();
    }
    let init = spec.init_containers.as_deref().unwrap_or_default();
    s.total += init.iter().filter(|c| is_sidecar(c)).count();
    let sidecars = summarize_init_containers(&mut s, status, init);
    if sidecars.initialized || condition(status, "Initialized") == Some("True") {
        // from here on those of the init containers that have ended are no news
        (s.restarts, s.last_restart) = (sidecars.restarts, sidecars.last_restart);
        summarize_containers(&mut s, status);
    }
    if pod.metadata.deletion_timestamp.is_some() {
        if pod_reason == NODE_LOST {
            s.reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            s.reason = "Terminating".to_owned();
        }
    }
    s
}

/// How far the init containers have come, and what of them goes on.
#[derive(Default)]
struct Sidecars {
    initialized: bool,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

fn summarize_init_containers(s: &mut Summary, status: &PodStatus, init: &[Container]) -> Sidecars {
    let mut sidecars = Sidecars::default();
    let empty = ContainerState::default();
    for (i, container) in status.init_container_statuses.iter().flatten().enumerate() {
        let restarts = i64::from(container.restart_count);
        s.restarts += restarts;
        s.last_restart = s.last_restart.max(ended(container));
        let goes_on = init.iter().any(|c| c.name == container.name && is_sidecar(c));
        if goes_on {
            sidecars.restarts += restarts;
            sidecars.last_restart = sidecars.last_restart.max(ended(container));
        }
        let state = container.state.as_ref().unwrap_or(&empty);
        s.reason = match &state.terminated {
            Some(end) if end.exit_code == 0 => continue,
            _ if goes_on && container.started == Some(true) => {
                s.ready += usize::from(container.ready);
                continue;
            }
            Some(end) => format!("Init:{}", end_reason(end)),
            None => match waiting_reason(state).filter(|r| *r != "PodInitializing") {
                Some(reason) => format!("Init:{reason}"),
                None => format!("Init:{i}/{}", init.len()),
            },
        };
        return sidecars;
    }
    sidecars.initialized = true;
    sidecars
}

fn summarize_containers(s: &mut Summary, status: &PodStatus) {
    let empty = ContainerState::default();
    let mut running = false;
    let mut error = None;
    for container in status.container_statuses.iter().flatten().rev() {
        s.restarts += i64::from(container.restart_count);
        s.last_restart = s.last_restart.max(ended(container));
        let state = container.state.as_ref().unwrap_or(&empty);
        if let Some(reason) = waiting_reason(state) {
            s.reason = reason.to_owned();
        } else if let Some(end) = &state.terminated {
            s.reason = end_reason(end);
            if end.exit_code != 0 {
                error = Some(s.reason.clone());
            }
        } else if container.ready && state.running.is_some() {
            running = true;
            s.ready += 1;
        }
    }
    if s.reason == "Completed" {
        if running && condition(status, "Ready") == Some("True") {
            s.reason = "Running".to_owned();
        } else if let Some(error) = error {
            s.reason = error;
        } else if running {
            s.reason = "NotReady".to_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(pod: Value, ready: &str, reason: &str, restarts: i64) {
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let s = summary(&pod);
        assert_eq!(
            (format!("{}/{}", s.ready, s.total).as_str(), s.reason.as_str(), s.restarts),
            (ready, reason, restarts)
        );
    }

    fn container(name: &str, state: Value, ready: bool) -> Value {
        json!({"name": name, "image": "", "imageID": "", "ready": ready, "restartCount": 1, "state": state})
    }

    #[test]
    fn status_sums_up_the_containers() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        let running = json!({"running": {}});
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let done = |code: i32, reason: &str| json!({"terminated": {"exitCode": code, "reason": reason}});
        check(json!({"spec": spec, "status": {"phase": "Pending"}}), "0/2", "Pending", 0);
        let two = |a: &Value, b: &Value, ready: bool| {
            json!({"spec": spec, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}],
                "containerStatuses": [container("a", a.clone(), true), container("b", b.clone(), true)]}})
        };
        check(two(&running, &running, true), "2/2", "Running", 2);
        check(two(&running, &waiting, false), "1/2", "CrashLoopBackOff", 2);
        check(two(&running, &done(0, "Completed"), false), "1/2", "NotReady", 2);
        check(two(&done(0, "Completed"), &done(2, "Error"), false), "0/2", "Error", 2);
        check(two(&done(137, ""), &running, false), "1/2", "ExitCode:137", 2);
        let mut terminating = two(&running, &running, true);
        terminating["metadata"] = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        check(terminating, "2/2", "Terminating", 2);
    }

    #[test]
    fn init_containers_come_first() {
        let spec = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]});
        let pod = |state: Value| json!({"spec": spec, "status": {"phase": "Pending", "initContainerStatuses": [container("i", state, false)]}});
        check(pod(json!({"running": {}})), "0/2", "Init:0/2", 1);
        check(pod(json!({"waiting": {"reason": "ImagePullBackOff"}})), "0/2", "Init:ImagePullBackOff", 1);
        check(pod(json!({"terminated": {"exitCode": 3}})), "0/2", "Init:ExitCode:3", 1);
    }
}
