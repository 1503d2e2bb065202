//! Defaults and validation of pod specs and templates, shared by pods and every workload.
//!
//! Most pods are right, so a path is built only where something is wrong.

mod affinity;
mod claims;
mod containers;
pub(crate) mod defaults;
mod environment;
mod gates;
mod legacy_volumes;
mod probes;
mod projected;
mod resources;
mod scheduling;
mod security;
pub(crate) mod validate;
mod volume_mounts;
mod volumes;

pub(crate) use affinity::{PodTerms, validate_node_selector};
pub(crate) use claims::validate_claim_spec;
pub use defaults::{default_claim_spec, default_pod, default_pod_spec, default_pod_template};
pub(crate) use legacy_volumes::validate_legacy;
pub(crate) use resources::validate_overhead;
pub(crate) use scheduling::validate_tolerations;
pub use validate::validate_pod_template;
pub(crate) use volume_mounts::no_backsteps;
pub(crate) use volumes::{validate_csi_driver, validate_host_path};

use meta::{FieldError, FieldErrors, Path};

/// One Invalid error for each message about `value`.
fn refuse_each(errors: &mut FieldErrors, at: impl Fn() -> Path, value: &str, messages: Vec<String>) {
    errors.extend(messages.into_iter().map(|m| FieldError::invalid(&at(), value, m)));
}

/// Refuses a value that is not one of `supported`: Required where it is empty.
fn one_of(errors: &mut FieldErrors, at: impl Fn() -> Path, value: &str, supported: &[&str]) {
    if value.is_empty() {
        errors.push(FieldError::required(&at(), ""));
    } else if !supported.contains(&value) {
        errors.push(FieldError::not_supported(&at(), value, supported));
    }
}

/// Refuses an absent value.
fn required(errors: &mut FieldErrors, at: impl Fn() -> Path, value: &str) {
    if value.is_empty() {
        errors.push(FieldError::required(&at(), ""));
    }
}

#[cfg(test)]
mod tests;
