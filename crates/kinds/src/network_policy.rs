//! networking.k8s.io/v1 NetworkPolicy.

use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Strategy, Validate};
use crate::object::Registered;
use crate::strategy::spec_only;
use crate::support::{age, check_cidr, column, format_selector, json, push_invalid};
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, validation as rules};

const POLICY_TYPES: &[&str] = &["Ingress", "Egress"];

const COLUMNS: &[Column<NetworkPolicy>] = &[
    column(
        "Pod-Selector",
        "podSelector selects the pods to which this NetworkPolicy object applies. The array of rules is applied to any pods selected by this field. An empty selector matches all pods in the policy's namespace.",
        |p| {
            Cell::str(format_selector(Some(
                &p.spec.as_ref().and_then(|s| s.pod_selector.clone()).unwrap_or_default(),
            )))
        },
    ),
    age(),
];

pub static NETWORK_POLICY: Registered<NetworkPolicy> = Registered::new(Kind {
    gvk: GroupVersionKind::of("networking.k8s.io", "v1", "NetworkPolicy"),
    names: Names {
        plural: "networkpolicies",
        singular: "networkpolicy",
        short: &["netpol"],
        categories: &[],
    },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.networking.v1.NetworkPolicy",
    storage: "networkpolicies",
    name_rule: NameRule::DnsSubdomain,
    default,
    validate: Validate {
        create: |p| validate(p, &[]),
        update: |new, old| {
            let blocks = old.spec.iter().flat_map(peers).filter_map(|p| p.ip_block.as_ref());
            let stored: Vec<String> = blocks
                .flat_map(|b| std::iter::once(&b.cidr).chain(b.except.iter().flatten()))
                .cloned()
                .collect();
            validate(new, &stored)
        },
    },
    strategy: Strategy {
        warnings: |new, _| crate::warnings::objects::network_policy(new),
        ..spec_only!(NetworkPolicy)
    },
    subresources: &[],
    selectable: &[],
    columns: COLUMNS,
});

fn peers(spec: &NetworkPolicySpec) -> impl Iterator<Item = &NetworkPolicyPeer> {
    let from = spec.ingress.iter().flatten().flat_map(|r| r.from.iter().flatten());
    from.chain(spec.egress.iter().flatten().flat_map(|r| r.to.iter().flatten()))
}

fn default(policy: &mut NetworkPolicy) {
    let spec = policy.spec.get_or_insert_default();
    spec.pod_selector.get_or_insert_default();
    let of_ingress = spec.ingress.iter_mut().flatten().flat_map(|r| r.ports.iter_mut().flatten());
    let of_egress = spec.egress.iter_mut().flatten().flat_map(|r| r.ports.iter_mut().flatten());
    for port in of_ingress.chain(of_egress) {
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
    }
    if spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
        let egress = spec.egress.as_ref().is_some_and(|e| !e.is_empty());
        let types = POLICY_TYPES.iter().take(if egress { 2 } else { 1 });
        spec.policy_types = Some(types.map(|t| (*t).to_owned()).collect());
    }
}

fn validate(policy: &NetworkPolicy, stored: &[String]) -> FieldErrors {
    let Some(spec) = &policy.spec else { return Vec::new() };
    let path = Path::new("spec");
    let mut errors = Vec::new();
    if let Some(selector) = &spec.pod_selector {
        errors.extend(rules::validate_label_selector(selector, &path.child("podSelector")));
    }
    for (i, rule) in spec.ingress.iter().flatten().enumerate() {
        let path = path.child("ingress").index(i);
        errors.extend(ports(rule.ports.as_deref(), &path));
        for (i, peer) in rule.from.iter().flatten().enumerate() {
            errors.extend(check_peer(peer, stored, &path.child("from").index(i)));
        }
    }
    for (i, rule) in spec.egress.iter().flatten().enumerate() {
        let path = path.child("egress").index(i);
        errors.extend(ports(rule.ports.as_deref(), &path));
        for (i, peer) in rule.to.iter().flatten().enumerate() {
            errors.extend(check_peer(peer, stored, &path.child("to").index(i)));
        }
    }
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let path = path.child("policyTypes");
    if types.len() > POLICY_TYPES.len() {
        errors.push(FieldError::invalid(&path, json(&types), "may not specify more than two policyTypes"));
        return errors;
    }
    for (i, kind) in types.iter().enumerate().filter(|(_, t)| !POLICY_TYPES.contains(&t.as_str())) {
        errors.push(FieldError::not_supported(&path.index(i), kind, POLICY_TYPES));
    }
    errors
}

fn ports(ports: Option<&[NetworkPolicyPort]>, path: &Path) -> FieldErrors {
    let path = path.child("ports");
    ports.unwrap_or_default().iter().enumerate().flat_map(|(i, p)| check_port(p, &path.index(i))).collect()
}

fn check_port(port: &NetworkPolicyPort, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    if let Some(other) = port.protocol.as_deref().filter(|p| !matches!(*p, "TCP" | "UDP" | "SCTP")) {
        errors.push(FieldError::not_supported(&path.child("protocol"), other, &["TCP", "UDP", "SCTP"]));
    }
    let (at, end_at) = (path.child("port"), path.child("endPort"));
    match (&port.port, port.end_port) {
        (Some(IntOrString::Int(number)), end) => {
            for message in rules::is_valid_port_num(*number) {
                errors.push(FieldError::invalid(&at, *number, message));
            }
            if let Some(end) = end {
                if end < *number {
                    // upstream prints the port and not the end
                    errors.push(FieldError::invalid(
                        &end_at,
                        *number,
                        "must be greater than or equal to `port`",
                    ));
                }
                for message in rules::is_valid_port_num(end) {
                    errors.push(FieldError::invalid(&end_at, end, message));
                }
            }
        }
        (Some(IntOrString::String(name)), end) => {
            if let Some(end) = end {
                let why = "may not be specified when `port` is non-numeric";
                errors.push(FieldError::invalid(&end_at, end, why));
            }
            push_invalid(&mut errors, &at, name, rules::is_valid_port_name(name));
        }
        (None, Some(end)) => {
            errors.push(FieldError::invalid(
                &end_at,
                end,
                "may not be specified when `port` is not specified",
            ));
        }
        (None, None) => {}
    }
    errors
}

fn check_peer(peer: &NetworkPolicyPeer, stored: &[String], path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    for (field, selector) in
        [("podSelector", &peer.pod_selector), ("namespaceSelector", &peer.namespace_selector)]
    {
        if let Some(selector) = selector {
            errors.extend(rules::validate_label_selector(selector, &path.child(field)));
        }
    }
    if let Some(block) = &peer.ip_block {
        errors.extend(check_block(block, stored, &path.child("ipBlock")));
    }
    let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
    match (&peer.ip_block, selects) {
        (None, false) => errors.push(FieldError::required(path, "must specify a peer")),
        (Some(_), true) => {
            errors.push(FieldError::forbidden(path, "may not specify both ipBlock and another peer"));
        }
        _ => {}
    }
    errors
}

fn check_block(block: &IPBlock, stored: &[String], path: &Path) -> FieldErrors {
    let at = path.child("cidr");
    if block.cidr.is_empty() {
        return vec![FieldError::required(&at, "")];
    }
    let mut errors = check_cidr(&at, &block.cidr, stored);
    let Ok(net) = block.cidr.parse::<IpNet>() else { return errors };
    for (i, except) in block.except.iter().flatten().enumerate() {
        let path = path.child("except").index(i);
        errors.extend(check_cidr(&path, except, stored));
        let Ok(inner) = except.parse::<IpNet>() else { continue };
        if !net.contains(&inner) || net.prefix_len() >= inner.prefix_len() {
            errors.push(FieldError::invalid(&path, except, "must be a strict subset of `cidr`"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{lines, object};
    use serde_json::json as j;

    #[test]
    fn policy_types_follow_the_rules() {
        let check = |spec, expect: &[&str]| {
            let mut policy = object(j!({"spec": spec}));
            default(&mut policy);
            assert_eq!(policy.spec.unwrap().policy_types.unwrap(), expect);
        };
        check(j!({}), &["Ingress"]);
        check(j!({"egress": [{}]}), &["Ingress", "Egress"]);
        check(j!({"policyTypes": ["Egress"]}), &["Egress"]);
    }

    #[test]
    fn refusals() {
        let check = |spec, expect: &[&str]| {
            let mut policy = object(j!({"spec": spec}));
            default(&mut policy);
            assert_eq!(lines(&validate(&policy, &[])), expect);
        };
        check(
            j!({"ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": 80, "endPort": 90}]}]}),
            &[],
        );
        check(
            j!({"ingress": [{"from": [{}]}]}),
            &["spec.ingress[0].from[0]: Required value: must specify a peer"],
        );
        check(
            j!({"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.1.0.0/24"]}, "podSelector": {}}]}]}),
            &[
                "spec.egress[0].to[0].ipBlock.except[0]: Invalid value: \"10.1.0.0/24\": must be a strict subset of `cidr`",
                "spec.egress[0].to[0]: Forbidden: may not specify both ipBlock and another peer",
            ],
        );
        check(
            j!({"ingress": [{"ports": [{"port": 80, "endPort": 70}, {"endPort": 7}]}]}),
            &[
                "spec.ingress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`",
                "spec.ingress[0].ports[1].endPort: Invalid value: 7: may not be specified when `port` is not specified",
            ],
        );
        check(
            j!({"policyTypes": ["Sideways"]}),
            &[
                "spec.policyTypes[0]: Unsupported value: \"Sideways\": supported values: \"Ingress\", \"Egress\"",
            ],
        );
    }
}
