//! v1 PersistentVolumeClaim.

use crate::diff::unified_diff;
use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Strategy, Subresource, Validate};
use crate::object::Registered;
use crate::persistent_volume::{VOLUME_MODES, check_access_modes, short_modes};
use crate::pod_spec::defaults::canonical_resources;
use crate::resources::{amount_text, check_positive, is_native};
use crate::strategy::{semantic_eq, spec_and_status_no_generation, status_access};
use crate::support::{FIELD_IMMUTABLE, age, column, push_invalid, text, wide};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus, TypedLocalObjectReference,
    TypedObjectReference,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use meta::volumes::{BETA_CLASS, claim_class};
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, Quantity, validation as rules};

/// How far the resize of a resource can have come (KEP-1790).
const RESIZE_STATES: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

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
    column("StorageClass", "StorageClass of the pvc", |c| Cell::str(claim_class(c).unwrap_or(""))),
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
            prepare_sources(c.spec.get_or_insert_default(), None);
        },
        prepare_update: |new, old| {
            new.status.clone_from(&old.status);
            prepare_sources(new.spec.get_or_insert_default(), old.spec.as_ref());
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

/// Drops data sources that cannot be had and brings the two forms of the field together (KEP-1495).
fn prepare_sources(spec: &mut PersistentVolumeClaimSpec, old: Option<&PersistentVolumeClaimSpec>) {
    let elsewhere = spec.data_source_ref.as_ref().is_some_and(|r| !text(r.namespace.as_ref()).is_empty());
    // behind an alpha gate upstream (CrossNamespaceVolumeDataSource)
    if elsewhere && old.is_none_or(|o| o.data_source_ref.is_none()) {
        spec.data_source_ref = None;
    }
    // a client from before `dataSourceRef` gets an empty volume where `dataSource` names what it did not take then
    let had_source = old.is_some_and(|o| o.data_source.is_some() || o.data_source_ref.is_some());
    let is_known = |s: &TypedLocalObjectReference| {
        let kind = (text(s.api_group.as_ref()), s.kind.as_str());
        matches!(kind, ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot"))
    };
    if !had_source && spec.data_source_ref.is_none() && !spec.data_source.as_ref().is_some_and(is_known) {
        spec.data_source = None;
    }
    join_sources(spec);
}

/// `dataSource` and `dataSourceRef` are two forms of one field: whichever is given fills the other.
fn join_sources(spec: &mut PersistentVolumeClaimSpec) {
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
    if let Some(namespace) = spec.data_source_ref.as_ref().and_then(|s| s.namespace.as_ref())
        && !namespace.is_empty()
    {
        let path = path.child("dataSourceRef").child("namespace");
        push_invalid(&mut errors, &path, namespace, rules::is_dns1123_label(namespace));
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
    errors.extend(class_change(&mut allowed.storage_class_name, new, old));
    if bound {
        if let (Some(resources), Some(before)) = (&mut allowed.resources, requested(was)) {
            resources.requests.get_or_insert_default().insert("storage".to_owned(), before.clone());
        }
        allowed.volume_attributes_class_name = was.volume_attributes_class_name.clone();
    }
    if !semantic_eq(&allowed, was) {
        let mut before = was.clone();
        if text(was.volume_name.as_ref()).is_empty() {
            (before.volume_name, allowed.volume_name) = (is.volume_name.clone(), is.volume_name.clone());
        }
        let diff = unified_diff(&before, &allowed);
        let why = format!(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{diff}"
        );
        errors.push(FieldError::forbidden(&Path::new("spec"), why));
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

/// A claim without a class takes one once, whether it had none or named it by the annotation of old; else the
/// annotation stays. `allowed` is the new class, put back where it may change.
fn class_change(
    allowed: &mut Option<String>,
    new: &PersistentVolumeClaim,
    old: &PersistentVolumeClaim,
) -> Option<FieldError> {
    fn annotation(claim: &PersistentVolumeClaim) -> Option<&String> {
        claim.metadata.annotations.as_ref()?.get(BETA_CLASS)
    }
    let (is, was) = (annotation(new), annotation(old));
    let had_none = old.spec.as_ref().is_some_and(|s| s.storage_class_name.is_none());
    let takes_annotated = had_none && was.is_some() && allowed.as_ref() == was;
    if had_none && allowed.is_some() && (was.is_none() || takes_annotated) {
        *allowed = None;
    }
    if takes_annotated && is.is_none_or(|is| Some(is) == was) {
        return None;
    }
    (text(is) != text(was)).then(|| {
        let path = Path::new("metadata").child("annotations").child(BETA_CLASS);
        FieldError::invalid(&path, text(is), FIELD_IMMUTABLE)
    })
}

fn validate_status(new: &PersistentVolumeClaim, _: &PersistentVolumeClaim) -> FieldErrors {
    let Some(status) = &new.status else { return Vec::new() };
    let path = Path::new("status");
    let mut errors = Vec::new();
    for (name, amount) in status.capacity.iter().flatten() {
        errors.extend(check_basic(amount, &path.child("capacity").key(name)));
    }
    let at = path.child("allocatedResourceStatuses");
    for (name, state) in status.allocated_resource_statuses.iter().flatten() {
        errors.extend(check_claim_resource(name, &at));
        if !RESIZE_STATES.contains(&state.as_str()) {
            // upstream shows the resource, not its state
            errors.push(FieldError::not_supported(&at, name, RESIZE_STATES));
        }
    }
    let at = path.child("allocatedResources");
    for (name, amount) in status.allocated_resources.iter().flatten() {
        let refused = check_claim_resource(name, &at);
        if refused.is_empty() {
            errors.extend(check_basic(amount, &at.key(name)));
        }
        errors.extend(refused);
    }
    errors
}

fn check_basic(amount: &ApiQuantity, path: &Path) -> Option<FieldError> {
    let value = Quantity::of(amount).value();
    (value < 0).then(|| FieldError::invalid(path, value, "must be a valid resource quantity"))
}

/// The name of what a claim has of its volume: `storage`, or one that somebody else defines.
fn check_claim_resource(name: &str, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    push_invalid(&mut errors, path, name, rules::is_qualified_name(name));
    if errors.is_empty() && is_native(name) && name != "storage" {
        errors.push(FieldError::not_supported(path, name, &["storage"]));
    }
    errors
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
            &[concat!(
                "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n",
                "@@ -4,7 +4,7 @@\n  ],\n  \"resources\": {\n   \"requests\": {\n-   \"storage\": \"2Gi\"\n+   \"storage\": \"3Gi\"\n   }\n  },\n  \"volumeMode\": \"Filesystem\"\n",
            )],
        );
    }

    #[test]
    fn data_sources_of_old_and_from_elsewhere_are_dropped() {
        let prepared = |source: Value, reference: Value| {
            let mut claim: PersistentVolumeClaim =
                object(json!({"spec": {"dataSource": source, "dataSourceRef": reference}}));
            (PERSISTENT_VOLUME_CLAIM.kind.strategy.prepare_create)(&mut claim);
            let spec = claim.spec.unwrap();
            (spec.data_source.map(|s| s.kind), spec.data_source_ref.map(|s| s.kind))
        };
        let both = |kind: &str| (Some(kind.to_owned()), Some(kind.to_owned()));
        let (claim, book) = (
            json!({"kind": "PersistentVolumeClaim", "name": "c"}),
            json!({"apiGroup": "x.io", "kind": "Book", "name": "b"}),
        );
        assert_eq!(prepared(claim.clone(), Value::Null), both("PersistentVolumeClaim"));
        assert_eq!(prepared(book.clone(), Value::Null), (None, None));
        assert_eq!(prepared(Value::Null, book), both("Book"));
        let mut elsewhere = claim;
        elsewhere["namespace"] = json!("other");
        assert_eq!(prepared(Value::Null, elsewhere), (None, None));
    }

    #[test]
    fn a_class_is_taken_once() {
        let check = |old: Value, new: Value, expect: &[&str]| {
            let (new, old) = (object::<PersistentVolumeClaim>(new), object(old));
            let mut class = new.spec.as_ref().and_then(|s| s.storage_class_name.clone());
            let error = class_change(&mut class, &new, &old);
            assert_eq!(lines(&error.into_iter().collect()), expect);
            class
        };
        let of = |annotation: Option<&str>, class: Option<&str>| {
            let annotations: std::collections::BTreeMap<_, _> =
                annotation.map(|a| (BETA_CLASS, a)).into_iter().collect();
            json!({"metadata": {"annotations": annotations}, "spec": {"storageClassName": class}})
        };
        let changed = "metadata.annotations.volume.beta.kubernetes.io/storage-class: Invalid value: \"\": field is immutable";
        assert_eq!(check(of(None, None), of(None, Some("fast")), &[]), None);
        assert_eq!(check(of(None, Some("slow")), of(None, Some("fast")), &[]).as_deref(), Some("fast"));
        assert_eq!(check(of(Some("fast"), None), of(None, Some("fast")), &[]), None);
        assert_eq!(
            check(of(Some("slow"), None), of(None, Some("fast")), &[changed]).as_deref(),
            Some("fast")
        );
    }

    #[test]
    fn a_status_names_resources_and_states_that_there_are() {
        let check = |status: Value, expect: &[&str]| {
            let claim: PersistentVolumeClaim = object(json!({ "status": status }));
            assert_eq!(lines(&validate_status(&claim, &claim)), expect);
        };
        check(
            json!({"capacity": {"storage": "1Gi"}, "allocatedResources": {"storage": "2Gi", "x.io/iops": "5"},
                "allocatedResourceStatuses": {"storage": "NodeResizePending"}}),
            &[],
        );
        check(
            json!({"capacity": {"storage": "-1"}, "allocatedResources": {"cpu": "1"}, "allocatedResourceStatuses": {"storage": "Done"}}),
            &[
                "status.capacity[storage]: Invalid value: -1: must be a valid resource quantity",
                "status.allocatedResourceStatuses: Unsupported value: \"storage\": supported values: \"ControllerResizeInProgress\", \"ControllerResizeInfeasible\", \"NodeResizeInProgress\", \"NodeResizeInfeasible\", \"NodeResizePending\"",
                "status.allocatedResources: Unsupported value: \"cpu\": supported values: \"storage\"",
            ],
        );
    }
}
