//! NodeRestriction: a kubelet writes its own node, its own lease, and pods bound to it, and nothing that would
//! widen what it reaches.

use crate::request::typed;
use crate::{Mutator, Operation, Request};
use auth::node::node_name;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Container, Node, PersistentVolumeClaim, Pod, PodSpec};
use kinds::Object;
use meta::ApiError;
use std::collections::{BTreeMap, BTreeSet};

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASE_NAMESPACE: &str = "kube-node-lease";
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// Labels of the `kubernetes.io` domains that a kubelet may set on its node.
const KUBELET_LABELS: [&str; 11] = [
    meta::labels::HOSTNAME,
    meta::labels::ZONE,
    meta::labels::REGION,
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
const KUBELET_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

pub const PLUGIN: Mutator = Mutator { name: "NodeRestriction", handles, admit };

fn handles(operation: Operation, group: &str, resource: &str, _: &str) -> bool {
    operation != Operation::Connect
        && matches!(
            (group, resource),
            ("", "pods" | "nodes" | "persistentvolumeclaims" | "serviceaccounts")
                | ("coordination.k8s.io", "leases")
                | ("storage.k8s.io", "csinodes")
                | ("resource.k8s.io", "resourceslices")
        )
}

fn admit(r: &Request<'_>, object: Option<&mut Object>) -> Result<(), ApiError> {
    let Some(node) = node_name(r.user) else { return Ok(()) };
    let object = object.as_deref();
    let outcome = if node.is_empty() {
        Err(format!("could not determine node from user {:?}", r.user.name))
    } else {
        match (r.resource.resource.as_ref(), r.subresource) {
            ("pods", "") => pod(r, node, object),
            ("pods", "status") => pod_status(r, node, object),
            ("pods", "eviction") => {
                let bound = bound_to(r, node);
                if bound {
                    Ok(())
                } else {
                    Err(format!("node {node} can only evict pods with spec.nodeName set to itself"))
                }
            }
            ("pods", other) => {
                Err(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
            }
            ("nodes", _) => own_node(r, node, object),
            ("persistentvolumeclaims", "status") => claim_status(r, node, object),
            ("persistentvolumeclaims", _) => Err("may only update PVC status".into()),
            ("serviceaccounts", "token") => token(r, node, object),
            ("leases", _) if r.namespace != LEASE_NAMESPACE => {
                Err(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"))
            }
            ("leases", _) => named(r, node, object, "node lease"),
            ("csinodes", _) => named(r, node, object, "CSINode"),
            ("resourceslices", _) => slice(r, node, object),
            _ => Ok(()),
        }
    };
    outcome.map_err(|why| r.forbidden(object, why))
}

fn bound_to(r: &Request<'_>, node: &str) -> bool {
    let pod = r.find::<Pod>("", "pods", r.namespace, r.name);
    pod.and_then(|p| p.spec).and_then(|s| s.node_name).as_deref() == Some(node)
}

fn spec_node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn pod(r: &Request<'_>, node: &str, object: Option<&Object>) -> Result<(), String> {
    match r.operation {
        Operation::Create => object.and_then(typed::<Pod>).map_or(Ok(()), |pod| mirror_pod(r, node, pod)),
        Operation::Delete => {
            let old = r.old.and_then(typed::<Pod>).and_then(spec_node).map(str::to_owned);
            if old.as_deref() == Some(node) || old.is_none() && bound_to(r, node) {
                return Ok(());
            }
            Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
        }
        _ => Err(format!(
            "unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods"
        )),
    }
}

fn mirror_pod(r: &Request<'_>, node: &str, pod: &Pod) -> Result<(), String> {
    if !pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(MIRROR)) {
        return Err(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if spec_node(pod) != Some(node) {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owner = match pod.metadata.owner_references.as_deref().unwrap_or_default() {
        [owner] => owner,
        [] => {
            return Err(format!("node {node:?} can only create pods with an owner reference set to itself"));
        }
        _ => {
            return Err(format!(
                "node {node:?} can only create pods with a single owner reference set to itself"
            ));
        }
    };
    if owner.api_version != "v1" || owner.kind != "Node" || owner.name != node {
        return Err(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    if owner.controller != Some(true) {
        return Err(format!(
            "node {node:?} can only create pods with a controller owner reference set to itself"
        ));
    }
    if owner.block_owner_deletion == Some(true) {
        return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    let uid = r.find::<Node>("", "nodes", "", node).and_then(|n| n.metadata.uid).unwrap_or_default();
    if owner.uid != uid {
        return Err(format!("node {node} UID mismatch: expected {} got {uid}", owner.uid));
    }
    match pod.spec.as_ref().and_then(reference) {
        Some(what) => Err(format!("node {node:?} can not create pods that reference {what}")),
        None => Ok(()),
    }
}

/// What of the API a pod refers to, if anything.
fn reference(spec: &PodSpec) -> Option<&'static str> {
    if spec.service_account_name.as_ref().is_some_and(|n| !n.is_empty()) {
        return Some("serviceaccounts");
    }
    let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let env = |secret: fn(&Container) -> bool| containers().any(secret);
    let secrets = spec.image_pull_secrets.as_ref().is_some_and(|s| !s.is_empty())
        || env(|c| {
            c.env_from.iter().flatten().any(|e| e.secret_ref.is_some())
                || c.env
                    .iter()
                    .flatten()
                    .any(|e| e.value_from.as_ref().is_some_and(|v| v.secret_key_ref.is_some()))
        });
    if secrets {
        return Some("secrets");
    }
    let config_maps = env(|c| {
        c.env_from.iter().flatten().any(|e| e.config_map_ref.is_some())
            || c.env
                .iter()
                .flatten()
                .any(|e| e.value_from.as_ref().is_some_and(|v| v.config_map_key_ref.is_some()))
    });
    if config_maps {
        return Some("configmaps");
    }
    if spec.resource_claims.as_ref().is_some_and(|c| !c.is_empty()) {
        return Some("resourceclaims");
    }
    for v in spec.volumes.iter().flatten() {
        if v.config_map.is_some() {
            return Some("configmaps (via configmap volumes)");
        } else if v.secret.is_some() {
            return Some("secrets (via secret volumes)");
        } else if v.csi.is_some() {
            return Some("csidrivers (via CSI volumes)");
        } else if v.persistent_volume_claim.is_some() {
            return Some("persistentvolumeclaims");
        } else if v.ephemeral.is_some() {
            return Some("persistentvolumeclaims (via ephemeral volumes)");
        } else if v.glusterfs.is_some() {
            return Some("endpoints (via glusterFS volumes)");
        } else if v.azure_file.is_some() {
            return Some("secrets (via azureFile volumes)");
        }
        for s in v.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            if s.config_map.is_some() {
                return Some("configmaps (via projected volumes)");
            } else if s.secret.is_some() {
                return Some("secrets (via projected volumes)");
            } else if s.service_account_token.is_some() {
                return Some("serviceaccounts (via projected volumes)");
            } else if s.cluster_trust_bundle.is_some() {
                return Some("clustertrustbundles");
            } else if s.pod_certificate.is_some() {
                return Some("podcertificates");
            }
        }
    }
    None
}

fn pod_status(r: &Request<'_>, node: &str, object: Option<&Object>) -> Result<(), String> {
    let (Some(old), Some(new)) = (r.old.and_then(typed::<Pod>), object.and_then(typed::<Pod>)) else {
        return Ok(());
    };
    if spec_node(old) != Some(node) {
        return Err(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    let empty = BTreeMap::new();
    if old.metadata.labels.as_ref().unwrap_or(&empty) != new.metadata.labels.as_ref().unwrap_or(&empty) {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    let claims =
        |p: &Pod| p.status.as_ref().and_then(|s| s.resource_claim_statuses.clone()).unwrap_or_default();
    if claims(old) != claims(new) {
        return Err(format!("node {node:?} cannot update resource claim statues"));
    }
    Ok(())
}

fn own_node(r: &Request<'_>, node: &str, object: Option<&Object>) -> Result<(), String> {
    let name = if r.name.is_empty() {
        object.and_then(|o| o.meta().name.clone()).unwrap_or_default()
    } else {
        r.name.to_owned()
    };
    if name != node {
        return Err(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let Some(new) = object.and_then(typed::<Node>) else { return Ok(()) };
    let empty = BTreeMap::new();
    let labels = new.metadata.labels.as_ref().unwrap_or(&empty);
    let config_source = new.spec.as_ref().and_then(|s| s.config_source.as_ref());
    if r.operation == Operation::Create {
        if config_source.is_some() {
            return Err(format!("node {node:?} is not allowed to create pods with a non-nil configSource"));
        }
        let forbidden = forbidden_labels(labels, &empty);
        if !forbidden.is_empty() {
            let list = forbidden.join(", ");
            return Err(format!("node {node:?} is not allowed to set the following labels: {list}"));
        }
    }
    if let (Operation::Update, Some(old)) = (r.operation, r.old.and_then(typed::<Node>)) {
        if config_source.is_some()
            && config_source != old.spec.as_ref().and_then(|s| s.config_source.as_ref())
        {
            return Err(format!(
                "node {node:?} is not allowed to update configSource to a new non-nil configSource"
            ));
        }
        let taints = |n: &Node| n.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        if taints(new) != taints(old) {
            return Err(format!("node {node:?} is not allowed to modify taints"));
        }
        if new.metadata.owner_references != old.metadata.owner_references {
            return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
        }
        let forbidden = forbidden_labels(labels, old.metadata.labels.as_ref().unwrap_or(&empty));
        if !forbidden.is_empty() {
            return Err(format!("is not allowed to modify labels: {}", forbidden.join(", ")));
        }
    }
    Ok(())
}

/// Labels that differ and that a kubelet may not touch, sorted.
fn forbidden_labels<'a>(
    new: &'a BTreeMap<String, String>,
    old: &'a BTreeMap<String, String>,
) -> Vec<&'a str> {
    let keys: BTreeSet<&String> =
        new.keys().chain(old.keys()).filter(|k| new.get(*k) != old.get(*k)).collect();
    let below = |domain: &str, parent: &str| {
        domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
    };
    keys.into_iter()
        .map(String::as_str)
        .filter(|key| {
            let Some((domain, _)) = key.split_once('/') else { return false };
            let kubernetes = below(domain, "kubernetes.io") || below(domain, "k8s.io");
            let kubelets = KUBELET_LABELS.contains(key) || KUBELET_DOMAINS.iter().any(|d| below(domain, d));
            below(domain, RESTRICTED) || kubernetes && !kubelets
        })
        .collect()
}

fn claim_status(r: &Request<'_>, node: &str, object: Option<&Object>) -> Result<(), String> {
    let without = |o: Option<&Object>| {
        let mut claim = o.and_then(typed::<PersistentVolumeClaim>)?.clone();
        claim.metadata.resource_version = None;
        claim.metadata.managed_fields = None;
        if let Some(status) = &mut claim.status {
            status.capacity = None;
            status.conditions = None;
            status.allocated_resource_statuses = None;
            status.allocated_resources = None;
        }
        Some(claim)
    };
    if without(r.old) == without(object) {
        return Ok(());
    }
    Err(format!(
        "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
    ))
}

/// A token for a pod on the node, and for an audience that the pod names.
fn token(r: &Request<'_>, node: &str, object: Option<&Object>) -> Result<(), String> {
    let Some(request) = object.and_then(typed::<TokenRequest>) else { return Ok(()) };
    check_token(r.world, r.namespace, node, request)
}

/// As the plugin's check of a TokenRequest, for the server's own handler of it. `node`: the requesting node.
pub fn check_token(
    world: &dyn crate::World,
    namespace: &str,
    node: &str,
    request: &TokenRequest,
) -> Result<(), String> {
    let spec = request.spec.clone().unwrap_or_default();
    let bound = spec.bound_object_ref.as_ref().filter(|b| {
        b.api_version.as_deref() == Some("v1")
            && b.kind.as_deref() == Some("Pod")
            && b.name.as_ref().is_some_and(|n| !n.is_empty())
    });
    let Some(bound) = bound else { return Err("node requested token not bound to a pod".into()) };
    let Some(uid) = bound.uid.as_ref().filter(|u| !u.is_empty()) else {
        return Err("node requested token with a pod binding without a uid".into());
    };
    let name = bound.name.as_deref().unwrap_or_default();
    let found = world.get("", "pods", namespace, name);
    let Some(pod) = found.as_ref().and_then(typed::<Pod>) else {
        return Err(format!("pods {name:?} not found"));
    };
    if pod.metadata.uid.as_ref() != Some(uid) {
        return Err(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
             been deleted and then recreated"
        ));
    }
    if spec_node(pod) != Some(node) {
        return Err("node requested token bound to a pod scheduled on a different node".into());
    }
    let audience = match spec.audiences.as_deref().unwrap_or_default() {
        [] => "",
        [one] => one.as_str(),
        _ => return Err("node may only request 0 or 1 audiences".into()),
    };
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let named = volumes
        .filter_map(|v| v.projected.as_ref())
        .flat_map(|p| p.sources.iter().flatten())
        .filter_map(|s| s.service_account_token.as_ref())
        .any(|t| t.audience.as_deref().unwrap_or_default() == audience);
    if named {
        return Ok(());
    }
    Err(format!(
        "audience {audience:?} not found in pod spec volume, system:node:{node} is not authorized to request tokens \
         for this audience"
    ))
}

fn named(r: &Request<'_>, node: &str, object: Option<&Object>, what: &str) -> Result<(), String> {
    let name = match r.operation {
        Operation::Create => object.and_then(|o| o.meta().name.clone()).unwrap_or_default(),
        _ => r.name.to_owned(),
    };
    if name == node {
        Ok(())
    } else {
        Err(format!("can only access {what} with the same name as the requesting node"))
    }
}

fn slice(r: &Request<'_>, node: &str, object: Option<&Object>) -> Result<(), String> {
    let (object, verb) = match r.operation {
        Operation::Create => (object, "create"),
        Operation::Delete => (r.old, "delete"),
        _ => return Ok(()),
    };
    if object.is_some_and(|o| o.to_value()["spec"]["nodeName"] == node) {
        return Ok(());
    }
    Err(format!("can only {verb} ResourceSlice with the same NodeName as the requesting node"))
}
