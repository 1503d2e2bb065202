//! What the request path asks of admission: the front wires the chain of plugins, policies and webhooks behind it.

use super::lookup::Lookup;
use async_trait::async_trait;
use auth::User;
use kinds::Object;
use meta::{ApiError, GroupVersionKind, GroupVersionResource};
use parking_lot::Mutex;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// Warnings for the client (`Warning: 299` headers), in the order they came, each once.
#[derive(Debug, Default)]
pub struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    pub fn add(&self, warning: impl Into<String>) {
        let warning = warning.into();
        let mut all = self.0.lock();
        if !all.contains(&warning) {
            all.push(warning);
        }
    }

    pub fn extend(&self, warnings: impl IntoIterator<Item = String>) {
        warnings.into_iter().for_each(|w| self.add(w));
    }

    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock())
    }
}

/// What is admitted (upstream's `admission.Attributes`).
pub struct Attributes<'a> {
    pub operation: Operation,
    pub kind: &'a GroupVersionKind,
    pub resource: &'a GroupVersionResource,
    pub subresource: &'a str,
    /// Empty for cluster scope; for a namespace its own name.
    pub namespace: &'a str,
    /// Empty where the name is still to be generated.
    pub name: &'a str,
    pub user: &'a User,
    pub dry_run: bool,
    /// The stored object, of an update or delete.
    pub old: Option<&'a Object>,
    pub lookup: &'a Lookup,
    pub warnings: &'a Warnings,
}

/// The admission chain.
#[async_trait]
pub trait Admission: Send + Sync + 'static {
    /// Whether the chain would look at such a request at all: lets the path skip preparing one.
    fn handles(&self, operation: Operation, resource: &GroupVersionResource, subresource: &str) -> bool;

    /// Mutating plugins; `object` is None for a delete.
    ///
    /// # Errors
    /// The refusal the client is given.
    async fn admit(&self, attributes: &Attributes<'_>, object: Option<&mut Object>) -> Result<(), ApiError>;

    /// Validating plugins, over what would be stored; `object` is None for a delete.
    ///
    /// # Errors
    /// The refusal the client is given.
    async fn validate(&self, attributes: &Attributes<'_>, object: Option<&Object>) -> Result<(), ApiError>;
}

/// Admits everything.
pub struct AdmitAll;

#[async_trait]
impl Admission for AdmitAll {
    fn handles(&self, _: Operation, _: &GroupVersionResource, _: &str) -> bool {
        false
    }

    async fn admit(&self, _: &Attributes<'_>, _: Option<&mut Object>) -> Result<(), ApiError> {
        Ok(())
    }

    async fn validate(&self, _: &Attributes<'_>, _: Option<&Object>) -> Result<(), ApiError> {
        Ok(())
    }
}
