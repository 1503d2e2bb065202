//! The built-in admission plugins: pure functions over the object, who writes it, and what else is there.
//!
//! A mutator may change the object, a validator cannot. A new plugin is one file and one line in
//! [`MUTATORS`] or [`VALIDATORS`]; the order is upstream's.

mod default_storage_class;
mod default_toleration_seconds;
mod limit_ranger;
mod namespace_lifecycle;
pub mod node_restriction;
mod pod_security;
mod priority;
mod request;
pub mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_object_in_use;
mod taint_nodes;

pub use request::{Operation, Request, World, typed};
pub use service_account::DEFAULT_ACCOUNT;

use kinds::Object;
use meta::ApiError;

/// A plugin that may change what is written.
pub struct Mutator {
    /// As in upstream's `--enable-admission-plugins`.
    pub name: &'static str,
    /// Whether the plugin looks at such a request.
    pub handles: fn(Operation, group: &str, resource: &str, subresource: &str) -> bool,
    /// Errors: the refusal the client is given. The object is None for a delete.
    pub admit: fn(&Request<'_>, Option<&mut Object>) -> Result<(), ApiError>,
}

/// A plugin that says yes or no to what would be stored.
pub struct Validator {
    /// As in upstream's `--enable-admission-plugins`.
    pub name: &'static str,
    /// Whether the plugin looks at such a request.
    pub handles: fn(Operation, group: &str, resource: &str, subresource: &str) -> bool,
    /// Errors: the refusal the client is given. The object is None for a delete.
    pub validate: fn(&Request<'_>, Option<&Object>) -> Result<(), ApiError>,
}

pub static MUTATORS: &[Mutator] = &[
    namespace_lifecycle::PLUGIN,
    limit_ranger::MUTATOR,
    service_account::MUTATOR,
    node_restriction::PLUGIN,
    taint_nodes::PLUGIN,
    priority::MUTATOR,
    default_toleration_seconds::PLUGIN,
    default_storage_class::PLUGIN,
    storage_object_in_use::PLUGIN,
    runtime_class::MUTATOR,
];

pub static VALIDATORS: &[Validator] = &[
    limit_ranger::VALIDATOR,
    service_account::VALIDATOR,
    pod_security::PLUGIN,
    priority::VALIDATOR,
    runtime_class::VALIDATOR,
];

/// Whether any plugin looks at such a request.
pub fn handles(operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
    MUTATORS.iter().any(|m| (m.handles)(operation, group, resource, subresource))
        || VALIDATORS.iter().any(|v| (v.handles)(operation, group, resource, subresource))
}

/// Runs the mutators in order.
pub fn admit(request: &Request<'_>, mut object: Option<&mut Object>) -> Result<(), ApiError> {
    let r = request;
    for plugin in MUTATORS {
        if (plugin.handles)(r.operation, &r.resource.group, &r.resource.resource, r.subresource) {
            (plugin.admit)(r, object.as_deref_mut())?;
        }
    }
    Ok(())
}

/// Runs the validators in order.
pub fn validate(request: &Request<'_>, object: Option<&Object>) -> Result<(), ApiError> {
    let r = request;
    for plugin in VALIDATORS {
        if (plugin.handles)(r.operation, &r.resource.group, &r.resource.resource, r.subresource) {
            (plugin.validate)(r, object)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
