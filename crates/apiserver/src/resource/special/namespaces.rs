//! A namespace is deleted in two steps: first it terminates, and goes when its `spec.finalizers` are gone.

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time as MetaTime;
use kinds::Object;
use meta::{ApiError, Time};

const TERMINATING: &str = "Terminating";

fn has_finalizers(namespace: &Namespace) -> bool {
    namespace.spec.as_ref().and_then(|s| s.finalizers.as_ref()).is_some_and(|f| !f.is_empty())
}

/// How far the deletion of a namespace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// It begins with this request: the object is marked.
    Begun,
    /// It is under way: finalizers still hold the namespace.
    Held,
    /// Nothing holds it any more: the generic delete goes on.
    Free,
}

/// The first step of a delete.
///
/// # Errors
/// The object is no namespace.
pub fn begin_delete(object: &mut Object, now: Time) -> Result<Deletion, ApiError> {
    let Some(namespace) = object.downcast_mut::<Namespace>() else {
        return Err(ApiError::internal("a namespace is expected"));
    };
    if namespace.metadata.deletion_timestamp.is_none() {
        namespace.metadata.deletion_timestamp = Some(MetaTime(now));
        namespace.status.get_or_insert_default().phase = Some(TERMINATING.into());
        return Ok(Deletion::Begun);
    }
    Ok(if has_finalizers(namespace) { Deletion::Held } else { Deletion::Free })
}

/// A namespace under deletion goes with its last finalizer of either list.
pub fn may_delete_during_update(object: &Object) -> bool {
    object.downcast::<Namespace>().is_none_or(|n| !has_finalizers(n))
}
