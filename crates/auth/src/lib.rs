//! Who asks (authenticators), what they may do (RBAC and node authorizers), and the certificates and tokens
//! both stand on.

pub mod identity;

pub use identity::{Attributes, Decision, User, Verdict};
