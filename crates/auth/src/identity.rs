//! The vocabulary of authentication and authorization.

use std::collections::BTreeMap;

/// Who asks (authentication.k8s.io/v1 UserInfo).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    pub const ANONYMOUS: &'static str = "system:anonymous";
    /// Group of everyone who authenticated.
    pub const AUTHENTICATED: &'static str = "system:authenticated";
    pub const UNAUTHENTICATED: &'static str = "system:unauthenticated";
    /// Group that may do everything, before any authorizer is asked.
    pub const MASTERS: &'static str = "system:masters";

    pub fn anonymous() -> Self {
        Self { name: Self::ANONYMOUS.into(), groups: vec![Self::UNAUTHENTICATED.into()], ..Self::default() }
    }

    /// A component of the cluster, as its client certificate names it.
    pub fn component(name: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        groups.push(Self::AUTHENTICATED.into());
        Self { name: name.into(), groups, ..Self::default() }
    }

    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// What is asked, for an authorizer. For a path that is no resource, `path` alone is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `get`, `list`, `create`...; for other paths the HTTP method in lower case.
    pub verb: String,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    /// Empty for cluster scope.
    pub namespace: String,
    pub name: String,
    pub is_resource: bool,
    pub path: String,
    /// The `fieldSelector` of a list, watch or deletecollection, as it stands in the query: the node
    /// authorizer lets a kubelet list only what is pinned to its node.
    pub field_selector: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    /// Refuse, and ask no other authorizer.
    Deny,
    NoOpinion,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    /// Why, for the audit log and for the user.
    pub reason: String,
}
