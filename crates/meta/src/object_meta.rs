//! Validation of object metadata and label selectors, with upstream's messages
//! (`apimachinery/pkg/api/validation`, `apis/meta/v1/validation`).

use crate::field::{FieldError, FieldErrors, Json, Path, Printed};
use crate::gvk::GroupVersion;
use crate::validation::{self as rules, Messages};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, ManagedFieldsEntry, ObjectMeta, OwnerReference,
};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Bound of all annotations of an object together, keys and values.
pub const TOTAL_ANNOTATION_SIZE_LIMIT_BYTES: usize = 256 * 1024;
const FIELD_MANAGER_MAX_LENGTH: usize = 128;
const SUBRESOURCE_NAME_MAX_LENGTH: usize = 256;
const IMMUTABLE: &str = "field is immutable";

/// A rule for `metadata.name`: the name, and whether it is only the prefix of one (`generateName`).
pub type NameFn = fn(&str, bool) -> Messages;

/// A prefix may end in a dash, since characters follow.
fn masked(name: &str, prefix: bool) -> std::borrow::Cow<'_, str> {
    if prefix && name.len() > 1 && name.ends_with('-') {
        let cut = (0..=name.len() - 2).rev().find(|i| name.is_char_boundary(*i)).unwrap_or(0);
        return format!("{}a", &name[..cut]).into();
    }
    name.into()
}

pub fn name_is_dns_subdomain(name: &str, prefix: bool) -> Messages {
    rules::is_dns1123_subdomain(&masked(name, prefix))
}

pub fn name_is_dns_label(name: &str, prefix: bool) -> Messages {
    rules::is_dns1123_label(&masked(name, prefix))
}

pub fn name_is_path_segment(name: &str, prefix: bool) -> Messages {
    if prefix {
        return ["/", "%"]
            .iter()
            .filter(|c| name.contains(**c))
            .map(|c| format!("may not contain '{c}'"))
            .collect();
    }
    rules::is_path_segment_name(name)
}

/// An address in its canonical form; generated names are none, so `prefix` is not looked at.
pub fn name_is_ip(name: &str, _prefix: bool) -> Messages {
    let why = match name.parse::<IpAddr>() {
        Err(_) if name.split('.').all(|part| part.parse::<u8>().is_ok()) && name.split('.').count() == 4 => {
            "must not have leading 0s".to_owned()
        }
        Err(_) => "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned(),
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
            "must not be an IPv4-mapped IPv6 address".to_owned()
        }
        Ok(ip) if ip.to_string() != name => format!("must be in canonical form ({:?})", ip.to_string()),
        Ok(_) => return Messages::new(),
    };
    vec![why]
}

fn push_all(errors: &mut FieldErrors, path: impl Fn() -> Path, value: &str, messages: Messages) {
    errors.extend(messages.into_iter().map(|m| FieldError::invalid(&path(), value, m)));
}

pub fn validate_label_name(name: &str, path: &Path) -> FieldErrors {
    rules::is_qualified_name(name).into_iter().map(|m| FieldError::invalid(path, name, m)).collect()
}

pub fn validate_labels(labels: &BTreeMap<String, String>, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    for (key, value) in labels {
        push_all(&mut errors, || path.clone(), key, rules::is_qualified_name(key));
        push_all(&mut errors, || path.clone(), value, rules::is_valid_label_value(value));
    }
    errors
}

pub fn validate_annotations(annotations: &BTreeMap<String, String>, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let mut total_bytes = 0;
    for (key, value) in annotations {
        let messages = if key.bytes().any(|b| b.is_ascii_uppercase()) {
            rules::is_qualified_name(&key.to_lowercase())
        } else {
            rules::is_qualified_name(key)
        };
        push_all(&mut errors, || path.clone(), key, messages);
        total_bytes += key.len() + value.len();
    }
    if total_bytes > TOTAL_ANNOTATION_SIZE_LIMIT_BYTES {
        errors.push(FieldError::too_long(path, TOTAL_ANNOTATION_SIZE_LIMIT_BYTES));
    }
    errors
}

pub fn validate_nonnegative(value: i64, path: &Path) -> FieldErrors {
    if value >= 0 {
        return Vec::new();
    }
    vec![FieldError::invalid(path, value, "must be greater than or equal to 0")]
}

/// The refusal of a changed field.
pub fn validate_immutable<T: PartialEq + Printed>(new: &T, old: &T, path: &Path) -> FieldErrors {
    if new == old { Vec::new() } else { vec![FieldError::invalid(path, new, IMMUTABLE)] }
}

pub fn validate_finalizer_name(name: &str, path: &Path) -> FieldErrors {
    validate_label_name(name, path)
}

fn validate_finalizers(finalizers: &[String], path: &Path) -> FieldErrors {
    let mut errors: FieldErrors = finalizers.iter().flat_map(|f| validate_finalizer_name(f, path)).collect();
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    if has("orphan") && has("foregroundDeletion") {
        errors.push(FieldError::invalid(
            path,
            Json(finalizers),
            "finalizer orphan and foregroundDeletion cannot be both set",
        ));
    }
    errors
}

fn validate_owner_references(owners: &[OwnerReference], path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let mut controller: Option<String> = None;
    for owner in owners {
        let gv = GroupVersion::parse(&owner.api_version);
        if gv.as_ref().is_none_or(|gv| gv.version.is_empty()) {
            errors.push(FieldError::invalid(
                &path.child("apiVersion"),
                &owner.api_version,
                "version must not be empty",
            ));
        }
        for (name, value) in [("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
            if value.is_empty() {
                errors.push(FieldError::invalid(&path.child(name), value, "must not be empty"));
            }
        }
        if owner.api_version == "v1" && owner.kind == "Event" {
            errors.push(FieldError::invalid(
                path,
                Json(owner),
                "/v1, Kind=Event is disallowed from being an owner",
            ));
        }
        if owner.controller == Some(true) {
            let current = format!("{}/{}", owner.kind, owner.name);
            match &controller {
                Some(first) => errors.push(FieldError::invalid(
                    path,
                    Json(owners),
                    format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {current}"),
                )),
                None => controller = Some(current),
            }
        }
    }
    errors
}

fn validate_managed_fields(entries: &[ManagedFieldsEntry], path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, entry) in entries.iter().enumerate() {
        let operation = entry.operation.as_deref().unwrap_or_default();
        if !matches!(operation, "Apply" | "Update") {
            errors.push(FieldError::invalid(
                &path.index(i).child("operation"),
                operation,
                "must be `Apply` or `Update`",
            ));
        }
        if let Some(kind) = entry.fields_type.as_deref().filter(|t| !t.is_empty() && *t != "FieldsV1") {
            errors.push(FieldError::invalid(&path.index(i).child("fieldsType"), kind, "must be `FieldsV1`"));
        }
        let manager = entry.manager.as_deref().unwrap_or_default();
        if manager.len() > FIELD_MANAGER_MAX_LENGTH {
            errors.push(FieldError::too_long(&path.index(i).child("manager"), FIELD_MANAGER_MAX_LENGTH));
        }
        if let Some((at, c)) = manager.char_indices().find(|(_, c)| c.is_control()) {
            errors.push(FieldError::invalid(
                &path.index(i).child("manager"),
                manager,
                format!("invalid character U+{:04X} (at position {at})", u32::from(c)),
            ));
        }
        if entry.subresource.as_ref().is_some_and(|s| s.len() > SUBRESOURCE_NAME_MAX_LENGTH) {
            errors
                .push(FieldError::too_long(&path.index(i).child("subresource"), SUBRESOURCE_NAME_MAX_LENGTH));
        }
    }
    errors
}

fn validate_labels_and_owners(meta: &ObjectMeta, path: &Path, errors: &mut FieldErrors) {
    if let Some(labels) = &meta.labels {
        errors.extend(validate_labels(labels, &path.child("labels")));
    }
    if let Some(annotations) = &meta.annotations {
        errors.extend(validate_annotations(annotations, &path.child("annotations")));
    }
    if let Some(owners) = &meta.owner_references {
        errors.extend(validate_owner_references(owners, &path.child("ownerReferences")));
    }
    if let Some(entries) = &meta.managed_fields {
        errors.extend(validate_managed_fields(entries, &path.child("managedFields")));
    }
}

/// Metadata of a new object, its name generated. `path` is `metadata` as a rule.
pub fn validate_object_meta(
    meta: &ObjectMeta,
    namespaced: bool,
    name_rule: NameFn,
    path: &Path,
) -> FieldErrors {
    let mut errors = Vec::new();
    let generate_name = meta.generate_name.as_deref().unwrap_or_default();
    if !generate_name.is_empty() {
        push_all(&mut errors, || path.child("generateName"), generate_name, name_rule(generate_name, true));
    }
    match meta.name.as_deref().unwrap_or_default() {
        "" => errors.push(FieldError::required(&path.child("name"), "name or generateName is required")),
        name => push_all(&mut errors, || path.child("name"), name, name_rule(name, false)),
    }
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.push(FieldError::required(&path.child("namespace"), "")),
        (true, false) => {
            push_all(&mut errors, || path.child("namespace"), namespace, name_is_dns_label(namespace, false));
        }
        (false, true) => {}
        (false, false) => {
            errors.push(FieldError::forbidden(&path.child("namespace"), "not allowed on this type"))
        }
    }
    if let Some(generation @ ..0) = meta.generation {
        errors.extend(validate_nonnegative(generation, &path.child("generation")));
    }
    validate_labels_and_owners(meta, path, &mut errors);
    if let Some(finalizers) = &meta.finalizers {
        errors.extend(validate_finalizers(finalizers, &path.child("finalizers")));
    }
    errors
}

/// What a change of metadata must keep. The caller has already carried over uid and timestamps that the
/// client left out.
pub fn validate_object_meta_update(new: &ObjectMeta, old: &ObjectMeta, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    if old.deletion_timestamp.is_some() {
        let before = old.finalizers.as_deref().unwrap_or_default();
        let mut added: Vec<&String> =
            new.finalizers.iter().flatten().filter(|f| !before.contains(f)).collect();
        if !added.is_empty() {
            added.sort();
            added.dedup();
            let list: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
            errors.push(FieldError::forbidden(
                &path.child("finalizers"),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    list.join(", ")
                ),
            ));
        }
    }
    if new.resource_version.as_deref().unwrap_or_default().is_empty() {
        errors.push(FieldError::invalid(
            &path.child("resourceVersion"),
            "",
            "must be specified for an update",
        ));
    }
    if let Some(generation) = new.generation.filter(|g| *g < old.generation.unwrap_or(0)) {
        errors.push(FieldError::invalid(&path.child("generation"), generation, "must not be decremented"));
    }
    let immutable = [
        ("name", &new.name, &old.name),
        ("namespace", &new.namespace, &old.namespace),
        ("uid", &new.uid, &old.uid),
    ];
    for (name, new, old) in immutable {
        let (new, old) = (new.as_deref().unwrap_or_default(), old.as_deref().unwrap_or_default());
        if new != old {
            errors.push(FieldError::invalid(&path.child(name), new, IMMUTABLE));
        }
    }
    let times = [
        ("creationTimestamp", &new.creation_timestamp, &old.creation_timestamp),
        ("deletionTimestamp", &new.deletion_timestamp, &old.deletion_timestamp),
    ];
    for (name, new, old) in times {
        if new != old {
            errors.push(FieldError::invalid(&path.child(name), Json(new), IMMUTABLE));
        }
    }
    if new.deletion_grace_period_seconds != old.deletion_grace_period_seconds {
        errors.push(FieldError::invalid(
            &path.child("deletionGracePeriodSeconds"),
            new.deletion_grace_period_seconds,
            IMMUTABLE,
        ));
    }
    validate_labels_and_owners(new, path, &mut errors);
    errors
}

/// The object form of a label selector.
pub fn validate_label_selector(selector: &LabelSelector, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    if let Some(labels) = &selector.match_labels {
        errors.extend(validate_labels(labels, &path.child("matchLabels")));
    }
    for (i, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let at = path.child("matchExpressions").index(i);
        let values = expression.values.as_deref().unwrap_or_default();
        match expression.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
                &at.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
                &at.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                errors.push(FieldError::invalid(
                    &at.child("operator"),
                    other,
                    "not a valid selector operator",
                ));
            }
        }
        errors.extend(validate_label_name(&expression.key, &at.child("key")));
        for (j, value) in values.iter().enumerate() {
            push_all(&mut errors, || at.child("values").index(j), value, rules::is_valid_label_value(value));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(errors: &FieldErrors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn meta(name: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("default".to_owned()),
            resource_version: Some("1".to_owned()),
            ..Default::default()
        }
    }

    #[test]
    fn a_new_object_needs_a_name_and_valid_labels() {
        let path = Path::new("metadata");
        assert!(validate_object_meta(&meta("web"), true, name_is_dns_subdomain, &path).is_empty());
        let bad = ObjectMeta {
            name: None,
            namespace: None,
            labels: Some([("a b".to_owned(), "-".to_owned())].into()),
            ..Default::default()
        };
        let got = texts(&validate_object_meta(&bad, true, name_is_dns_subdomain, &path));
        assert_eq!(got[0], "metadata.name: Required value: name or generateName is required");
        assert_eq!(got[1], "metadata.namespace: Required value");
        assert!(got[2].starts_with("metadata.labels: Invalid value: \"a b\": name part must consist of"));
        assert!(got[3].starts_with("metadata.labels: Invalid value: \"-\": a valid label must be"));
        let generated = ObjectMeta { generate_name: Some("web-".to_owned()), ..meta("web-x") };
        assert!(validate_object_meta(&generated, true, name_is_dns_label, &path).is_empty());
    }

    #[test]
    fn an_update_keeps_identity() {
        let path = Path::new("metadata");
        let old = ObjectMeta { uid: Some("u1".to_owned()), ..meta("web") };
        let new = ObjectMeta { uid: Some("u2".to_owned()), resource_version: None, ..meta("web2") };
        assert_eq!(
            texts(&validate_object_meta_update(&new, &old, &path)),
            [
                "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
                "metadata.name: Invalid value: \"web2\": field is immutable",
                "metadata.uid: Invalid value: \"u2\": field is immutable",
            ]
        );
    }
}
