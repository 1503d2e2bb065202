//! v1 PersistentVolume.

use crate::diff::unified_diff;
use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Subresource, Validate};
use crate::object::Registered;
use crate::pod_spec::defaults::canonical_resources;
use crate::pod_spec::{
    no_backsteps, validate_csi_driver, validate_host_path, validate_legacy, validate_node_selector,
};
use crate::resources::{amount_text, check_positive};
use crate::strategy::{semantic_eq, spec_and_status_no_generation, status_access};
use crate::support::{FIELD_IMMUTABLE, age, column, json, no_update_errors, push_invalid, text, wide};
use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, PersistentVolume, PersistentVolumeSpec, PersistentVolumeStatus,
    SecretReference, Volume, VolumeNodeAffinity,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time as MetaTime;
use meta::volumes::volume_class;
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, validation as rules};

pub(crate) const ACCESS_MODES: &[&str] =
    &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
pub(crate) const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
const RECLAIM_POLICIES: &[&str] = &["Delete", "Recycle", "Retain"];
/// Mount options of old; `spec.mountOptions` has replaced it.
const MOUNT_OPTIONS_ANNOTATION: &str = "volume.beta.kubernetes.io/mount-options";

const COLUMNS: &[Column<PersistentVolume>] = &[
    column(
        "Capacity",
        "capacity is the description of the persistent volume's resources and capacity. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#capacity",
        |v| Cell::str(amount_text(v.spec.as_ref().and_then(|s| s.capacity.as_ref()?.get("storage")))),
    ),
    column(
        "Access Modes",
        "accessModes contains all ways the volume can be mounted. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#access-modes",
        |v| {
            Cell::str(short_modes(
                v.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default(),
            ))
        },
    ),
    column(
        "Reclaim Policy",
        "persistentVolumeReclaimPolicy defines what happens to a persistent volume when released from its claim. Valid options are Retain (default for manually created PersistentVolumes), Delete (default for dynamically provisioned PersistentVolumes), and Recycle (deprecated).",
        |v| Cell::str(text(v.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_ref()))),
    ),
    column(
        "Status",
        "phase indicates if a volume is available, bound to a claim, or released by a claim. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#phase",
        |v| {
            let phase = text(v.status.as_ref().and_then(|s| s.phase.as_ref()));
            Cell::str(if v.metadata.deletion_timestamp.is_some() { "Terminating" } else { phase })
        },
    ),
    column(
        "Claim",
        "claimRef is part of a bi-directional binding between PersistentVolume and PersistentVolumeClaim. Expected to be non-nil when bound. claim.VolumeName is the authoritative bind between PV and PVC.",
        |v| {
            Cell::str(v.spec.as_ref().and_then(|s| s.claim_ref.as_ref()).map_or_else(String::new, |c| {
                format!("{}/{}", text(c.namespace.as_ref()), text(c.name.as_ref()))
            }))
        },
    ),
    column("StorageClass", "StorageClass of the pv", |v| Cell::str(volume_class(v))),
    column("VolumeAttributesClass", "VolumeAttributesClass of the pv", |v| {
        let class = v.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
        Cell::str(class.unwrap_or("<unset>"))
    }),
    column(
        "Reason",
        "reason is a brief CamelCase string that describes any failure and is meant for machine parsing and tidy display in the CLI.",
        |v| Cell::str(text(v.status.as_ref().and_then(|s| s.reason.as_ref()))),
    ),
    age(),
    wide(
        "VolumeMode",
        "volumeMode defines if a volume is intended to be used with a formatted filesystem or to remain in raw block state. Value of Filesystem is implied when not included in spec.",
        |v| Cell::str(v.spec.as_ref().and_then(|s| s.volume_mode.as_deref()).unwrap_or("<unset>")),
    ),
];

const SUBRESOURCES: &[Subresource<PersistentVolume>] =
    &[Subresource::Status(status_access!(PersistentVolume, no_update_errors))];

pub static PERSISTENT_VOLUME: Registered<PersistentVolume> = Registered::new(Kind {
    gvk: GroupVersionKind::of("", "v1", "PersistentVolume"),
    names: Names {
        plural: "persistentvolumes",
        singular: "persistentvolume",
        short: &["pv"],
        categories: &[],
    },
    scope: Scope::Cluster,
    definition: "io.k8s.api.core.v1.PersistentVolume",
    storage: "persistentvolumes",
    name_rule: NameRule::DnsSubdomain,
    default,
    validate: Validate { create: validate, update: validate_update },
    strategy: crate::kind::Strategy {
        warnings: |new, _| crate::warnings::objects::persistent_volume(new),
        prepare_create: |v| {
            v.status =
                Some(PersistentVolumeStatus { phase: Some("Pending".to_owned()), ..Default::default() });
        },
        stamp: Some(phase_began),
        ..spec_and_status_no_generation!(PersistentVolume)
    },
    subresources: SUBRESOURCES,
    selectable: &[],
    columns: COLUMNS,
});

/// KEP-3762: since when the volume is in its phase, unless the client says it.
fn phase_began(new: &mut PersistentVolume, old: Option<&PersistentVolume>, now: meta::Time) {
    let Some(status) = &mut new.status else { return };
    let before = old.and_then(|o| o.status.clone()).unwrap_or_default();
    let (said, began) = (&mut status.last_phase_transition_time, before.last_phase_transition_time);
    if old.is_none() || status.phase != before.phase && (said.is_none() || *said == began) {
        *said = Some(MetaTime(now));
    } else if said.is_none() {
        *said = began;
    }
}

fn default(volume: &mut PersistentVolume) {
    let spec = volume.spec.get_or_insert_default();
    if text(spec.persistent_volume_reclaim_policy.as_ref()).is_empty() {
        spec.persistent_volume_reclaim_policy = Some("Retain".to_owned());
    }
    canonical_resources(spec.capacity.as_mut());
    spec.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
    if let Some(path) = &mut spec.host_path {
        path.type_.get_or_insert_default();
    }
    let status = volume.status.get_or_insert_default();
    if text(status.phase.as_ref()).is_empty() {
        status.phase = Some("Pending".to_owned());
    }
}

/// `RWO,ROX`: access modes as tables show them.
pub(crate) fn short_modes(modes: &[String]) -> String {
    let known = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let shown: Vec<&str> =
        known.iter().filter(|(mode, _)| modes.iter().any(|m| m == mode)).map(|(_, short)| *short).collect();
    shown.join(",")
}

/// Errors of a list of access modes.
pub(crate) fn check_access_modes(modes: &[String], path: &Path, required: &str) -> FieldErrors {
    let mut errors = Vec::new();
    if modes.is_empty() {
        errors.push(FieldError::required(path, required));
    }
    for mode in modes.iter().filter(|m| !ACCESS_MODES.contains(&m.as_str())) {
        errors.push(FieldError::not_supported(path, mode, ACCESS_MODES));
    }
    let single = |m: &&String| m.as_str() == "ReadWriteOncePod";
    let shared = |m: &String| m != "ReadWriteOncePod" && ACCESS_MODES.contains(&m.as_str());
    if modes.iter().find(single).is_some() && modes.iter().any(shared) {
        errors.push(FieldError::forbidden(path, "may not use ReadWriteOncePod with other access modes"));
    }
    errors
}

/// The names of the volume sources that are set, as in JSON.
fn sources(spec: &PersistentVolumeSpec) -> Vec<&'static str> {
    let all = [
        ("hostPath", spec.host_path.is_some()),
        ("gcePersistentDisk", spec.gce_persistent_disk.is_some()),
        ("awsElasticBlockStore", spec.aws_elastic_block_store.is_some()),
        ("glusterfs", spec.glusterfs.is_some()),
        ("flocker", spec.flocker.is_some()),
        ("nfs", spec.nfs.is_some()),
        ("rbd", spec.rbd.is_some()),
        ("quobyte", spec.quobyte.is_some()),
        ("cephFS", spec.cephfs.is_some()),
        ("iscsi", spec.iscsi.is_some()),
        ("cinder", spec.cinder.is_some()),
        ("fc", spec.fc.is_some()),
        ("flexVolume", spec.flex_volume.is_some()),
        ("azureFile", spec.azure_file.is_some()),
        ("vsphereVolume", spec.vsphere_volume.is_some()),
        ("photonPersistentDisk", spec.photon_persistent_disk.is_some()),
        ("portworxVolume", spec.portworx_volume.is_some()),
        ("azureDisk", spec.azure_disk.is_some()),
        ("scaleIO", spec.scale_io.is_some()),
        ("local", spec.local.is_some()),
        ("storageos", spec.storageos.is_some()),
        ("csi", spec.csi.is_some()),
    ];
    all.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect()
}

fn validate(volume: &PersistentVolume) -> FieldErrors {
    let mut errors = validate_spec(volume);
    let annotations = volume.metadata.annotations.as_ref();
    let mountable = volume.spec.as_ref().is_some_and(takes_mount_options);
    if !mountable && annotations.is_some_and(|a| a.contains_key(MOUNT_OPTIONS_ANNOTATION)) {
        let path = Path::new("metadata").child("annotations").child(MOUNT_OPTIONS_ANNOTATION);
        errors.push(FieldError::forbidden(&path, "may not specify mount options for this volume type"));
    }
    errors
}

/// Whether the annotation of mount options, which the field has replaced, means something to the volume's type.
fn takes_mount_options(spec: &PersistentVolumeSpec) -> bool {
    const TYPES: &[&str] = &[
        "gcePersistentDisk",
        "awsElasticBlockStore",
        "glusterfs",
        "nfs",
        "rbd",
        "quobyte",
        "iscsi",
        "cinder",
        "cephFS",
        "azureFile",
        "vsphereVolume",
        "azureDisk",
        "photonPersistentDisk",
    ];
    sources(spec).iter().any(|source| TYPES.contains(source))
}

fn validate_spec(volume: &PersistentVolume) -> FieldErrors {
    let empty = PersistentVolumeSpec::default();
    let spec = volume.spec.as_ref().unwrap_or(&empty);
    let path = Path::new("spec");
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    let mut errors = check_access_modes(modes, &path.child("accessModes"), "");
    errors.extend(capacity(spec, &path.child("capacity")));

    let policy = text(spec.persistent_volume_reclaim_policy.as_ref());
    let policy_path = path.child("persistentVolumeReclaimPolicy");
    if !policy.is_empty() && !RECLAIM_POLICIES.contains(&policy) {
        errors.push(FieldError::not_supported(&policy_path, policy, RECLAIM_POLICIES));
    }
    if let Some(affinity) = &spec.node_affinity {
        errors.extend(node_affinity(affinity, &path.child("nodeAffinity")));
    }
    let given = sources(spec);
    for name in given.iter().skip(1).filter(|n| **n != "flexVolume") {
        errors.push(FieldError::forbidden(&path.child(name), "may not specify more than 1 volume type"));
    }
    match given.first() {
        None => errors.push(FieldError::required(&path, "must specify a volume type")),
        Some(first) => errors.extend(source(volume, spec, first, &path)),
    }
    if policy == "Recycle" && spec.host_path.as_ref().is_some_and(|h| is_root(&h.path)) {
        errors.push(FieldError::forbidden(&policy_path, "may not be 'recycle' for a hostPath mount of '/'"));
    }
    let class = text(spec.storage_class_name.as_ref());
    if !class.is_empty() {
        push_invalid(&mut errors, &path.child("storageClassName"), class, rules::is_dns1123_subdomain(class));
    }
    if let Some(mode) = spec.volume_mode.as_deref().filter(|m| !VOLUME_MODES.contains(m)) {
        errors.push(FieldError::not_supported(&path.child("volumeMode"), mode, VOLUME_MODES));
    }
    if let Some(class) = spec.volume_attributes_class_name.as_deref() {
        let class_path = path.child("volumeAttributesClassName");
        if class.is_empty() {
            errors.push(FieldError::required(&class_path, "an empty string is disallowed"));
        } else {
            push_invalid(&mut errors, &class_path, class, rules::is_dns1123_subdomain(class));
        }
        if spec.csi.is_none() {
            let path = path.child("csi");
            errors.push(FieldError::required(
                &path,
                "has to be specified when using volumeAttributesClassName",
            ));
        }
    }
    errors
}

fn capacity(spec: &PersistentVolumeSpec, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let amounts = spec.capacity.clone().unwrap_or_default();
    if amounts.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    if amounts.len() != 1 || !amounts.contains_key("storage") {
        let value = if spec.capacity.is_none() { serde_json::Value::Null } else { json(&amounts) };
        errors.push(FieldError::not_supported(path, value, &["storage"]));
    }
    errors.extend(amounts.iter().flat_map(|(name, amount)| check_positive(amount, &path.key(name))));
    errors
}

fn is_root(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|p| matches!(p, "" | "." | ".."))
}

fn node_affinity(affinity: &VolumeNodeAffinity, path: &Path) -> FieldErrors {
    let path = path.child("required");
    let mut errors = Vec::new();
    match &affinity.required {
        None => errors.push(FieldError::required(&path, "must specify required node constraints")),
        Some(required) => validate_node_selector(&mut errors, required, &path),
    }
    errors
}

fn source(volume: &PersistentVolume, spec: &PersistentVolumeSpec, name: &str, path: &Path) -> FieldErrors {
    let at = path.child(name);
    let mut errors = Vec::new();
    match name {
        "hostPath" => spec.host_path.iter().for_each(|h| validate_host_path(&mut errors, h, &at)),
        "local" => {
            let local = spec.local.as_ref().map_or("", |l| &l.path);
            if local.is_empty() {
                errors.push(FieldError::required(&at.child("path"), ""));
            }
            no_backsteps(&mut errors, local, || at.child("path"));
            if spec.node_affinity.is_none() {
                let why = "Local volume requires node affinity";
                errors.push(FieldError::required(&path.child("nodeAffinity"), why));
            }
        }
        "csi" => spec.csi.iter().for_each(|csi| errors.extend(csi_source(csi, &at))),
        _ => validate_legacy(&mut errors, &as_pods_have_it(volume, spec), name, path),
    }
    errors
}

/// A volume of a pod with the same source: those of network storage have the same fields, but for the namespaces
/// of secrets.
fn as_pods_have_it(volume: &PersistentVolume, spec: &PersistentVolumeSpec) -> Volume {
    let mut fields = json(spec);
    fields["name"] = text(volume.metadata.name.as_ref()).into();
    serde_json::from_value(fields).expect("what volumes of pods share has the same types")
}

fn csi_source(csi: &CSIPersistentVolumeSource, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    validate_csi_driver(&mut errors, &csi.driver, &path.child("driver"));
    if csi.volume_handle.is_empty() {
        errors.push(FieldError::required(&path.child("volumeHandle"), ""));
    }
    let secrets: [(&str, &Option<SecretReference>); 4] = [
        ("controllerPublishSecretRef", &csi.controller_publish_secret_ref),
        ("controllerExpandSecretRef", &csi.controller_expand_secret_ref),
        ("nodePublishSecretRef", &csi.node_publish_secret_ref),
        ("nodeExpandSecretRef", &csi.node_expand_secret_ref),
    ];
    for (field, secret) in secrets.into_iter().filter_map(|(f, s)| Some((f, s.as_ref()?))) {
        let rules = [
            ("name", &secret.name, rules::is_dns1123_subdomain as fn(&str) -> Vec<String>),
            ("namespace", &secret.namespace, rules::is_dns1123_label),
        ];
        for (part, value, rule) in rules {
            let (value, path) = (text(value.as_ref()), path.child(field).child(part));
            if value.is_empty() {
                errors.push(FieldError::required(&path, ""));
            } else {
                push_invalid(&mut errors, &path, value, rule(value));
            }
        }
    }
    errors
}

fn validate_update(new: &PersistentVolume, old: &PersistentVolume) -> FieldErrors {
    let mut errors = validate(new);
    let (Some(is), Some(was)) = (&new.spec, &old.spec) else { return errors };
    let mut is_source = source_only(is);
    let was_source = source_only(was);
    // a secret for expansion may be added to a volume that had none
    if let (Some(a), Some(b)) = (&mut is_source.csi, &was_source.csi)
        && b.controller_expand_secret_ref.is_none()
    {
        a.controller_expand_secret_ref = None;
    }
    if !semantic_eq(&is_source, &was_source) {
        let diff = unified_diff(&was_source, &is_source);
        let why = format!("spec.persistentvolumesource is immutable after creation\n{diff}");
        errors.push(FieldError::forbidden(&Path::new("spec").child("persistentvolumesource"), why));
    }
    if is.volume_mode != was.volume_mode {
        errors.push(FieldError::invalid(&Path::new("volumeMode"), is.volume_mode.clone(), FIELD_IMMUTABLE));
    }
    if was.node_affinity.is_some() && !semantic_eq(&is.node_affinity, &was.node_affinity) {
        let why = format!("{FIELD_IMMUTABLE}, except for updating from beta label to GA");
        errors.push(FieldError::invalid(&Path::new("nodeAffinity"), json(&is.node_affinity), why));
    }
    if was.volume_attributes_class_name.is_some() && is.volume_attributes_class_name.is_none() {
        let path = Path::new("spec").child("volumeAttributesClassName");
        errors.push(FieldError::forbidden(&path, "update from non-nil value to nil is forbidden"));
    }
    errors
}

/// The spec with everything but its volume source cleared.
fn source_only(spec: &PersistentVolumeSpec) -> PersistentVolumeSpec {
    PersistentVolumeSpec {
        access_modes: None,
        capacity: None,
        claim_ref: None,
        mount_options: None,
        node_affinity: None,
        persistent_volume_reclaim_policy: None,
        storage_class_name: None,
        volume_attributes_class_name: None,
        volume_mode: None,
        ..spec.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{lines, object};
    use serde_json::{Value, json};

    #[test]
    fn a_volume_tells_since_when_it_is_in_its_phase() {
        let at = |seconds| meta::Time::from_second(seconds).unwrap();
        let volume = |phase: &str, said: Option<i64>| PersistentVolume {
            status: Some(PersistentVolumeStatus {
                phase: Some(phase.to_owned()),
                last_phase_transition_time: said.map(|s| MetaTime(at(s))),
                ..Default::default()
            }),
            ..Default::default()
        };
        let check = |mut new: PersistentVolume, old: Option<PersistentVolume>, expect: i64| {
            phase_began(&mut new, old.as_ref(), at(9));
            assert_eq!(new.status.unwrap().last_phase_transition_time, Some(MetaTime(at(expect))));
        };
        check(volume("Pending", None), None, 9);
        check(volume("Bound", Some(1)), Some(volume("Pending", Some(1))), 9);
        check(volume("Bound", None), Some(volume("Pending", Some(1))), 9);
        // the same phase, and a client that says it itself
        check(volume("Bound", None), Some(volume("Bound", Some(1))), 1);
        check(volume("Bound", Some(5)), Some(volume("Pending", Some(1))), 5);
    }

    #[test]
    fn refusals() {
        let check = |value, expect: &[&str]| {
            let mut volume = object(json!({"spec": value}));
            default(&mut volume);
            assert_eq!(lines(&validate_spec(&volume)), expect);
        };
        let capacity = json!({"storage": "1Gi"});
        check(
            json!({"capacity": capacity, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/data"}}),
            &[],
        );
        check(
            json!({"accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/data"}}),
            &[
                "spec.capacity: Required value",
                "spec.capacity: Unsupported value: null: supported values: \"storage\"",
            ],
        );
        check(
            json!({"capacity": capacity, "hostPath": {"path": "/a/../b"}}),
            &[
                "spec.accessModes: Required value",
                "spec.hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
            ],
        );
        check(
            json!({"capacity": capacity, "accessModes": ["ReadWriteOnce"]}),
            &["spec: Required value: must specify a volume type"],
        );
        check(
            json!({"capacity": capacity, "accessModes": ["ReadWriteOnce", "ReadWriteOncePod"], "local": {"path": "/d"}, "nfs": {"server": "s", "path": "/p"}}),
            &[
                "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
                "spec.local: Forbidden: may not specify more than 1 volume type",
            ],
        );
    }

    #[test]
    fn sources_and_affinity_are_checked_as_pods_are() {
        let check = |value: Value, expect: &[&str]| {
            let mut spec = json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]});
            spec.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
            assert_eq!(lines(&validate(&object(json!({"metadata": {"name": "v"}, "spec": spec})))), expect);
        };
        check(
            json!({"nfs": {"server": "s", "path": "p"}}),
            &["spec.nfs.path: Invalid value: \"p\": must be an absolute path"],
        );
        check(
            json!({"iscsi": {"targetPortal": "10.0.0.1", "iqn": "disk", "lun": 0}}),
            &["spec.iscsi.iqn: Invalid value: \"disk\": must be valid format starting with iqn, eui, or naa"],
        );
        check(json!({"csi": {"driver": "", "volumeHandle": "h"}}), &["spec.csi.driver: Required value"]);
        check(
            json!({"csi": {"driver": "d", "volumeHandle": "h", "nodePublishSecretRef": {"name": "a", "namespace": "A"}}}),
            &[
                "spec.csi.nodePublishSecretRef.namespace: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            ],
        );
        let of = |requirement: Value| {
            json!({"local": {"path": "/d"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [requirement]}]}}})
        };
        check(of(json!({"key": "kubernetes.io/hostname", "operator": "In", "values": ["a"]})), &[]);
        check(
            of(json!({"key": "kubernetes.io/hostname", "operator": "In"})),
            &[
                "spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            ],
        );
    }

    #[test]
    fn the_source_stays_and_its_change_is_shown() {
        let volume = |path: &str| -> PersistentVolume {
            object(
                json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": path}}}),
            )
        };
        assert_eq!(lines(&validate_update(&volume("/a"), &volume("/a"))), [""; 0]);
        assert_eq!(
            lines(&validate_update(&volume("/b"), &volume("/a"))),
            [concat!(
                "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n",
                "@@ -1,5 +1,5 @@\n {\n  \"hostPath\": {\n-  \"path\": \"/a\"\n+  \"path\": \"/b\"\n  }\n }\n",
            )]
        );
    }

    #[test]
    fn every_source_has_its_like_in_pods() {
        let secret = json!({"name": "s", "namespace": "n"});
        let spec = json!({
            "hostPath": {"path": "/"}, "gcePersistentDisk": {"pdName": "d", "partition": 1},
            "awsElasticBlockStore": {"volumeID": "v"}, "glusterfs": {"endpoints": "e", "path": "p", "endpointsNamespace": "n"},
            "flocker": {"datasetName": "d"}, "nfs": {"server": "s", "path": "/"},
            "rbd": {"monitors": ["m"], "image": "i", "secretRef": secret}, "quobyte": {"registry": "r:1", "volume": "v"},
            "cephfs": {"monitors": ["m"], "secretRef": secret}, "cinder": {"volumeID": "v", "secretRef": secret},
            "iscsi": {"targetPortal": "p", "iqn": "i", "lun": 0, "secretRef": secret}, "fc": {"wwids": ["w"]},
            "flexVolume": {"driver": "d", "secretRef": secret, "options": {"a": "b"}},
            "azureFile": {"secretName": "s", "shareName": "h", "secretNamespace": "n"}, "vsphereVolume": {"volumePath": "p"},
            "photonPersistentDisk": {"pdID": "i"}, "portworxVolume": {"volumeID": "v"},
            "azureDisk": {"diskName": "d", "diskURI": "u"},
            "scaleIO": {"gateway": "g", "system": "s", "secretRef": secret}, "local": {"path": "/"},
            "storageos": {"volumeName": "v", "secretRef": {"kind": "Secret", "name": "s"}},
            "csi": {"driver": "d", "volumeHandle": "h", "nodePublishSecretRef": secret},
        });
        let volume: PersistentVolume = object(json!({"metadata": {"name": "v"}, "spec": spec}));
        let as_pods = json(&as_pods_have_it(&volume, volume.spec.as_ref().unwrap()));
        assert_eq!(sources(volume.spec.as_ref().unwrap()).len(), 22);
        // the name, and all but what only persistent volumes are: local
        assert_eq!(as_pods.as_object().unwrap().len(), 1 + 22 - 1);
    }
}
