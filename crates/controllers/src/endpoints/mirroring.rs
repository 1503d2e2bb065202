//! Slices for Endpoints that somebody else writes, for services without selector.

use super::metrics::{self, Differences};
use super::slices::{Identity, MANAGED_BY, identity, label, port_key};
use crate::controller::{Controller, Watches};
use crate::metrics::{Levels, Metric};
use crate::plan::{Note, Op, Plan};
use crate::refs::controller_ref;
use crate::world::{BY_SERVICE, World};
use client::events::reference;
use client::{Delta, Key};
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meta::Time;
use meta::labels::SERVICE_NAME;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Addresses of a subset that are mirrored (`--mirroring-max-endpoints-per-subset`).
const MAX_PER_SUBSET: usize = 1000;
const ME: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Annotations of Endpoints that their slices do not inherit.
const OWN: [&str; 2] = [super::TRIGGER_TIME, "kubectl.kubernetes.io/last-applied-configuration"];

/// Keys are Endpoints.
pub struct EndpointSliceMirroring;

impl Controller for EndpointSliceMirroring {
    const NAME: &'static str = "endpointslice-mirroring-controller";
    const QUEUE: &'static str = "endpoint_slice_mirroring";
    const METRICS: &'static [&'static Metric] = metrics::ALL_MIRRORED;

    fn watches(w: &mut Watches) {
        w.own(|w| &w.endpoints).own(|w| &w.services).on(|w| &w.endpoint_slices, of_slice);
    }

    fn reconcile(&self, key: &Key, world: &World, _: Time) -> Plan {
        let mut existing = world.endpoint_slices.by_index(BY_SERVICE, &key.to_string());
        existing.retain(|s| label(s, MANAGED_BY) == Some(ME) && s.metadata.deletion_timestamp.is_none());
        let mut plan = Plan::default();
        let service =
            world.services.get(key).filter(|s| s.spec.as_ref().is_some_and(|s| s.selector.is_none()));
        let Some(endpoints) = world.endpoints.get(key).filter(|e| service.is_some() && is_mirrored(e)) else {
            plan.because("there is nothing to mirror");
            plan.measure = Some(metrics::mirrored_sync(None));
            for slice in existing {
                plan.op(Op::delete(&*slice).count(metrics::mirrored("delete")));
            }
            return plan;
        };
        let (wanted, invalid, skipped) = wanted(&endpoints);
        let mut differences = Differences::default();
        for ((address_type, ports), mut slice) in wanted {
            let same_kind = |s: &Arc<EndpointSlice>| {
                s.address_type == address_type && port_key(s.ports.as_deref().unwrap_or(&[])) == ports
            };
            let old = existing.iter().position(same_kind).map(|i| existing.remove(i));
            compare(old.as_deref(), &slice, &mut differences);
            match old {
                Some(old) => {
                    slice.metadata.name = old.metadata.name.clone();
                    slice.metadata.generate_name = old.metadata.generate_name.clone();
                    slice.metadata.resource_version = old.metadata.resource_version.clone();
                    slice.metadata.uid = old.metadata.uid.clone();
                    if !is_same(&old, &slice) {
                        plan.op(Op::replace(&slice).count(metrics::mirrored("update")));
                    }
                }
                None if endpoints.metadata.deletion_timestamp.is_some() => {}
                None => drop(plan.op(Op::create(&slice).count(metrics::mirrored("create")))),
            }
        }
        for slice in existing {
            plan.op(Op::delete(&*slice).count(metrics::mirrored("delete")));
        }
        // Said once for a change, not with every look.
        if !plan.steps.is_empty() {
            say_skipped(&endpoints, invalid, skipped, &mut plan);
        }
        plan.measure = Some(metrics::mirrored_sync(Some((differences, invalid + skipped))));
        plan
    }

    fn levels(&self, world: &World, levels: &mut Levels) {
        metrics::mirrored_levels(world, ME, levels);
    }
}

/// Tells of addresses that are not mirrored: those that are no addresses, and those that are too many.
fn say_skipped(endpoints: &Endpoints, invalid: usize, too_many: usize, plan: &mut Plan) {
    let mut warn = |reason, message| {
        plan.note(Note::warning(reference(endpoints), reason, message));
    };
    if invalid > 0 {
        let message = format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices");
        warn("InvalidIPAddress", message);
    }
    if too_many > 0 {
        let message = format!(
            "A max of {MAX_PER_SUBSET} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were skipped",
            too_many + invalid
        );
        warn("TooManyAddressesToMirror", message);
    }
}

/// Adds up which endpoints came, changed and went.
fn compare(old: Option<&EndpointSlice>, new: &EndpointSlice, differences: &mut Differences) {
    let of = |slice: Option<&EndpointSlice>| -> BTreeMap<Identity, Endpoint> {
        let all = slice.iter().flat_map(|s| s.endpoints.iter().flatten());
        all.map(|e| (identity(e), e.clone())).collect()
    };
    let mut before = of(old);
    for (identity, endpoint) in of(Some(new)) {
        match before.remove(&identity) {
            None => differences.added += 1,
            Some(old) if old != endpoint => differences.updated += 1,
            Some(_) => {}
        }
    }
    differences.removed += before.len();
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let m = &endpoints.metadata;
    let skip = m.labels.as_ref().and_then(|l| l.get(SKIP)).is_some_and(|v| v == "true");
    !skip && !m.annotations.as_ref().is_some_and(|a| a.contains_key(super::legacy::LEADER))
}

fn of_slice(delta: &Delta<EndpointSlice>, _: &World) -> Vec<Key> {
    let slice = delta.object();
    match (label(slice, MANAGED_BY), label(slice, SERVICE_NAME)) {
        (Some(ME), Some(service)) => vec![Key::new(&delta.key.namespace, service)],
        _ => Vec::new(),
    }
}

type Wanted = BTreeMap<(String, super::slices::PortKey), EndpointSlice>;

/// One slice for each set of ports and address type; how many addresses are no addresses, and how many too many.
fn wanted(endpoints: &Endpoints) -> (Wanted, usize, usize) {
    let mut out = Wanted::new();
    let (mut invalid, mut skipped) = (0, 0);
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<EndpointPort> = subset
            .ports
            .iter()
            .flatten()
            .map(|p| EndpointPort {
                name: Some(p.name.clone().unwrap_or_default()),
                port: Some(p.port),
                protocol: Some(p.protocol.clone().unwrap_or_else(|| "TCP".into())),
                app_protocol: p.app_protocol.clone(),
            })
            .collect();
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let other = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
        let mut taken = 0;
        for (address, ready) in ready.chain(other) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                invalid += 1;
                continue;
            };
            if taken == MAX_PER_SUBSET {
                skipped += 1;
                continue;
            }
            taken += 1;
            let address_type = if ip.is_ipv6() { "IPv6" } else { "IPv4" };
            let key = (address_type.to_owned(), port_key(&ports));
            let slice = out.entry(key).or_insert_with(|| empty(endpoints, address_type, ports.clone()));
            slice.endpoints.get_or_insert_default().push(endpoint(address, ip, ready));
        }
    }
    (out, invalid, skipped)
}

fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
        hostname: address.hostname.clone().filter(|h| !h.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Default::default()
    }
}

fn empty(endpoints: &Endpoints, address_type: &str, ports: Vec<EndpointPort>) -> EndpointSlice {
    let m = &endpoints.metadata;
    let name = m.name.clone().unwrap_or_default();
    let mut labels = m.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), name.clone());
    labels.insert(MANAGED_BY.into(), ME.into());
    let mut annotations = m.annotations.clone().unwrap_or_default();
    annotations.retain(|k, _| !OWN.contains(&k.as_str()));
    EndpointSlice {
        metadata: ObjectMeta {
            namespace: m.namespace.clone(),
            generate_name: Some(format!("{name}-")),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![controller_ref(endpoints)]),
            ..Default::default()
        },
        address_type: address_type.into(),
        endpoints: None,
        ports: Some(ports),
    }
}

fn is_same(old: &EndpointSlice, new: &EndpointSlice) -> bool {
    let annotations = |s: &EndpointSlice| s.metadata.annotations.clone().unwrap_or_default();
    let sorted = |s: &EndpointSlice| {
        let mut all = s.endpoints.clone().unwrap_or_default();
        all.sort_by_key(identity);
        all
    };
    old.metadata.labels == new.metadata.labels
        && annotations(old) == annotations(new)
        && old.metadata.owner_references == new.metadata.owner_references
        && sorted(old) == sorted(new)
}
