//! v1 Node.

use crate::kind::{
    Cell, Column, Connect, Kind, NameRule, Names, Scope, Selectable, Strategy, Subresource, Validate,
};
use crate::object::Registered;
use crate::pod_spec::defaults::canonical_resources;
use crate::resources::check_amount;
use crate::strategy::{plain, status_access};
use crate::support::{age, check_cidr, column, json, or, text, wide};
use k8s_openapi::api::core::v1::{Node, NodeSystemInfo, Taint};
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, Quantity, validation as rules};
use std::cmp::Ordering;
use std::collections::BTreeSet;

const MAX_FEATURE_BYTES: usize = 253;
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE: &str = "kubernetes.io/role";
const TAINT_EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

const COLUMNS: &[Column<Node>] = &[
    column("Status", "The status of the node", |n| Cell::str(status_text(n))),
    column("Roles", "The roles of the node", |n| Cell::str(or(&roles(n), "<none>"))),
    age(),
    column("Version", "Kubelet Version reported by the node.", |n| {
        Cell::str(system_info(n).map_or("", |i| i.kubelet_version.as_str()))
    }),
    wide(
        "Internal-IP",
        "List of addresses reachable to the node. Queried from cloud provider, if available. More info: https://kubernetes.io/docs/reference/node/node-status/#addresses",
        |n| Cell::str(address(n, "InternalIP")),
    ),
    wide(
        "External-IP",
        "List of addresses reachable to the node. Queried from cloud provider, if available. More info: https://kubernetes.io/docs/reference/node/node-status/#addresses",
        |n| Cell::str(address(n, "ExternalIP")),
    ),
    wide(
        "OS-Image",
        "OS Image reported by the node from /etc/os-release (e.g. Debian GNU/Linux 7 (wheezy)).",
        |n| Cell::str(or(system_info(n).map_or("", |i| i.os_image.as_str()), "<unknown>")),
    ),
    wide(
        "Kernel-Version",
        "Kernel Version reported by the node from 'uname -r' (e.g. 3.16.0-0.bpo.4-amd64).",
        |n| {
            let kernel = or(system_info(n).map_or("", |i| i.kernel_version.as_str()), "<unknown>");
            match system_info(n).map_or("", |i| i.architecture.as_str()) {
                "" => Cell::str(kernel),
                architecture => Cell::str(format!("{kernel} ({architecture})")),
            }
        },
    ),
    wide(
        "Container-Runtime",
        "ContainerRuntime Version reported by the node through runtime remote API (e.g. containerd://1.4.2).",
        |n| Cell::str(or(system_info(n).map_or("", |i| i.container_runtime_version.as_str()), "<unknown>")),
    ),
];

const SELECTABLE: &[Selectable<Node>] =
    &[Selectable { path: "spec.unschedulable", value: |n| is_unschedulable(n).to_string() }];

const SUBRESOURCES: &[Subresource<Node>] = &[
    Subresource::Connect(Connect {
        name: "proxy",
        gvk: GroupVersionKind::of("", "v1", "NodeProxyOptions"),
        verbs: &["create", "delete", "get", "patch", "update"],
    }),
    Subresource::Status(status_access!(Node, validate_change)),
];

pub static NODE: Registered<Node> = Registered::new(Kind {
    gvk: GroupVersionKind::of("", "v1", "Node"),
    names: Names { plural: "nodes", singular: "node", short: &["no"], categories: &[] },
    scope: Scope::Cluster,
    definition: "io.k8s.api.core.v1.Node",
    storage: "minions",
    name_rule: NameRule::DnsSubdomain,
    default,
    validate: Validate {
        create: validate,
        update: |new, old| {
            let mut errors = validate(new);
            errors.extend(validate_change(new, old));
            errors
        },
    },
    // a kubelet registers its node with the status it has
    strategy: Strategy {
        warnings: |new, _| crate::warnings::objects::node(new),
        prepare_create: |node| drop_dynamic_config(node, None),
        prepare_update: |new, old| {
            new.status.clone_from(&old.status);
            drop_dynamic_config(new, Some(old));
        },
        ..plain()
    },
    subresources: SUBRESOURCES,
    selectable: SELECTABLE,
    columns: COLUMNS,
});

fn default(node: &mut Node) {
    let spec = node.spec.get_or_insert_default();
    // the two forms of the pod range are one field for a client that knows only the older
    match (text(spec.pod_cidr.as_ref()), spec.pod_cidrs.as_deref().unwrap_or_default()) {
        ("", [first, ..]) => spec.pod_cidr = Some(first.clone()),
        (one, []) if !one.is_empty() => spec.pod_cidrs = Some(vec![one.to_owned()]),
        _ => {}
    }
    let status = node.status.get_or_insert_default();
    canonical_resources(status.capacity.as_mut());
    canonical_resources(status.allocatable.as_mut());
    if status.allocatable.is_none() {
        status.allocatable = status.capacity.clone();
    }
}

/// A kubelet's configuration is no object of the API any more; a node that still names one may.
fn drop_dynamic_config(new: &mut Node, old: Option<&Node>) {
    let spec_uses = |n: &Node| n.spec.as_ref().is_some_and(|s| s.config_source.is_some());
    if let Some(spec) = new.spec.as_mut().filter(|_| !old.is_some_and(spec_uses)) {
        spec.config_source = None;
    }
    if let Some(status) = new.status.as_mut().filter(|_| old.is_none()) {
        status.config = None;
    }
}

fn is_unschedulable(node: &Node) -> bool {
    node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false)
}

fn system_info(node: &Node) -> Option<&NodeSystemInfo> {
    node.status.as_ref()?.node_info.as_ref()
}

fn status_text(node: &Node) -> String {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let mut status = match conditions.iter().find(|c| c.type_ == "Ready") {
        Some(c) if c.status == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if is_unschedulable(node) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn roles(node: &Node) -> String {
    let roles: BTreeSet<&str> = node
        .metadata
        .labels
        .iter()
        .flatten()
        .filter_map(|(k, v)| match k.strip_prefix(ROLE_PREFIX) {
            Some(role) => Some(role),
            None => (k == ROLE).then_some(v.as_str()),
        })
        .filter(|r| !r.is_empty())
        .collect();
    roles.into_iter().collect::<Vec<_>>().join(",")
}

fn address(node: &Node, kind: &str) -> String {
    let addresses = node.status.as_ref().and_then(|s| s.addresses.as_deref()).unwrap_or_default();
    addresses.iter().find(|a| a.type_ == kind).map_or_else(|| "<none>".to_owned(), |a| a.address.clone())
}

fn validate(node: &Node) -> FieldErrors {
    let mut errors = taints(node);
    errors.extend(amounts(node));
    let swap = system_info(node).and_then(|i| i.swap.as_ref()?.capacity);
    if let Some(bytes) = swap.filter(|bytes| *bytes <= 0) {
        // upstream's path
        let path = Path::new("metadata").child("nodeSwapStatus").child("capacity");
        errors.push(FieldError::invalid(&path, bytes, "must be greater than zero"));
    }
    errors.extend(declared_features(node));
    let cidrs = pod_cidrs(node);
    let path = Path::new("spec").child("podCIDRs");
    for (i, cidr) in cidrs.iter().enumerate() {
        errors.extend(check_cidr(&path.index(i), cidr, &[]));
    }
    if cidrs.len() > 1 {
        let v6 = cidrs.iter().filter(|c| c.contains(':')).count();
        if cidrs.len() > 2 || v6 != 1 {
            errors.push(FieldError::invalid(
                &path,
                json(&cidrs),
                "may specify no more than one CIDR for each IP family",
            ));
        }
    }
    errors
}

fn pod_cidrs(node: &Node) -> &[String] {
    node.spec.as_ref().and_then(|s| s.pod_cidrs.as_deref()).unwrap_or_default()
}

fn amounts(node: &Node) -> FieldErrors {
    let Some(status) = &node.status else { return Vec::new() };
    let path = Path::new("status");
    [("capacity", &status.capacity), ("allocatable", &status.allocatable)]
        .into_iter()
        .flat_map(|(field, amounts)| {
            let path = path.child(field);
            amounts.iter().flatten().flat_map(move |(name, amount)| {
                check_amount(name, Quantity::of(amount), &|| path.child(name))
            })
        })
        .collect()
}

/// Names of features that the kubelet declares (KEP-5328), sorted and each once.
fn declared_features(node: &Node) -> FieldErrors {
    let features = node.status.as_ref().and_then(|s| s.declared_features.as_deref()).unwrap_or_default();
    let path = Path::new("status").child("declaredFeatures");
    let mut errors = Vec::new();
    for (i, name) in features.iter().enumerate() {
        errors.extend(feature_fault(name).map(|why| FieldError::invalid(&path.index(i), name, why)));
        let Some(next) = features.get(i + 1) else { continue };
        match name.cmp(next) {
            Ordering::Less => {}
            Ordering::Equal => errors.push(FieldError::duplicate(&path.index(i + 1), next)),
            Ordering::Greater => {
                let why = "list must be sorted alphabetically";
                errors.push(FieldError::invalid(&path.index(i + 1), next, why));
            }
        }
    }
    errors
}

fn feature_fault(name: &str) -> Option<String> {
    if name.len() > MAX_FEATURE_BYTES {
        return Some(format!(
            "invalid feature name {name:?}: must be no more than {MAX_FEATURE_BYTES} characters"
        ));
    }
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    let ok = name.starts_with(|c: char| c.is_ascii_uppercase()) && name.split('/').all(is_part);
    (!ok).then(|| {
        format!(
            "invalid feature name {name:?}: must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes"
        )
    })
}

fn taints(node: &Node) -> FieldErrors {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    for (i, taint) in taints.iter().enumerate() {
        let path = Path::new("metadata").child("taints").index(i);
        errors.extend(check_taint(taint, &path));
        if !seen.insert((&taint.effect, &taint.key)) {
            let mut error = FieldError::duplicate(&path, json(taint));
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
    }
    errors
}

fn check_taint(taint: &Taint, path: &Path) -> FieldErrors {
    let mut errors = rules::validate_label_name(&taint.key, &path.child("key"));
    let value = text(taint.value.as_ref());
    let messages = rules::is_valid_label_value(value);
    if !messages.is_empty() {
        errors.push(FieldError::invalid(&path.child("value"), value, messages.join(";")));
    }
    let path = path.child("effect");
    if taint.effect.is_empty() {
        errors.push(FieldError::required(&path, ""));
    } else if !TAINT_EFFECTS.contains(&taint.effect.as_str()) {
        errors.push(FieldError::not_supported(&path, &taint.effect, TAINT_EFFECTS));
    }
    errors
}

/// What may not change once set, through the node or its status.
fn validate_change(new: &Node, old: &Node) -> FieldErrors {
    let mut errors = amounts(new);
    errors.extend(declared_features(new));
    let mut seen = BTreeSet::new();
    let addresses = new.status.as_ref().and_then(|s| s.addresses.as_deref()).unwrap_or_default();
    for (i, address) in addresses.iter().enumerate() {
        if !seen.insert((&address.type_, &address.address)) {
            let value = serde_json::json!({"Type": address.type_, "Address": address.address});
            errors.push(FieldError::duplicate(&Path::new("status").child("addresses").index(i), value));
        }
    }
    if !pod_cidrs(old).is_empty() && pod_cidrs(old) != pod_cidrs(new) {
        let path = Path::new("spec").child("podCIDRs");
        errors.push(FieldError::forbidden(
            &path,
            "node updates may not change podCIDR except from \"\" to valid",
        ));
    }
    let provider = |n: &Node| n.spec.as_ref().and_then(|s| s.provider_id.clone()).unwrap_or_default();
    if !provider(old).is_empty() && provider(old) != provider(new) {
        let path = Path::new("spec").child("providerID");
        errors.push(FieldError::forbidden(
            &path,
            "node updates may not change providerID except from \"\" to valid",
        ));
    }
    errors.extend(taints(new));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{check, lines, object};
    use serde_json::json;

    #[test]
    fn status_and_roles() {
        let check = |value, status: &str, role: &str| {
            let node: Node = object(value);
            assert_eq!((status_text(&node).as_str(), roles(&node).as_str()), (status, role));
        };
        check(json!({}), "Unknown", "");
        check(
            json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "agent"}},
                "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
            "NotReady,SchedulingDisabled",
            "agent,control-plane",
        );
    }

    #[test]
    fn refusals() {
        check(validate, json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}), &[]);
        check(
            validate,
            json!({"spec": {"taints": [{"key": "a", "effect": "Never"}]}}),
            &[
                "metadata.taints[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            ],
        );
        check(
            validate,
            json!({"status": {"capacity": {"pods": "1500m", "cpu": "-1"}}}),
            &[
                "status.capacity.cpu: Invalid value: \"-1\": must be greater than or equal to 0",
                "status.capacity.pods: Invalid value: \"1500m\": must be an integer",
            ],
        );
        let features = |list: &[&str]| json!({"status": {"declaredFeatures": list}});
        check(validate, features(&["GuestMemory", "GuestMemory/huge", "Resize"]), &[]);
        check(
            validate,
            features(&["b", "A", "A"]),
            &[
                "status.declaredFeatures[0]: Invalid value: \"b\": invalid feature name \"b\": must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes",
                "status.declaredFeatures[1]: Invalid value: \"A\": list must be sorted alphabetically",
                "status.declaredFeatures[2]: Duplicate value: \"A\"",
            ],
        );
        let errors = validate_change(
            &object(json!({"spec": {"podCIDRs": ["10.1.0.0/24"]}})),
            &object(json!({"spec": {"podCIDRs": ["10.0.0.0/24"], "providerID": "x"}})),
        );
        assert_eq!(
            lines(&errors),
            [
                "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid",
                "spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid",
            ]
        );
    }
}
