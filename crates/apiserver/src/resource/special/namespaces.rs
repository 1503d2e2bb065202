//! A namespace is deleted in two steps: first it terminates, and goes when its `spec.finalizers` are gone.

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time as MetaTime;
use kinds::Object;
use meta::{ApiError, Time};

const TERMINATING: &str = "Terminating";

fn has_finalizers(namespace: &Namespace) -> bool {
    namespace.spec.as_ref().and_then(|s| s.finalizers.as_ref()).is_some_and(|f| !f.is_empty())
}

/// The first step of a delete. None: nothing holds the namespace any more, the generic delete goes on.
/// Some(true): it was marked and stays.
///
/// # Errors
/// The object is no namespace.
pub fn begin_delete(object: &mut Object, now: Time) -> Result<Option<bool>, ApiError> {
    let Some(namespace) = object.downcast_mut::<Namespace>() else {
        return Err(ApiError::internal("a namespace is expected"));
    };
    if namespace.metadata.deletion_timestamp.is_none() {
        namespace.metadata.deletion_timestamp = Some(MetaTime(now));
        namespace.status.get_or_insert_default().phase = Some(TERMINATING.into());
        return Ok(Some(true));
    }
    Ok(has_finalizers(namespace).then_some(true))
}

/// A namespace under deletion goes with its last finalizer of either list.
pub fn may_delete_during_update(object: &Object) -> bool {
    object.downcast::<Namespace>().is_none_or(|n| !has_finalizers(n))
}
