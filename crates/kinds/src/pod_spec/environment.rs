//! Environment variables and where their values come from.

use super::{refuse_each, required};
use crate::support::text;
use k8s_openapi::api::core::v1::{
    Container, EnvVar, FileKeySelector, ObjectFieldSelector, ResourceFieldSelector,
};
use meta::validation::{
    is_config_map_key, is_dns1123_label, is_qualified_name, is_relaxed_env_var_name, name_is_dns_subdomain,
};
use meta::{FieldError, FieldErrors, Path, Quantity};

/// What the environment may take from the pod.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCE_FIELDS: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
/// What upstream can convert at all; the rest is "not supported" before any list is looked at.
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const MEMORY_DIVISORS: &[&str] =
    &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

pub(super) fn validate_env(errors: &mut FieldErrors, container: &Container, path: &Path) {
    for (i, var) in container.env.iter().flatten().enumerate() {
        let at = || path.child("env").index(i);
        if var.name.is_empty() {
            errors.push(FieldError::required(&at().child("name"), ""));
        } else {
            refuse_each(errors, || at().child("name"), &var.name, is_relaxed_env_var_name(&var.name));
        }
        if var.value_from.is_some() {
            validate_value_from(errors, var, &at().child("valueFrom"));
        }
    }
}

fn validate_value_from(errors: &mut FieldErrors, var: &EnvVar, path: &Path) {
    let Some(from) = &var.value_from else { return };
    let mut sources = 0;
    if let Some(reference) = &from.field_ref {
        sources += 1;
        validate_field_ref(errors, reference, ENV_FIELDS, &path.child("fieldRef"));
    }
    if let Some(reference) = &from.resource_field_ref {
        sources += 1;
        validate_resource_field_ref(errors, reference, false, &path.child("resourceFieldRef"));
    }
    let key = |errors: &mut FieldErrors, name: &str, key: &str, path: Path| {
        refuse_each(errors, || path.child("name"), name, name_is_dns_subdomain(name, false));
        if key.is_empty() {
            errors.push(FieldError::required(&path.child("key"), ""));
        } else {
            refuse_each(errors, || path.child("key"), key, is_config_map_key(key));
        }
    };
    if let Some(reference) = &from.config_map_key_ref {
        sources += 1;
        key(errors, &reference.name, &reference.key, path.child("configMapKeyRef"));
    }
    if let Some(reference) = &from.secret_key_ref {
        sources += 1;
        key(errors, &reference.name, &reference.key, path.child("secretKeyRef"));
    }
    if let Some(reference) = &from.file_key_ref {
        sources += 1;
        validate_file_key(errors, reference, &path.child("fileKeyRef"));
    }
    if sources == 0 {
        let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.push(FieldError::invalid(path, "", why));
    } else if !text(var.value.as_ref()).is_empty() {
        errors.push(FieldError::invalid(path, "", "may not be specified when `value` is not empty"));
    } else if sources > 1 {
        errors.push(FieldError::invalid(path, "", "may not have more than one field specified at a time"));
    }
}

fn validate_file_key(errors: &mut FieldErrors, reference: &FileKeySelector, path: &Path) {
    if reference.key.is_empty() {
        errors.push(FieldError::required(&path.child("key"), ""));
    } else {
        refuse_each(errors, || path.child("key"), &reference.key, is_relaxed_env_var_name(&reference.key));
    }
    if reference.volume_name.is_empty() {
        errors.push(FieldError::required(&path.child("volumeName"), ""));
    } else {
        let messages = is_dns1123_label(&reference.volume_name);
        refuse_each(errors, || path.child("volumeName"), &reference.volume_name, messages);
    }
    required(errors, || path.child("path"), &reference.path);
    super::volume_mounts::no_backsteps(errors, &reference.path, || path.child("path"));
}

/// `metadata.labels['app']` taken apart.
fn subscripted(field: &str) -> Option<(&str, &str)> {
    let (path, rest) = field.split_once("['")?;
    Some((path, rest.strip_suffix("']")?))
}

/// A reference to a field of the pod (downward API).
pub(super) fn validate_field_ref(
    errors: &mut FieldErrors,
    reference: &ObjectFieldSelector,
    allowed: &[&str],
    path: &Path,
) {
    let version = text(reference.api_version.as_ref());
    let field = reference.field_path.as_str();
    if version.is_empty() {
        errors.push(FieldError::required(&path.child("apiVersion"), ""));
        return;
    }
    if field.is_empty() {
        errors.push(FieldError::required(&path.child("fieldPath"), ""));
        return;
    }
    let subscript = subscripted(field);
    let why = match subscript {
        _ if version != "v1" => Some(format!("unsupported pod version: {version}")),
        Some(("metadata.annotations" | "metadata.labels", _)) => None,
        Some(_) => Some(format!("field label does not support subscript: {field}")),
        None if !KNOWN_FIELDS.contains(&field) && field != "spec.host" => {
            Some(format!("field label not supported: {field}"))
        }
        None => None,
    };
    if let Some(why) = why {
        let why = format!("error converting fieldPath: {why}");
        errors.push(FieldError::invalid(&path.child("fieldPath"), field, why));
        return;
    }
    match subscript {
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            refuse_each(errors, || path.clone(), &key, is_qualified_name(&key));
        }
        Some((_, key)) => refuse_each(errors, || path.clone(), key, is_qualified_name(key)),
        None => {
            let field = if field == "spec.host" { "spec.nodeName" } else { field };
            if !allowed.contains(&field) {
                errors.push(FieldError::not_supported(&path.child("fieldPath"), field, allowed));
            }
        }
    }
}

/// A reference to a resource of a container. In a volume the container must be named.
pub(super) fn validate_resource_field_ref(
    errors: &mut FieldErrors,
    reference: &ResourceFieldSelector,
    in_volume: bool,
    path: &Path,
) {
    let resource = reference.resource.as_str();
    let huge_pages = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if in_volume && text(reference.container_name.as_ref()).is_empty() {
        errors.push(FieldError::required(&path.child("containerName"), ""));
    } else if resource.is_empty() {
        errors.push(FieldError::required(&path.child("resource"), ""));
    } else if !RESOURCE_FIELDS.contains(&resource) && !huge_pages {
        errors.push(FieldError::not_supported(&path.child("resource"), resource, RESOURCE_FIELDS));
    }
    let Some(divisor) = reference.divisor.as_ref().filter(|d| !Quantity::of(d).is_zero()) else { return };
    let (allowed, what): (&[&str], &str) = match resource.split_once('.').map(|(_, name)| name) {
        Some("cpu") => (&["1m", "1"], "cpu"),
        Some("memory") => (MEMORY_DIVISORS, "memory"),
        Some("ephemeral-storage") => (MEMORY_DIVISORS, "local ephemeral storage"),
        _ if huge_pages => (MEMORY_DIVISORS, "hugepages"),
        _ => return,
    };
    if !allowed.contains(&divisor.0.as_str()) {
        let list = if what == "cpu" { "1m and 1".to_owned() } else { MEMORY_DIVISORS.join(", ") };
        let why = format!("only divisor's values {list} are supported with the {what} resource");
        errors.push(FieldError::invalid(&path.child("divisor"), resource, why));
    }
}

pub(super) fn validate_env_from(errors: &mut FieldErrors, container: &Container, path: &Path) {
    for (i, source) in container.env_from.iter().flatten().enumerate() {
        let list = || path.child("envFrom");
        let at = |name: &str| list().index(i).child(name);
        let prefix = text(source.prefix.as_ref());
        if !prefix.is_empty() {
            refuse_each(errors, || at("prefix"), prefix, is_relaxed_env_var_name(prefix));
        }
        let references = [
            ("configMapRef", source.config_map_ref.as_ref().map(|r| &r.name)),
            ("secretRef", source.secret_ref.as_ref().map(|r| &r.name)),
        ];
        for (field, name) in references {
            match name.map(String::as_str) {
                None => {}
                Some("") => errors.push(FieldError::required(&at(field).child("name"), "")),
                Some(name) => {
                    refuse_each(errors, || at(field).child("name"), name, name_is_dns_subdomain(name, true));
                }
            }
        }
        match references.iter().filter(|(_, r)| r.is_some()).count() {
            0 => errors.push(FieldError::invalid(
                &list(),
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            )),
            1 => {}
            _ => {
                let why = "may not have more than one field specified at a time";
                errors.push(FieldError::invalid(&list(), "", why));
            }
        }
    }
}
