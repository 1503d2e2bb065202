//! What a pod's cgroup is limited to, from its specification (upstream's `ResourceConfigForPod`).

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use crate::qos::{amount, memory_bytes, qos_class};

/// Shares of one CPU, of a cgroup without any, and of the largest (cgroup v1's scale).
const SHARES_PER_CPU: i64 = 1024;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
/// The period over which CPU quotas are counted, in microseconds.
pub const CPU_PERIOD_MICROS: i64 = 100_000;
/// The smallest CPU quota that the kernel takes, in microseconds.
const MIN_QUOTA_MICROS: i64 = 1000;

/// Limits of one cgroup; what is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// On the scale of cgroup v1, 1024 for one CPU.
    pub cpu_shares: Option<i64>,
    /// Microseconds of CPU in a period of 100 ms; -1 for no bound.
    pub cpu_quota_micros: Option<i64>,
    /// -1 for no bound.
    pub memory_bytes: Option<i64>,
    /// -1 for no bound.
    pub pids: Option<i64>,
}

/// The shares for so many thousandths of a CPU.
pub fn shares(cpu_millis: i64) -> i64 {
    (cpu_millis.saturating_mul(SHARES_PER_CPU) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// The quota for so many thousandths of a CPU; 0 means no limit was given and is left at -1.
fn quota(cpu_millis: i64) -> i64 {
    if cpu_millis == 0 {
        -1
    } else {
        (cpu_millis.saturating_mul(CPU_PERIOD_MICROS) / 1000).max(MIN_QUOTA_MICROS)
    }
}

/// cgroup v2's weight for cgroup v1's shares: the curve that keeps minimum, default and maximum, as
/// runc has it since 1.3.2.
pub fn weight(shares: i64) -> i64 {
    match shares {
        0 => 0,
        ..=MIN_SHARES => 1,
        MAX_SHARES.. => 10_000,
        shares => {
            #[allow(clippy::cast_precision_loss, reason = "at most 2^18")]
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            #[allow(clippy::cast_possible_truncation, reason = "at most 10^4")]
            let weight = 10f64.powf(exponent).ceil() as i64;
            weight
        }
    }
}

/// CPU in thousandths and memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Amount {
    cpu_millis: i64,
    memory_bytes: i64,
}

impl Amount {
    fn add(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }

    fn max(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.max(other.cpu_millis),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
        }
    }
}

fn requests(resources: &ResourceRequirements) -> Amount {
    // what is not requested is requested at its limit
    let or_limit = |name: &str| match amount(&resources.requests, name) {
        0 => amount(&resources.limits, name),
        request => request,
    };
    let memory = match memory_bytes(&resources.requests) {
        0 => memory_bytes(&resources.limits),
        request => request,
    };
    Amount { cpu_millis: or_limit("cpu"), memory_bytes: memory }
}

fn limits(resources: &ResourceRequirements) -> Amount {
    Amount { cpu_millis: amount(&resources.limits, "cpu"), memory_bytes: memory_bytes(&resources.limits) }
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The pod's need: all containers and sidecars together, or the largest init container with the
/// sidecars started before it, whichever is more; and the overhead of its runtime class.
fn total(pod: &Pod, of: impl Fn(&ResourceRequirements) -> Amount) -> Amount {
    let Some(spec) = &pod.spec else { return Amount::default() };
    let empty = ResourceRequirements::default();
    let one = |container: &Container| of(container.resources.as_ref().unwrap_or(&empty));
    let mut sum = spec.containers.iter().map(one).fold(Amount::default(), Amount::add);
    let mut sidecars = Amount::default();
    let mut init = Amount::default();
    for container in spec.init_containers.iter().flatten() {
        if is_sidecar(container) {
            sum = sum.add(one(container));
            sidecars = sidecars.add(one(container));
            init = init.max(sidecars);
        } else {
            init = init.max(one(container).add(sidecars));
        }
    }
    let mut total = sum.max(init);
    if let Some(pod_level) = &spec.resources {
        let own = of(pod_level);
        if own.cpu_millis > 0 {
            total.cpu_millis = own.cpu_millis;
        }
        if own.memory_bytes > 0 {
            total.memory_bytes = own.memory_bytes;
        }
    }
    let overhead =
        Amount { cpu_millis: amount(&spec.overhead, "cpu"), memory_bytes: memory_bytes(&spec.overhead) };
    total.add(overhead)
}

/// Thousandths of a CPU that a pod requests.
pub fn requested_cpu_millis(pod: &Pod) -> i64 {
    total(pod, requests).cpu_millis
}

/// The limits of a pod's cgroup; `pids` is the kubelet's own limit for every pod.
pub fn for_pod(pod: &Pod, pids: Option<i64>) -> Resources {
    let request = total(pod, requests);
    let limit = total(pod, limits);
    let spec = pod.spec.as_ref();
    let pod_level = spec.and_then(|s| s.resources.as_ref()).map(limits).unwrap_or_default();
    // a limit of the whole pod holds only if each of its containers has one
    let containers =
        || spec.into_iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    let each = |of: fn(&Amount) -> i64| {
        of(&pod_level) > 0 || containers().all(|c| c.resources.as_ref().is_some_and(|r| of(&limits(r)) > 0))
    };
    let mut resources = Resources { pids, ..Resources::default() };
    match qos_class(pod) {
        "Guaranteed" => {
            resources.cpu_shares = Some(shares(request.cpu_millis));
            resources.cpu_quota_micros = Some(quota(limit.cpu_millis));
            resources.memory_bytes = Some(limit.memory_bytes).filter(|bytes| *bytes > 0);
        }
        "Burstable" => {
            resources.cpu_shares = Some(shares(request.cpu_millis));
            resources.cpu_quota_micros = each(|a| a.cpu_millis).then(|| quota(limit.cpu_millis));
            resources.memory_bytes = each(|a| a.memory_bytes).then_some(limit.memory_bytes);
        }
        _ => resources.cpu_shares = Some(MIN_SHARES),
    }
    resources
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(spec: serde_json::Value, expect: Resources) {
        let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
        assert_eq!(for_pod(&pod, None), expect);
    }

    #[test]
    fn a_pods_cgroup_follows_its_class() {
        let container = |resources: serde_json::Value| json!({ "name": "c", "resources": resources });
        check(
            json!({ "containers": [container(json!({ "limits": { "cpu": "500m", "memory": "64Mi" } }))] }),
            Resources {
                cpu_shares: Some(512),
                cpu_quota_micros: Some(50_000),
                memory_bytes: Some(64 << 20),
                pids: None,
            },
        );
        // one container has no limit: then the pod has none
        check(
            json!({ "containers": [
                container(json!({ "requests": { "cpu": "1" }, "limits": { "cpu": "2" } })),
                container(json!({ "requests": { "cpu": "250m" } })),
            ] }),
            Resources { cpu_shares: Some(1280), ..Resources::default() },
        );
        check(
            json!({ "containers": [container(json!({}))] }),
            Resources { cpu_shares: Some(2), ..Resources::default() },
        );
    }

    #[test]
    fn init_containers_count_as_the_largest_with_the_sidecars_before_them() {
        let cpu = |cpu: &str, policy: Option<&str>| json!({ "name": "c", "restartPolicy": policy, "resources": { "requests": { "cpu": cpu } } });
        let spec = json!({
            "initContainers": [cpu("100m", Some("Always")), cpu("2", None)],
            "containers": [cpu("1", None)],
        });
        let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
        assert_eq!(requested_cpu_millis(&pod), 2100);
    }

    #[test]
    fn weights_keep_the_default_and_the_ends() {
        assert_eq!([2, 1024, 262_144, 102].map(weight), [1, 100, 10_000, 17]);
    }
}
