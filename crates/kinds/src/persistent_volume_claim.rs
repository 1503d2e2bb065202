//! v1 PersistentVolumeClaim.

use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Strategy, Subresource, Validate};
use crate::object::Registered;
use crate::persistent_volume::{CLASS_ANNOTATION, VOLUME_MODES, check_access_modes, short_modes};
use crate::pod_spec::defaults::canonical_resources;
use crate::resources::{amount_text, check_positive};
use crate::strategy::{semantic_eq, spec_and_status_no_generation, status_access};
use crate::support::{FIELD_IMMUTABLE, age, column, push_invalid, text, wide};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus, TypedLocalObjectReference,
    TypedObjectReference,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, Quantity, validation as rules};

const COLUMNS: &[Column<PersistentVolumeClaim>] = &[
    column("Status", "phase represents the current phase of PersistentVolumeClaim.", |c| {
        let phase = text(c.status.as_ref().and_then(|s| s.phase.as_ref()));
        Cell::str(if c.metadata.deletion_timestamp.is_some() { "Terminating" } else { phase })
    }),
    column(
        "Volume",
        "volumeName is the binding reference to the PersistentVolume backing this claim.",
        |c| Cell::str(volume_name(c)),
    ),
    column("Capacity", "capacity represents the actual resources of the underlying volume.", |c| {
        if volume_name(c).is_empty() {
            return Cell::str("");
        }
        Cell::str(amount_text(c.status.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage"))))
    }),
    column(
        "Access Modes",
        "accessModes contains the actual access modes the volume backing the PVC has. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#access-modes-1",
        |c| {
            if volume_name(c).is_empty() {
                return Cell::str("");
            }
            Cell::str(short_modes(
                c.status.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default(),
            ))
        },
    ),
    column("StorageClass", "StorageClass of the pvc", |c| {
        let annotation = c.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_ANNOTATION));
        let class = c.spec.as_ref().and_then(|s| s.storage_class_name.as_ref());
        Cell::str(text(annotation.or(class)))
    }),
    column("VolumeAttributesClass", "VolumeAttributesClass of the pvc", |c| {
        let class = c.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
        Cell::str(class.unwrap_or("<unset>"))
    }),
    age(),
    wide(
        "VolumeMode",
        "volumeMode defines what type of volume is required by the claim. Value of Filesystem is implied when not included in claim spec.",
        |c| Cell::str(c.spec.as_ref().and_then(|s| s.volume_mode.as_deref()).unwrap_or("<unset>")),
    ),
];

const SUBRESOURCES: &[Subresource<PersistentVolumeClaim>] =
    &[Subresource::Status(status_access!(PersistentVolumeClaim, validate_status))];

pub static PERSISTENT_VOLUME_CLAIM: Registered<PersistentVolumeClaim> = Registered::new(Kind {
    gvk: GroupVersionKind::of("", "v1", "PersistentVolumeClaim"),
    names: Names {
        plural: "persistentvolumeclaims",
        singular: "persistentvolumeclaim",
        short: &["pvc"],
        categories: &[],
    },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.core.v1.PersistentVolumeClaim",
    storage: "persistentvolumeclaims",
    name_rule: NameRule::DnsSubdomain,
    default,
    validate: Validate { create: validate, update: validate_update },
    strategy: Strategy {
        warnings: |new, _| crate::warnings::objects::persistent_volume_claim(new),
        prepare_create: |c| {
            c.status =
                Some(PersistentVolumeClaimStatus { phase: Some("Pending".to_owned()), ..Default::default() });
            join_sources(c);
        },
        prepare_update: |new, old| {
            new.status = old.status.clone();
            join_sources(new);
        },
        ..spec_and_status_no_generation!(PersistentVolumeClaim)
    },
    subresources: SUBRESOURCES,
    selectable: &[],
    columns: COLUMNS,
});

fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    text(claim.spec.as_ref().and_then(|s| s.volume_name.as_ref()))
}

fn default(claim: &mut PersistentVolumeClaim) {
    let spec = claim.spec.get_or_insert_default();
    spec.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
    if let Some(resources) = &mut spec.resources {
        canonical_resources(resources.requests.as_mut());
        canonical_resources(resources.limits.as_mut());
    }
    let status = claim.status.get_or_insert_default();
    canonical_resources(status.capacity.as_mut());
    canonical_resources(status.allocated_resources.as_mut());
    if text(status.phase.as_ref()).is_empty() {
        status.phase = Some("Pending".to_owned());
    }
}

/// `dataSource` and `dataSourceRef` are two forms of one field: whichever is given fills the other.
fn join_sources(claim: &mut PersistentVolumeClaim) {
    let spec = claim.spec.get_or_insert_default();
    match (&spec.data_source, &spec.data_source_ref) {
        (Some(source), None) => {
            spec.data_source_ref = Some(TypedObjectReference {
                api_group: source.api_group.clone(),
                kind: source.kind.clone(),
                name: source.name.clone(),
                namespace: None,
            });
        }
        (None, Some(source)) if text(source.namespace.as_ref()).is_empty() => {
            spec.data_source = Some(TypedLocalObjectReference {
                api_group: source.api_group.clone(),
                kind: source.kind.clone(),
                name: source.name.clone(),
            });
        }
        _ => {}
    }
}

fn requested(spec: &PersistentVolumeClaimSpec) -> Option<&ApiQuantity> {
    spec.resources.as_ref()?.requests.as_ref()?.get("storage")
}

fn validate(claim: &PersistentVolumeClaim) -> FieldErrors {
    let empty = PersistentVolumeClaimSpec::default();
    let spec = claim.spec.as_ref().unwrap_or(&empty);
    let path = Path::new("spec");
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    let modes_path = path.child("accessModes");
    let mut errors = Vec::new();
    if modes.is_empty() {
        errors.push(FieldError::required(&modes_path, "at least 1 access mode is required"));
    }
    if let Some(selector) = &spec.selector {
        errors.extend(rules::validate_label_selector(selector, &path.child("selector")));
    }
    if !modes.is_empty() {
        errors.extend(check_access_modes(modes, &modes_path, ""));
    }
    let storage_path = path.child("resources").key("storage");
    match requested(spec) {
        None => errors.push(FieldError::required(&storage_path, "")),
        Some(amount) => errors.extend(check_positive(amount, &storage_path)),
    }
    let class = text(spec.storage_class_name.as_ref());
    if !class.is_empty() {
        push_invalid(&mut errors, &path.child("storageClassName"), class, rules::is_dns1123_subdomain(class));
    }
    if let Some(mode) = spec.volume_mode.as_deref().filter(|m| !VOLUME_MODES.contains(m)) {
        errors.push(FieldError::not_supported(&path.child("volumeMode"), mode, VOLUME_MODES));
    }
    errors.extend(sources(spec, &path));
    let class = text(spec.volume_attributes_class_name.as_ref());
    if !class.is_empty() {
        let path = path.child("volumeAttributesClassName");
        push_invalid(&mut errors, &path, class, rules::is_dns1123_subdomain(class));
    }
    errors
}

fn sources(spec: &PersistentVolumeClaimSpec, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let mut check = |field: &str, group: Option<&String>, kind: &str, name: &str| {
        let path = path.child(field);
        if name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
        if kind.is_empty() {
            errors.push(FieldError::required(&path.child("kind"), ""));
        }
        let group = text(group);
        if group.is_empty() && kind != "PersistentVolumeClaim" {
            errors.push(FieldError::invalid(
                &path,
                kind,
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            ));
        }
        if !group.is_empty() {
            push_invalid(&mut errors, &path.child("apiGroup"), group, rules::is_dns1123_subdomain(group));
        }
    };
    if let Some(s) = &spec.data_source {
        check("dataSource", s.api_group.as_ref(), &s.kind, &s.name);
    }
    if let Some(s) = &spec.data_source_ref {
        check("dataSourceRef", s.api_group.as_ref(), &s.kind, &s.name);
    }
    if let (Some(a), Some(b)) = (&spec.data_source, &spec.data_source_ref) {
        let why = if !text(b.namespace.as_ref()).is_empty() {
            Some("may not be specified when dataSourceRef.namespace is specified")
        } else if (text(a.api_group.as_ref()), &a.kind, &a.name)
            != (text(b.api_group.as_ref()), &b.kind, &b.name)
        {
            Some("must match dataSourceRef")
        } else {
            None
        };
        errors.extend(why.map(|w| FieldError::invalid(path, path.child("dataSource").as_str(), w)));
    }
    errors
}

fn validate_update(new: &PersistentVolumeClaim, old: &PersistentVolumeClaim) -> FieldErrors {
    let mut errors = validate(new);
    let (Some(is), Some(was)) = (&new.spec, &old.spec) else { return errors };
    let bound = new.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let mut allowed = is.clone();
    if text(was.volume_name.as_ref()).is_empty() {
        allowed.volume_name = was.volume_name.clone();
    }
    // a claim that was made before there was a default class takes it later
    if was.storage_class_name.is_none() && volume_name(old).is_empty() {
        allowed.storage_class_name = None;
    }
    if bound {
        if let (Some(resources), Some(before)) = (&mut allowed.resources, requested(was)) {
            resources.requests.get_or_insert_default().insert("storage".to_owned(), before.clone());
        }
        allowed.volume_attributes_class_name = was.volume_attributes_class_name.clone();
    }
    if !semantic_eq(&allowed, was) {
        errors.push(FieldError::forbidden(
            &Path::new("spec"),
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        ));
    }
    let size = |q: Option<&ApiQuantity>| q.map(Quantity::of).unwrap_or_default();
    let actual = old.status.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage"));
    if size(requested(is)) < size(requested(was)) && size(requested(is)) <= size(actual) {
        let path = Path::new("spec").child("resources").child("requests").child("storage");
        errors.push(FieldError::forbidden(&path, "field can not be less than status.capacity"));
    }
    if is.volume_mode != was.volume_mode {
        errors.push(FieldError::invalid(&Path::new("volumeMode"), is.volume_mode.clone(), FIELD_IMMUTABLE));
    }
    let current = old.status.as_ref().and_then(|s| s.current_volume_attributes_class_name.as_ref());
    if is.volume_attributes_class_name != was.volume_attributes_class_name && current.is_some() {
        let what = match is.volume_attributes_class_name.as_deref() {
            None => Some("nil"),
            Some("") => Some("empty string"),
            Some(_) => None,
        };
        let path = Path::new("spec").child("volumeAttributesClassName");
        errors.extend(what.map(|w| {
            let why =
                format!("update to {w} is forbidden when status.currentVolumeAttributesClassName is not nil");
            FieldError::forbidden(&path, why)
        }));
    }
    errors
}

fn validate_status(new: &PersistentVolumeClaim, _: &PersistentVolumeClaim) -> FieldErrors {
    let path = Path::new("status").child("capacity");
    let capacity = new.status.as_ref().and_then(|s| s.capacity.as_ref());
    capacity
        .into_iter()
        .flatten()
        .filter(|(_, amount)| Quantity::of(amount).is_negative())
        .map(|(name, amount)| {
            FieldError::invalid(
                &path.key(name),
                Quantity::of(amount).value(),
                "must be a valid resource quantity",
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{lines, object};
    use serde_json::{Value, json};

    fn claim(spec: Value, phase: &str) -> PersistentVolumeClaim {
        let mut claim =
            object(json!({"spec": spec, "status": {"phase": phase, "capacity": {"storage": "2Gi"}}}));
        default(&mut claim);
        claim
    }

    #[test]
    fn refusals() {
        let check = |spec, expect: &[&str]| assert_eq!(lines(&validate(&claim(spec, "Pending"))), expect);
        check(json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}), &[]);
        check(
            json!({}),
            &[
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.resources[storage]: Required value",
            ],
        );
        check(
            json!({"accessModes": ["Often"], "resources": {"requests": {"storage": "0"}}}),
            &[
                "spec.accessModes: Unsupported value: \"Often\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                "spec.resources[storage]: Invalid value: \"0\": must be greater than zero",
            ],
        );
    }

    #[test]
    fn a_bound_claim_may_only_grow() {
        let of = |storage: &str| json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": storage}}});
        let check = |new: &str, phase: &str, expect: &[&str]| {
            let errors = validate_update(&claim(of(new), phase), &claim(of("2Gi"), phase));
            assert_eq!(lines(&errors), expect);
        };
        check("3Gi", "Bound", &[]);
        check(
            "1Gi",
            "Bound",
            &["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"],
        );
        check(
            "3Gi",
            "Pending",
            &[
                "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
            ],
        );
    }
}
