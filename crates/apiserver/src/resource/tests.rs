//! Tests of the request path over the in-memory store.
