//! storage.k8s.io/v1 CSIStorageCapacity.

use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Strategy, Validate};
use crate::object::Registered;
use crate::resources::check_amount;
use crate::strategy::{plain, semantic_eq};
use crate::support::{FIELD_IMMUTABLE, column, json, no_change, push_invalid};
use k8s_openapi::api::storage::v1::CSIStorageCapacity;
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, Quantity, validation as rules};

const COLUMNS: &[Column<CSIStorageCapacity>] = &[
    column(
        "StorageClassName",
        "storageClassName represents the name of the StorageClass that the reported capacity applies to. It must meet the same requirements as the name of a StorageClass object (non-empty, DNS subdomain). If that object no longer exists, the CSIStorageCapacity object is obsolete and should be removed by its creator. This field is immutable.",
        |c| Cell::str(c.storage_class_name.clone()),
    ),
    column(
        "Capacity",
        "capacity is the value reported by the CSI driver in its GetCapacityResponse for a GetCapacityRequest with topology and parameters that match the previous fields.\n\nThe semantic is currently (CSI spec 1.2) defined as: The available capacity, in bytes, of the storage that can be used to provision volumes. If not set, that information is currently unavailable.",
        |c| Cell::str(c.capacity.as_ref().map_or_else(|| "<unset>".to_owned(), |q| q.0.clone())),
    ),
];

pub static CSI_STORAGE_CAPACITY: Registered<CSIStorageCapacity> = Registered::new(Kind {
    gvk: GroupVersionKind::of("storage.k8s.io", "v1", "CSIStorageCapacity"),
    names: Names {
        plural: "csistoragecapacities",
        singular: "csistoragecapacity",
        short: &[],
        categories: &[],
    },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.storage.v1.CSIStorageCapacity",
    storage: "csistoragecapacities",
    name_rule: NameRule::DnsSubdomain,
    default: no_change,
    validate: Validate { create: validate, update: validate_update },
    strategy: Strategy {
        unconditional_update: false,
        warnings: |new, _| crate::warnings::objects::csi_storage_capacity(new),
        ..plain()
    },
    subresources: &[],
    selectable: &[],
    columns: COLUMNS,
});

fn validate(capacity: &CSIStorageCapacity) -> FieldErrors {
    let mut errors = Vec::new();
    if let Some(topology) = &capacity.node_topology {
        errors.extend(rules::validate_label_selector(topology, &Path::new("nodeTopology")));
    }
    let class = &capacity.storage_class_name;
    push_invalid(
        &mut errors,
        &Path::new("storageClassName"),
        class,
        rules::name_is_dns_subdomain(class, false),
    );
    if let Some(amount) = &capacity.capacity {
        errors.extend(check_amount("storage", Quantity::of(amount), &|| Path::new("capacity")));
    }
    errors
}

/// What was asked of the driver stays; only its answer changes.
fn validate_update(new: &CSIStorageCapacity, old: &CSIStorageCapacity) -> FieldErrors {
    let mut errors = validate(new);
    if !semantic_eq(&new.node_topology, &old.node_topology) {
        errors.push(FieldError::invalid(
            &Path::new("nodeTopology"),
            json(&new.node_topology),
            FIELD_IMMUTABLE,
        ));
    }
    if new.storage_class_name != old.storage_class_name {
        let path = Path::new("storageClassName");
        errors.push(FieldError::invalid(&path, new.storage_class_name.as_str(), FIELD_IMMUTABLE));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{lines, object};
    use serde_json::{Value, json};

    #[test]
    fn the_question_to_the_driver_is_well_formed_and_stays() {
        let check = |new: Value, expect: &[&str]| {
            let base = json!({"metadata": {"name": "c"}, "storageClassName": "fast", "nodeTopology": {}, "capacity": "1Gi"});
            let mut value = base.clone();
            for (k, v) in new.as_object().into_iter().flatten() {
                value[k] = v.clone();
            }
            assert_eq!(lines(&validate_update(&object(value), &object(base))), expect);
        };
        check(json!({"capacity": "2Gi", "maximumVolumeSize": "1Gi"}), &[]);
        check(
            json!({"capacity": "-1"}),
            &["capacity: Invalid value: \"-1\": must be greater than or equal to 0"],
        );
        check(
            json!({"storageClassName": "slow"}),
            &["storageClassName: Invalid value: \"slow\": field is immutable"],
        );
        check(
            json!({"nodeTopology": {"matchLabels": {"a": "b"}}}),
            &["nodeTopology: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: field is immutable"],
        );
    }
}
