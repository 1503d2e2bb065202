//! Quality of service: the class of a pod and what follows from it for the kernel's OOM killer.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity::{millis, value};

const GUARANTEED_OOM_SCORE_ADJ: i64 = -997;
const BEST_EFFORT_OOM_SCORE_ADJ: i64 = 1000;
/// Priority from which a pod is critical for its node (`system-node-critical`).
const NODE_CRITICAL_PRIORITY: i32 = 2_000_001_000;

type Amounts = Option<BTreeMap<String, Quantity>>;

/// The amount of a resource in thousandths; 0 if it is not there.
pub fn amount(list: &Amounts, name: &str) -> i64 {
    list.as_ref().and_then(|l| l.get(name)).and_then(|q| millis(&q.0)).unwrap_or(0)
}

/// Bytes of memory in a list; 0 if it is not there.
pub fn memory_bytes(list: &Amounts) -> i64 {
    list.as_ref().and_then(|l| l.get("memory")).and_then(|q| value(&q.0)).unwrap_or(0)
}

/// `Guaranteed`, `Burstable` or `BestEffort` (upstream's `ComputePodQOS`).
pub fn qos_class(pod: &Pod) -> &'static str {
    let Some(spec) = &pod.spec else { return "BestEffort" };
    let empty = k8s_openapi::api::core::v1::ResourceRequirements::default();
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let all: Vec<_> = match spec.resources.as_ref().filter(|r| r.requests.is_some() || r.limits.is_some()) {
        Some(pod_level) => vec![pod_level],
        None => containers.map(|c| c.resources.as_ref().unwrap_or(&empty)).collect(),
    };
    let names = ["cpu", "memory"];
    let any =
        all.iter().any(|r| names.iter().any(|n| amount(&r.requests, n) > 0 || amount(&r.limits, n) > 0));
    if !any {
        return "BestEffort";
    }
    let guaranteed = all.iter().all(|r| {
        names.iter().all(|n| {
            let limit = amount(&r.limits, n);
            let request = amount(&r.requests, n);
            // a request that is not given equals the limit
            limit > 0 && (request == limit || request == 0)
        })
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

/// `oom_score_adj` of a container's processes (upstream's `GetContainerOOMScoreAdjust`).
pub fn oom_score_adj(pod: &Pod, container: &Container, node_memory_bytes: i64) -> i64 {
    let spec = pod.spec.as_ref();
    if spec.and_then(|s| s.priority).is_some_and(|p| p >= NODE_CRITICAL_PRIORITY) {
        return GUARANTEED_OOM_SCORE_ADJ;
    }
    match qos_class(pod) {
        "Guaranteed" => return GUARANTEED_OOM_SCORE_ADJ,
        "BestEffort" => return BEST_EFFORT_OOM_SCORE_ADJ,
        _ => {}
    }
    let request = |c: &Container| c.resources.as_ref().map_or(0, |r| memory_bytes(&r.requests));
    let score = |bytes: i64| 1000 - 1000 * bytes / node_memory_bytes.max(1);
    let mut adjust = score(request(container));
    let sidecar = container.restart_policy.as_deref() == Some("Always")
        && spec
            .and_then(|s| s.init_containers.as_ref())
            .is_some_and(|l| l.iter().any(|c| c.name == container.name));
    if sidecar {
        let least = spec.and_then(|s| s.containers.iter().map(request).min()).unwrap_or(0);
        adjust = adjust.min(score(least));
    }
    let lowest = 1000 + GUARANTEED_OOM_SCORE_ADJ;
    if adjust < lowest {
        lowest
    } else if adjust == BEST_EFFORT_OOM_SCORE_ADJ {
        adjust - 1
    } else {
        adjust
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: &[serde_json::Value]) -> Pod {
        let containers: Vec<_> = resources
            .iter()
            .enumerate()
            .map(|(i, r)| serde_json::json!({"name": format!("c{i}"), "resources": r}))
            .collect();
        serde_json::from_value(serde_json::json!({"spec": {"containers": containers}})).unwrap()
    }

    #[test]
    fn classes_and_scores() {
        use serde_json::json;
        #[track_caller]
        fn check(resources: &[serde_json::Value], class: &str, score: i64) {
            let pod = pod(resources);
            let container = &pod.spec.as_ref().unwrap().containers[0];
            assert_eq!((qos_class(&pod), oom_score_adj(&pod, container, 1 << 30)), (class, score));
        }
        check(&[json!({})], "BestEffort", 1000);
        check(&[json!({"requests": {"cpu": "100m"}})], "Burstable", 999);
        check(&[json!({"requests": {"memory": "512Mi"}})], "Burstable", 500);
        check(&[json!({"requests": {"memory": "1Gi"}})], "Burstable", 3);
        check(&[json!({"limits": {"cpu": "1", "memory": "1Gi"}})], "Guaranteed", -997);
        check(&[json!({"limits": {"cpu": "1", "memory": "1Gi"}}), json!({})], "Burstable", 1000 - 1);
    }
}
