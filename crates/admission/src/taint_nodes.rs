//! TaintNodesByCondition: a new node takes no pods until the node controller has seen it ready.

use crate::request::typed_mut;
use crate::{Mutator, Operation, Request};
use k8s_openapi::api::core::v1::{Node, Taint};
use kinds::Object;
use meta::ApiError;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub const PLUGIN: Mutator = Mutator { name: "TaintNodesByCondition", handles, admit };

fn handles(operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
    operation == Operation::Create && group.is_empty() && resource == "nodes" && subresource.is_empty()
}

fn admit(_: &Request<'_>, object: Option<&mut Object>) -> Result<(), ApiError> {
    let Some(node) = typed_mut::<Node>(object) else { return Ok(()) };
    let taints = node.spec.get_or_insert_default().taints.get_or_insert_default();
    if !taints.iter().any(|t| t.key == NOT_READY && t.effect == "NoSchedule") {
        taints.push(Taint { key: NOT_READY.into(), effect: "NoSchedule".into(), ..Taint::default() });
    }
    Ok(())
}
