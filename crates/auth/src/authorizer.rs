//! The chain of authorizers: masters, then Node, then RBAC; and the refusal a user reads.

use crate::identity::{Attributes, Decision, User, Verdict};
use crate::{node, rbac};
use meta::{ApiError, GroupResource};
use parking_lot::RwLock;

/// The authorizers with the indexes they decide over. Whoever watches the objects feeds the indexes.
#[derive(Debug, Default)]
pub struct Authorizer {
    pub rbac: RwLock<rbac::Index>,
    pub node: RwLock<node::Graph>,
}

impl Authorizer {
    /// The first authorizer with an opinion decides; where none has, the request is refused with their reasons.
    pub fn authorize(&self, user: &User, attributes: &Attributes) -> Decision {
        if user.in_group(User::MASTERS) {
            return Decision { verdict: Verdict::Allow, reason: String::new() };
        }
        let by_node = self.node.read().authorize(user, attributes);
        if by_node.verdict != Verdict::NoOpinion {
            return by_node;
        }
        let mut by_rbac = self.rbac.read().authorize(user, attributes);
        if by_rbac.verdict == Verdict::NoOpinion && !by_node.reason.is_empty() {
            by_rbac.reason = if by_rbac.reason.is_empty() {
                by_node.reason
            } else {
                format!("{}\n{}", by_node.reason, by_rbac.reason)
            };
        }
        by_rbac
    }
}

/// The refusal, in upstream's words: `pods is forbidden: User "x" cannot list resource "pods" ...`.
pub fn forbidden(user: &User, a: &Attributes, reason: &str) -> ApiError {
    let mut message = if a.is_resource {
        let resource = match a.subresource.as_str() {
            "" => a.resource.clone(),
            sub => format!("{}/{sub}", a.resource),
        };
        let scope = match a.namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            n => format!("in the namespace {n:?}"),
        };
        format!(
            "User {:?} cannot {} resource {resource:?} in API group {:?} {scope}",
            user.name, a.verb, a.group
        )
    } else {
        format!("User {:?} cannot {} path {:?}", user.name, a.verb, a.path)
    };
    // What a client sends back to it must not read as HTML.
    message = message.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    if !reason.is_empty() {
        message = format!("{message}: {reason}");
    }
    let resource = GroupResource { group: a.group.clone().into(), resource: a.resource.clone().into() };
    ApiError::forbidden(&resource, &a.name, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_upstreams() {
        let user = User::component("x", &[]);
        let check = |a: Attributes, reason: &str, expect: &str| {
            assert_eq!(forbidden(&user, &a, reason).message, expect)
        };
        let list = Attributes {
            verb: "list".into(),
            resource: "pods".into(),
            is_resource: true,
            ..Default::default()
        };
        check(
            Attributes { namespace: "default".into(), ..list.clone() },
            "",
            r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "default""#,
        );
        check(
            Attributes {
                group: "apps".into(),
                resource: "deployments".into(),
                subresource: "scale".into(),
                name: "web".into(),
                ..list
            },
            "why",
            r#"deployments.apps "web" is forbidden: User "x" cannot list resource "deployments/scale" in API group "apps" at the cluster scope: why"#,
        );
        check(
            Attributes { verb: "get".into(), path: "/metrics".into(), ..Default::default() },
            "",
            r#"forbidden: User "x" cannot get path "/metrics""#,
        );
    }
}
