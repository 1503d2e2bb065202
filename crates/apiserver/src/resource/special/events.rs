//! Events: they expire, and events.k8s.io/v1 serves the same objects under newer names.

use crate::cache::Entry;
use crate::resource::Call;
use bytes::Bytes;
use k8s_openapi::api::{core::v1 as core, events::v1 as events};
use kinds::{AnyObject, Object, events_event};
use meta::{ApiError, FieldSelector};
use std::time::Duration;

/// How long what this call writes may live; None: for ever.
pub fn ttl(call: &Call<'_>) -> Option<Duration> {
    (call.target.info.storage == "events").then_some(call.resources.config.event_ttl)
}

/// The stored form of an object of the newer kind.
///
/// # Errors
/// It is of another kind.
pub fn to_stored(object: &Object) -> Result<Object, ApiError> {
    match object.downcast::<events::Event>() {
        Some(event) => Ok(Box::new(events_event::to_core(event.clone()))),
        None => Err(ApiError::internal("an event is expected")),
    }
}

/// A stored event in the newer kind, as JSON.
pub fn to_view(entry: &Entry) -> Bytes {
    match serde_json::from_slice::<core::Event>(entry.json()) {
        Ok(event) => events_event::from_core(event).encode().into(),
        Err(_) => entry.json_bytes(),
    }
}

/// Field selectors of the newer kind in the names of the stored one.
pub fn stored_fields(fields: &mut FieldSelector) {
    for term in &mut fields.terms {
        if let Some(rest) = term.path.strip_prefix("regarding.") {
            term.path = format!("involvedObject.{rest}");
        } else if term.path == "reportingController" {
            term.path = "reportingComponent".into();
        }
    }
}
