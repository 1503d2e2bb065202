//! The container runtime, seen from the kubelet.
//!
//! [`RuntimeApi`] and [`ImageApi`] are the Container Runtime Interface v1 as the kubelet uses it;
//! [`Runtime`] speaks it over a unix socket. [`containerd`] starts and finds a containerd of our own,
//! [`image`] builds and imports images without a registry, [`reference`] reads their names,
//! [`fake`] is a runtime in memory for tests.

mod api;
mod client;
pub mod containerd;
mod error;
mod events;
#[cfg(any(test, feature = "test-util"))]
pub mod fake;
pub mod image;
mod image_volume;
pub mod reference;

pub use api::{EventStream, ImageApi, RuntimeApi};
pub use client::{
    DEFAULT_REQUEST_TIMEOUT, EXEC_SYNC_GRACE, MAX_MESSAGE_BYTES, PULL_TIMEOUT, Runtime, STOP_GRACE,
};
pub use error::Error;
pub use events::{ContainerEvent, ContainerEventKind};
pub use k8s_cri::v1;

/// What the calls of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;
