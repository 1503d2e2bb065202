//! storage.k8s.io/v1 VolumeAttributesClass.

use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Validate};
use crate::object::Registered;
use crate::storage_class::{check_parameters, check_provisioner};
use crate::strategy::plain;
use crate::support::{age, column, no_change};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use meta::{FieldError, FieldErrors, GroupVersionKind, Path};

const COLUMNS: &[Column<VolumeAttributesClass>] = &[
    column("DriverName", "Name of the CSI driver This field is immutable.", |c| {
        Cell::str(c.driver_name.clone())
    }),
    age(),
];

pub static VOLUME_ATTRIBUTES_CLASS: Registered<VolumeAttributesClass> = Registered::new(Kind {
    gvk: GroupVersionKind::of("storage.k8s.io", "v1", "VolumeAttributesClass"),
    names: Names {
        plural: "volumeattributesclasses",
        singular: "volumeattributesclass",
        short: &["vac"],
        categories: &[],
    },
    scope: Scope::Cluster,
    definition: "io.k8s.api.storage.v1.VolumeAttributesClass",
    storage: "volumeattributesclasses",
    name_rule: NameRule::DnsSubdomain,
    default: no_change,
    validate: Validate { create: validate, update: validate_update },
    strategy: plain(),
    subresources: &[],
    selectable: &[],
    columns: COLUMNS,
});

fn validate(class: &VolumeAttributesClass) -> FieldErrors {
    let mut errors = check_provisioner(&class.driver_name, &Path::new("driverName"));
    let path = Path::new("parameters");
    errors.extend(check_parameters(class.parameters.as_ref(), &path));
    if class.parameters.as_ref().is_none_or(|p| p.is_empty()) {
        errors.push(FieldError::required(&path, "must contain at least one key/value pair"));
    }
    errors
}

fn validate_update(new: &VolumeAttributesClass, old: &VolumeAttributesClass) -> FieldErrors {
    let mut errors = Vec::new();
    if new.driver_name != old.driver_name {
        errors.push(FieldError::forbidden(&Path::new("driverName"), "updates to driverName are forbidden."));
    }
    if new.parameters != old.parameters {
        errors.push(FieldError::forbidden(&Path::new("parameters"), "updates to parameters are forbidden."));
    }
    errors.extend(validate(new));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{lines, object};
    use serde_json::{Value, json};

    #[test]
    fn a_class_has_parameters_and_keeps_them() {
        let check = |driver: &str, parameters: Value, expect: &[&str]| {
            let old =
                object(json!({"metadata": {"name": "c"}, "driverName": "d", "parameters": {"iops": "1"}}));
            let new =
                object(json!({"metadata": {"name": "c"}, "driverName": driver, "parameters": parameters}));
            assert_eq!(lines(&validate_update(&new, &old)), expect);
        };
        check("d", json!({"iops": "1"}), &[]);
        check("e", json!({"iops": "1"}), &["driverName: Forbidden: updates to driverName are forbidden."]);
        check(
            "d",
            json!({}),
            &[
                "parameters: Forbidden: updates to parameters are forbidden.",
                "parameters: Required value: must contain at least one key/value pair",
            ],
        );
    }
}
