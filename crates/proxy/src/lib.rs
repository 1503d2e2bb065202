//! kube-proxy: traffic to a Service reaches its endpoints, through nftables maps that are updated service by
//! service.
//!
//! [`service`] reads the API's objects into what matters for traffic, [`rules`] renders that into a fragment
//! of the table; both are pure. [`run`] watches, applies, and cleans conntrack.

mod conntrack;
mod health;
mod metrics;
pub mod rules;
mod run;
pub mod service;

pub use run::{Config, ProxyError, cleanup, run};
