//! storage.k8s.io/v1 CSINode.

use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Strategy, Validate};
use crate::object::Registered;
use crate::pod_spec::validate_csi_driver;
use crate::strategy::plain;
use crate::support::{FIELD_IMMUTABLE, age, json, no_change, push_invalid, typed_column};
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver};
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, validation as rules};
use std::collections::BTreeSet;

/// Characters.
const NODE_ID_MAX: usize = 256;

const COLUMNS: &[Column<CSINode>] = &[
    typed_column(
        "Drivers",
        "integer",
        "Drivers indicates the number of CSI drivers registered on the node",
        |n| Cell::int(n.spec.drivers.len() as i64),
    ),
    age(),
];

pub static CSI_NODE: Registered<CSINode> = Registered::new(Kind {
    gvk: GroupVersionKind::of("storage.k8s.io", "v1", "CSINode"),
    names: Names { plural: "csinodes", singular: "csinode", short: &[], categories: &[] },
    scope: Scope::Cluster,
    definition: "io.k8s.api.storage.v1.CSINode",
    storage: "csinodes",
    name_rule: NameRule::DnsSubdomain,
    default: no_change,
    validate: Validate { create: validate, update: validate_update },
    strategy: Strategy { unconditional_update: false, ..plain() },
    subresources: &[],
    selectable: &[],
    columns: COLUMNS,
});

fn validate(node: &CSINode) -> FieldErrors {
    let path = Path::new("spec").child("drivers");
    let mut names = BTreeSet::new();
    let mut errors = Vec::new();
    for (i, driver) in node.spec.drivers.iter().enumerate() {
        let path = path.index(i);
        errors.extend(check_driver(driver, &path));
        if !names.insert(&driver.name) {
            errors.push(FieldError::duplicate(&path.child("name"), &driver.name));
        }
    }
    errors
}

fn check_driver(driver: &CSINodeDriver, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    validate_csi_driver(&mut errors, &driver.name, &path.child("name"));
    let id_path = path.child("nodeID");
    if driver.node_id.is_empty() {
        errors.push(FieldError::required(&id_path, ""));
    }
    if driver.node_id.len() > NODE_ID_MAX {
        let why = format!("must be {NODE_ID_MAX} characters or less");
        errors.push(FieldError::invalid(&id_path, &driver.node_id, why));
    }
    if let Some(count) = driver.allocatable.as_ref().and_then(|a| a.count) {
        errors
            .extend(rules::validate_nonnegative(i64::from(count), &path.child("allocatable").child("count")));
    }
    let mut keys = BTreeSet::new();
    for key in driver.topology_keys.iter().flatten() {
        if key.is_empty() {
            errors.push(FieldError::required(path, ""));
        }
        if !keys.insert(key) {
            errors.push(FieldError::duplicate(path, key));
        }
        push_invalid(&mut errors, path, key, rules::is_qualified_name(key));
    }
    errors
}

/// A driver's entry stays as it was registered, but for how many volumes it can take.
fn validate_update(new: &CSINode, old: &CSINode) -> FieldErrors {
    let mut errors = validate(new);
    let fixed = |d: &CSINodeDriver| CSINodeDriver { allocatable: None, ..d.clone() };
    for before in &old.spec.drivers {
        for after in new.spec.drivers.iter().filter(|d| d.name == before.name) {
            if fixed(after) != fixed(before) {
                let path = Path::new("spec").child("drivers");
                errors.push(FieldError::invalid(&path, json(&fixed(after)), FIELD_IMMUTABLE));
            }
        }
    }
    errors
}
