//! Claims: the volume behind them is used if it is a path of this node.

use k8s_openapi::api::core::v1::{
    Container, NodeSelectorRequirement, PersistentVolume, PersistentVolumeClaim, Pod, Volume,
};
use meta::volumes as rules;

use super::{Context, HostOp, HostPathType, Mounted, Plugin, VolumeError, host_path};
use crate::objects;

pub(super) struct Claim;

/// Keeps a claim that is being deleted while pods use it.
const PROTECTION: &str = "kubernetes.io/pvc-protection";
const FILESYSTEM: &str = "Filesystem";

impl Plugin for Claim {
    fn plan(&self, context: &Context<'_>, volume: &Volume) -> Option<Result<Mounted, VolumeError>> {
        let name = objects::claim_name(context.env.pod, volume)?;
        let source = volume.persistent_volume_claim.as_ref();
        let namespace = context.env.pod.metadata.namespace.as_deref().unwrap_or_default();
        let claim = context.env.objects.claims.get(&name).and_then(Option::as_ref);
        let pv = usable(context.env.pod, volume, &name, claim)
            .map_err(|why| VolumeError(format!("error processing PVC {namespace}/{name}: {why}")));
        let planned = pv.and_then(|pv| {
            check_mode(context.env.pod, volume, pv)?;
            plan(context, pv)
        });
        Some(planned.map(|mut mounted| {
            mounted.read_only |= source.is_some_and(|s| s.read_only == Some(true));
            mounted
        }))
    }
}

/// The volume that is bound to the claim; else why a pod cannot start with it, in upstream's words.
fn usable<'a>(
    pod: &Pod,
    volume: &Volume,
    name: &str,
    claim: Option<&'a objects::Claim>,
) -> Result<&'a PersistentVolume, String> {
    let Some(objects::Claim { claim, volume: pv }) = claim else {
        return Err(format!(
            "failed to fetch PVC from API server: persistentvolumeclaims {name:?} not found"
        ));
    };
    let m = &claim.metadata;
    if m.deletion_timestamp.is_some() && !m.finalizers.iter().flatten().any(|f| f == PROTECTION) {
        return Err("PVC is being deleted".to_owned());
    }
    if claim.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Bound") {
        return Err("PVC is not bound".to_owned());
    }
    let Some(pv_name) = rules::volume_name(claim) else {
        return Err("PVC has empty pvc.Spec.VolumeName".to_owned());
    };
    if volume.ephemeral.is_some() && !is_owned(claim, pod) {
        let (namespace, pod) =
            (m.namespace.as_deref().unwrap_or(""), pod.metadata.name.as_deref().unwrap_or(""));
        return Err(format!(
            "PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"
        ));
    }
    let pv = pv.as_deref().ok_or_else(|| {
        format!("failed to fetch PV {pv_name} from API server: persistentvolumes {pv_name:?} not found")
    })?;
    let Some(owner) = rules::claim_ref(pv) else {
        return Err(format!(
            "found PV object {pv_name} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        ));
    };
    if owner.uid != m.uid {
        return Err(format!(
            "found PV object {pv_name} but its pv.Spec.ClaimRef.UID {} does not point to claim.UID {}",
            owner.uid.as_deref().unwrap_or(""),
            m.uid.as_deref().unwrap_or("")
        ));
    }
    Ok(pv)
}

fn is_owned(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    let mut owners = claim.metadata.owner_references.iter().flatten();
    owners.any(|o| o.controller == Some(true) && Some(&o.uid) == pod.metadata.uid.as_ref())
}

/// A device is no directory, and the other way round.
fn check_mode(pod: &Pod, volume: &Volume, pv: &PersistentVolume) -> Result<(), VolumeError> {
    let name = &volume.name;
    let mode = pv.spec.as_ref().and_then(|s| s.volume_mode.as_deref()).unwrap_or(FILESYSTEM);
    let spec = pod.spec.as_ref();
    let all = || {
        let init = spec.and_then(|s| s.init_containers.as_ref()).into_iter().flatten();
        init.chain(spec.into_iter().flat_map(|s| &s.containers))
    };
    let mounted = |c: &Container| c.volume_mounts.iter().flatten().any(|m| m.name == *name);
    let attached = |c: &Container| c.volume_devices.iter().flatten().any(|d| d.name == *name);
    if mode != FILESYSTEM && all().any(mounted) {
        return Err(VolumeError(format!(
            "volume {name} has volumeMode {mode}, but is specified in volumeMounts"
        )));
    }
    if mode == FILESYSTEM && all().any(attached) {
        return Err(VolumeError(format!(
            "volume {name} has volumeMode {mode}, but is specified in volumeDevices"
        )));
    }
    Ok(())
}

fn plan(context: &Context<'_>, pv: &PersistentVolume) -> Result<Mounted, VolumeError> {
    let name = pv.metadata.name.as_deref().unwrap_or_default();
    let spec = pv.spec.clone().unwrap_or_default();
    if !fits_node(context.node_name, pv) {
        return Err(VolumeError(format!(
            "failed to check node affinity of PersistentVolume {name:?}: no matching NodeSelectorTerms"
        )));
    }
    if let Some(source) = &spec.host_path {
        return host_path::plan(source);
    }
    let Some(local) = &spec.local else {
        return Err(VolumeError(format!(
            "no volume plugin matched: PersistentVolume {name:?} is neither hostPath nor local"
        )));
    };
    let path = std::path::PathBuf::from(&local.path);
    let mut ops = vec![HostOp::CheckHostPath { path: path.clone(), kind: HostPathType::Directory }];
    if let Some(group) = context.fs_group() {
        let only_if_root_differs = context.only_if_root_differs();
        ops.push(HostOp::ChangeGroup { path: path.clone(), group, only_if_root_differs });
    }
    Ok(Mounted { ops, path, read_only: false, live: false })
}

/// Whether the volume's node affinity admits this node, as far as it names nodes.
fn fits_node(node: &str, pv: &PersistentVolume) -> bool {
    let affinity = pv.spec.as_ref().and_then(|s| s.node_affinity.as_ref()).and_then(|a| a.required.as_ref());
    let Some(required) = affinity else { return true };
    let holds = |r: &NodeSelectorRequirement| {
        let named = r.key == meta::labels::HOSTNAME || r.key == "metadata.name";
        let listed = r.values.iter().flatten().any(|v| v == node);
        match r.operator.as_str() {
            "In" => !named || listed,
            "NotIn" => !named || !listed,
            _ => true,
        }
    };
    required.node_selector_terms.iter().any(|term| {
        term.match_expressions.iter().flatten().chain(term.match_fields.iter().flatten()).all(holds)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                from.into_iter().for_each(|(k, v)| merge(into.entry(k).or_insert(Value::Null), v));
            }
            (into, from) => *into = from,
        }
    }

    fn check(claim: Option<Value>, pv: Option<Value>, expect: Result<&str, &str>) {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "p", "uid": "u"}}))
                .unwrap();
        let volume: Volume = serde_json::from_value(json!({"name": "v", "ephemeral": {}})).unwrap();
        let claim = claim.map(|patch| {
            let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]);
            let mut claim = json!({"metadata": {"namespace": "ns", "name": "p-v", "uid": "c", "ownerReferences": owner},
                "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}});
            merge(&mut claim, patch);
            let pv = pv.map(|patch| {
                let mut pv = json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"uid": "c"}}});
                merge(&mut pv, patch);
                Arc::new(serde_json::from_value(pv).unwrap())
            });
            objects::Claim { claim: Arc::new(serde_json::from_value(claim).unwrap()), volume: pv }
        });
        let got = usable(&pod, &volume, "p-v", claim.as_ref());
        let name = got.as_ref().map(|pv| pv.metadata.name.as_deref().unwrap_or(""));
        assert_eq!(name.map_err(|e| e.as_str()), expect);
    }

    #[test]
    fn a_pod_starts_with_a_claim_that_is_bound_to_its_volume() {
        let fine = || Some(json!({}));
        check(fine(), fine(), Ok("pv"));
        check(
            None,
            None,
            Err("failed to fetch PVC from API server: persistentvolumeclaims \"p-v\" not found"),
        );
        check(Some(json!({"status": {"phase": "Pending"}})), fine(), Err("PVC is not bound"));
        check(Some(json!({"spec": {"volumeName": null}})), fine(), Err("PVC has empty pvc.Spec.VolumeName"));
        let going = |finalizers: Value| {
            Some(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": finalizers}}))
        };
        check(going(json!([])), fine(), Err("PVC is being deleted"));
        check(going(json!([PROTECTION])), fine(), Ok("pv"));
        check(
            Some(json!({"metadata": {"ownerReferences": null}})),
            fine(),
            Err("PVC ns/p-v was not created for pod ns/p (pod is not owner)"),
        );
        check(fine(), None, Err("failed to fetch PV pv from API server: persistentvolumes \"pv\" not found"));
        check(
            fine(),
            Some(json!({"spec": {"claimRef": null}})),
            Err(
                "found PV object pv but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim",
            ),
        );
        check(
            fine(),
            Some(json!({"spec": {"claimRef": {"uid": "x"}}})),
            Err("found PV object pv but its pv.Spec.ClaimRef.UID x does not point to claim.UID c"),
        );
    }
}
