//! What several components derive from a pod: its containers in one form, its effective resource requests and its
//! QoS class.

use crate::quantity::Quantity;
use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, EphemeralContainer, Pod, PodSpec, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Amounts by resource name.
pub type Resources = BTreeMap<String, Quantity>;
type ApiResources = BTreeMap<String, ApiQuantity>;

/// Whether an init container is a sidecar: it starts before the main containers and runs with them (KEP-753).
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// An ephemeral container as the container it is but for its target.
pub fn as_container(e: &EphemeralContainer) -> Container {
    let e = e.clone();
    Container {
        args: e.args,
        command: e.command,
        env: e.env,
        env_from: e.env_from,
        image: e.image,
        image_pull_policy: e.image_pull_policy,
        lifecycle: e.lifecycle,
        liveness_probe: e.liveness_probe,
        name: e.name,
        ports: e.ports,
        readiness_probe: e.readiness_probe,
        resize_policy: e.resize_policy,
        resources: e.resources,
        restart_policy: e.restart_policy,
        restart_policy_rules: e.restart_policy_rules,
        security_context: e.security_context,
        startup_probe: e.startup_probe,
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path,
        termination_message_policy: e.termination_message_policy,
        tty: e.tty,
        volume_devices: e.volume_devices,
        volume_mounts: e.volume_mounts,
        working_dir: e.working_dir,
    }
}

/// Whether the resource may be set for a pod as a whole (KEP-2837).
pub fn is_pod_level_resource(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

fn add(total: &mut Resources, more: &Resources) {
    for (name, quantity) in more {
        *total.entry(name.clone()).or_default() += *quantity;
    }
}

fn raise(total: &mut Resources, floor: &Resources) {
    for (name, quantity) in floor {
        let have = total.entry(name.clone()).or_insert(*quantity);
        *have = (*have).max(*quantity);
    }
}

fn amounts(list: Option<&ApiResources>) -> Resources {
    list.into_iter().flatten().map(|(name, q)| (name.clone(), Quantity::of(q))).collect()
}

fn aggregate(spec: &PodSpec, of: impl Fn(&ResourceRequirements) -> Option<&ApiResources>) -> Resources {
    let of = |c: &Container| amounts(c.resources.as_ref().and_then(&of));
    let mut total = Resources::new();
    for container in &spec.containers {
        add(&mut total, &of(container));
    }
    let mut sidecars = Resources::new();
    let mut init_peak = Resources::new();
    for container in spec.init_containers.iter().flatten() {
        let mut own = of(container);
        if is_sidecar(container) {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut init_peak, &sidecars);
        } else {
            add(&mut own, &sidecars);
            raise(&mut init_peak, &own);
        }
    }
    raise(&mut total, &init_peak);
    total
}

/// The sum over containers, or the peak while init containers run where that is more; without overhead and
/// pod-level resources.
pub fn container_requests(spec: &PodSpec) -> Resources {
    aggregate(spec, |r| r.requests.as_ref())
}

/// As [`container_requests`], of the limits.
pub fn container_limits(spec: &PodSpec) -> Resources {
    aggregate(spec, |r| r.limits.as_ref())
}

/// What a pod asks of its node: containers, sidecars and init containers, pod-level requests, overhead
/// (upstream's `component-helpers/resource.PodRequests`).
pub fn pod_requests(spec: &PodSpec) -> Resources {
    let mut total = container_requests(spec);
    for (name, quantity) in spec.resources.iter().flat_map(|r| r.requests.iter().flatten()) {
        if is_pod_level_resource(name) {
            total.insert(name.clone(), Quantity::of(quantity));
        }
    }
    add(&mut total, &amounts(spec.overhead.as_ref()));
    total
}

/// What a pod may use at most. A resource without a limit is absent.
pub fn pod_limits(spec: &PodSpec) -> Resources {
    let mut total = container_limits(spec);
    for (name, quantity) in spec.resources.iter().flat_map(|r| r.limits.iter().flatten()) {
        if is_pod_level_resource(name) {
            total.insert(name.clone(), Quantity::of(quantity));
        }
    }
    for (name, overhead) in spec.overhead.iter().flatten() {
        if let Some(limit) = total.get_mut(name).filter(|l| !l.is_zero()) {
            *limit += Quantity::of(overhead);
        }
    }
    total
}

/// The pod's spec with what its containers hold while a resize is under way: of what is asked, allocated and in force
/// the most, or of the latter two where the node cannot grant the change (KEP-1287). None where there is no spec.
pub fn effective_spec(pod: &Pod) -> Option<Cow<'_, PodSpec>> {
    let spec = pod.spec.as_ref()?;
    let status = pod.status.as_ref();
    let main = status.and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    let init = status.and_then(|s| s.init_container_statuses.as_deref()).unwrap_or_default();
    // of a running pod nearly always: nothing is copied then
    if main.iter().chain(init).all(|s| holds_what_it_asks(spec, s)) {
        return Some(Cow::Borrowed(spec));
    }
    let mut pending = status.iter().flat_map(|s| s.conditions.iter().flatten());
    let infeasible = pending
        .find(|c| c.type_ == "PodResizePending")
        .is_some_and(|c| c.reason.as_deref() == Some("Infeasible"));
    let mut spec = spec.clone();
    let resized = |container: &mut Container, statuses: &[ContainerStatus]| {
        let Some(status) = statuses.iter().find(|s| s.name == container.name) else { return };
        let Some(actual) = &status.resources else { return };
        let asked = container.resources.get_or_insert_default();
        let most = |lists: &[Option<&ApiResources>]| {
            let mut most = Resources::new();
            lists.iter().for_each(|list| raise(&mut most, &amounts(*list)));
            Some(most.into_iter().map(|(name, q)| (name, q.to_api())).collect())
        };
        let allocated = status.allocated_resources.as_ref();
        asked.requests =
            most(&[asked.requests.as_ref().filter(|_| !infeasible), actual.requests.as_ref(), allocated]);
        asked.limits = most(&[asked.limits.as_ref().filter(|_| !infeasible), actual.limits.as_ref()]);
    };
    spec.containers.iter_mut().for_each(|c| resized(c, main));
    let sidecars = spec.init_containers.iter_mut().flatten().filter(|c| is_sidecar(c));
    sidecars.for_each(|c| resized(c, init));
    Some(Cow::Owned(spec))
}

fn holds_what_it_asks(spec: &PodSpec, status: &ContainerStatus) -> bool {
    let Some(actual) = &status.resources else { return true };
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let asked = containers.find(|c| c.name == status.name).and_then(|c| c.resources.as_ref());
    let requests = asked.and_then(|r| r.requests.as_ref());
    actual.requests.as_ref() == requests
        && actual.limits.as_ref() == asked.and_then(|r| r.limits.as_ref())
        && status.allocated_resources.as_ref().is_none_or(|allocated| Some(allocated) == requests)
}

/// The class the pod's status says, else the one its spec gives: `Guaranteed`, `Burstable`, `BestEffort`.
pub fn qos_class(pod: &Pod) -> &'static str {
    match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        Some("Guaranteed") => "Guaranteed",
        Some("Burstable") => "Burstable",
        Some("BestEffort") => "BestEffort",
        _ => pod.spec.as_ref().map_or("BestEffort", compute_qos_class),
    }
}

/// Positive amounts of cpu and memory.
fn compute(list: Option<&ApiResources>) -> Resources {
    list.into_iter()
        .flatten()
        .filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory"))
        .map(|(name, q)| (name.clone(), Quantity::of(q)))
        .filter(|(_, q)| !q.is_zero() && !q.is_negative())
        .collect()
}

/// Guaranteed: every container has limits of cpu and memory and requests the same. BestEffort: none asks for
/// anything. Burstable: the rest.
pub fn compute_qos_class(spec: &PodSpec) -> &'static str {
    let mut requests = Resources::new();
    let mut limits = Resources::new();
    let mut guaranteed = true;
    let empty = ResourceRequirements::default();
    let mut visit = |r: &ResourceRequirements, limits_needed: bool| {
        add(&mut requests, &compute(r.requests.as_ref()));
        let own = compute(r.limits.as_ref());
        guaranteed &= !limits_needed || own.len() == 2;
        add(&mut limits, &own);
    };
    match &spec.resources {
        Some(whole) => visit(whole, whole.limits.as_ref().is_some_and(|l| !l.is_empty())),
        None => {
            for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
                visit(container.resources.as_ref().unwrap_or(&empty), true);
            }
        }
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if guaranteed && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(value: Value) -> PodSpec {
        serde_json::from_value(value).expect("a pod spec")
    }

    fn container(name: &str, requests: Value, limits: Value) -> Value {
        json!({"name": name, "resources": {"requests": requests, "limits": limits}})
    }

    #[test]
    fn requests_count_init_containers_sidecars_and_overhead() {
        let mut sidecar = container("s", json!({"cpu": "100m"}), json!({}));
        sidecar["restartPolicy"] = json!("Always");
        let spec = spec(json!({
            "containers": [container("a", json!({"cpu": "200m", "memory": "1Gi"}), json!({})), container("b", json!({"cpu": "50m"}), json!({}))],
            "initContainers": [sidecar, container("i", json!({"cpu": "1"}), json!({}))],
            "overhead": {"cpu": "10m"},
        }));
        let got: Vec<(String, String)> =
            pod_requests(&spec).into_iter().map(|(n, q)| (n, q.to_string())).collect();
        assert_eq!(got, [("cpu".to_owned(), "1110m".to_owned()), ("memory".to_owned(), "1Gi".to_owned())]);
    }

    #[test]
    fn a_resize_under_way_counts_as_the_most_of_it() {
        let check = |reason: &str, expect: &str| {
            let pod: Pod = serde_json::from_value(json!({
                "spec": {"containers": [container("a", json!({"cpu": "2"}), json!({}))]},
                "status": {
                    "conditions": [{"type": "PodResizePending", "status": "True", "reason": reason}],
                    "containerStatuses": [{"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                        "allocatedResources": {"cpu": "1"}, "resources": {"requests": {"cpu": "500m"}}}]},
            }))
            .expect("a pod");
            let spec = effective_spec(&pod).expect("a spec");
            assert_eq!(pod_requests(&spec)["cpu"].to_string(), expect);
        };
        check("Deferred", "2");
        check("Infeasible", "1");
    }

    #[test]
    fn qos_class_follows_the_resources() {
        let both = json!({"cpu": "1", "memory": "1Gi"});
        for (containers, expect) in [
            (vec![container("a", json!({}), json!({}))], "BestEffort"),
            (vec![container("a", both.clone(), both.clone())], "Guaranteed"),
            (vec![container("a", json!({"cpu": "1"}), json!({}))], "Burstable"),
            (
                vec![container("a", both.clone(), both.clone()), container("b", json!({}), json!({}))],
                "Burstable",
            ),
        ] {
            assert_eq!(compute_qos_class(&spec(json!({"containers": containers}))), expect);
        }
    }
}
