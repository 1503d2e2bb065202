//! StorageObjectInUseProtection: claims and volumes are not removed while they are used.

use crate::{Mutator, Operation, Request};
use kinds::Object;
use meta::ApiError;

pub const PLUGIN: Mutator = Mutator { name: "StorageObjectInUseProtection", handles, admit };

fn finalizer(group: &str, resource: &str) -> Option<&'static str> {
    match (group, resource) {
        ("", "persistentvolumes") => Some("kubernetes.io/pv-protection"),
        ("", "persistentvolumeclaims") => Some("kubernetes.io/pvc-protection"),
        ("storage.k8s.io", "volumeattributesclasses") => Some("kubernetes.io/vac-protection"),
        _ => None,
    }
}

fn handles(operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
    operation == Operation::Create && subresource.is_empty() && finalizer(group, resource).is_some()
}

fn admit(r: &Request<'_>, object: Option<&mut Object>) -> Result<(), ApiError> {
    let (Some(object), Some(finalizer)) = (object, finalizer(&r.resource.group, &r.resource.resource)) else {
        return Ok(());
    };
    let finalizers = object.meta_mut().finalizers.get_or_insert_default();
    if !finalizers.iter().any(|f| f == finalizer) {
        finalizers.push(finalizer.to_owned());
    }
    Ok(())
}
