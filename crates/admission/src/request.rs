//! What a plugin is given: values, and a look at other objects.

use auth::User;
use kinds::Object;
use meta::{ApiError, GroupResource};
use std::fmt::Display;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// Other objects, as the server's cache has them.
pub trait World {
    /// `namespace` is empty for cluster scope.
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Object>;
    /// Of one namespace, or all where it is empty.
    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Object>;
}

/// One write on its way.
pub struct Request<'a> {
    pub operation: Operation,
    pub resource: &'a GroupResource,
    /// Empty for the main resource.
    pub subresource: &'a str,
    /// Empty for cluster scope; a namespace is in itself.
    pub namespace: &'a str,
    /// Empty where it is still to be generated.
    pub name: &'a str,
    pub user: &'a User,
    /// What is stored, for an update or delete.
    pub old: Option<&'a Object>,
    pub world: &'a dyn World,
    /// Five characters for a generated name.
    pub suffix: &'a str,
    /// Takes warnings for the client.
    pub warn: &'a dyn Fn(String),
}

impl Request<'_> {
    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.resource.group == group && self.resource.resource == resource
    }

    /// A refusal in upstream's form: `pods "x" is forbidden: why`.
    pub fn forbidden(&self, object: Option<&Object>, why: impl Display) -> ApiError {
        let generated = || {
            let meta = object.map(|o| o.meta());
            let name = meta.and_then(|m| m.name.clone().filter(|n| !n.is_empty()));
            name.or_else(|| meta.and_then(|m| m.generate_name.clone())).unwrap_or_else(|| "Unknown".into())
        };
        let name = if self.name.is_empty() { generated() } else { self.name.to_owned() };
        ApiError::forbidden(self.resource, &name, why)
    }

    /// A typed object of the world.
    pub fn find<T: Clone + 'static>(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Option<T> {
        typed::<T>(&self.world.get(group, resource, namespace, name)?).cloned()
    }

    /// Every typed object of a namespace.
    pub fn all<T: Clone + 'static>(&self, group: &str, resource: &str, namespace: &str) -> Vec<T> {
        self.world.list(group, resource, namespace).iter().filter_map(|o| typed::<T>(o)).cloned().collect()
    }
}

/// The object as a `T`, where it is one.
pub fn typed<T: 'static>(object: &Object) -> Option<&T> {
    (**object).downcast()
}

/// As [`typed`], to change it.
pub(crate) fn typed_mut<T: 'static>(object: Option<&mut Object>) -> Option<&mut T> {
    (**object?).downcast_mut()
}
