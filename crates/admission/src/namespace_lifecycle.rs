//! NamespaceLifecycle: nothing new in a namespace that is going or not there, and the system's stay.

use crate::{Mutator, Operation, Request};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;
use kinds::Object;
use meta::{ApiError, GroupResource};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub const PLUGIN: Mutator = Mutator { name: "NamespaceLifecycle", handles, admit };

fn handles(operation: Operation, group: &str, resource: &str, _: &str) -> bool {
    let namespaces = group.is_empty() && resource == "namespaces";
    match operation {
        Operation::Delete => namespaces,
        Operation::Create | Operation::Update => !namespaces && group != "authorization.k8s.io",
        Operation::Connect => false,
    }
}

fn admit(r: &Request<'_>, object: Option<&mut Object>) -> Result<(), ApiError> {
    if r.operation == Operation::Delete {
        if IMMORTAL.contains(&r.name) && r.subresource.is_empty() {
            return Err(ApiError::forbidden(r.resource, r.name, "this namespace may not be deleted"));
        }
        return Ok(());
    }
    if r.namespace.is_empty() {
        return Ok(());
    }
    let Some(namespace) = r.find::<Namespace>("", "namespaces", "", r.namespace) else {
        return Err(ApiError::not_found(&GroupResource::of("", "namespaces"), r.namespace));
    };
    let terminating = namespace.status.and_then(|s| s.phase).as_deref() == Some("Terminating");
    if r.operation != Operation::Create || !terminating {
        return Ok(());
    }
    let why =
        format!("unable to create new content in namespace {} because it is being terminated", r.namespace);
    let mut error = r.forbidden(object.as_deref(), why);
    error.details.get_or_insert_default().causes = Some(vec![StatusCause {
        reason: Some("NamespaceTerminating".into()),
        message: Some(format!("namespace {} is being terminated", r.namespace)),
        field: Some("metadata.namespace".into()),
    }]);
    Err(error)
}
