//! Who asks (authenticators), what they may do (RBAC and node authorizers), and the certificates and tokens
//! both stand on.
//!
//! The cores are pure: an authenticator maps a credential and the time to a user, an authorizer maps a user
//! and attributes to a decision over an index that its owner feeds. Only [`pki::directory`] touches files.

pub mod authorizer;
pub mod bootstrap;
pub mod identity;
pub mod kubeconfig;
pub mod node;
pub mod pki;
pub mod rbac;
pub mod token;
pub mod x509;

pub use authorizer::{Authorizer, forbidden};
pub use identity::{Attributes, Decision, User, Verdict};
pub use pki::directory::{Pki, PkiError};
