//! The request path over the in-memory store.

mod harness;
mod reads;
mod watches;
mod writes;
