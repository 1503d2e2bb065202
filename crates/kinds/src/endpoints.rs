//! v1 Endpoints.

use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Strategy, Validate};
use crate::object::Registered;
use crate::strategy::{plain, semantic_eq};
use crate::support::{age, check_endpoint_ip, check_ip, check_protocol, column, push_invalid, text};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, Endpoints};
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, validation as rules};
use std::net::IpAddr;

/// Endpoints that a table names before it counts the rest.
const MAX_SHOWN: usize = 3;

const COLUMNS: &[Column<Endpoints>] = &[
    column(
        "Endpoints",
        "The set of all endpoints is the union of all subsets. Addresses are placed into subsets according to the IPs they share. A single address with multiple ports, some of which are ready and some of which are not (because they come from different containers) will result in the address being displayed in different subsets for the different ports. No address will appear in both Addresses and NotReadyAddresses in the same subset. Sets of addresses and ports that comprise a service.",
        |e| Cell::str(format_endpoints(e)),
    ),
    age(),
];

pub static ENDPOINTS: Registered<Endpoints> = Registered::new(Kind {
    gvk: GroupVersionKind::of("", "v1", "Endpoints"),
    names: Names { plural: "endpoints", singular: "endpoints", short: &["ep"], categories: &[] },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.core.v1.Endpoints",
    storage: "services/endpoints",
    name_rule: NameRule::DnsSubdomain,
    default: |endpoints| {
        for port in endpoints.subsets.iter_mut().flatten().flat_map(|s| s.ports.iter_mut().flatten()) {
            if text(port.protocol.as_ref()).is_empty() {
                port.protocol = Some("TCP".to_owned());
            }
        }
    },
    validate: Validate {
        create: validate,
        // what an older version stored stays valid as long as nobody touches it
        update: |new, old| if semantic_eq(&new.subsets, &old.subsets) { Vec::new() } else { validate(new) },
    },
    strategy: Strategy {
        warnings: |new, _| crate::warnings::objects::endpoints(new),
        create_on_update: true,
        ..plain()
    },
    subresources: &[],
    selectable: &[],
    columns: COLUMNS,
});

fn validate(endpoints: &Endpoints) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, subset) in endpoints.subsets.iter().flatten().enumerate() {
        let path = Path::new("subsets").index(i);
        let ready = subset.addresses.as_deref().unwrap_or_default();
        let not_ready = subset.not_ready_addresses.as_deref().unwrap_or_default();
        if ready.is_empty() && not_ready.is_empty() {
            errors.push(FieldError::required(&path, "must specify `addresses` or `notReadyAddresses`"));
        }
        for (list, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
            for (i, address) in addresses.iter().enumerate() {
                errors.extend(check_address(address, &path.child(list).index(i)));
            }
        }
        let ports = subset.ports.as_deref().unwrap_or_default();
        for (i, port) in ports.iter().enumerate() {
            errors.extend(check_port(port, ports.len() > 1, &path.child("ports").index(i)));
        }
    }
    errors
}

fn check_address(address: &EndpointAddress, path: &Path) -> FieldErrors {
    let mut errors = check_ip(&path.child("ip"), &address.ip, &[]);
    if let Some(name) = address.hostname.as_deref().filter(|h| !h.is_empty()) {
        push_invalid(&mut errors, &path.child("hostname"), name, rules::is_dns1123_label(name));
    }
    if let Some(node) = &address.node_name {
        push_invalid(&mut errors, &path.child("nodeName"), node, rules::is_dns1123_subdomain(node));
    }
    errors.extend(check_endpoint_ip(&path.child("ip"), &address.ip));
    errors
}

fn check_port(port: &EndpointPort, named: bool, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let name = text(port.name.as_ref());
    if !name.is_empty() {
        push_invalid(&mut errors, &path.child("name"), name, rules::is_dns1123_label(name));
    } else if named {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    for message in rules::is_valid_port_num(port.port) {
        errors.push(FieldError::invalid(&path.child("port"), port.port, message));
    }
    errors.extend(check_protocol(&path.child("protocol"), port.protocol.as_deref()));
    if let Some(protocol) = &port.app_protocol {
        push_invalid(&mut errors, &path.child("appProtocol"), protocol, rules::is_qualified_name(protocol));
    }
    errors
}

fn format_endpoints(endpoints: &Endpoints) -> String {
    let subsets = endpoints.subsets.as_deref().unwrap_or_default();
    if subsets.is_empty() {
        return "<none>".to_owned();
    }
    let mut shown = Vec::new();
    let mut count = 0;
    for subset in subsets {
        let ports: Vec<Option<i32>> = match subset.ports.as_deref().unwrap_or_default() {
            [] => vec![None],
            ports => ports.iter().map(|p| Some(p.port)).collect(),
        };
        for port in ports {
            for address in subset.addresses.iter().flatten() {
                count += 1;
                if shown.len() < MAX_SHOWN {
                    shown.push(port.map_or_else(|| address.ip.clone(), |p| host_and_port(&address.ip, p)));
                }
            }
        }
    }
    let list = shown.join(",");
    if count > MAX_SHOWN { format!("{list} + {} more...", count - MAX_SHOWN) } else { list }
}

fn host_and_port(ip: &str, port: i32) -> String {
    match ip.parse() {
        Ok(IpAddr::V6(_)) => format!("[{ip}]:{port}"),
        _ => format!("{ip}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{check, object};
    use serde_json::json;

    #[test]
    fn the_table_names_three() {
        let check = |value, expect: &str| assert_eq!(format_endpoints(&object(value)), expect);
        check(json!({}), "<none>");
        check(
            json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}, {"port": 443}]}]}),
            "10.0.0.1:80,10.0.0.1:443",
        );
        check(
            json!({"subsets": [{"addresses": [{"ip": "fd00::1"}, {"ip": "10.0.0.2"}, {"ip": "10.0.0.3"}, {"ip": "10.0.0.4"}], "ports": [{"port": 80}]}]}),
            "[fd00::1]:80,10.0.0.2:80,10.0.0.3:80 + 1 more...",
        );
    }

    #[test]
    fn addresses_and_ports_are_checked() {
        check(
            validate,
            json!({"subsets": [{}]}),
            &["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"],
        );
        check(
            validate,
            json!({"subsets": [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 70000, "protocol": "TCP"}]}]}),
            &[
                "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                "subsets[0].ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ],
        );
    }
}
