//! The scheduler. [`cycle::schedule`] decides, purely, over a [`Snapshot`] that is kept up to date change by
//! change; [`queue`] says which pod is next and which event lets a waiting pod try again; [`shell`] feeds
//! them from informers and carries decisions out.

pub mod core;
pub mod cycle;
pub mod framework;
pub mod metrics;
pub mod node;
pub mod plugins;
pub mod pod;
pub mod preemption;
pub mod queue;
pub mod shell;
pub mod snapshot;
#[cfg(test)]
pub mod testing;
pub mod volumes;

pub use cycle::{FitError, Placement, Profile, Turn, schedule};
pub use meta::node_selector;
pub use metrics::Metrics;
pub use pod::PodInfo;
pub use shell::{Config, run};
pub use snapshot::Snapshot;
