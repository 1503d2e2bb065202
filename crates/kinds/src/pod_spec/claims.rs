//! Specs of PersistentVolumeClaims, where a pod or a StatefulSet has a template of one.

use super::{one_of, refuse_each, required};
use crate::support::text;
use k8s_openapi::api::core::v1::{PersistentVolumeClaimSpec, PersistentVolumeClaimTemplate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meta::validation::{
    is_dns1123_subdomain, name_is_dns_label, validate_annotations, validate_label_selector, validate_labels,
};
use meta::{FieldError, FieldErrors, Path, Quantity};

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

pub(super) fn validate_claim_template(
    errors: &mut FieldErrors,
    template: &PersistentVolumeClaimTemplate,
    path: &Path,
) {
    if let Some(meta) = &template.metadata {
        let at = path.child("metadata");
        if let Some(annotations) = &meta.annotations {
            errors.extend(validate_annotations(annotations, &at.child("annotations")));
        }
        if let Some(labels) = &meta.labels {
            errors.extend(validate_labels(labels, &at.child("labels")));
        }
        only_labels_and_annotations(errors, meta, &at);
    }
    validate_claim_spec(errors, &template.spec, &path.child("spec"));
}

fn only_labels_and_annotations(errors: &mut FieldErrors, meta: &ObjectMeta, path: &Path) {
    for (field, set) in [
        ("name", meta.name.is_some()),
        ("generateName", meta.generate_name.is_some()),
        ("namespace", meta.namespace.is_some()),
        ("uid", meta.uid.is_some()),
        ("resourceVersion", meta.resource_version.is_some()),
        ("generation", meta.generation.is_some()),
        ("creationTimestamp", meta.creation_timestamp.is_some()),
        ("deletionTimestamp", meta.deletion_timestamp.is_some()),
        ("ownerReferences", meta.owner_references.as_ref().is_some_and(|o| !o.is_empty())),
        ("finalizers", meta.finalizers.as_ref().is_some_and(|f| !f.is_empty())),
    ] {
        if set {
            errors.push(FieldError::forbidden(&path.child(field), "cannot be set"));
        }
    }
}

pub(crate) fn validate_claim_spec(errors: &mut FieldErrors, spec: &PersistentVolumeClaimSpec, path: &Path) {
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    let at = || path.child("accessModes");
    if modes.is_empty() {
        errors.push(FieldError::required(&at(), "at least 1 access mode is required"));
    }
    if let Some(selector) = &spec.selector {
        errors.extend(validate_label_selector(selector, &path.child("selector")));
    }
    for mode in modes.iter().filter(|m| !ACCESS_MODES.contains(&m.as_str())) {
        errors.push(FieldError::not_supported(&at(), mode, ACCESS_MODES));
    }
    let alone = modes.iter().any(|m| m == "ReadWriteOncePod");
    if alone && modes.iter().any(|m| m != "ReadWriteOncePod" && ACCESS_MODES.contains(&m.as_str())) {
        errors.push(FieldError::forbidden(&at(), "may not use ReadWriteOncePod with other access modes"));
    }
    let storage = spec.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get("storage"));
    let at = || path.child("resources").key("storage");
    match storage.map(|q| (q, Quantity::parse(&q.0))) {
        None => errors.push(FieldError::required(&at(), "")),
        Some((q, Err(why))) => errors.push(FieldError::invalid(&at(), &q.0, why.to_string())),
        Some((q, Ok(amount))) if amount.is_zero() || amount.is_negative() => {
            errors.push(FieldError::invalid(&at(), &q.0, "must be greater than zero"));
        }
        Some(_) => {}
    }
    let class = text(spec.storage_class_name.as_ref());
    if !class.is_empty() {
        refuse_each(errors, || path.child("storageClassName"), class, is_dns1123_subdomain(class));
    }
    if let Some(mode) = &spec.volume_mode {
        one_of(errors, || path.child("volumeMode"), mode, &["Block", "Filesystem"]);
    }
    validate_data_source(errors, spec, path);
    let class = text(spec.volume_attributes_class_name.as_ref());
    if !class.is_empty() {
        refuse_each(errors, || path.child("volumeAttributesClassName"), class, is_dns1123_subdomain(class));
    }
}

fn validate_data_source(errors: &mut FieldErrors, spec: &PersistentVolumeClaimSpec, path: &Path) {
    let mut check = |field: &str, group: Option<&String>, kind: &str, name: &str| {
        let path = path.child(field);
        required(errors, || path.child("name"), name);
        required(errors, || path.child("kind"), kind);
        let group = text(group);
        if group.is_empty() && kind != "PersistentVolumeClaim" {
            let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.push(FieldError::invalid(&path, kind, why));
        }
        if !group.is_empty() {
            refuse_each(errors, || path.child("apiGroup"), group, is_dns1123_subdomain(group));
        }
    };
    if let Some(source) = &spec.data_source {
        check("dataSource", source.api_group.as_ref(), &source.kind, &source.name);
    }
    let Some(reference) = &spec.data_source_ref else { return };
    check("dataSourceRef", reference.api_group.as_ref(), &reference.kind, &reference.name);
    let namespace = text(reference.namespace.as_ref());
    if !namespace.is_empty() {
        let at = || path.child("dataSourceRef").child("namespace");
        refuse_each(errors, at, namespace, name_is_dns_label(namespace, false));
    }
    let Some(source) = &spec.data_source else { return };
    let same = source.api_group == reference.api_group
        && source.kind == reference.kind
        && source.name == reference.name;
    let why = match (namespace.is_empty(), same) {
        (false, _) => "may not be specified when dataSourceRef.namespace is specified",
        (true, false) => "must match dataSourceRef",
        (true, true) => return,
    };
    errors.push(FieldError::invalid(path, path.child("dataSource").as_str(), why));
}
