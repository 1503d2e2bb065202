//! What the controllers read from a pod.

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::jiff::SignedDuration;
use meta::Time;
use std::cmp::Ordering;

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

pub fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or("")
}

pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == kind)
}

pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Since when the pod is ready; None where it is not, or does not say.
pub fn ready_since(pod: &Pod) -> Option<Time> {
    condition(pod, "Ready").filter(|c| c.status == "True")?.last_transition_time.as_ref().map(|t| t.0)
}

/// Ready for at least so many seconds.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Time) -> bool {
    is_ready(pod)
        && (min_ready_seconds == 0 || available_at(pod, min_ready_seconds).is_some_and(|t| t <= now))
}

/// When a ready pod becomes available.
pub fn available_at(pod: &Pod, min_ready_seconds: i32) -> Option<Time> {
    ready_since(pod).map(|t| t + SignedDuration::from_secs(min_ready_seconds.into()))
}

/// When the next of these pods that are ready, but not for long enough, becomes available.
pub(crate) fn next_available<'a>(
    pods: impl IntoIterator<Item = &'a std::sync::Arc<Pod>>,
    min_ready_seconds: i32,
    now: Time,
) -> Option<Time> {
    let fallback = now + SignedDuration::from_secs(min_ready_seconds.into());
    let waiting = pods.into_iter().filter(|p| is_ready(p) && !is_available(p, min_ready_seconds, now));
    waiting.map(|p| available_at(p, min_ready_seconds).unwrap_or(fallback)).min()
}

/// Ended for good.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

pub fn is_terminating(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_some()
}

/// The highest restart counts of containers and of sidecars.
fn restarts(pod: &Pod) -> (i32, i32) {
    let Some(status) = &pod.status else { return (0, 0) };
    let regular = status.container_statuses.iter().flatten().map(|c| c.restart_count).max().unwrap_or(0);
    let is_sidecar = |name: &str| {
        let init = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten());
        init.into_iter().any(|c| c.name == name && c.restart_policy.as_deref() == Some("Always"))
    };
    let sidecars = status.init_container_statuses.iter().flatten().filter(|c| is_sidecar(&c.name));
    (regular, sidecars.map(|c| c.restart_count).max().unwrap_or(0))
}

fn deletion_cost(pod: &Pod) -> i32 {
    let a = pod.metadata.annotations.as_ref();
    a.and_then(|a| a.get("controller.kubernetes.io/pod-deletion-cost"))
        .and_then(|v| v.parse().ok())
        .unwrap_or(0)
}

/// Which pod to delete first (`Less`). `ranks`: how many pods of the same owner share each pod's node. Ages are compared
/// by magnitude, so that which of two similar pods goes is not predictable from their age (upstream's
/// ActivePodsWithRanks with PodDeletionCost and LogarithmicScaleDown).
pub fn deletion_order((a, rank_a): (&Pod, usize), (b, rank_b): (&Pod, usize), now: Time) -> Ordering {
    let assigned = |p| !node_name(p).is_empty();
    let order = |p: &Pod| match phase(p) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let age = |t: Option<Time>| t.map(|t| magnitude(t, now));
    let created = |p: &Pod| age(p.metadata.creation_timestamp.as_ref().map(|t| t.0));
    let ready = |p: &Pod| age(ready_since(p).filter(|_| is_ready(p)));
    assigned(a)
        .cmp(&assigned(b))
        .then(order(a).cmp(&order(b)))
        .then(is_ready(a).cmp(&is_ready(b)))
        .then(deletion_cost(a).cmp(&deletion_cost(b)))
        .then(rank_b.cmp(&rank_a))
        .then_with(|| ready(a).cmp(&ready(b)))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| created(a).cmp(&created(b)))
        // upstream asks for the uid as soon as two times differ by less than their magnitude, which is no order of more
        // than two pods
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

fn magnitude(t: Time, now: Time) -> i64 {
    let nanos = now.duration_since(t).as_nanos();
    if nanos > 0 { (nanos as f64).log2() as i64 } else { -1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ready_pod(uid: i64, seconds: i64, restarts: i64) -> Pod {
        let time = format!("2026-01-01T00:00:{seconds:02}Z");
        serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": format!("{uid:02}"), "creationTimestamp": time},
            "spec": {"nodeName": "n", "containers": []},
            "status": {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": time}],
                "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": restarts}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn the_order_of_deletion_is_one_of_any_number_of_pods() {
        let now: Time = "2026-01-01T00:01:00Z".parse().unwrap();
        // ages of one magnitude, told apart by their uids, some of them equal and with restarts
        let pods: Vec<Pod> = (0..30).map(|i| ready_pod(i * 17 % 30, i % 4, i % 3)).collect();
        let order = |a: usize, b: usize| deletion_order((&pods[a], 1), (&pods[b], 1), now);
        for (a, b) in (0..30).flat_map(|a| (0..30).map(move |b| (a, b))) {
            assert_eq!(order(a, b), order(b, a).reverse());
            for c in (0..30).filter(|c| order(a, b).is_lt() && order(b, *c).is_lt()) {
                assert!(order(a, c).is_lt());
            }
        }
        // the younger by a magnitude goes first, and of pods of like age the one that restarted more
        let by = |a: &Pod, b: &Pod| deletion_order((a, 1), (b, 1), now);
        assert!(by(&ready_pod(9, 58, 0), &ready_pod(1, 1, 5)).is_lt());
        assert!(by(&ready_pod(9, 1, 1), &ready_pod(1, 2, 0)).is_lt());
    }
}
