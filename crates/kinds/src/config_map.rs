//! v1 ConfigMap.

use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Validate};
use crate::object::Registered;
use crate::strategy::plain;
use crate::support::{age, column, no_change, push_invalid};
use k8s_openapi::api::core::v1::ConfigMap;
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, validation as rules};
use std::collections::BTreeMap;

/// Bytes that the values of a ConfigMap or a Secret may have together.
pub const MAX_DATA_BYTES: usize = 1024 * 1024;

/// Why a write to data marked immutable is refused.
const IMMUTABLE_IS_SET: &str = "field is immutable when `immutable` is set";

const COLUMNS: &[Column<ConfigMap>] = &[
    column(
        "Data",
        "Data contains the configuration data. Each key must consist of alphanumeric characters, '-', '_' or '.'. Values with non-UTF-8 byte sequences must use the BinaryData field. The keys stored in Data must not overlap with the keys in the BinaryData field, this is enforced during validation process.",
        |c| {
            Cell::int(
                (c.data.as_ref().map_or(0, |d| d.len()) + c.binary_data.as_ref().map_or(0, |d| d.len()))
                    as i64,
            )
        },
    ),
    age(),
];

pub static CONFIG_MAP: Registered<ConfigMap> = Registered::new(Kind {
    gvk: GroupVersionKind::of("", "v1", "ConfigMap"),
    names: Names { plural: "configmaps", singular: "configmap", short: &["cm"], categories: &[] },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.core.v1.ConfigMap",
    storage: "configmaps",
    name_rule: NameRule::DnsSubdomain,
    default: no_change,
    validate: Validate { create: validate, update: validate_update },
    strategy: plain(),
    subresources: &[],
    selectable: &[],
    columns: COLUMNS,
});

fn validate(map: &ConfigMap) -> FieldErrors {
    let mut errors = Vec::new();
    let mut bytes = 0;
    for (key, value) in map.data.iter().flatten() {
        let path = Path::new("data").key(key);
        push_invalid(&mut errors, &path, key, rules::is_config_map_key(key));
        if map.binary_data.as_ref().is_some_and(|b| b.contains_key(key)) {
            errors.push(FieldError::invalid(&path, key, "duplicate of key present in binaryData"));
        }
        bytes += value.len();
    }
    for (key, value) in map.binary_data.iter().flatten() {
        push_invalid(&mut errors, &Path::new("binaryData").key(key), key, rules::is_config_map_key(key));
        bytes += value.0.len();
    }
    if bytes > MAX_DATA_BYTES {
        errors.push(FieldError::too_long(&Path::new("").key(""), MAX_DATA_BYTES));
    }
    errors
}

fn validate_update(new: &ConfigMap, old: &ConfigMap) -> FieldErrors {
    let mut errors = Vec::new();
    if old.immutable == Some(true) {
        errors.extend(still_immutable(new.immutable));
        errors.extend(kept("data", new.data.as_ref(), old.data.as_ref()));
        errors.extend(kept("binaryData", new.binary_data.as_ref(), old.binary_data.as_ref()));
    }
    errors.extend(validate(new));
    errors
}

/// Refuses to make what is immutable changeable again.
pub(crate) fn still_immutable(immutable: Option<bool>) -> Option<FieldError> {
    (immutable != Some(true)).then(|| FieldError::forbidden(&Path::new("immutable"), IMMUTABLE_IS_SET))
}

/// Refuses other data in what is immutable; none is as good as an empty one.
pub(crate) fn kept<V: PartialEq>(
    field: &str,
    new: Option<&BTreeMap<String, V>>,
    old: Option<&BTreeMap<String, V>>,
) -> Option<FieldError> {
    let pairs = |data| Option::into_iter(data).flatten();
    let same = Iterator::eq(pairs(new), pairs(old));
    (!same).then(|| FieldError::forbidden(&Path::new(field), IMMUTABLE_IS_SET))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{check, lines, object};
    use serde_json::json;

    #[test]
    fn keys_and_sizes_are_checked() {
        check(validate, json!({"data": {"a.b-c_D": "x"}}), &[]);
        check(
            validate,
            json!({"data": {"a": "x"}, "binaryData": {"a": "eA=="}}),
            &["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"],
        );
        check(
            validate,
            json!({"data": {"a/b": "x"}}),
            &[
                "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
            ],
        );
        check(
            validate,
            json!({"data": {"a": "x".repeat(MAX_DATA_BYTES + 1)}}),
            &["[]: Too long: may not be more than 1048576 bytes"],
        );
    }

    #[test]
    fn immutable_data_stays() {
        let old = object(json!({"immutable": true, "data": {"a": "1"}}));
        let check =
            |value, expect: &[&str]| assert_eq!(lines(&validate_update(&object(value), &old)), expect);
        check(json!({"immutable": true, "data": {"a": "1"}, "metadata": {"labels": {"x": "y"}}}), &[]);
        check(
            json!({"data": {"a": "2"}}),
            &[
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ],
        );
    }
}
