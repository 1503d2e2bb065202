//! Pod lifecycle, volumes, probes, resources and node status.

pub mod actor;
pub mod admission;
pub mod cgroups;
pub mod config;
pub mod container_config;
pub mod dns;
pub mod env;
pub mod execute;
pub mod housekeeping;
pub mod images;
pub mod lifecycle;
pub mod logs;
pub mod metrics;
pub mod node;
pub mod node_status;
pub mod objects;
pub mod observe;
pub mod pods;
pub mod probes;
pub mod qos;
pub mod quantity;
pub mod report;
pub mod run;
pub mod security;
pub mod server;
pub mod shared;
mod start;
pub mod static_pods;
pub mod sync;
pub mod tokens;
pub mod volumes;
pub mod watched;

pub use config::Config;
pub use run::{Error, Kubelet, Parts, Serving, run};
