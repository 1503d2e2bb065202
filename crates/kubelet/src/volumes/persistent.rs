//! Claims: the volume behind them is used if it is a path of this node.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, PersistentVolume, Volume};

use super::{Context, HostOp, HostPathType, Mounted, Plugin, VolumeError, host_path};
use crate::objects;

pub(super) struct Claim;

impl Plugin for Claim {
    fn plan(&self, context: &Context<'_>, volume: &Volume) -> Option<Result<Mounted, VolumeError>> {
        let source = volume.persistent_volume_claim.as_ref()?;
        let name = &source.claim_name;
        let namespace = context.env.pod.metadata.namespace.as_deref().unwrap_or_default();
        Some(match context.env.objects.claims.get(name) {
            Some(objects::Claim::Bound(pv)) => plan(context, pv).map(|mut mounted| {
                mounted.read_only |= source.read_only == Some(true);
                mounted
            }),
            Some(objects::Claim::Unbound) => Err(VolumeError(format!(
                "PVC {namespace}/{name} has not been bound yet to a PersistentVolume"
            ))),
            Some(objects::Claim::Missing) | None => Err(VolumeError(format!(
                "failed to fetch PVC from API server: persistentvolumeclaim {name:?} not found"
            ))),
        })
    }
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
        let named = r.key == "kubernetes.io/hostname" || r.key == "metadata.name";
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
