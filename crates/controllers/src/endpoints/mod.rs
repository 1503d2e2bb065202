//! Where a service's pods are: the Endpoints of core/v1 and the slices of discovery.k8s.io.

mod hints;
mod legacy;
mod metrics;
mod mirroring;
mod slices;
#[cfg(test)]
mod tests;

pub use legacy::LegacyEndpoints;
pub use mirroring::EndpointSliceMirroring;
pub use slices::EndpointSlices;

use crate::pods;
use crate::world::World;
use client::{Delta, Key};
use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meta::{LabelSelector, Time};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The selector, for services whose endpoints are made here: not for external names, nor for those without selector,
/// whose owners make them.
fn selector(spec: &ServiceSpec) -> Option<LabelSelector> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().map(LabelSelector::from_map)
}

fn is_headless(spec: &ServiceSpec) -> bool {
    matches!(spec.cluster_ip.as_deref(), Some("None" | "") | None)
}

/// What an address is of.
fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..Default::default()
    }
}

/// The services that a pod's change concerns.
fn services_of_pod(delta: &Delta<Pod>, world: &World) -> Vec<Key> {
    if let (Some(old), Some(new)) = (&delta.old, &delta.new)
        && same_endpoint(old, new)
    {
        return Vec::new();
    }
    let labels: Vec<&BTreeMap<String, String>> =
        [&delta.old, &delta.new].into_iter().flatten().filter_map(|p| p.metadata.labels.as_ref()).collect();
    let services = world.services.by_namespace(&delta.key.namespace);
    let selects = |s: &Service| {
        let selector = s.spec.as_ref().and_then(selector);
        selector.is_some_and(|s| labels.iter().any(|l| s.matches(l)))
    };
    services.iter().filter(|s| selects(s)).map(|s| Key::of(&**s)).collect()
}

/// Nothing that endpoints tell has changed.
fn same_endpoint(old: &Pod, new: &Pod) -> bool {
    let spec =
        |p: &Pod| p.spec.as_ref().map(|s| (s.hostname.clone(), s.subdomain.clone(), s.node_name.clone()));
    let ips = |p: &Pod| p.status.as_ref().and_then(|s| s.pod_ips.clone());
    old.metadata.uid == new.metadata.uid
        && old.metadata.labels == new.metadata.labels
        && old.metadata.deletion_timestamp.is_some() == new.metadata.deletion_timestamp.is_some()
        && pods::is_ready(old) == pods::is_ready(new)
        && pods::is_terminal(old) == pods::is_terminal(new)
        && ips(old) == ips(new)
        && spec(old) == spec(new)
}

/// Pods of a service, by name.
fn pods_of(service: &Service, selector: &LabelSelector, world: &World) -> Vec<Arc<Pod>> {
    let mut pods = world.pods.by_namespace(service.metadata.namespace.as_deref().unwrap_or(""));
    pods.retain(|p| crate::refs::matches(selector, &p.metadata));
    pods
}

fn has_address(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    status.is_some_and(|s| {
        s.pod_ip.as_deref().is_some_and(|ip| !ip.is_empty())
            || s.pod_ips.as_ref().is_some_and(|ips| !ips.is_empty())
    })
}

fn addresses(pod: &Pod, v6: bool) -> Vec<String> {
    let ips = pod.status.iter().flat_map(|s| s.pod_ips.iter().flatten());
    let ips = ips.filter_map(|p| p.ip.parse::<IpAddr>().ok());
    ips.filter(|ip| ip.is_ipv6() == v6).map(|ip| ip.to_string()).collect()
}

/// The host name, where the pod asks to be found by it under this service.
fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let asked = spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
    spec.hostname.clone().filter(|h| asked && !h.is_empty())
}

/// The number of the pod's port that a service port means; None where the pod has none of that name.
fn find_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match port.target_port.as_ref() {
        None => Some(port.port),
        Some(IntOrString::Int(n)) => Some(*n),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
            let all = spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(sidecar));
            let protocol = |p: &Option<String>| p.clone().unwrap_or_else(|| "TCP".into());
            all.flat_map(|c| c.ports.iter().flatten())
                .find(|p| p.name.as_ref() == Some(name) && protocol(&p.protocol) == protocol(&port.protocol))
                .map(|p| p.container_port)
        }
    }
}

/// When the last change happened that the endpoints tell of, as far as the objects say.
fn trigger_time(service: &Service, pods: &[Arc<Pod>]) -> Option<Time> {
    let of_pod = |p: &Arc<Pod>| pods::condition(p, "Ready")?.last_transition_time.as_ref().map(|t| t.0);
    let created = service.metadata.creation_timestamp.as_ref().map(|t| t.0);
    pods.iter().filter_map(of_pod).chain(created).max()
}

/// Sets the annotation, unless it names that time or a later one.
fn set_trigger_time(annotations: &mut Option<BTreeMap<String, String>>, time: Option<Time>) {
    let Some(time) = time else { return };
    let a = annotations.get_or_insert_default();
    let known = a.get(TRIGGER_TIME).and_then(|t| t.parse::<Time>().ok());
    if known.is_none_or(|k| k < time) {
        a.insert(TRIGGER_TIME.into(), time.to_string());
    }
}
