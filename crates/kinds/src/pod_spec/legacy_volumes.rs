//! Volume sources of network storage, most of which CSI has replaced. Their shape is checked as upstream does;
//! a node refuses those it has no plugin for.

use super::volume_mounts::descending_path;
use super::{refuse_each, required};
use crate::support::text;
use k8s_openapi::api::core::v1::{
    AzureDiskVolumeSource, FCVolumeSource, FlexVolumeSource, FlockerVolumeSource, ISCSIVolumeSource,
    QuobyteVolumeSource, StorageOSVolumeSource, Volume,
};
use meta::validation::{inclusive_range_error, is_dns1123_label};
use meta::{FieldError, FieldErrors, Json, Path};

const MAX_LUN: i32 = 255;
const MAX_PARTITION: i32 = 255;
const MAX_QUOBYTE_TENANT: usize = 64;
const MAX_ISCSI_NAME_AND_PORTAL: usize = 64;

/// `source`: the field's name as [`super::volumes::sources`] says.
pub(crate) fn validate_legacy(errors: &mut FieldErrors, v: &Volume, source: &str, path: &Path) {
    let mut need = |fields: &[(&str, &str)], source: &str| {
        for (field, value) in fields {
            required(errors, || path.child(source).child(field), value);
        }
    };
    if let Some(s) = v.git_repo.as_ref().filter(|_| source == "gitRepo") {
        need(&[("repository", &s.repository)], "gitRepo");
        descending_path(errors, text(s.directory.as_ref()), || path.child("gitRepo").child("directory"));
    } else if let Some(s) = v.gce_persistent_disk.as_ref().filter(|_| source == "gcePersistentDisk") {
        // upstream's path of this source
        need(&[("pdName", &s.pd_name)], "persistentDisk");
        validate_partition(errors, s.partition, &path.child("persistentDisk"));
    } else if let Some(s) = v.aws_elastic_block_store.as_ref().filter(|_| source == "awsElasticBlockStore") {
        need(&[("volumeID", &s.volume_id)], "awsElasticBlockStore");
        validate_partition(errors, s.partition, &path.child("awsElasticBlockStore"));
    } else if let Some(s) = v.nfs.as_ref().filter(|_| source == "nfs") {
        need(&[("server", &s.server), ("path", &s.path)], "nfs");
        if !s.path.starts_with('/') {
            let at = path.child("nfs").child("path");
            errors.push(FieldError::invalid(&at, &s.path, "must be an absolute path"));
        }
    } else if let Some(s) = v.iscsi.as_ref().filter(|_| source == "iscsi") {
        validate_iscsi(errors, s, &v.name, path);
    } else if let Some(s) = v.glusterfs.as_ref().filter(|_| source == "glusterfs") {
        need(&[("endpoints", &s.endpoints), ("path", &s.path)], "glusterfs");
    } else if let Some(s) = v.flocker.as_ref().filter(|_| source == "flocker") {
        validate_flocker(errors, s, &path.child("flocker"));
    } else if let Some(s) = v.rbd.as_ref().filter(|_| source == "rbd") {
        if s.monitors.is_empty() {
            need(&[("monitors", "")], "rbd");
        }
        required(errors, || path.child("rbd").child("image"), &s.image);
    } else if let Some(s) = v.cinder.as_ref().filter(|_| source == "cinder") {
        need(&[("volumeID", &s.volume_id)], "cinder");
        if let Some(secret) = &s.secret_ref {
            required(errors, || path.child("cinder").child("secretRef").child("name"), &secret.name);
        }
    } else if let Some(s) = v.cephfs.as_ref().filter(|_| source == "cephFS") {
        if s.monitors.is_empty() {
            need(&[("monitors", "")], "cephfs");
        }
    } else if let Some(s) = v.quobyte.as_ref().filter(|_| source == "quobyte") {
        validate_quobyte(errors, s, &path.child("quobyte"));
    } else if let Some(s) = v.fc.as_ref().filter(|_| source == "fc") {
        validate_fc(errors, s, &path.child("fc"));
    } else if let Some(s) = v.flex_volume.as_ref().filter(|_| source == "flexVolume") {
        validate_flex(errors, s, &path.child("flexVolume"));
    } else if let Some(s) = v.azure_file.as_ref().filter(|_| source == "azureFile") {
        need(&[("secretName", &s.secret_name), ("shareName", &s.share_name)], "azureFile");
    } else if let Some(s) = v.vsphere_volume.as_ref().filter(|_| source == "vsphereVolume") {
        need(&[("volumePath", &s.volume_path)], "vsphereVolume");
    } else if let Some(s) = v.photon_persistent_disk.as_ref().filter(|_| source == "photonPersistentDisk") {
        need(&[("pdID", &s.pd_id)], "photonPersistentDisk");
    } else if let Some(s) = v.portworx_volume.as_ref().filter(|_| source == "portworxVolume") {
        need(&[("volumeID", &s.volume_id)], "portworxVolume");
    } else if let Some(s) = v.azure_disk.as_ref().filter(|_| source == "azureDisk") {
        validate_azure_disk(errors, s, &path.child("azureDisk"));
    } else if let Some(s) = v.storageos.as_ref().filter(|_| source == "storageos") {
        validate_storage_os(errors, s, &path.child("storageos"));
    } else if let Some(s) = v.scale_io.as_ref().filter(|_| source == "scaleIO") {
        let name = text(s.volume_name.as_ref());
        need(&[("gateway", &s.gateway), ("system", &s.system), ("volumeName", name)], "scaleIO");
    }
}

fn validate_partition(errors: &mut FieldErrors, partition: Option<i32>, path: &Path) {
    if let Some(number) = partition.filter(|p| !(0..=MAX_PARTITION).contains(p)) {
        let why = inclusive_range_error(1, i64::from(MAX_PARTITION));
        errors.push(FieldError::invalid(&path.child("partition"), number, why));
    }
}

/// What is wrong with an iSCSI name (RFC 3720): `iqn.2001-04.com.example:disk`, `eui.` and `naa.` with digits.
fn iscsi_name_fault(name: &str) -> Option<&'static str> {
    let digits = |rest: &str, count: usize| {
        rest.len() == count + 1 && rest[1..].bytes().all(|b| b.is_ascii_alphanumeric())
    };
    let iqn = |rest: &str| {
        let (authority, own) = rest.strip_prefix('.')?.split_once(':')?;
        let bytes = authority.as_bytes();
        let dated = bytes.len() > 8
            && bytes[..4].iter().chain(&bytes[5..7]).all(u8::is_ascii_digit)
            && bytes[4] == b'-'
            && bytes[7] == b'.'
            && bytes[8..].iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
        let own_ok = !own.is_empty() && !own.contains(|c: char| ",;*&$|".contains(c) || c.is_whitespace());
        (dated && own_ok).then_some(())
    };
    let ok = if let Some(rest) = name.strip_prefix("iqn") {
        iqn(rest).is_some()
    } else if let Some(rest) = name.strip_prefix("eui") {
        digits(rest, 16)
    } else if let Some(rest) = name.strip_prefix("naa") {
        digits(rest, 32)
    } else {
        return Some("must be valid format starting with iqn, eui, or naa");
    };
    (!ok).then_some("must be valid format")
}

fn validate_iscsi(errors: &mut FieldErrors, s: &ISCSIVolumeSource, volume: &str, volume_path: &Path) {
    let path = volume_path.child("iscsi");
    required(errors, || path.child("targetPortal"), &s.target_portal);
    required(errors, || path.child("iqn"), &s.iqn);
    if let Some(why) = iscsi_name_fault(&s.iqn).filter(|_| !s.iqn.is_empty()) {
        errors.push(FieldError::invalid(&path.child("iqn"), &s.iqn, why));
    }
    validate_lun(errors, s.lun, &path);
    let chap = s.chap_auth_discovery == Some(true) || s.chap_auth_session == Some(true);
    if chap && s.secret_ref.is_none() {
        errors.push(FieldError::required(&path.child("secretRef"), ""));
    }
    if let Some(name) = &s.initiator_name {
        if let Some(why) = iscsi_name_fault(name) {
            errors.push(FieldError::invalid(&path.child("initiatorname"), name, why));
        }
        if volume.len() + 1 + s.target_portal.len() > MAX_ISCSI_NAME_AND_PORTAL {
            let why = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
            errors.push(FieldError::invalid(&volume_path.child("name"), volume, why));
        }
    }
}

fn validate_lun(errors: &mut FieldErrors, lun: i32, path: &Path) {
    if !(0..=MAX_LUN).contains(&lun) {
        let why = inclusive_range_error(0, i64::from(MAX_LUN));
        errors.push(FieldError::invalid(&path.child("lun"), lun, why));
    }
}

fn validate_flocker(errors: &mut FieldErrors, s: &FlockerVolumeSource, path: &Path) {
    let (name, uuid) = (text(s.dataset_name.as_ref()), text(s.dataset_uuid.as_ref()));
    match (name.is_empty(), uuid.is_empty()) {
        (true, true) => {
            errors.push(FieldError::required(path, "one of datasetName and datasetUUID is required"))
        }
        (false, false) => {
            let why = "datasetName and datasetUUID can not be specified simultaneously";
            errors.push(FieldError::invalid(path, "resource", why));
        }
        _ => {}
    }
    if name.contains('/') {
        errors.push(FieldError::invalid(&path.child("datasetName"), name, "must not contain '/'"));
    }
}

fn validate_quobyte(errors: &mut FieldErrors, s: &QuobyteVolumeSource, path: &Path) {
    let why = "must be a host:port pair or multiple pairs separated by commas";
    if s.registry.is_empty() {
        errors.push(FieldError::required(&path.child("registry"), why));
    } else if text(s.tenant.as_ref()).len() > MAX_QUOBYTE_TENANT {
        let why = "must be a UUID and may not exceed a length of 64 characters";
        errors.push(FieldError::required(&path.child("tenant"), why));
    } else {
        for pair in s.registry.split(',') {
            let ok =
                pair.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
            if !ok {
                errors.push(FieldError::invalid(&path.child("registry"), &s.registry, why));
            }
        }
    }
    required(errors, || path.child("volume"), &s.volume);
}

fn validate_fc(errors: &mut FieldErrors, s: &FCVolumeSource, path: &Path) {
    let targets = s.target_wwns.as_deref().unwrap_or_default();
    let ids = s.wwids.as_deref().unwrap_or_default();
    match (targets.is_empty(), ids.is_empty()) {
        (true, true) => {
            let why = "must specify either targetWWNs or wwids, but not both";
            errors.push(FieldError::required(&path.child("targetWWNs"), why));
        }
        (false, false) => {
            let why = "targetWWNs and wwids can not be specified simultaneously";
            errors.push(FieldError::invalid(&path.child("targetWWNs"), Json(targets), why));
        }
        _ => {}
    }
    if !targets.is_empty() {
        match s.lun {
            None => {
                let why = "lun is required if targetWWNs is specified";
                errors.push(FieldError::required(&path.child("lun"), why));
            }
            Some(lun) => validate_lun(errors, lun, path),
        }
    }
}

fn validate_flex(errors: &mut FieldErrors, s: &FlexVolumeSource, path: &Path) {
    required(errors, || path.child("driver"), &s.driver);
    for (key, _) in s.options.iter().flatten() {
        let namespace = key.split('/').next().unwrap_or_default().to_lowercase();
        let domain = format!(".{namespace}");
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            let why = "kubernetes.io and k8s.io namespaces are reserved";
            errors.push(FieldError::invalid(&path.child("options").key(key), key, why));
        }
    }
}

fn validate_azure_disk(errors: &mut FieldErrors, s: &AzureDiskVolumeSource, path: &Path) {
    required(errors, || path.child("diskName"), &s.disk_name);
    required(errors, || path.child("diskURI"), &s.disk_uri);
    let modes = ["None", "ReadOnly", "ReadWrite"];
    if let Some(mode) = s.caching_mode.as_deref().filter(|m| !modes.contains(m)) {
        errors.push(FieldError::not_supported(&path.child("cachingMode"), mode, &modes));
    }
    let Some(kind) = s.kind.as_deref() else { return };
    let kinds = ["Dedicated", "Managed", "Shared"];
    if !kinds.contains(&kind) {
        errors.push(FieldError::not_supported(&path.child("kind"), kind, &kinds));
    }
    let (prefix, form) = if kind == "Managed" {
        (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        )
    } else {
        ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd")
    };
    if !s.disk_uri.starts_with(prefix) {
        errors.push(FieldError::not_supported(&path.child("diskURI"), &s.disk_uri, &[form]));
    }
}

fn validate_storage_os(errors: &mut FieldErrors, s: &StorageOSVolumeSource, path: &Path) {
    let name = text(s.volume_name.as_ref());
    required(errors, || path.child("volumeName"), name);
    if !name.is_empty() {
        refuse_each(errors, || path.child("volumeName"), name, is_dns1123_label(name));
    }
    let namespace = text(s.volume_namespace.as_ref());
    if !namespace.is_empty() {
        refuse_each(errors, || path.child("volumeNamespace"), namespace, is_dns1123_label(namespace));
    }
    if let Some(secret) = &s.secret_ref {
        required(errors, || path.child("secretRef").child("name"), &secret.name);
    }
}
