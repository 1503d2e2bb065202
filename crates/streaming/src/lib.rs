//! The streams of exec, attach and port-forward.
//!
//! Clients speak SPDY/3.1 (old kubectl, and every container runtime's stream server) or one of
//! Kubernetes' WebSocket sub-protocols (kubectl since 1.31). This crate joins a client's connection with
//! a backend's: raw where both speak the same ([`upgrade`]), translated where not ([`translate`],
//! [`tunnel`]). [`proxy::serve`] chooses, for whoever serves such a request; [`reader`] sends a stream in one
//! direction, a log.

pub mod proxy;
pub mod reader;
pub mod spdy;
pub mod status;
pub mod translate;
pub mod tunnel;
pub mod unverified;
pub mod upgrade;
pub mod websocket;

pub use proxy::{Backend, serve};
pub use translate::ExecOptions;
pub use upgrade::{UpgradeError, Upgraded, upgrade_client};
