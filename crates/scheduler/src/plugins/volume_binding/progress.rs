//! Whether what was written for a pod's volumes has come to a binding.

use crate::pod::PodInfo;
use crate::snapshot::Snapshot;
use crate::volumes::Reservation;
use client::Key;
use k8s_openapi::api::core::v1::{Node, PersistentVolume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meta::volumes as rules;

/// Whether the API has something newer to say than `seen`.
fn is_newer(than: &ObjectMeta, seen: &ObjectMeta) -> bool {
    let version = |m: &ObjectMeta| m.resource_version.as_deref().and_then(|v| v.parse::<u64>().ok());
    version(than) > version(seen)
}

fn check_reach(volume: &PersistentVolume, node: &Node) -> Result<(), String> {
    if rules::reaches(volume, node) {
        return Ok(());
    }
    Err(format!(
        "pv {:?} node affinity doesn't match node {:?}: no matching NodeSelectorTerms",
        volume.metadata.name.as_deref().unwrap_or(""),
        node.metadata.name.as_deref().unwrap_or("")
    ))
}

/// True once every claim in `written` is bound; an error where that will not come. `written`: as the API
/// answered the writes.
pub fn progress(
    cluster: &Snapshot,
    pod: &PodInfo,
    node: &str,
    written: &Reservation,
) -> Result<bool, String> {
    if cluster.pod(&pod.key).is_none_or(|p| p.uid != pod.uid) {
        return Err(format!("pod does not exist any more: pod {:?} not found", pod.key.name));
    }
    let known = cluster.node(node).and_then(|n| n.node.as_ref());
    let node = known.ok_or_else(|| format!("failed to get node {node:?}: node {node:?} not found"))?;
    for volume in &written.volumes {
        let name = volume.metadata.name.as_deref().unwrap_or("");
        let said = cluster.volumes.volume_said(name);
        let said =
            said.ok_or_else(|| format!("failed to check binding: persistentvolumes {name:?} not found"))?;
        let claim = rules::claim_ref(volume)
            .map(|r| Key::new(r.namespace.as_deref().unwrap_or(""), r.name.as_deref().unwrap_or("")));
        let Some(claim) = claim else { continue };
        let bound = cluster.volumes.claim_said(&claim);
        let bound = bound.ok_or_else(|| {
            format!("failed to check binding: persistentvolumeclaims \"{claim}\" not found")
        })?;
        if is_newer(&volume.metadata, &said.metadata) {
            return Ok(false);
        }
        check_reach(said, node)?;
        let uid = rules::claim_ref(said).and_then(|r| r.uid.as_deref()).unwrap_or("");
        if uid.is_empty() {
            return Err(format!("ClaimRef got reset for pv {name:?}"));
        }
        if !rules::is_fully_bound(bound) {
            return Ok(false);
        }
    }
    for claim in &written.claims {
        let key = Key::of(&**claim);
        let said = cluster.volumes.claim_said(&key);
        let said = said.ok_or_else(|| {
            format!("failed to check provisioning pvc: persistentvolumeclaims \"{key}\" not found")
        })?;
        if is_newer(&claim.metadata, &said.metadata) {
            return Ok(false);
        }
        // a provisioner that fails takes the annotation away
        let name = &key.name;
        if said.metadata.annotations.is_none() {
            return Err(format!("selectedNode annotation reset for PVC {name:?}"));
        }
        if rules::annotation(&said.metadata, rules::SELECTED_NODE) != node.metadata.name.as_deref() {
            return Err(format!("provisioning failed for PVC {name:?}"));
        }
        if let Some(volume) = rules::volume_name(said) {
            // the volume may be seen later than its claim
            let Some(volume) = cluster.volumes.volume_said(volume) else { return Ok(false) };
            check_reach(volume, node)?;
        }
        if !rules::is_fully_bound(said) {
            return Ok(false);
        }
    }
    Ok(true)
}
