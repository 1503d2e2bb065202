//! The storage contract: a flat, ordered key space with one revision for the whole of it, compare-and-swap
//! writes, ordered watches and compaction: etcd v3's model, which every backend keeps.
//!
//! Only the API server opens a store.

pub mod contract;

pub use contract::*;
