//! Pods: their number, and what they request and may use at most.

use super::{Usage, one, selects};
use crate::pod_spec::PodTerms;
use crate::resources::{is_extended, is_native};
use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, Pod, PodAffinityTerm, ScopedResourceSelectorRequirement,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use meta::pod::{Resources, effective_spec, is_pod_level_resource, pod_limits, pod_requests, qos_class};
use meta::{Quantity, Time};
use std::collections::{BTreeMap, BTreeSet};

const OBJECT_COUNT: &str = "count/pods";
const DEVICE_CLASS: &str = "deviceclass.resource.kubernetes.io/";
const HUGE_PAGES: &str = "hugepages-";

/// Names of which each container must say something where a quota limits them.
const REQUIRED: [&str; 6] =
    ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// Whether a quota may limit it by this name.
pub fn tracks(name: &str) -> bool {
    let fixed = matches!(
        name,
        OBJECT_COUNT
            | "pods"
            | "cpu"
            | "memory"
            | "ephemeral-storage"
            | "requests.cpu"
            | "requests.memory"
            | "requests.ephemeral-storage"
            | "limits.cpu"
            | "limits.memory"
            | "limits.ephemeral-storage"
    );
    fixed
        || name.starts_with(HUGE_PAGES)
        || name.strip_prefix("requests.").is_some_and(|asked| {
            asked.starts_with(HUGE_PAGES) || asked.starts_with(DEVICE_CLASS) || !is_native(name)
        })
}

/// Whether the pod has a deadline: quota's scope `Terminating`.
pub fn is_terminating(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.active_deadline_seconds).is_some_and(|s| s >= 0)
}

/// Whether the pod holds what it asked for: it has not ended, nor overstayed its deletion's grace.
fn is_charged(pod: &Pod, now: Time) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    if matches!(phase, Some("Failed" | "Succeeded")) {
        return false;
    }
    let m = &pod.metadata;
    let (Some(deleted), Some(grace)) = (&m.deletion_timestamp, m.deletion_grace_period_seconds) else {
        return true;
    };
    now.as_second() <= deleted.0.as_second().saturating_add(grace)
}

pub fn usage(pod: &Pod, now: Time) -> Usage {
    let mut usage = Usage::from([(OBJECT_COUNT.to_owned(), one())]);
    if is_charged(pod, now)
        && let Some(spec) = effective_spec(pod)
    {
        usage.extend(compute(&pod_requests(&spec), &pod_limits(&spec)));
    }
    usage
}

/// Requests and limits under quota's names.
fn compute(requests: &Resources, limits: &Resources) -> Usage {
    let mut usage = Usage::from([("pods".to_owned(), one())]);
    for (name, amount) in requests {
        let plain =
            matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with(HUGE_PAGES);
        if plain {
            usage.insert(name.clone(), *amount);
        }
        if plain || is_extended(name) || name.starts_with(DEVICE_CLASS) {
            usage.insert(format!("requests.{name}"), *amount);
        }
    }
    for (name, amount) in limits {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            usage.insert(format!("limits.{name}"), *amount);
        }
    }
    usage
}

/// Whether a quota with this requirement counts the pod.
pub fn in_scope(pod: &Pod, requirement: &ScopedResourceSelectorRequirement) -> bool {
    let spec = pod.spec.as_ref();
    match requirement.scope_name.as_str() {
        "Terminating" => is_terminating(pod),
        "NotTerminating" => !is_terminating(pod),
        "BestEffort" => qos_class(pod) == "BestEffort",
        "NotBestEffort" => qos_class(pod) != "BestEffort",
        "PriorityClass" => {
            let class = spec.and_then(|s| s.priority_class_name.as_deref()).filter(|n| !n.is_empty());
            selects(requirement, class.as_slice())
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

fn crosses_namespaces(pod: &Pod) -> bool {
    let Some(affinity) = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()) else { return false };
    let crosses = |t: &PodAffinityTerm| {
        t.namespaces.as_ref().is_some_and(|n| !n.is_empty()) || t.namespace_selector.is_some()
    };
    [PodTerms::near(affinity), PodTerms::apart(affinity)].iter().flat_map(PodTerms::all).any(crosses)
}

fn amounts(list: Option<&BTreeMap<String, ApiQuantity>>) -> Resources {
    list.into_iter().flatten().map(|(n, q)| (n.clone(), Quantity::of(q))).collect()
}

/// Refuses a pod with a container that says nothing of what a quota in its namespace limits.
///
/// # Errors
/// The names of which containers must say something, in upstream's words.
pub fn constrain(limited: &BTreeSet<String>, pod: &Pod) -> Result<(), String> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let whole = spec.resources.as_ref();
    let mut named = whole.iter().flat_map(|r| r.requests.iter().chain(&r.limits)).flatten();
    if named.any(|(name, _)| is_pod_level_resource(name)) {
        return Ok(());
    }
    let required: Vec<&str> = REQUIRED.into_iter().filter(|r| limited.contains(*r)).collect();
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let has = said(container);
        for name in required.iter().filter(|r| !has.contains_key(**r)) {
            missing.entry(name).or_default().insert(&container.name);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let line = |(name, containers): (&str, BTreeSet<&str>)| {
        format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(","))
    };
    Err(format!("must specify {}", missing.into_iter().map(line).collect::<Vec<_>>().join("; ")))
}

fn said(container: &Container) -> Usage {
    let resources = container.resources.as_ref();
    compute(
        &amounts(resources.and_then(|r| r.requests.as_ref())),
        &amounts(resources.and_then(|r| r.limits.as_ref())),
    )
}

/// Whether a change of the pod may have given something back to its quotas.
pub fn replenishes(old: &Pod, new: &Pod, now: Time) -> bool {
    resources_changed(old, new)
        || is_terminating(old) != is_terminating(new)
        || (is_charged(old, now) && !is_charged(new, now))
}

/// Whether a resize reached a container.
fn resources_changed(old: &Pod, new: &Pod) -> bool {
    fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
        let status = pod.status.as_ref();
        let main = status.and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
        let init = status.and_then(|s| s.init_container_statuses.as_deref()).unwrap_or_default();
        main.iter().chain(init)
    }
    let before: BTreeMap<&str, _> = statuses(old).map(|s| (s.name.as_str(), &s.resources)).collect();
    statuses(new).any(|s| before.get(s.name.as_str()).is_some_and(|r| **r != s.resources))
}
