//! How every component but the API server sees the cluster: the `kube` client over TLS or in memory, shared
//! informers, the rate-limited work queue, leader election and the event recorder.
//!
//! What decides here (queue, correlator, election) is a synchronous core that takes the time as a parameter;
//! a thin async shell runs it.

pub mod connect;
pub mod delegated;
pub mod events;
pub mod identity;
pub mod informer;
pub mod key;
pub mod leader;
pub mod queue;
#[cfg(any(test, feature = "test-util"))]
pub mod testing;

pub use connect::{ConnectError, connect, from_config, in_memory};
pub use events::Recorder;
pub use informer::{Delta, Informer, Informers, Options};
pub use key::Key;
pub use kube::Client;
pub use queue::WorkQueue;

/// The time now. For shells only: a core is given the time.
pub fn now() -> meta::Time {
    k8s_openapi::jiff::Timestamp::now()
}

/// Whether the API refused with 404.
pub fn is_not_found(e: &kube::Error) -> bool {
    matches!(e, kube::Error::Api(s) if s.is_not_found())
}

/// Whether the API refused with 409 and the reason Conflict: the object has changed since it was read.
pub fn is_conflict(e: &kube::Error) -> bool {
    matches!(e, kube::Error::Api(s) if s.code == 409 && s.reason != "AlreadyExists")
}

/// Whether the API refused with 409 and the reason AlreadyExists.
pub fn is_already_exists(e: &kube::Error) -> bool {
    matches!(e, kube::Error::Api(s) if s.reason == "AlreadyExists")
}
