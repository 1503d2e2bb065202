//! What a valid object is warned of: fields that are deprecated, do nothing, or hide one another. The texts are
//! upstream's (`pkg/api/*/warnings.go` and the strategies' `WarningsOnCreate` and `WarningsOnUpdate`); a client gets
//! them as `Warning` headers.

pub mod objects;
mod paths;
pub mod pods;

use crate::support::parse_ip_sloppy;
use k8s_openapi::api::core::v1::NodeSelectorTerm;
use meta::{Path, validation as rules};
use std::net::IpAddr;

/// Labels of nodes that have a successor or none.
const NODE_LABELS: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", r#"deprecated since v1.14; use "kubernetes.io/arch" instead"#),
    ("beta.kubernetes.io/os", r#"deprecated since v1.14; use "kubernetes.io/os" instead"#),
    (
        "failure-domain.beta.kubernetes.io/region",
        r#"deprecated since v1.17; use "topology.kubernetes.io/region" instead"#,
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        r#"deprecated since v1.17; use "topology.kubernetes.io/zone" instead"#,
    ),
    (
        "beta.kubernetes.io/instance-type",
        r#"deprecated since v1.17; use "node.kubernetes.io/instance-type" instead"#,
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    ("node-role.kubernetes.io/master", r#"use "node-role.kubernetes.io/control-plane" instead"#),
];

/// Why a node label is not to be used any more.
pub fn node_label(key: &str) -> Option<&'static str> {
    NODE_LABELS.iter().find(|(label, _)| *label == key).map(|(_, why)| *why)
}

/// Deprecated labels of a node selector's term; `values`: whether values that no label can have count too.
pub fn node_selector_term(term: &NodeSelectorTerm, values: bool, path: &Path, out: &mut Vec<String>) {
    for (i, expression) in term.match_expressions.iter().flatten().enumerate() {
        let at = || path.child("matchExpressions").index(i);
        if let Some(why) = node_label(&expression.key) {
            out.push(format!("{}: {} is {why}", at().child("key"), expression.key));
        }
        for (j, value) in expression.values.iter().flatten().enumerate().filter(|_| values) {
            for why in rules::is_valid_label_value(value) {
                out.push(format!("{}: {value} is invalid, {why}", at().child("values").index(j)));
            }
        }
    }
}

/// An address in a form that not everybody reads alike.
pub fn ip(path: impl FnOnce() -> Path, value: &str) -> Option<String> {
    let loose = parse_ip_sloppy(value)?;
    match value.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
            let plain = ip.to_ipv4_mapped().map(|ip| ip.to_string()).unwrap_or_default();
            Some(format!("{}: non-standard IP address {value:?} is invalid: use {plain:?}", path()))
        }
        Err(_) => Some(format!(
            "{}: non-standard IP address {value:?} is invalid: use {:?}",
            path(),
            loose.to_string()
        )),
        Ok(IpAddr::V6(ip)) if ip.to_string() != value => {
            let canonical = ip.to_string();
            Some(format!(
                "{}: IPv6 address {value:?} should be in RFC 5952 canonical format ({canonical:?})",
                path()
            ))
        }
        Ok(_) => None,
    }
}

/// A CIDR in a form that not everybody reads alike.
pub fn cidr(path: impl Fn() -> Path, value: &str) -> Vec<String> {
    let Some((address, bits)) = value.split_once('/') else { return Vec::new() };
    let net = parse_ip_sloppy(address).zip(bits.parse::<u8>().ok());
    let Some(net) = net.and_then(|(ip, bits)| ipnet::IpNet::new(ip, bits).ok()) else { return Vec::new() };
    let mut out = Vec::new();
    if net.addr() != net.network() {
        let (whole, one) = (net.trunc().to_string(), format!("{}/{}", net.addr(), net.max_prefix_len()));
        out.push(format!(
            "{}: CIDR value {value:?} is ambiguous in this context (should be {whole:?} or {one:?}?)",
            path()
        ));
    }
    let strict = value.parse::<ipnet::IpNet>();
    let mapped = matches!(net.addr(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    if strict.is_err() || mapped {
        let plain = net.trunc().to_string();
        out.push(format!("{}: non-standard CIDR value {value:?} is invalid: use {plain:?}", path()));
    }
    if out.is_empty() && net.addr().is_ipv6() && net.to_string() != value {
        let canonical = net.to_string();
        out.push(format!(
            "{}: IPv6 CIDR value {value:?} should be in RFC 5952 canonical format ({canonical:?})",
            path()
        ));
    }
    out
}

#[cfg(test)]
mod tests;
