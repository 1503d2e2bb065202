//! Resources with more to them than the generic verbs: one file each.

mod binding;
pub mod events;
mod eviction;
pub mod namespaces;
mod scale;
pub mod services;
