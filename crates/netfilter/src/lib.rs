//! nftables as values: a table is a base and one [`Fragment`] for each owner (a service, a pod); a change of
//! an owner becomes the few commands that lead from its old fragment to its new one, applied as one
//! transaction.
//!
//! [`model`] and [`diff`] are pure; [`apply`] runs `nft`.

pub mod apply;
pub mod diff;
pub mod model;

pub use apply::{Applier, NftError};
pub use diff::Owners;
pub use model::{Chain, Family, Fragment, Table};
