//! Defaults and validation of pod specs and templates, shared by pods and every workload.

mod affinity;
mod containers;
pub(crate) mod defaults;
mod environment;
mod probes;
mod resources;
mod scheduling;
mod security;
pub(crate) mod validate;
mod volume_mounts;
mod volume_types;
mod volumes;

pub use defaults::{default_claim_spec, default_pod, default_pod_spec, default_pod_template};
pub use validate::{validate_pod_spec, validate_pod_template, validate_pod_template_for_controller};
