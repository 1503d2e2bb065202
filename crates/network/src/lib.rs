//! The pod network of one node: the standard bridge CNI plugin over the node's `spec.podCIDR`, masquerading
//! of what leaves the cluster, and host ports (in nftables, so that the portmap plugin and iptables are not
//! needed).
//!
//! [`cni`] and [`rules`] are pure; [`run`] watches the node and its pods and writes files, sysctls and rules.

pub mod cni;
pub mod rules;
mod run;

pub use run::{Config, NetworkError, cleanup, run};

/// The bridge that the node's pods are attached to.
pub const BRIDGE: &str = "cni0";
