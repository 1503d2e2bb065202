//! storage.k8s.io/v1 CSIDriver.

use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Strategy, Validate};
use crate::object::Registered;
use crate::strategy::{next_generation, plain, semantic_eq};
use crate::support::{FIELD_IMMUTABLE, age, column, json, or, typed_column};
use k8s_openapi::api::storage::v1::{CSIDriver, TokenRequest};
use meta::{FieldError, FieldErrors, GroupVersionKind, Path};
use std::collections::BTreeSet;

/// Seconds.
const MIN_TOKEN_EXPIRATION: i64 = 600;
const MAX_TOKEN_EXPIRATION: i64 = 1 << 32;
const MIN_UPDATE_PERIOD: i64 = 10;

const FS_GROUP_POLICIES: &[&str] = &["File", "None", "ReadWriteOnceWithFSType"];

const COLUMNS: &[Column<CSIDriver>] = &[
    typed_column(
        "AttachRequired",
        "boolean",
        "attachRequired indicates this CSI volume driver requires an attach operation (because it implements the CSI ControllerPublishVolume() method), and that the Kubernetes attach detach controller should call the attach volume interface which checks the volumeattachment status and waits until the volume is attached before proceeding to mounting.",
        |d| Cell::Value(d.spec.attach_required.unwrap_or(true).into()),
    ),
    typed_column(
        "PodInfoOnMount",
        "boolean",
        "podInfoOnMount indicates this CSI volume driver requires additional pod information (like podName, podUID, etc.) during mount operations, if set to true. If set to false, pod information will not be passed on mount. Default is false.",
        |d| Cell::Value(d.spec.pod_info_on_mount.unwrap_or(false).into()),
    ),
    typed_column(
        "StorageCapacity",
        "boolean",
        "storageCapacity indicates that the CSI volume driver wants pod scheduling to consider the storage capacity that the driver deployment will report by creating CSIStorageCapacity objects with capacity information, if set to true.",
        |d| Cell::Value(d.spec.storage_capacity.unwrap_or(false).into()),
    ),
    column(
        "TokenRequests",
        "tokenRequests indicates the CSI driver needs pods' service account tokens it is mounting volume for to do necessary authentication.",
        |d| {
            Cell::str(match &d.spec.token_requests {
                None => "<unset>".to_owned(),
                Some(requests) => requests.iter().map(|t| t.audience.as_str()).collect::<Vec<_>>().join(","),
            })
        },
    ),
    typed_column(
        "RequiresRepublish",
        "boolean",
        "requiresRepublish indicates the CSI driver wants `NodePublishVolume` being periodically called to reflect any possible change in the mounted volume.",
        |d| Cell::Value(d.spec.requires_republish.unwrap_or(false).into()),
    ),
    column(
        "Modes",
        "volumeLifecycleModes defines what kind of volumes this CSI volume driver supports. The default if the list is empty is \"Persistent\", which is the usage defined by the CSI specification and implemented in Kubernetes via the usual PV/PVC mechanism.",
        |d| {
            let modes = d.spec.volume_lifecycle_modes.as_deref().unwrap_or_default().join(",");
            Cell::str(or(&modes, "<none>"))
        },
    ),
    age(),
];

pub static CSI_DRIVER: Registered<CSIDriver> = Registered::new(Kind {
    gvk: GroupVersionKind::of("storage.k8s.io", "v1", "CSIDriver"),
    names: Names { plural: "csidrivers", singular: "csidriver", short: &[], categories: &[] },
    scope: Scope::Cluster,
    definition: "io.k8s.api.storage.v1.CSIDriver",
    storage: "csidrivers",
    name_rule: NameRule::DnsSubdomain,
    default,
    validate: Validate { create: validate, update: validate_update },
    strategy: Strategy {
        warnings: crate::warnings::objects::csi_driver,
        // behind an alpha gate upstream (VolumeLimitScaling)
        prepare_create: |d| d.spec.prevent_pod_scheduling_if_missing = None,
        prepare_update: |new, old| {
            if old.spec.prevent_pod_scheduling_if_missing.is_none() {
                new.spec.prevent_pod_scheduling_if_missing = None;
            }
            let changed = !semantic_eq(&new.spec, &old.spec);
            next_generation(new, old, changed);
        },
        unconditional_update: false,
        ..plain()
    },
    subresources: &[],
    selectable: &[],
    columns: COLUMNS,
});

fn default(driver: &mut CSIDriver) {
    let spec = &mut driver.spec;
    spec.attach_required.get_or_insert(true);
    spec.pod_info_on_mount.get_or_insert(false);
    spec.storage_capacity.get_or_insert(false);
    spec.fs_group_policy.get_or_insert_with(|| "ReadWriteOnceWithFSType".to_owned());
    if spec.volume_lifecycle_modes.as_ref().is_none_or(Vec::is_empty) {
        spec.volume_lifecycle_modes = Some(vec!["Persistent".to_owned()]);
    }
    spec.requires_republish.get_or_insert(false);
    spec.se_linux_mount.get_or_insert(false);
}

fn validate(driver: &CSIDriver) -> FieldErrors {
    let spec = &driver.spec;
    let path = Path::new("spec");
    let mut errors = Vec::new();
    for (field, set) in [
        ("attachedRequired", spec.attach_required),
        ("podInfoOnMount", spec.pod_info_on_mount),
        ("storageCapacity", spec.storage_capacity),
    ] {
        if set.is_none() {
            errors.push(FieldError::required(&path.child(field), ""));
        }
    }
    if let Some(policy) = spec.fs_group_policy.as_deref().filter(|p| !FS_GROUP_POLICIES.contains(p)) {
        errors.push(FieldError::not_supported(&path.child("fsGroupPolicy"), policy, FS_GROUP_POLICIES));
    }
    let requests = spec.token_requests.as_deref().unwrap_or_default();
    errors.extend(token_requests(requests, &path.child("tokenRequests")));
    for mode in spec.volume_lifecycle_modes.iter().flatten() {
        if !matches!(mode.as_str(), "Persistent" | "Ephemeral") {
            let path = path.child("volumeLifecycleModes");
            errors.push(FieldError::not_supported(&path, mode, &["Persistent", "Ephemeral"]));
        }
    }
    if spec.se_linux_mount.is_none() {
        errors.push(FieldError::required(&path.child("seLinuxMount"), ""));
    }
    if let Some(seconds) = spec.node_allocatable_update_period_seconds.filter(|s| *s < MIN_UPDATE_PERIOD) {
        let path = path.child("nodeAllocatableUpdatePeriodSeconds");
        errors.push(FieldError::invalid(&path, seconds, "must be greater than or equal to 10 seconds"));
    }
    if let Some(set) = spec.service_account_token_in_secrets.filter(|_| requests.is_empty()) {
        errors.push(FieldError::invalid(
            &path.child("serviceAccountTokenInSecrets"),
            set,
            "serviceAccountTokenInSecrets is set but no tokenRequests are specified",
        ));
    }
    errors
}

fn token_requests(requests: &[TokenRequest], path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let mut audiences = BTreeSet::new();
    for (i, request) in requests.iter().enumerate() {
        let path = path.index(i);
        if !audiences.insert(&request.audience) {
            errors.push(FieldError::duplicate(&path.child("audience"), &request.audience));
            continue;
        }
        let Some(seconds) = request.expiration_seconds else { continue };
        let path = path.child("expirationSeconds");
        if seconds < MIN_TOKEN_EXPIRATION {
            errors.push(FieldError::invalid(
                &path,
                seconds,
                "may not specify a duration less than 10 minutes",
            ));
        }
        if seconds > MAX_TOKEN_EXPIRATION {
            errors.push(FieldError::invalid(
                &path,
                seconds,
                "may not specify a duration larger than 2^32 seconds",
            ));
        }
    }
    errors
}

fn validate_update(new: &CSIDriver, old: &CSIDriver) -> FieldErrors {
    let mut errors = validate(new);
    let path = Path::new("spec");
    if new.spec.attach_required != old.spec.attach_required {
        let value = json(&new.spec.attach_required);
        errors.push(FieldError::invalid(&path.child("attachedRequired"), value, FIELD_IMMUTABLE));
    }
    if !semantic_eq(&new.spec.volume_lifecycle_modes, &old.spec.volume_lifecycle_modes) {
        let value = json(&new.spec.volume_lifecycle_modes);
        errors.push(FieldError::invalid(&path.child("volumeLifecycleModes"), value, FIELD_IMMUTABLE));
    }
    errors
}
