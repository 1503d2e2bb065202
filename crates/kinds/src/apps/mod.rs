//! apps/v1: the workloads.

mod common;
mod controller_revision;
mod daemon_set;
mod deployment;
mod replica_set;
mod stateful_set;

pub(crate) use common::{
    ReplicaCounts, at_most_100_percent, container_images, container_names, labels_match,
    positive_int_or_percent, readable, runs_forever, selector_json,
};
pub use controller_revision::CONTROLLER_REVISION;
pub use daemon_set::DAEMON_SET;
pub use deployment::DEPLOYMENT;
pub use replica_set::REPLICA_SET;
pub use stateful_set::STATEFUL_SET;
