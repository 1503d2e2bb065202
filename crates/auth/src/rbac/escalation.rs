//! Nobody grants what they do not hold: checks on writes of roles and bindings
//! (kubernetes.io/docs/reference/access-authn-authz/rbac, "Privilege escalation prevention").

use super::rules::{describe, uncovered};
use crate::authorizer::Authorizer;
use crate::identity::{Attributes, User, Verdict};
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef};

const GROUP: &str = "rbac.authorization.k8s.io";

fn allowed(
    authorizer: &Authorizer,
    user: &User,
    verb: &str,
    resource: &str,
    namespace: &str,
    name: &str,
) -> bool {
    let attributes = Attributes {
        verb: verb.to_owned(),
        group: GROUP.to_owned(),
        version: "*".to_owned(),
        resource: resource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        is_resource: true,
        ..Attributes::default()
    };
    authorizer.authorize(user, &attributes).verdict == Verdict::Allow
}

fn hold(authorizer: &Authorizer, user: &User, namespace: &str, rules: &[PolicyRule]) -> Result<(), String> {
    let (held, missing) = authorizer.rbac.read().rules_for(user, namespace);
    let lacking = uncovered(&held, rules);
    if lacking.is_empty() {
        return Ok(());
    }
    let groups: Vec<String> = user.groups.iter().map(|g| format!("{g:?}")).collect();
    let mut message = format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        groups.join(" "),
        describe(lacking).join("\n")
    );
    if !missing.is_empty() {
        message.push_str(&format!("; resolution errors: [{}]", missing.join(", ")));
    }
    Err(message)
}

/// Whether `user` may write a role of these rules. `resource`: `roles` or `clusterroles`; `namespace` empty for
/// the latter; `aggregates`: the new or the old object has an aggregation rule. The error is the reason of the
/// refusal, in upstream's words.
pub fn check_role(
    authorizer: &Authorizer,
    user: &User,
    resource: &str,
    namespace: &str,
    name: &str,
    rules: &[PolicyRule],
    aggregates: bool,
) -> Result<(), String> {
    if user.in_group(User::MASTERS) || allowed(authorizer, user, "escalate", resource, namespace, name) {
        return Ok(());
    }
    hold(authorizer, user, namespace, rules)?;
    if aggregates {
        let star = || Some(vec!["*".to_owned()]);
        let everything = [
            PolicyRule {
                verbs: vec!["*".into()],
                api_groups: star(),
                resources: star(),
                ..Default::default()
            },
            PolicyRule { verbs: vec!["*".into()], non_resource_urls: star(), ..Default::default() },
        ];
        hold(authorizer, user, namespace, &everything)
            .map_err(|_| "must have cluster-admin privileges to use the aggregationRule".to_owned())?;
    }
    Ok(())
}

/// Whether `user` may bind `role` in `namespace` (empty for a cluster role binding). A role that does not exist
/// is the error that says so.
pub fn check_binding(
    authorizer: &Authorizer,
    user: &User,
    namespace: &str,
    role: &RoleRef,
) -> Result<(), String> {
    let resource = if role.kind == "Role" { "roles" } else { "clusterroles" };
    if user.in_group(User::MASTERS) || allowed(authorizer, user, "bind", resource, namespace, &role.name) {
        return Ok(());
    }
    let rules = authorizer.rbac.read().role_rules(role, namespace);
    match rules {
        Some(rules) => hold(authorizer, user, namespace, &rules),
        None => Err(format!("{resource}.{GROUP} {:?} not found", role.name)),
    }
}
