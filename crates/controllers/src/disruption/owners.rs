//! How many pods their owners want.

use crate::refs::controller_of;
use crate::world::World;
use client::Key;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use meta::GroupVersion;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The sum of what the controllers of the pods want, each counted once, and whether some pods have no controller.
pub(super) fn scale(pods: &[Arc<Pod>], world: &World) -> Result<(i32, bool), String> {
    let mut of_controller: BTreeMap<String, i32> = BTreeMap::new();
    let mut unmanaged = false;
    for pod in pods {
        let Some(owner) = controller_of(&pod.metadata) else {
            unmanaged = true;
            continue;
        };
        if of_controller.contains_key(&owner.uid) {
            continue;
        }
        let name = pod.metadata.name.as_deref().unwrap_or("");
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
        let found = of_owner(owner, namespace, world)?;
        let (uid, replicas) = found.ok_or_else(|| format!("found no controllers for pod {name:?}"))?;
        of_controller.insert(uid, replicas);
    }
    Ok((of_controller.values().fold(0, |sum: i32, n| sum.saturating_add(*n)), unmanaged))
}

/// The controller that says how many pods there are to be, and how many; None where it is gone.
fn of_owner(owner: &OwnerReference, namespace: &str, world: &World) -> Result<Option<(String, i32)>, String> {
    let group = GroupVersion::parse(&owner.api_version).map(|gv| gv.group).unwrap_or_default();
    let key = Key::new(namespace, &owner.name);
    let is = |meta: &ObjectMeta, by: &OwnerReference| meta.uid.as_ref() == Some(&by.uid);
    let answer = |replicas: Option<i32>| Some((owner.uid.clone(), replicas.unwrap_or(1)));
    match (&*group, &*owner.kind) {
        ("", "ReplicationController") => {
            let rc = world.replication_controllers.get(&key).filter(|o| is(&o.metadata, owner));
            Ok(rc.and_then(|o| answer(o.spec.as_ref().and_then(|s| s.replicas))))
        }
        ("apps", "StatefulSet") => {
            let set = world.stateful_sets.get(&key).filter(|o| is(&o.metadata, owner));
            Ok(set.and_then(|o| answer(o.spec.as_ref().and_then(|s| s.replicas))))
        }
        ("apps" | "extensions", "ReplicaSet") => {
            let Some(set) = world.replica_sets.get(&key).filter(|o| is(&o.metadata, owner)) else {
                return Ok(None);
            };
            let Some(above) = controller_of(&set.metadata).filter(|o| o.kind == "Deployment") else {
                return Ok(answer(set.spec.as_ref().and_then(|s| s.replicas)));
            };
            let deployment = world.deployments.get(&Key::new(namespace, &above.name));
            let deployment = deployment.filter(|o| is(&o.metadata, above));
            let replicas = |s: &k8s_openapi::api::apps::v1::DeploymentSpec| s.replicas.unwrap_or(1);
            Ok(deployment.map(|d| (above.uid.clone(), d.spec.as_ref().map_or(1, replicas))))
        }
        (group, kind) => Err(without_scale(group, kind, &owner.api_version)),
    }
}

/// Why a controller of another kind cannot say how many pods it wants.
fn without_scale(group: &str, kind: &str, version: &str) -> String {
    let known = kinds::ALL.iter().map(|k| k.info()).find(|i| i.gvk.group == group && i.gvk.kind == kind);
    match known {
        Some(info) if group.is_empty() => {
            format!("{} does not implement the scale subresource", info.names.plural)
        }
        Some(info) => format!("{}.{group} does not implement the scale subresource", info.names.plural),
        None => format!("no matches for kind {kind:?} in version {version:?}"),
    }
}
