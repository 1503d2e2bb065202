//! Endpoints of core/v1: one object per service, with all its addresses.

use super::{
    HEADLESS_LABEL, addresses, find_port, has_address, hostname, is_headless, pods_of, selector,
    services_of_pod, set_trigger_time, target, trigger_time,
};
use crate::controller::{Controller, Watches};
use crate::plan::{Note, Op, Plan};
use crate::pods;
use crate::world::World;
use client::Key;
use client::events::reference;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service, ServiceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meta::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Addresses in one object at most (upstream's maxCapacity).
const MAX_ADDRESSES: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const ME: &str = "endpoint-controller";
/// Endpoints that were locks of leader election, in old clusters: not ours to delete.
pub(super) const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

pub struct LegacyEndpoints;

impl Controller for LegacyEndpoints {
    const NAME: &'static str = "endpoints-controller";
    const QUEUE: &'static str = "endpoint";

    fn watches(w: &mut Watches) {
        w.own(|w| &w.services).own(|w| &w.endpoints).on(|w| &w.pods, services_of_pod);
    }

    fn reconcile(&self, key: &Key, world: &World, _: Time) -> Plan {
        let current = world.endpoints.get(key);
        let Some(service) = world.services.get(key) else {
            let mut plan = Plan::idle("the service is gone");
            if let Some(e) = current.filter(|e| is_ours(e)) {
                plan.op(Op::delete(&*e));
            }
            return plan;
        };
        let Some((spec, selector)) = service.spec.as_ref().and_then(|s| Some((s, selector(s)?))) else {
            return Plan::idle("the service has no selector");
        };
        let pods = pods_of(&service, &selector, world);
        let (subsets, truncated) = truncate(found(&service, spec, &pods).subsets());
        let labels = labels_of(&service, spec);
        if current.as_ref().is_some_and(|c| says(c, &subsets, &labels, truncated)) {
            return Plan::idle("the endpoints are up to date");
        }
        let mut new = current.as_deref().cloned().unwrap_or_else(|| Endpoints {
            metadata: ObjectMeta {
                name: service.metadata.name.clone(),
                namespace: service.metadata.namespace.clone(),
                ..Default::default()
            },
            subsets: None,
        });
        new.subsets = (!subsets.is_empty()).then_some(subsets);
        new.metadata.labels = Some(labels);
        set_trigger_time(&mut new.metadata.annotations, trigger_time(&service, &pods));
        if truncated {
            new.metadata.annotations.get_or_insert_default().insert(OVER_CAPACITY.into(), "truncated".into());
        } else if let Some(a) = &mut new.metadata.annotations {
            a.remove(OVER_CAPACITY);
        }
        let mut plan = Plan::default();
        let about = reference(&new);
        let op = if current.is_some() {
            let message = format!("Failed to update endpoint {key}: {{error}}");
            Op::replace(&new).otherwise(Note::warning(about, "FailedToUpdateEndpoint", message))
        } else {
            let message = format!("Failed to create endpoint for service {key}: {{error}}");
            Op::create(&new).otherwise(Note::warning(about, "FailedToCreateEndpoint", message))
        };
        plan.op(op);
        plan
    }
}

/// Whether Endpoints were written here, and are no lock of a leader election.
fn is_ours(endpoints: &Endpoints) -> bool {
    let m = &endpoints.metadata;
    m.labels.as_ref().is_some_and(|l| l.contains_key(MANAGED_BY))
        && !m.annotations.as_ref().is_some_and(|a| a.contains_key(LEADER))
}

/// The addresses of the pods, with the ports of the service.
fn found(service: &Service, spec: &ServiceSpec, pods: &[Arc<Pod>]) -> Found {
    let publish = spec.publish_not_ready_addresses == Some(true);
    let v6 = spec.ip_families.iter().flatten().next().is_some_and(|f| f == "IPv6");
    let ports = spec.ports.as_deref().unwrap_or(&[]);
    let mut found = Found::default();
    for pod in pods {
        let wanted = !pods::is_terminal(pod)
            && has_address(pod)
            && (publish || pod.metadata.deletion_timestamp.is_none());
        let Some(address) = addresses(pod, v6).into_iter().next().filter(|_| wanted) else { continue };
        let address = address_of(pod, service, address);
        let ready = publish || pods::is_ready(pod);
        if ports.is_empty() && is_headless(spec) {
            found.add(address.clone(), ready, None);
        }
        for port in ports {
            let Some(number) = find_port(pod, port) else { continue };
            let port = EndpointPort {
                name: port.name.clone().filter(|n| !n.is_empty()),
                port: number,
                protocol: port.protocol.clone(),
                app_protocol: port.app_protocol.clone(),
            };
            found.add(address.clone(), ready, Some(port));
        }
    }
    found
}

/// The service's, and those that tell whose the Endpoints are.
fn labels_of(service: &Service, spec: &ServiceSpec) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    if is_headless(spec) {
        labels.insert(HEADLESS_LABEL.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), ME.into());
    labels
}

fn says(
    current: &Endpoints,
    subsets: &[EndpointSubset],
    labels: &BTreeMap<String, String>,
    truncated: bool,
) -> bool {
    let m = &current.metadata;
    normal(current.subsets.clone().unwrap_or_default()) == normal(subsets.to_vec())
        && m.labels.as_ref() == Some(labels)
        && m.annotations.as_ref().is_some_and(|a| a.contains_key(OVER_CAPACITY)) == truncated
}

fn address_of(pod: &Pod, service: &Service, ip: String) -> EndpointAddress {
    EndpointAddress {
        ip,
        hostname: hostname(pod, service),
        node_name: pod.spec.as_ref().and_then(|s| s.node_name.clone()).filter(|n| !n.is_empty()),
        target_ref: Some(target(pod)),
    }
}

/// Ports in an order that does not depend on the service's.
type PortKey = (Option<String>, i32, Option<String>, Option<String>);

fn port_key(p: &EndpointPort) -> PortKey {
    (p.name.clone(), p.port, p.protocol.clone(), p.app_protocol.clone())
}

/// Addresses with all their ports: those with the same ports share a subset.
#[derive(Default)]
struct Found {
    /// By address and uid of its pod.
    by_address: BTreeMap<(String, String), Reachable>,
}

struct Reachable {
    address: EndpointAddress,
    ready: bool,
    ports: BTreeMap<PortKey, EndpointPort>,
}

impl Found {
    fn add(&mut self, address: EndpointAddress, ready: bool, port: Option<EndpointPort>) {
        let uid = address.target_ref.as_ref().and_then(|r| r.uid.clone()).unwrap_or_default();
        let entry = self.by_address.entry((address.ip.clone(), uid)).or_insert_with(|| Reachable {
            address,
            ready,
            ports: BTreeMap::new(),
        });
        entry.ports.extend(port.map(|p| (port_key(&p), p)));
    }

    fn subsets(self) -> Vec<EndpointSubset> {
        let mut by_ports: BTreeMap<BTreeSet<PortKey>, EndpointSubset> = BTreeMap::new();
        for Reachable { address, ready, ports } in self.by_address.into_values() {
            let subset = by_ports.entry(ports.keys().cloned().collect()).or_insert_with(|| EndpointSubset {
                ports: (!ports.is_empty()).then(|| ports.into_values().collect()),
                ..Default::default()
            });
            let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
            list.get_or_insert_default().push(address);
        }
        by_ports.into_values().collect()
    }
}

/// Keeps at most [`MAX_ADDRESSES`], the ready ones first, of each subset in proportion; whether any had to go.
fn truncate(mut subsets: Vec<EndpointSubset>) -> (Vec<EndpointSubset>, bool) {
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let ready: usize = subsets.iter().map(|s| count(&s.addresses)).sum();
    let other: usize = subsets.iter().map(|s| count(&s.not_ready_addresses)).sum();
    if ready + other <= MAX_ADDRESSES {
        return (subsets, false);
    }
    let too_many_ready = ready > MAX_ADDRESSES;
    let (places, total) =
        if too_many_ready { (MAX_ADDRESSES, ready) } else { (MAX_ADDRESSES - ready, other) };
    let mut left = places;
    for subset in &mut subsets {
        if too_many_ready {
            subset.not_ready_addresses = None;
        }
        let list = if too_many_ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        if let Some(all) = list {
            all.truncate((all.len() * places).div_ceil(total).min(left));
            left -= all.len();
        }
        list.take_if(|all| all.is_empty());
    }
    subsets.retain(|s| s.addresses.is_some() || s.not_ready_addresses.is_some());
    (subsets, true)
}

/// In an order in which equal subsets are equal, whoever wrote them.
fn normal(mut subsets: Vec<EndpointSubset>) -> Vec<EndpointSubset> {
    for s in &mut subsets {
        for list in [&mut s.addresses, &mut s.not_ready_addresses] {
            list.take_if(|l| l.is_empty());
            for a in list.iter_mut().flatten() {
                if let Some(r) = &mut a.target_ref {
                    r.resource_version = None;
                }
            }
            if let Some(l) = list {
                l.sort_by(|a, b| {
                    (&a.ip, a.target_ref.as_ref().map(|r| &r.uid))
                        .cmp(&(&b.ip, b.target_ref.as_ref().map(|r| &r.uid)))
                });
            }
        }
        s.ports.take_if(|l| l.is_empty());
        if let Some(p) = &mut s.ports {
            p.sort_by_key(port_key);
        }
    }
    subsets.sort_by_key(|s| s.ports.iter().flatten().map(port_key).collect::<Vec<_>>());
    subsets
}
