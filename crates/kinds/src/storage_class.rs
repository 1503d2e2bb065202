//! storage.k8s.io/v1 StorageClass.

use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Validate};
use crate::object::Registered;
use crate::strategy::plain;
use crate::support::{FIELD_IMMUTABLE, age, column, json, push_invalid, text, typed_column};
use k8s_openapi::api::core::v1::TopologySelectorTerm;
use k8s_openapi::api::storage::v1::StorageClass;
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, validation as rules};
use std::collections::{BTreeMap, BTreeSet};

const DEFAULT_ANNOTATIONS: &[&str] =
    &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
const MAX_PARAMETERS: usize = 512;
const MAX_PARAMETER_BYTES: usize = 256 * 1024;

const COLUMNS: &[Column<StorageClass>] = &[
    Column {
        name: "Name",
        kind: "string",
        format: "name",
        description: "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically.",
        priority: 0,
        cell: |c| {
            let mark = if is_default(c) { " (default)" } else { "" };
            Cell::str(format!("{}{mark}", text(c.metadata.name.as_ref())))
        },
    },
    column("Provisioner", "provisioner indicates the type of the provisioner.", |c| {
        Cell::str(c.provisioner.clone())
    }),
    column(
        "ReclaimPolicy",
        "reclaimPolicy controls the reclaimPolicy for dynamically provisioned PersistentVolumes of this storage class. Defaults to Delete.",
        |c| Cell::str(c.reclaim_policy.as_deref().unwrap_or("Delete")),
    ),
    column(
        "VolumeBindingMode",
        "volumeBindingMode indicates how PersistentVolumeClaims should be provisioned and bound.  When unset, VolumeBindingImmediate is used. This field is only honored by servers that enable the VolumeScheduling feature.",
        |c| Cell::str(c.volume_binding_mode.as_deref().unwrap_or("Immediate")),
    ),
    typed_column(
        "AllowVolumeExpansion",
        "boolean",
        "allowVolumeExpansion shows whether the storage class allow volume expand.",
        |c| Cell::Value(c.allow_volume_expansion.unwrap_or(false).into()),
    ),
    age(),
];

pub static STORAGE_CLASS: Registered<StorageClass> = Registered::new(Kind {
    gvk: GroupVersionKind::of("storage.k8s.io", "v1", "StorageClass"),
    names: Names { plural: "storageclasses", singular: "storageclass", short: &["sc"], categories: &[] },
    scope: Scope::Cluster,
    definition: "io.k8s.api.storage.v1.StorageClass",
    storage: "storageclasses",
    name_rule: NameRule::DnsSubdomain,
    default: |c| {
        c.reclaim_policy.get_or_insert_with(|| "Delete".to_owned());
        c.volume_binding_mode.get_or_insert_with(|| "Immediate".to_owned());
    },
    validate: Validate { create: validate, update: validate_update },
    strategy: crate::kind::Strategy {
        warnings: |new, _| crate::warnings::objects::storage_class(new),
        ..plain()
    },
    subresources: &[],
    selectable: &[],
    columns: COLUMNS,
});

/// Whether claims that name no class get this one.
pub fn is_default(class: &StorageClass) -> bool {
    let annotations = class.metadata.annotations.as_ref();
    DEFAULT_ANNOTATIONS.iter().any(|a| annotations.and_then(|m| m.get(*a)).is_some_and(|v| v == "true"))
}

pub(crate) fn check_provisioner(name: &str, path: &Path) -> FieldErrors {
    if name.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let (mut errors, lower) = (Vec::new(), name.to_lowercase());
    push_invalid(&mut errors, path, &lower, rules::is_qualified_name(&lower));
    errors
}

pub(crate) fn check_parameters(parameters: Option<&BTreeMap<String, String>>, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let Some(parameters) = parameters else { return errors };
    if parameters.len() > MAX_PARAMETERS {
        return vec![FieldError::too_long(path, MAX_PARAMETERS)];
    }
    if parameters.contains_key("") {
        errors.push(FieldError::invalid(path, "", "field can not be empty."));
    }
    let bytes: usize = parameters.iter().map(|(k, v)| k.len() + v.len()).sum();
    if bytes > MAX_PARAMETER_BYTES {
        errors.push(FieldError::too_long(path, MAX_PARAMETER_BYTES));
    }
    errors
}

fn validate(class: &StorageClass) -> FieldErrors {
    let mut errors = check_provisioner(&class.provisioner, &Path::new("provisioner"));
    errors.extend(check_parameters(class.parameters.as_ref(), &Path::new("parameters")));
    if let Some(policy) = class.reclaim_policy.as_deref().filter(|p| !matches!(*p, "" | "Delete" | "Retain"))
    {
        errors.push(FieldError::not_supported(&Path::new("reclaimPolicy"), policy, &["Delete", "Retain"]));
    }
    let path = Path::new("volumeBindingMode");
    match class.volume_binding_mode.as_deref() {
        None => errors.push(FieldError::required(&path, "")),
        Some("Immediate" | "WaitForFirstConsumer") => {}
        Some(other) => {
            errors.push(FieldError::not_supported(&path, other, &["Immediate", "WaitForFirstConsumer"]))
        }
    }
    errors.extend(topologies(class.allowed_topologies.as_deref().unwrap_or_default()));
    errors
}

fn topologies(terms: &[TopologySelectorTerm]) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, term) in terms.iter().enumerate() {
        let path = Path::new("allowedTopologies").index(i).child("matchLabelExpressions");
        let mut keys = BTreeSet::new();
        for (j, requirement) in term.match_label_expressions.iter().flatten().enumerate() {
            let path = path.index(j);
            if requirement.values.is_empty() {
                errors.push(FieldError::required(&path.child("values"), ""));
            }
            let mut values = BTreeSet::new();
            for (k, value) in requirement.values.iter().enumerate() {
                if !values.insert(value) {
                    errors.push(FieldError::duplicate(&path.child("values").index(k), value));
                }
            }
            errors.extend(rules::validate_label_name(&requirement.key, &path.child("key")));
            if !keys.insert(&requirement.key) {
                errors.push(FieldError::duplicate(&path.child("key"), &requirement.key));
            }
        }
    }
    errors
}

fn validate_update(new: &StorageClass, old: &StorageClass) -> FieldErrors {
    [
        ("parameters", new.parameters == old.parameters, json(&new.parameters)),
        ("provisioner", new.provisioner == old.provisioner, json(&new.provisioner)),
        ("reclaimPolicy", new.reclaim_policy == old.reclaim_policy, json(&new.reclaim_policy)),
        (
            "volumeBindingMode",
            new.volume_binding_mode == old.volume_binding_mode,
            json(&new.volume_binding_mode),
        ),
    ]
    .into_iter()
    .filter(|(_, same, _)| !same)
    .map(|(field, _, value)| FieldError::invalid(&Path::new(field), value, FIELD_IMMUTABLE))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{lines, object};
    use serde_json::json as j;

    #[test]
    fn refusals() {
        let check = |value, expect: &[&str]| {
            let mut class = object(value);
            (STORAGE_CLASS.kind.default)(&mut class);
            assert_eq!(lines(&validate(&class)), expect);
        };
        check(j!({"provisioner": "example.com/Disk"}), &[]);
        check(
            j!({"reclaimPolicy": "Recycle"}),
            &[
                "provisioner: Required value",
                "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
            ],
        );
        let errors =
            validate_update(&object(j!({"provisioner": "a/b"})), &object(j!({"provisioner": "a/c"})));
        assert_eq!(lines(&errors), ["provisioner: Invalid value: \"a/b\": field is immutable"]);
    }
}
