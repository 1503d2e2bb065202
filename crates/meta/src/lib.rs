//! What every object of the API shares: identity (group, version, kind, resource), label and field
//! selectors, quantities, field paths with their errors, name rules, and the `Status` a refusal becomes.
//!
//! Pure: no I/O, no clock, no randomness.

pub mod conditions;
pub mod error;
pub mod field;
pub mod gvk;
pub mod labels;
pub mod node_selector;
mod object_meta;
pub mod pod;
pub mod quantity;
pub mod selector;
mod selector_parse;
pub mod taints;
pub mod validation;
pub mod volumes;

pub use error::{ApiError, Reason, status_json};
pub use field::{ErrorType, FieldError, FieldErrors, Json, Path, Verbatim};
pub use gvk::{GroupResource, GroupVersion, GroupVersionKind, GroupVersionResource};
pub use quantity::Quantity;
pub use selector::{FieldSelector, LabelSelector};

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};

/// A point in time, always given as a parameter: the cores have no clock.
pub type Time = k8s_openapi::jiff::Timestamp;
