//! The request path over the in-memory store.

mod harness;
mod pods;
mod reads;
mod watches;
mod writes;
