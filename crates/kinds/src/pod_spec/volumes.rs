//! Volumes of a pod: one source each, and what each source asks for.

use super::claims::validate_claim_template;
use super::legacy_volumes::validate_legacy;
use super::projected::{validate_downward_file, validate_projected};
use super::volume_mounts::{local_path, no_backsteps};
use super::{one_of, refuse_each, required};
use crate::support::text;
use k8s_openapi::api::core::v1::{HostPathVolumeSource, KeyToPath, PodSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meta::validation::{is_dns1123_label, is_dns1123_subdomain};
use meta::{FieldError, FieldErrors, Path, Quantity};

const MAX_FILE_MODE: i32 = 0o777;
const MAX_CSI_DRIVER_BYTES: usize = 63;
const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// The names of the sources that are set, in upstream's order.
pub(super) fn sources(v: &Volume) -> impl Iterator<Item = &'static str> {
    [
        ("emptyDir", v.empty_dir.is_some()),
        ("hostPath", v.host_path.is_some()),
        ("gitRepo", v.git_repo.is_some()),
        ("gcePersistentDisk", v.gce_persistent_disk.is_some()),
        ("awsElasticBlockStore", v.aws_elastic_block_store.is_some()),
        ("secret", v.secret.is_some()),
        ("nfs", v.nfs.is_some()),
        ("iscsi", v.iscsi.is_some()),
        ("glusterfs", v.glusterfs.is_some()),
        ("flocker", v.flocker.is_some()),
        ("persistentVolumeClaim", v.persistent_volume_claim.is_some()),
        ("rbd", v.rbd.is_some()),
        ("cinder", v.cinder.is_some()),
        ("cephFS", v.cephfs.is_some()),
        ("quobyte", v.quobyte.is_some()),
        // upstream's own spelling of this one
        ("downwarAPI", v.downward_api.is_some()),
        ("fc", v.fc.is_some()),
        ("flexVolume", v.flex_volume.is_some()),
        ("configMap", v.config_map.is_some()),
        ("azureFile", v.azure_file.is_some()),
        ("vsphereVolume", v.vsphere_volume.is_some()),
        ("photonPersistentDisk", v.photon_persistent_disk.is_some()),
        ("portworxVolume", v.portworx_volume.is_some()),
        ("azureDisk", v.azure_disk.is_some()),
        ("storageos", v.storageos.is_some()),
        ("projected", v.projected.is_some()),
        ("scaleIO", v.scale_io.is_some()),
        ("csi", v.csi.is_some()),
        ("ephemeral", v.ephemeral.is_some()),
        ("image", v.image.is_some()),
    ]
    .into_iter()
    .filter(|(_, set)| *set)
    .map(|(name, _)| name)
}

pub(super) fn source_count(v: &Volume) -> usize {
    sources(v).count()
}

/// The volumes without an error, which mounts may name.
pub(super) fn validate_volumes<'a>(
    errors: &mut FieldErrors,
    spec: &'a PodSpec,
    meta: Option<&ObjectMeta>,
    path: &Path,
) -> Vec<&'a Volume> {
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let pod_name = meta.and_then(|m| m.name.as_deref()).unwrap_or_default();
    let mut valid: Vec<&Volume> = Vec::with_capacity(volumes.len());
    for (i, volume) in volumes.iter().enumerate() {
        let path = path.index(i);
        let found = errors.len();
        validate_source(errors, volume, meta.is_some(), pod_name, &path);
        let at = || path.child("name");
        if volume.name.is_empty() {
            errors.push(FieldError::required(&at(), ""));
        } else {
            refuse_each(errors, at, &volume.name, is_dns1123_label(&volume.name));
        }
        if valid.iter().any(|v| v.name == volume.name) {
            errors.push(FieldError::duplicate(&at(), &volume.name));
        }
        if errors.len() == found {
            valid.push(volume);
        }
        if let Some(claim) = volume.persistent_volume_claim.as_ref().filter(|_| !pod_name.is_empty()) {
            let created =
                |v: &Volume| v.ephemeral.is_some() && claim.claim_name == format!("{pod_name}-{}", v.name);
            if volumes.iter().any(created) {
                let at = path.child("persistentVolumeClaim").child("claimName");
                let why = "must not reference a PVC that gets created for an ephemeral volume";
                errors.push(FieldError::invalid(&at, &claim.claim_name, why));
            }
        }
    }
    valid
}

fn validate_source(errors: &mut FieldErrors, v: &Volume, is_pod: bool, pod_name: &str, path: &Path) {
    let mut sources = sources(v);
    let Some(first) = sources.next() else {
        errors.push(FieldError::required(path, "must specify a volume type"));
        return;
    };
    if let Some(limit) = v.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref())
        && Quantity::parse(&limit.0).map_or(true, Quantity::is_negative)
    {
        let why = "SizeLimit field must be a valid resource quantity";
        errors.push(FieldError::forbidden(&path.child("emptyDir").child("sizeLimit"), why));
    }
    match first {
        "hostPath" => v.host_path.iter().for_each(|h| validate_host_path(errors, h, &path.child("hostPath"))),
        "secret" => v.secret.iter().for_each(|s| {
            let path = path.child("secret");
            required(errors, || path.child("secretName"), text(s.secret_name.as_ref()));
            validate_mode(errors, s.default_mode, || path.child("defaultMode"));
            validate_items(errors, s.items.as_deref().unwrap_or_default(), &path);
        }),
        "configMap" => v.config_map.iter().for_each(|c| {
            let path = path.child("configMap");
            required(errors, || path.child("name"), &c.name);
            validate_mode(errors, c.default_mode, || path.child("defaultMode"));
            validate_items(errors, c.items.as_deref().unwrap_or_default(), &path);
        }),
        "downwarAPI" => v.downward_api.iter().for_each(|d| {
            let path = path.child("downwardAPI");
            validate_mode(errors, d.default_mode, || path.child("defaultMode"));
            d.items.iter().flatten().for_each(|file| validate_downward_file(errors, file, &path));
        }),
        "projected" => {
            v.projected.iter().for_each(|p| validate_projected(errors, p, &path.child("projected")))
        }
        "persistentVolumeClaim" => v.persistent_volume_claim.iter().for_each(|c| {
            required(errors, || path.child("persistentVolumeClaim").child("claimName"), &c.claim_name);
        }),
        "csi" => v.csi.iter().for_each(|csi| {
            let path = path.child("csi");
            validate_csi_driver(errors, &csi.driver, &path.child("driver"));
            match csi.node_publish_secret_ref.as_ref().map(|r| r.name.as_str()) {
                None => {}
                Some("") => {
                    errors.push(FieldError::required(&path.child("nodePublishSecretRef").child("name"), ""));
                }
                Some(name) => refuse_each(errors, || path.child("name"), name, is_dns1123_subdomain(name)),
            }
        }),
        "ephemeral" => v.ephemeral.iter().for_each(|e| {
            let at = path.child("ephemeral").child("volumeClaimTemplate");
            match &e.volume_claim_template {
                None => errors.push(FieldError::required(&at, "")),
                Some(template) => validate_claim_template(errors, template, &at),
            }
            if !pod_name.is_empty() && !v.name.is_empty() {
                let claim = format!("{pod_name}-{}", v.name);
                for message in is_dns1123_subdomain(&claim) {
                    let why = format!("PVC name {claim:?}: {message}");
                    errors.push(FieldError::invalid(&path.child("name"), &v.name, why));
                }
            }
        }),
        "image" => v.image.iter().for_each(|image| {
            let path = path.child("image");
            if is_pod {
                required(errors, || path.child("reference"), text(image.reference.as_ref()));
            }
            let policy = text(image.pull_policy.as_ref());
            one_of(errors, || path.child("pullPolicy"), policy, &["Always", "IfNotPresent", "Never"]);
        }),
        _ => validate_legacy(errors, v, first, path),
    }
    for name in sources {
        errors.push(FieldError::forbidden(&path.child(name), "may not specify more than 1 volume type"));
    }
}

pub(crate) fn validate_host_path(errors: &mut FieldErrors, host: &HostPathVolumeSource, path: &Path) {
    if host.path.is_empty() {
        errors.push(FieldError::required(&path.child("path"), ""));
        return;
    }
    no_backsteps(errors, &host.path, || path.child("path"));
    if let Some(kind) = host.type_.as_deref().filter(|t| !HOST_PATH_TYPES.contains(t)) {
        errors.push(FieldError::not_supported(&path.child("type"), kind, HOST_PATH_TYPES));
    }
}

/// The name of a CSI driver, wherever it is given.
pub(crate) fn validate_csi_driver(errors: &mut FieldErrors, driver: &str, path: &Path) {
    if driver.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    if driver.len() > MAX_CSI_DRIVER_BYTES {
        errors.push(FieldError::too_long(path, MAX_CSI_DRIVER_BYTES));
    }
    refuse_each(errors, || path.clone(), driver, is_dns1123_subdomain(&driver.to_lowercase()));
}

/// A file's permission bits.
pub(super) fn validate_mode(errors: &mut FieldErrors, mode: Option<i32>, at: impl Fn() -> Path) {
    if let Some(mode) = mode.filter(|m| !(0..=MAX_FILE_MODE).contains(m)) {
        let why = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(&at(), mode, why));
    }
}

/// Keys of a config map or secret and the files they become.
pub(super) fn validate_items(errors: &mut FieldErrors, items: &[KeyToPath], path: &Path) {
    for (i, item) in items.iter().enumerate() {
        let path = path.child("items").index(i);
        required(errors, || path.child("key"), &item.key);
        required(errors, || path.child("path"), &item.path);
        local_path(errors, &item.path, || path.child("path"));
        validate_mode(errors, item.mode, || path.child("mode"));
    }
}
