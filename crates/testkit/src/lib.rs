//! What the slow, real tests stand on: a network of the test's own, a cluster in it, and the real kubectl.
//!
//! Everything here panics where it fails: it is called by tests alone.

pub mod cluster;
pub mod kubectl;
pub mod network;
pub mod registry;
pub mod target;
pub mod wait;

pub use cluster::Cluster;
pub use kubectl::{Kubectl, Output};
pub use registry::Registry;
pub use wait::until;
