//! v1: pods and what makes them.

mod pod;
mod pod_cells;
mod pod_resize;
mod pod_status;
mod pod_template;
mod pod_update;
mod replication_controller;

pub use pod::POD;
pub use pod_template::POD_TEMPLATE;
pub use replication_controller::REPLICATION_CONTROLLER;
