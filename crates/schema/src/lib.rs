//! The API as data: which types there are, their fields, protobuf numbers and merge rules, and what follows
//! from that: strict decoding, protobuf transcoding, OpenAPI documents.
//!
//! Pure. The tables are static and made at build time from `data/v1.36.types`; nothing is parsed at start.

pub mod canonical;
pub mod openapi;
pub mod proto;
pub mod strict;
mod time;
mod types;

pub use types::{
    Field, FieldType, Gvk, ListType, PatchStrategy, Type, Wire, WireTarget, all, for_api_version, for_gvk,
    lookup,
};
