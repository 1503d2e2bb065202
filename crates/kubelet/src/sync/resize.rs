//! In-place resize of CPU and memory (KEP-1287): what a pod was granted, what its containers have, and what
//! follows from the difference. Pure.
//!
//! A pod's specification says what is desired; the allocation is what the node granted of it; a container's
//! actuated amounts are those its cgroup was given last.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time as ApiTime;
use meta::Time;
use serde_json::{Value, json};

use super::{ContainerState, PodState, RuntimePod, containers, init_containers};
use crate::qos::{amount, memory_bytes};
use crate::quantity::{bytes_text, millis_text};

pub(super) const PENDING: &str = "PodResizePending";
pub(super) const IN_PROGRESS: &str = "PodResizeInProgress";

/// CPU and memory of one container; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Amounts {
    pub cpu_request_millis: i64,
    pub cpu_limit_millis: i64,
    pub memory_request_bytes: i64,
    pub memory_limit_bytes: i64,
}

impl Amounts {
    /// What a container of this pod is to have; the pod's own limits hold where the container has none.
    pub fn of(pod: &Pod, container: &Container) -> Self {
        let own = container.resources.clone().unwrap_or_default();
        let level = pod.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.limits.clone());
        let or = |own: i64, level: i64| if own == 0 { level } else { own };
        Self {
            cpu_request_millis: amount(&own.requests, "cpu"),
            cpu_limit_millis: or(amount(&own.limits, "cpu"), amount(&level, "cpu")),
            memory_request_bytes: memory_bytes(&own.requests),
            memory_limit_bytes: or(memory_bytes(&own.limits), memory_bytes(&level)),
        }
    }

    /// At least both: a limit that one of them lacks is none.
    fn widest(self, other: Self) -> Self {
        let limit = |a: i64, b: i64| if a == 0 || b == 0 { 0 } else { a.max(b) };
        Self {
            cpu_request_millis: self.cpu_request_millis.max(other.cpu_request_millis),
            cpu_limit_millis: limit(self.cpu_limit_millis, other.cpu_limit_millis),
            memory_request_bytes: self.memory_request_bytes.max(other.memory_request_bytes),
            memory_limit_bytes: limit(self.memory_limit_bytes, other.memory_limit_bytes),
        }
    }

    /// Whether the change to `to` takes something away.
    pub fn shrinks(self, to: Self) -> bool {
        self.cpu_request_millis > to.cpu_request_millis
            || lower(self.cpu_limit_millis, to.cpu_limit_millis)
            || lower(self.memory_limit_bytes, to.memory_limit_bytes)
    }

    /// Whether the change to `to` lowers or introduces the limit of memory.
    pub fn lowers_memory(self, to: Self) -> bool {
        lower(self.memory_limit_bytes, to.memory_limit_bytes)
    }

    /// The resources with these amounts, under the names they have.
    fn put_into(self, resources: &mut ResourceRequirements) {
        let set = |list: &mut Option<BTreeMap<String, Quantity>>, name: &str, value: i64, text: String| {
            let Some(list) = list.as_mut() else { return };
            if value == 0 {
                list.remove(name);
            } else {
                list.insert(name.to_owned(), Quantity(text));
            }
        };
        let Self { cpu_request_millis: cr, cpu_limit_millis: cl, memory_request_bytes: mr, .. } = self;
        let ml = self.memory_limit_bytes;
        set(&mut resources.requests, "cpu", cr, millis_text(cr));
        set(&mut resources.requests, "memory", mr, bytes_text(mr));
        set(&mut resources.limits, "cpu", cl, millis_text(cl));
        set(&mut resources.limits, "memory", ml, bytes_text(ml));
    }
}

/// Whether a limit becomes tighter; 0 is none.
fn lower(from: i64, to: i64) -> bool {
    to != 0 && (from == 0 || to < from)
}

/// What a pod was granted.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Allocation {
    pod: Option<ResourceRequirements>,
    containers: BTreeMap<String, ResourceRequirements>,
}

impl Allocation {
    /// All that a specification asks for.
    pub fn of(pod: &Pod) -> Self {
        let all = init_containers(pod).iter().chain(containers(pod));
        Self {
            pod: pod.spec.as_ref().and_then(|s| s.resources.clone()),
            containers: all.map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default())).collect(),
        }
    }

    /// The pod as it was granted; `None` if that is what it asks for.
    pub fn applied_to(&self, pod: &Pod) -> Option<Pod> {
        if same(self, &Self::of(pod)) {
            return None;
        }
        let mut granted = pod.clone();
        let spec = granted.spec.as_mut()?;
        spec.resources.clone_from(&self.pod);
        for c in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            if let Some(resources) = self.containers.get(&c.name) {
                c.resources = Some(resources.clone());
            }
        }
        Some(granted)
    }
}

/// Whether two allocations amount to the same.
fn same(a: &Allocation, b: &Allocation) -> bool {
    let numbers = |r: &ResourceRequirements| {
        let read = |list: &Option<BTreeMap<String, Quantity>>| -> BTreeMap<String, i64> {
            let list = list.iter().flatten();
            list.filter_map(|(k, q)| Some((k.clone(), crate::quantity::millis(&q.0)?))).collect()
        };
        (read(&r.requests), read(&r.limits))
    };
    a.pod.as_ref().map(numbers) == b.pod.as_ref().map(numbers)
        && a.containers.len() == b.containers.len()
        && a.containers.iter().all(|(name, r)| b.containers.get(name).map(numbers) == Some(numbers(r)))
}

/// A resize that the node cannot grant now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    pub message: String,
    /// The generation of the specification that asks for it.
    pub generation: Option<i64>,
}

/// One container whose cgroup is to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    pub id: String,
    pub name: String,
    pub from: Amounts,
    pub to: Amounts,
}

/// What a running container needs to have what it was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Nothing,
    Update(Update),
    Restart,
}

/// Compares what a running container has with what it was granted.
pub(super) fn need(pod: &Pod, container: &Container, id: &str, state: &PodState) -> Need {
    let to = Amounts::of(pod, container);
    let Some(from) = state.actuated.get(id).copied().filter(|from| *from != to) else { return Need::Nothing };
    let restarts = |name: &str| {
        let policies = container.resize_policy.as_deref().unwrap_or_default();
        policies.iter().any(|p| p.resource_name == name && p.restart_policy == "RestartContainer")
    };
    let cpu =
        from.cpu_request_millis != to.cpu_request_millis || from.cpu_limit_millis != to.cpu_limit_millis;
    let memory = from.memory_request_bytes != to.memory_request_bytes
        || from.memory_limit_bytes != to.memory_limit_bytes;
    if (cpu && restarts("cpu")) || (memory && restarts("memory")) {
        return Need::Restart;
    }
    Need::Update(Update { id: id.to_owned(), name: container.name.clone(), from, to })
}

/// Whether a running container has not yet what it was granted.
fn in_progress(pod: &Pod, observed: &RuntimePod, state: &PodState) -> bool {
    let all = init_containers(pod).iter().chain(containers(pod));
    all.filter_map(|c| Some((c, observed.find(&c.name).filter(|s| s.state == ContainerState::Running)?)))
        .any(|(c, seen)| need(pod, c, &seen.id, state) != Need::Nothing)
}

/// The pod with, for each container that changes, at least what it had and what it gets: the cgroup of the pod
/// must hold both while its containers change one by one.
pub fn widest(pod: &Pod, updates: &[Update]) -> Pod {
    let mut wide = pod.clone();
    let Some(spec) = wide.spec.as_mut() else { return wide };
    for c in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let Some(update) = updates.iter().find(|u| u.name == c.name) else { continue };
        update.from.widest(update.to).put_into(c.resources.get_or_insert_default());
    }
    wide
}

/// The conditions that tell of a resize; none where there is none.
pub(super) fn conditions(
    pod: &Pod,
    observed: &RuntimePod,
    state: &PodState,
    old: &[PodCondition],
    now: Time,
) -> Vec<PodCondition> {
    let make = |type_: &str, reason: &str, message: &str, generation: Option<i64>| {
        let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
        let before = old.iter().find(|c| c.type_ == type_);
        let since = before.filter(|c| c.reason.as_deref().unwrap_or_default() == reason);
        let since = since.and_then(|c| c.last_transition_time.clone()).unwrap_or(ApiTime(now));
        PodCondition {
            type_: type_.into(),
            status: "True".into(),
            reason: text(reason),
            message: text(message),
            last_probe_time: Some(since.clone()),
            last_transition_time: Some(since),
            observed_generation: generation,
        }
    };
    let pending = state.pending_resize.as_ref().map(|p| make(PENDING, "Deferred", &p.message, p.generation));
    let going = in_progress(pod, observed, state).then(|| {
        let error = state.resize_error.as_deref().unwrap_or_default();
        let reason = if error.is_empty() { "" } else { "Error" };
        make(IN_PROGRESS, reason, error, state.resize_generation.or(pod.metadata.generation))
    });
    pending.into_iter().chain(going).collect()
}

/// Whether a status tells of a resize under way.
pub(super) fn tells_progress(status: Option<&k8s_openapi::api::core::v1::PodStatus>) -> bool {
    status.is_some_and(|s| s.conditions.iter().flatten().any(|c| c.type_ == IN_PROGRESS))
}

/// The message of an event about a resize: what the containers get, in upstream's form.
pub fn event_message(head: &str, pod: &Pod, generation: Option<i64>, error: &str) -> String {
    let list = |containers: &[Container]| -> Vec<Value> {
        containers
            .iter()
            .map(|c| json!({"name": c.name, "resources": c.resources.clone().unwrap_or_default()}))
            .collect()
    };
    // the order of the fields is upstream's
    let mut parts = Vec::new();
    for (key, containers) in [("initContainers", init_containers(pod)), ("containers", containers(pod))] {
        if !containers.is_empty() {
            parts.push(format!("\"{key}\":{}", Value::from(list(containers))));
        }
    }
    parts.push(format!("\"generation\":{}", generation.unwrap_or(0)));
    if !error.is_empty() {
        parts.push(format!("\"error\":{}", Value::from(error)));
    }
    format!("{head}: {{{}}}", parts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"generation": 3}, "spec": {"containers": [
            {"name": "c", "resources": resources,
             "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]},
        ]}}))
        .unwrap()
    }

    #[test]
    fn a_container_gets_what_was_granted_by_update_or_by_restart() {
        #[track_caller]
        fn check(had: Value, granted: Value, expect: &str) {
            let (had, granted) = (pod(had), pod(granted));
            let mut state = PodState::default();
            state.actuated.insert("id".into(), Amounts::of(&had, &containers(&had)[0]));
            let text = match need(&granted, &containers(&granted)[0], "id", &state) {
                Need::Nothing => "nothing".to_owned(),
                Need::Restart => "restart".to_owned(),
                Need::Update(u) => format!("update, shrinks: {}", u.from.shrinks(u.to)),
            };
            assert_eq!(text, expect);
        }
        check(json!({"limits": {"cpu": "1"}}), json!({"limits": {"cpu": "1000m"}}), "nothing");
        check(json!({"limits": {"cpu": "1"}}), json!({"limits": {"cpu": "2"}}), "update, shrinks: false");
        check(
            json!({"requests": {"cpu": "1"}}),
            json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}),
            "update, shrinks: true",
        );
        check(json!({"limits": {"memory": "1Gi"}}), json!({"limits": {"memory": "2Gi"}}), "restart");
    }

    #[test]
    fn a_pod_keeps_what_was_granted_until_more_is() {
        let old = pod(json!({"requests": {"cpu": "1"}}));
        let new = pod(json!({"requests": {"cpu": "2"}}));
        let granted = Allocation::of(&old).applied_to(&new).unwrap();
        assert_eq!(
            granted.spec.unwrap().containers[0].resources,
            old.spec.as_ref().unwrap().containers[0].resources
        );
        assert_eq!(Allocation::of(&old).applied_to(&pod(json!({"requests": {"cpu": "1000m"}}))), None);
    }

    #[test]
    fn events_tell_what_is_granted() {
        assert_eq!(
            event_message("Pod resize started", &pod(json!({"limits": {"memory": "100"}})), Some(1), ""),
            r#"Pod resize started: {"containers":[{"name":"c","resources":{"limits":{"memory":"100"}}}],"generation":1}"#
        );
    }
}
