//! Cluster DNS, by the Kubernetes DNS-based service discovery specification (1.1.0): services, headless
//! services and their endpoints, SRV, PTR and pod names of the cluster domain; everything else is forwarded.
//!
//! [`zone`] is the index of what the API says, [`answer`] looks names up in it, both pure; [`server`] speaks
//! the protocol (hickory-server) and keeps the index up to date from informers. [`register`] puts the server
//! behind the cluster's DNS service.

pub mod answer;
mod forward;
pub mod register;
pub mod server;
pub mod zone;

pub use register::Registration;
pub use server::{Config, DnsError, run};
