//! The storage contract: a flat, ordered key space with one revision for the whole of it, compare-and-swap
//! writes, ordered watches and compaction: etcd v3's model, which every backend keeps.
//!
//! Only the API server opens a store.

pub mod compactor;
pub mod contract;
pub mod embedded;
pub mod memory;

pub use contract::*;
pub use embedded::Embedded;
