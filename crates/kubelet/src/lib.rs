//! Pod lifecycle, volumes, probes, resources and node status.

pub mod container_config;
pub mod dns;
pub mod env;
pub mod images;
pub mod lifecycle;
pub mod logs;
pub mod objects;
pub mod observe;
pub mod probes;
pub mod qos;
pub mod quantity;
pub mod security;
pub mod sync;
pub mod volumes;
pub mod config;
pub mod execute;
pub mod metrics;
pub mod shared;
pub mod tokens;
pub mod watched;
mod start;
pub mod actor;
pub mod report;
pub mod cgroups;
