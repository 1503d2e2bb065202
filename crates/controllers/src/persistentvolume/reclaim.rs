//! What becomes of a volume whose claim is gone (`persistentVolumeReclaimPolicy`).

use super::{phase_of, volume::set_phase, warning};
use crate::plan::Plan;
use k8s_openapi::api::core::v1::PersistentVolume;
use meta::volumes as rules;

pub(super) const DELETE: &str = "Delete";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";
/// Volumes of such drivers were once made and deleted here.
const OWN_DRIVERS: &str = "kubernetes.io/";

pub(super) fn policy(volume: &PersistentVolume) -> &str {
    let policy = volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref());
    policy.unwrap_or("Retain")
}

pub(super) fn is_provisioned(volume: &PersistentVolume) -> bool {
    rules::annotation(&volume.metadata, PROVISIONED_BY).is_some()
}

/// Of a volume that is released.
pub(super) fn plan(volume: &PersistentVolume) -> Plan {
    if rules::annotation(&volume.metadata, MIGRATED_TO).is_some_and(|d| !d.is_empty()) {
        return Plan::idle("its driver sees to it");
    }
    match policy(volume) {
        "Retain" => Plan::idle("the volume is kept for whoever wants its data"),
        "Recycle" => fail(volume, "VolumeFailedRecycle", "No recycler plugin found for the volume!"),
        DELETE => match undeletable(volume) {
            None => Plan::idle("whoever made the volume deletes it"),
            Some(why) => fail(volume, "VolumeFailedDelete", &why),
        },
        _ => {
            const UNKNOWN: &str = "Volume has unrecognized PersistentVolumeReclaimPolicy";
            fail(volume, "VolumeUnknownReclaimPolicy", UNKNOWN)
        }
    }
}

/// Why nobody deletes the volume; None where its provisioner or driver does.
fn undeletable(volume: &PersistentVolume) -> Option<String> {
    let by = rules::annotation(&volume.metadata, PROVISIONED_BY).filter(|p| !p.is_empty());
    if let Some(provisioner) = by {
        return provisioner
            .starts_with(OWN_DRIVERS)
            .then(|| format!("no volume plugin matched name: {provisioner}"));
    }
    let spec = volume.spec.as_ref()?;
    if spec.csi.is_some() {
        return None;
    }
    if let Some(path) = spec.host_path.as_ref().map(|h| &h.path)
        && path.split_once("/tmp/").is_none_or(|(_, below)| below.is_empty())
    {
        return Some(format!("host_path deleter only supports /tmp/.+ but received provided {path}"));
    }
    let name = volume.metadata.name.as_deref().unwrap_or("");
    let why = if spec.nfs.is_some() || spec.host_path.is_some() {
        "no deletable volume plugin matched"
    } else {
        "no volume plugin matched"
    };
    Some(format!("error getting deleter volume plugin for volume {name:?}: {why}"))
}

fn fail(volume: &PersistentVolume, reason: &'static str, why: &str) -> Plan {
    let mut plan = Plan::idle("the volume cannot be reclaimed");
    debug_assert!(matches!(phase_of(volume), "Released" | "Failed"));
    if let Some(op) = set_phase(volume, "Failed", why) {
        plan.op(op.then(warning(volume, reason, why)));
    }
    plan
}
