//! Nodes: whether they are alive, what their state means for pods, and their pod networks.

mod eviction;
mod ipam;
mod lifecycle;
mod pace;
mod podgc;
#[cfg(test)]
mod tests;
mod ttl;

pub use eviction::TaintEviction;
pub use ipam::{Cidr, NodeIpam};
pub use lifecycle::NodeLifecycle;
pub use podgc::PodGc;
pub use ttl::Ttl;

use crate::plan::Op;
use k8s_openapi::api::core::v1::{Node, NodeCondition, ObjectReference, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time as MetaTime;
use meta::Time;
use serde_json::{Value, json};

pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == kind)
}

fn is_ready(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|c| c.status == "True")
}

/// Region and zone of a node as one name; empty where it says neither (upstream's GetZoneKey).
fn zone(node: &Node) -> String {
    let label = |old: &str, new: &str| {
        let labels = node.metadata.labels.as_ref()?;
        labels.get(old).or_else(|| labels.get(new)).cloned()
    };
    let zone = label("failure-domain.beta.kubernetes.io/zone", meta::labels::ZONE);
    let region = label("failure-domain.beta.kubernetes.io/region", meta::labels::REGION);
    let (zone, region) = (zone.unwrap_or_default(), region.unwrap_or_default());
    if zone.is_empty() && region.is_empty() { String::new() } else { format!("{region}:\0:{zone}") }
}

fn name(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or("")
}

fn reference(node: &Node) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Node".into()),
        name: node.metadata.name.clone(),
        uid: node.metadata.uid.clone(),
        ..Default::default()
    }
}

/// Sets a condition of a pod, and its phase where given, by a patch of the status.
fn set_pod_status(
    pod: &Pod,
    kind: &str,
    status: &str,
    why: Option<(&str, &str)>,
    phase: Option<&str>,
    now: Time,
) -> Op {
    let old = crate::pods::condition(pod, kind);
    let since = old.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
    let condition = PodCondition {
        type_: kind.into(),
        status: status.into(),
        reason: why.map(|w| w.0.into()).or_else(|| old.and_then(|c| c.reason.clone())),
        message: why.map(|w| w.1.into()).or_else(|| old.and_then(|c| c.message.clone())),
        last_transition_time: since.or(Some(MetaTime(now))),
        last_probe_time: old.and_then(|c| c.last_probe_time.clone()),
        observed_generation: old.and_then(|c| c.observed_generation),
    };
    let mut body: Value = json!({"conditions": [condition]});
    if let Some(phase) = phase {
        body["phase"] = json!(phase);
    }
    let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": body});
    Op::strategic_patch(pod, &patch).subresource("status").tolerating(&[crate::plan::NOT_FOUND])
}
