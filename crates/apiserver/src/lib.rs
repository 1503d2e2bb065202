//! The API server: the request path, the watch cache, discovery, streaming and the TLS front.
//!
//! `front` (who asks, may they, which handler) calls `resource` (the generic verbs over a kind), which
//! reads from `cache` and writes to the store. The only crate that opens the store.

pub mod cache;
pub mod front;
pub mod negotiate;
pub mod options;
pub mod request;
pub mod resource;
pub mod server;
pub mod table;

pub use server::{ApiServer, Config, StartError};
