//! EndpointSlices: the endpoints of a service in pieces, so that a change of one pod rewrites little.

use super::hints::{distribution, hints};
use super::metrics::{self, Differences};
use super::{
    HEADLESS_LABEL, addresses, find_port, has_address, hostname, is_headless, pods_of, selector,
    services_of_pod, set_trigger_time, target, trigger_time,
};
use crate::controller::{Controller, Watches};
use crate::metrics::{Levels, Metric};
use crate::plan::{Op, Plan};
use crate::pods;
use crate::refs::controller_ref;
use crate::world::{BY_SERVICE, World};
use client::{Delta, Key};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meta::Time;
use meta::labels::{SERVICE_NAME, ZONE};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Endpoints in a slice at most (`--max-endpoints-per-slice`).
pub(super) const MAX_PER_SLICE: usize = 100;
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const ME: &str = "endpointslice-controller.k8s.io";

pub struct EndpointSlices;

impl Controller for EndpointSlices {
    const NAME: &'static str = "endpointslice-controller";
    const QUEUE: &'static str = "endpoint_slice";
    const METRICS: &'static [&'static Metric] = metrics::ALL;

    fn watches(w: &mut Watches) {
        w.own(|w| &w.services)
            .on(|w| &w.pods, services_of_pod)
            .on(|w| &w.endpoint_slices, of_slice)
            .on(|w| &w.nodes, of_node);
    }

    fn reconcile(&self, key: &Key, world: &World, _: Time) -> Plan {
        let idle = |why| Plan { measure: Some(metrics::idle()), ..Plan::idle(why) };
        let Some(service) = world.services.get(key) else { return idle("the service is gone") };
        let Some((spec, selector)) = service.spec.as_ref().and_then(|s| Some((s, selector(s)?))) else {
            return idle("the service has no selector");
        };
        let pods = pods_of(&service, &selector, world);
        let mut existing = world.endpoint_slices.by_index(BY_SERVICE, &key.to_string());
        existing.retain(|s| label(s, MANAGED_BY) == Some(ME) && s.metadata.deletion_timestamp.is_none());
        let mut changes = Changes::default();
        let mut differences = Vec::new();
        let types = address_types(spec);
        let mut lost = BTreeSet::new();
        for address_type in &types {
            let of_type = existing.iter().filter(|s| s.address_type == *address_type).cloned().collect();
            let wanted = wanted(&service, spec, &pods, address_type, world, &mut lost);
            let of_type = for_type(&service, spec, of_type, wanted, address_type);
            differences.push(of_type.differences);
            changes.extend(of_type);
        }
        changes.delete.extend(existing.into_iter().filter(|s| !types.contains(&s.address_type.as_str())));
        let mut plan = changes.plan(&service, trigger_time(&service, &pods));
        plan.measure = Some(metrics::synced(distribution(&service), &differences, plan.steps.len()));
        if let Some(node) = lost.first() {
            // Left out until pod GC or the late node makes it right.
            plan.retry = Some(format!("a pod of service {key} is on node {node}, which is not known"));
        }
        plan
    }

    fn levels(&self, world: &World, levels: &mut Levels) {
        metrics::levels(world, ME, levels);
    }
}

pub(super) fn label<'a>(slice: &'a EndpointSlice, name: &str) -> Option<&'a str> {
    slice.metadata.labels.as_ref()?.get(name).map(String::as_str)
}

/// A slice that somebody else changed or deleted must be mended.
fn of_slice(delta: &Delta<EndpointSlice>, _: &World) -> Vec<Key> {
    let slice = delta.object();
    match (label(slice, MANAGED_BY), label(slice, SERVICE_NAME)) {
        (Some(ME), Some(service)) => vec![Key::new(&delta.key.namespace, service)],
        _ => Vec::new(),
    }
}

/// A node that appears or moves to another zone concerns the services of its pods.
fn of_node(delta: &Delta<Node>, world: &World) -> Vec<Key> {
    let zone =
        |n: &Option<Arc<Node>>| n.as_ref().and_then(|n| n.metadata.labels.as_ref()?.get(ZONE).cloned());
    if delta.new.is_none() || delta.old.is_some() && zone(&delta.old) == zone(&delta.new) {
        return Vec::new();
    }
    let mut keys = BTreeSet::new();
    for pod in world.pods.by_index(crate::world::BY_NODE, &delta.key.name) {
        let change = Delta { key: Key::of(&*pod), old: None, new: Some(pod) };
        keys.extend(services_of_pod(&change, world));
    }
    keys.into_iter().collect()
}

fn address_types(spec: &ServiceSpec) -> Vec<&'static str> {
    let families: Vec<&str> = spec.ip_families.iter().flatten().map(String::as_str).collect();
    let mut types = Vec::new();
    for (family, name) in [("IPv4", "IPv4"), ("IPv6", "IPv6")] {
        if families.contains(&family) {
            types.push(name);
        }
    }
    if types.is_empty() {
        let v6 = spec.cluster_ip.as_deref().is_some_and(|ip| ip.contains(':'));
        types.push(if v6 { "IPv6" } else { "IPv4" });
    }
    types
}

pub(super) type PortKey = Vec<(Option<String>, Option<i32>, Option<String>, Option<String>)>;

pub(super) fn port_key(ports: &[EndpointPort]) -> PortKey {
    let mut key: PortKey = ports
        .iter()
        // Absent and empty names are the same.
        .map(|p| {
            (Some(p.name.clone().unwrap_or_default()), p.port, p.protocol.clone(), p.app_protocol.clone())
        })
        .collect();
    key.sort();
    key
}

/// What makes an endpoint the same one, whatever its conditions.
pub(super) type Identity = (Vec<String>, Option<String>, Option<String>);

pub(super) fn identity(e: &Endpoint) -> Identity {
    (e.addresses.clone(), e.hostname.clone(), e.target_ref.as_ref().and_then(|r| r.uid.clone()))
}

fn same(a: &Endpoint, b: &Endpoint) -> bool {
    let target =
        |e: &Endpoint| e.target_ref.as_ref().map(|r| ObjectReference { resource_version: None, ..r.clone() });
    a.node_name == b.node_name
        && a.zone == b.zone
        && a.hints == b.hints
        && a.conditions == b.conditions
        && target(a) == target(b)
}

/// Endpoints that share their ports.
#[derive(Default)]
struct Group {
    ports: Vec<EndpointPort>,
    endpoints: BTreeMap<Identity, Endpoint>,
}

fn wanted(
    service: &Service,
    spec: &ServiceSpec,
    pods: &[Arc<Pod>],
    address_type: &str,
    world: &World,
    lost: &mut BTreeSet<String>,
) -> BTreeMap<PortKey, Group> {
    let mut groups: BTreeMap<PortKey, Group> = BTreeMap::new();
    let publish = spec.publish_not_ready_addresses == Some(true);
    let distribution = distribution(service);
    for pod in pods.iter().filter(|p| !pods::is_terminal(p) && has_address(p)) {
        let ports = ports_of(pod, spec);
        let group = groups.entry(port_key(&ports)).or_insert_with(|| Group { ports, ..Group::default() });
        let node_name = pods::node_name(pod);
        let node = world.nodes.find("", node_name);
        if node.is_none() && !publish {
            lost.insert(node_name.to_owned());
            continue;
        }
        let addresses = addresses(pod, address_type == "IPv6");
        if addresses.is_empty() {
            continue;
        }
        let serving = pods::is_ready(pod);
        let terminating = pod.metadata.deletion_timestamp.is_some();
        let zone =
            node.and_then(|n| n.metadata.labels.as_ref()?.get(ZONE).cloned()).filter(|z| !z.is_empty());
        let endpoint = Endpoint {
            addresses,
            conditions: Some(EndpointConditions {
                ready: Some(publish || serving && !terminating),
                serving: Some(serving),
                terminating: Some(terminating),
            }),
            hostname: hostname(pod, service),
            node_name: Some(node_name.to_owned()).filter(|n| !n.is_empty()),
            zone,
            target_ref: Some(target(pod)),
            ..Default::default()
        };
        let endpoint = Endpoint { hints: hints(distribution, &endpoint), ..endpoint };
        group.endpoints.insert(identity(&endpoint), endpoint);
    }
    groups
}

fn ports_of(pod: &Pod, spec: &ServiceSpec) -> Vec<EndpointPort> {
    let found = spec.ports.iter().flatten().filter_map(|p| {
        Some(EndpointPort {
            name: Some(p.name.clone().unwrap_or_default()),
            port: Some(find_port(pod, p)?),
            protocol: Some(p.protocol.clone().unwrap_or_else(|| "TCP".into())),
            app_protocol: p.app_protocol.clone(),
        })
    });
    found.collect()
}

/// What is to be written.
#[derive(Default)]
pub(super) struct Changes {
    create: Vec<EndpointSlice>,
    update: Vec<EndpointSlice>,
    delete: Vec<Arc<EndpointSlice>>,
    differences: Differences,
}

impl Changes {
    fn extend(&mut self, other: Self) {
        self.create.extend(other.create);
        self.update.extend(other.update);
        self.delete.extend(other.delete);
        self.differences.added += other.differences.added;
        self.differences.updated += other.differences.updated;
        self.differences.removed += other.differences.removed;
    }

    fn plan(mut self, service: &Service, trigger: Option<Time>) -> Plan {
        // A slice that would go becomes one that would come: one write instead of two.
        self.delete.retain(|old| {
            let reusable =
                |new: &EndpointSlice| new.address_type == old.address_type && is_owned(old, service);
            let Some(i) = self.create.iter().rposition(reusable) else { return true };
            let mut new = self.create.remove(i);
            new.metadata.name = old.metadata.name.clone();
            new.metadata.uid = old.metadata.uid.clone();
            new.metadata.resource_version = old.metadata.resource_version.clone();
            new.metadata.generate_name = old.metadata.generate_name.clone();
            new.metadata.annotations = old.metadata.annotations.clone();
            self.update.push(new);
            false
        });
        let mut plan = Plan::default();
        // A service that goes takes its slices along: none must be made that the garbage collector then misses.
        if service.metadata.deletion_timestamp.is_none() {
            for mut slice in self.create {
                set_trigger_time(&mut slice.metadata.annotations, trigger);
                plan.op(Op::create(&slice).count(metrics::changed("create")));
            }
        }
        for mut slice in self.update {
            set_trigger_time(&mut slice.metadata.annotations, trigger);
            plan.op(Op::replace(&slice).count(metrics::changed("update")));
        }
        for slice in self.delete {
            plan.op(Op::delete(&*slice).count(metrics::changed("delete")));
        }
        plan
    }
}

fn is_owned(slice: &EndpointSlice, service: &Service) -> bool {
    let owners = slice.metadata.owner_references.iter().flatten();
    owners.into_iter().any(|o| Some(&o.uid) == service.metadata.uid.as_ref() && o.kind == "Service")
}

fn for_type(
    service: &Service,
    spec: &ServiceSpec,
    existing: Vec<Arc<EndpointSlice>>,
    wanted: BTreeMap<PortKey, Group>,
    address_type: &str,
) -> Changes {
    let mut changes = Changes::default();
    let total = existing.len();
    let mut by_ports: BTreeMap<PortKey, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing {
        if is_owned(&slice, service) {
            by_ports.entry(port_key(slice.ports.as_deref().unwrap_or(&[]))).or_default().push(slice);
        } else {
            changes.delete.push(slice);
        }
    }
    let empty = |ports| EndpointSlice {
        metadata: ObjectMeta {
            namespace: service.metadata.namespace.clone(),
            generate_name: Some(format!("{}-", service.metadata.name.as_deref().unwrap_or(""))),
            labels: Some(labels_of(service, spec)),
            owner_references: Some(vec![controller_ref(service)]),
            ..Default::default()
        },
        address_type: address_type.into(),
        endpoints: Some(Vec::new()),
        ports: Some(ports),
    };
    for (ports, group) in wanted {
        let slices = by_ports.remove(&ports).unwrap_or_default();
        let new = empty(group.ports.clone());
        changes.extend(pack(service, spec, slices, group.endpoints, &new));
    }
    changes.delete.extend(by_ports.into_values().flatten());
    // There is always one, so that readers can tell that the service has been looked at.
    if changes.delete.len() == total && changes.create.is_empty() {
        let bare = empty(Vec::new());
        let is_empty_one = |s: &EndpointSlice| {
            count(s) == 0
                && s.ports.as_ref().is_none_or(Vec::is_empty)
                && s.metadata.labels == bare.metadata.labels
                && is_owned(s, service)
        };
        match changes.delete.iter().position(|s| is_empty_one(s)) {
            Some(i) => {
                changes.delete.remove(i);
            }
            None => changes.create.push(bare),
        }
    }
    changes
}

/// Puts the endpoints into the slices there are, changing as few as possible, then into new ones.
fn pack(
    service: &Service,
    spec: &ServiceSpec,
    slices: Vec<Arc<EndpointSlice>>,
    mut rest: BTreeMap<Identity, Endpoint>,
    empty: &EndpointSlice,
) -> Changes {
    let mut changes = Changes::default();
    let mut unchanged = Vec::new();
    let labels = labels_of(service, spec);
    for slice in slices {
        let mut changed = false;
        let mut kept = Vec::new();
        for old in slice.endpoints.iter().flatten() {
            match rest.remove(&identity(old)) {
                Some(new) => {
                    if !same(old, &new) {
                        changed = true;
                        changes.differences.updated += 1;
                    }
                    kept.push(new);
                }
                None => {
                    changed = true;
                    changes.differences.removed += 1;
                }
            }
        }
        if changed && kept.is_empty() {
            changes.delete.push(slice);
        } else if changed || slice.metadata.labels.as_ref() != Some(&labels) {
            let mut new = (*slice).clone();
            new.endpoints = Some(kept);
            new.metadata.labels = Some(labels.clone());
            changes.update.push(new);
        } else {
            unchanged.push(slice);
        }
    }
    changes.differences.added = rest.len();
    // First into what is written anyway, the fullest first.
    changes.update.sort_by_key(|s| std::cmp::Reverse(count(s)));
    for slice in &mut changes.update {
        fill(slice, &mut rest);
    }
    while !rest.is_empty() {
        // Then, if all that is left fits, into the one slice that it fills best.
        let room = |s: &EndpointSlice| MAX_PER_SLICE.checked_sub(rest.len() + count(s));
        let best = unchanged.iter().enumerate().filter_map(|(i, s)| Some((room(s)?, i))).min();
        match best {
            Some((_, i)) => {
                let mut slice = (*unchanged.swap_remove(i)).clone();
                fill(&mut slice, &mut rest);
                changes.update.push(slice);
            }
            None => {
                let mut slice = empty.clone();
                fill(&mut slice, &mut rest);
                changes.create.push(slice);
            }
        }
    }
    changes
}

fn count(slice: &EndpointSlice) -> usize {
    slice.endpoints.as_ref().map_or(0, Vec::len)
}

fn fill(slice: &mut EndpointSlice, rest: &mut BTreeMap<Identity, Endpoint>) {
    let endpoints = slice.endpoints.get_or_insert_default();
    while endpoints.len() < MAX_PER_SLICE
        && let Some((_, e)) = rest.pop_first()
    {
        endpoints.push(e);
    }
}

fn labels_of(service: &Service, spec: &ServiceSpec) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    if is_headless(spec) {
        labels.insert(HEADLESS_LABEL.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.into(), ME.into());
    labels
}
