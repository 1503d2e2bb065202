//! DefaultStorageClass: a claim that names no class gets the newest default one.

use crate::request::typed_mut;
use crate::{Mutator, Operation, Request};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use kinds::Object;
use meta::ApiError;
use meta::volumes::BETA_CLASS;
use std::cmp::Reverse;

const DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

pub const PLUGIN: Mutator = Mutator { name: "DefaultStorageClass", handles, admit };

fn handles(operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
    operation == Operation::Create
        && group.is_empty()
        && resource == "persistentvolumeclaims"
        && subresource.is_empty()
}

fn admit(r: &Request<'_>, object: Option<&mut Object>) -> Result<(), ApiError> {
    let Some(claim) = typed_mut::<PersistentVolumeClaim>(object) else { return Ok(()) };
    let annotated = claim.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(BETA_CLASS));
    if annotated || claim.spec.as_ref().is_some_and(|s| s.storage_class_name.is_some()) {
        return Ok(());
    }
    let is_default = |c: &StorageClass| {
        let annotations = c.metadata.annotations.as_ref();
        DEFAULT.iter().any(|k| annotations.and_then(|a| a.get(*k)).is_some_and(|v| v == "true"))
    };
    let mut classes: Vec<StorageClass> = r.all("storage.k8s.io", "storageclasses", "");
    classes.retain(is_default);
    classes.sort_by_key(|c| {
        (Reverse(c.metadata.creation_timestamp.as_ref().map(|t| t.0)), c.metadata.name.clone())
    });
    if let Some(class) = classes.into_iter().next() {
        claim.spec.get_or_insert_default().storage_class_name = class.metadata.name;
    }
    Ok(())
}
