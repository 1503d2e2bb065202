//! discovery.k8s.io/v1 EndpointSlice.

use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Strategy, Validate};
use crate::object::Registered;
use crate::strategy::{first_generation, next_generation, plain, semantic_eq};
use crate::support::{
    FIELD_IMMUTABLE, age, check_endpoint_ip, check_ip, check_protocol, column, parse_ip_sloppy, push_invalid,
    text,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointPort, EndpointSlice};
use meta::labels::HOSTNAME;
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, validation as rules};
use std::collections::BTreeSet;

const MAX_TOPOLOGY_LABELS: usize = 16;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_ENDPOINTS: usize = 1_000;
const MAX_HINTS: usize = 8;
/// Ports and addresses that a table names before it counts the rest.
const MAX_SHOWN: usize = 3;

const COLUMNS: &[Column<EndpointSlice>] = &[
    column(
        "AddressType",
        "addressType specifies the type of address carried by this EndpointSlice. All addresses in this slice must be the same type. This field is immutable after creation. The following address types are currently supported: * IPv4: Represents an IPv4 Address. * IPv6: Represents an IPv6 Address. * FQDN: Represents a Fully Qualified Domain Name.",
        |s| Cell::str(s.address_type.clone()),
    ),
    column(
        "Ports",
        "ports specifies the list of network ports exposed by each endpoint in this slice. Each port must have a unique name. Each slice may include a maximum of 100 ports.",
        |s| {
            let port = |p: &EndpointPort| {
                p.port.map_or_else(|| p.name.clone().unwrap_or_else(|| "*".to_owned()), |n| n.to_string())
            };
            Cell::str(shorten(s.ports.iter().flatten().map(port)))
        },
    ),
    column(
        "Endpoints",
        "endpoints is a list of unique endpoints in this slice. Each slice may include a maximum of 1000 endpoints.",
        |s| Cell::str(shorten(s.endpoints.iter().flatten().flat_map(|e| e.addresses.iter().cloned()))),
    ),
    age(),
];

pub static ENDPOINT_SLICE: Registered<EndpointSlice> = Registered::new(Kind {
    gvk: GroupVersionKind::of("discovery.k8s.io", "v1", "EndpointSlice"),
    names: Names { plural: "endpointslices", singular: "endpointslice", short: &[], categories: &[] },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.discovery.v1.EndpointSlice",
    storage: "endpointslices",
    name_rule: NameRule::DnsSubdomain,
    default: |slice| {
        for port in slice.ports.iter_mut().flatten() {
            port.name.get_or_insert_default();
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
    },
    validate: Validate { create: |s| validate(s, None), update: validate_update },
    strategy: Strategy {
        warnings: crate::warnings::objects::endpoint_slice,
        prepare_create: |slice| {
            first_generation(slice);
            drop_topology(slice, None);
        },
        prepare_update,
        ..plain()
    },
    subresources: &[],
    selectable: &[],
    columns: COLUMNS,
});

fn prepare_update(new: &mut EndpointSlice, old: &EndpointSlice) {
    let endpoints_changed = !semantic_eq(&new.endpoints, &old.endpoints);
    let changed = new.address_type != old.address_type
        || endpoints_changed
        || !semantic_eq(&new.ports, &old.ports)
        || !semantic_eq(&new.metadata.labels, &old.metadata.labels);
    next_generation(new, old, changed);
    if endpoints_changed {
        drop_topology(new, Some(old));
    }
}

/// `deprecatedTopology` is not written any more. A node that only it named in the stored slice becomes `nodeName`.
fn drop_topology(new: &mut EndpointSlice, old: Option<&EndpointSlice>) {
    let host = |e: &Endpoint| e.deprecated_topology.as_ref()?.get(HOSTNAME).cloned();
    let known: Vec<String> = old.iter().flat_map(|o| o.endpoints.iter().flatten()).filter_map(host).collect();
    for endpoint in new.endpoints.iter_mut().flatten() {
        let node = host(endpoint).filter(|n| known.contains(n) && rules::is_dns1123_subdomain(n).is_empty());
        if endpoint.node_name.is_none() {
            endpoint.node_name = node;
        }
        endpoint.deprecated_topology = None;
    }
}

fn shorten(items: impl Iterator<Item = String>) -> String {
    let mut shown = Vec::new();
    let mut count = 0;
    for item in items {
        count += 1;
        if shown.len() < MAX_SHOWN {
            shown.push(item);
        }
    }
    let list = shown.join(",");
    if count > MAX_SHOWN {
        format!("{list} + {} more...", count - MAX_SHOWN)
    } else if list.is_empty() {
        "<unset>".to_owned()
    } else {
        list
    }
}

fn validate_update(new: &EndpointSlice, old: &EndpointSlice) -> FieldErrors {
    let mut errors = validate(new, Some(old));
    if new.address_type != old.address_type {
        errors.push(FieldError::invalid(&Path::new("addressType"), &new.address_type, FIELD_IMMUTABLE));
    }
    errors
}

fn validate(slice: &EndpointSlice, old: Option<&EndpointSlice>) -> FieldErrors {
    let mut errors = Vec::new();
    let path = Path::new("addressType");
    match slice.address_type.as_str() {
        "" => errors.push(FieldError::required(&path, "")),
        "IPv4" | "IPv6" | "FQDN" => {}
        other => errors.push(FieldError::not_supported(&path, other, &["FQDN", "IPv4", "IPv6"])),
    }
    errors.extend(check_ports(slice.ports.as_deref().unwrap_or_default()));
    let wrong = check_endpoints(slice.endpoints.as_deref().unwrap_or_default(), &slice.address_type);
    // what an older version stored stays valid as long as nobody touches it
    if !wrong.is_empty() && old.is_none_or(|o| !semantic_eq(&o.endpoints, &slice.endpoints)) {
        errors.extend(wrong);
    }
    errors
}

fn check_ports(ports: &[EndpointPort]) -> FieldErrors {
    let path = Path::new("ports");
    if ports.len() > MAX_PORTS {
        return vec![FieldError::too_many(&path, ports.len(), MAX_PORTS)];
    }
    let mut errors = Vec::new();
    let mut names = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = text(port.name.as_ref());
        if !name.is_empty() {
            push_invalid(&mut errors, &path.child("name"), name, rules::is_dns1123_label(name));
        }
        if !names.insert(name) {
            errors.push(FieldError::duplicate(&path.child("name"), name));
        }
        errors.extend(check_protocol(&path.child("protocol"), port.protocol.as_deref()));
        if let Some(protocol) = &port.app_protocol {
            push_invalid(
                &mut errors,
                &path.child("appProtocol"),
                protocol,
                rules::is_qualified_name(protocol),
            );
        }
    }
    errors
}

fn check_endpoints(endpoints: &[Endpoint], address_type: &str) -> FieldErrors {
    let path = Path::new("endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        return vec![FieldError::too_many(&path, endpoints.len(), MAX_ENDPOINTS)];
    }
    endpoints.iter().enumerate().flat_map(|(i, e)| check_endpoint(e, address_type, &path.index(i))).collect()
}

fn check_endpoint(endpoint: &Endpoint, address_type: &str, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let addresses_path = path.child("addresses");
    if endpoint.addresses.is_empty() {
        errors.push(FieldError::required(&addresses_path, "must contain at least 1 address"));
    } else if endpoint.addresses.len() > MAX_ADDRESSES {
        errors.push(FieldError::too_many(&addresses_path, endpoint.addresses.len(), MAX_ADDRESSES));
    }
    for (i, address) in endpoint.addresses.iter().enumerate() {
        errors.extend(check_address(address, address_type, &addresses_path, i));
    }
    if let Some(node) = &endpoint.node_name {
        push_invalid(&mut errors, &path.child("nodeName"), node, rules::is_dns1123_subdomain(node));
    }
    if let Some(topology) = &endpoint.deprecated_topology {
        let path = path.child("deprecatedTopology");
        if topology.len() > MAX_TOPOLOGY_LABELS {
            errors.push(FieldError::too_many(&path, topology.len(), MAX_TOPOLOGY_LABELS));
        }
        errors.extend(rules::validate_labels(topology, &path));
    }
    if let Some(hostname) = &endpoint.hostname {
        push_invalid(&mut errors, &path.child("hostname"), hostname, rules::is_dns1123_label(hostname));
    }
    if let Some(hints) = &endpoint.hints {
        errors.extend(check_hints(hints, &path.child("hints")));
    }
    errors
}

fn check_address(address: &str, address_type: &str, list: &Path, i: usize) -> FieldErrors {
    let path = list.index(i);
    let is_v6 = parse_ip_sloppy(address).is_some_and(|a| a.is_ipv6());
    match address_type {
        "IPv4" | "IPv6" => {
            let mut errors = check_ip(&path, address, &[]);
            if !errors.is_empty() {
                return errors;
            }
            if address_type == "IPv6"
                && let Ok(canonical) = address.parse::<std::net::IpAddr>().map(|a| a.to_string())
                && canonical != address
            {
                return vec![FieldError::invalid(
                    &path,
                    address,
                    format!("must be in canonical form ({canonical:?})"),
                )];
            }
            if is_v6 != (address_type == "IPv6") {
                errors.push(FieldError::invalid(list, address, format!("must be an {address_type} address")));
            }
            errors.extend(check_endpoint_ip(&path, address));
            errors
        }
        "FQDN" => check_fqdn(&path, address),
        _ => Vec::new(),
    }
}

fn check_fqdn(path: &Path, name: &str) -> FieldErrors {
    if name.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let messages = rules::is_dns1123_subdomain(name);
    let mut errors = Vec::new();
    if messages.is_empty() && name.split('.').count() < 2 {
        errors.push(FieldError::invalid(
            path,
            name,
            "should be a domain with at least two segments separated by dots",
        ));
    }
    push_invalid(&mut errors, path, name, messages);
    errors
}

fn check_hints(hints: &EndpointHints, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let zones: Vec<&str> = hints.for_zones.iter().flatten().map(|z| z.name.as_str()).collect();
    let nodes: Vec<&str> = hints.for_nodes.iter().flatten().map(|n| n.name.as_str()).collect();
    let lists = [
        ("forZones", zones, rules::is_valid_label_value as fn(&str) -> Vec<String>),
        ("forNodes", nodes, rules::is_dns1123_subdomain),
    ];
    for (list, names, rule) in lists {
        let path = path.child(list);
        if names.len() > MAX_HINTS {
            errors.push(FieldError::too_many(&path, names.len(), MAX_HINTS));
            return errors;
        }
        let mut seen = BTreeSet::new();
        for (i, name) in names.into_iter().enumerate() {
            let path = path.index(i).child("name");
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(&path, name));
            }
            push_invalid(&mut errors, &path, name, rule(name));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{lines, object};
    use serde_json::{Value, json};

    #[test]
    fn refusals() {
        let check = |value, expect: &[&str]| {
            let mut slice = object(value);
            (ENDPOINT_SLICE.kind.default)(&mut slice);
            assert_eq!(lines(&validate(&slice, None)), expect);
        };
        check(
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}]}),
            &[],
        );
        check(json!({"endpoints": []}), &["addressType: Required value"]);
        check(
            json!({"addressType": "IPv5"}),
            &["addressType: Unsupported value: \"IPv5\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""],
        );
        check(
            json!({"addressType": "IPv4", "endpoints": [{"addresses": []}, {"addresses": ["fd00::1"]}]}),
            &[
                "endpoints[0].addresses: Required value: must contain at least 1 address",
                "endpoints[1].addresses: Invalid value: \"fd00::1\": must be an IPv4 address",
            ],
        );
        check(
            json!({"addressType": "IPv4", "ports": [{"port": 80}, {"port": 81}]}),
            &["ports[1].name: Duplicate value: \"\""],
        );
    }

    #[test]
    fn the_old_topology_becomes_the_name_of_the_node() {
        let slice = |topology: Value, address: &str| -> EndpointSlice {
            object(
                json!({"addressType": "IPv4", "endpoints": [{"addresses": [address], "deprecatedTopology": topology}]}),
            )
        };
        let stored = slice(json!({HOSTNAME: "a"}), "10.0.0.1");
        let check = |topology: Value, address: &str, expect: (Option<&str>, bool)| {
            let mut new = slice(topology, address);
            prepare_update(&mut new, &stored);
            let endpoint = &new.endpoints.as_ref().unwrap()[0];
            assert_eq!((endpoint.node_name.as_deref(), endpoint.deprecated_topology.is_some()), expect);
        };
        check(json!({HOSTNAME: "a"}), "10.0.0.1", (None, true));
        check(json!({HOSTNAME: "a"}), "10.0.0.2", (Some("a"), false));
        check(json!({HOSTNAME: "b"}), "10.0.0.2", (None, false));
    }

    #[test]
    fn the_table_names_three() {
        let shorten = |items: &[&str]| shorten(items.iter().map(|s| (*s).to_owned()));
        assert_eq!(shorten(&[]), "<unset>");
        assert_eq!(shorten(&["a", "b", "c"]), "a,b,c");
        assert_eq!(shorten(&["a", "b", "c", "d", "e"]), "a,b,c + 2 more...");
    }
}
