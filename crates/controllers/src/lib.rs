//! The controllers, one module each.
//!
//! A controller is a pure function from a key, the world and the time to a plan ([`Controller`], [`Plan`]); the runner
//! alone has queues, workers, retries and requests. What is level-triggered stays so: a change says which key to look
//! at, never what to do.

pub mod controller;
pub mod deployment;
pub mod metrics;
pub mod plan;
pub mod pods;
pub mod refs;
pub mod replicaset;
mod runner;
pub mod world;

pub use controller::{Controller, Watches};
pub use metrics::Metrics;
pub use plan::{Note, Op, Plan};
pub use world::World;
