//! Role-based access control (rbac.authorization.k8s.io/v1): an index of roles and bindings, fed one change at
//! a time, and the evaluator over it.

pub mod escalation;
pub mod rules;

use crate::identity::{Attributes, Decision, User, Verdict};
use crate::token::user_name;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use meta::LabelSelector;
use rules::allows;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

pub type Rules = Arc<[PolicyRule]>;

/// Every role and binding, by what an evaluation looks up.
#[derive(Debug, Default)]
pub struct Index {
    cluster_roles: HashMap<String, StoredRole>,
    /// Rules of cluster roles that gather others, computed when first asked for after a change.
    gathered: parking_lot::RwLock<HashMap<String, Rules>>,
    /// By (namespace, name).
    roles: HashMap<(String, String), Rules>,
    /// By namespace; the empty one holds the cluster bindings.
    bindings: HashMap<String, Bindings>,
}

#[derive(Debug)]
struct StoredRole {
    rules: Rules,
    labels: BTreeMap<String, String>,
    /// Empty where the role stands for itself.
    gathers: Vec<LabelSelector>,
}

#[derive(Debug, Default)]
struct Bindings {
    by_name: HashMap<String, Arc<Binding>>,
    /// User name or group, to the names of bindings that mention it.
    by_user: HashMap<String, Vec<Arc<Binding>>>,
    by_group: HashMap<String, Vec<Arc<Binding>>>,
}

#[derive(Debug)]
struct Binding {
    name: String,
    namespace: String,
    role: RoleRef,
    subjects: Vec<Subject>,
}

impl Binding {
    /// The user or group each subject means.
    fn keys(&self) -> impl Iterator<Item = (bool, String)> + '_ {
        self.subjects.iter().filter_map(|s| match s.kind.as_str() {
            "User" => Some((false, s.name.clone())),
            "Group" => Some((true, s.name.clone())),
            "ServiceAccount" => {
                let namespace = s.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(&self.namespace);
                (!namespace.is_empty()).then(|| (false, user_name(namespace, &s.name)))
            }
            _ => None,
        })
    }

    /// As upstream's log and audit reasons name it.
    fn describe(&self, user: &User) -> String {
        let subject = self.subjects.iter().find(|s| match s.kind.as_str() {
            "User" => s.name == user.name,
            "Group" => user.in_group(&s.name),
            _ => {
                let namespace = s.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(&self.namespace);
                user_name(namespace, &s.name) == user.name
            }
        });
        let subject = match subject {
            Some(s) if s.kind == "ServiceAccount" => {
                let namespace = s.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(&self.namespace);
                format!("ServiceAccount {:?}", format!("{}/{namespace}", s.name))
            }
            Some(s) => format!("{} {:?}", s.kind, s.name),
            None => String::new(),
        };
        let (kind, name) = if self.namespace.is_empty() {
            ("ClusterRoleBinding", self.name.clone())
        } else {
            ("RoleBinding", format!("{}/{}", self.name, self.namespace))
        };
        format!("{kind} {name:?} of {} {:?} to {subject}", self.role.kind, self.role.name)
    }
}

impl Bindings {
    fn remove(&mut self, name: &str) {
        let Some(old) = self.by_name.remove(name) else { return };
        for (group, key) in old.keys() {
            let map = if group { &mut self.by_group } else { &mut self.by_user };
            if let Some(list) = map.get_mut(&key) {
                list.retain(|b| b.name != name);
                if list.is_empty() {
                    map.remove(&key);
                }
            }
        }
    }

    fn set(&mut self, binding: Binding) {
        self.remove(&binding.name);
        let binding = Arc::new(binding);
        let keys: HashSet<_> = binding.keys().collect();
        for (group, key) in keys {
            let map = if group { &mut self.by_group } else { &mut self.by_user };
            map.entry(key).or_default().push(binding.clone());
        }
        self.by_name.insert(binding.name.clone(), binding);
    }

    fn of<'a>(&'a self, user: &'a User) -> impl Iterator<Item = &'a Arc<Binding>> {
        let groups = user.groups.iter().filter_map(|g| self.by_group.get(g));
        self.by_user.get(&user.name).into_iter().chain(groups).flatten()
    }
}

impl Index {
    pub fn set_cluster_role(&mut self, role: &ClusterRole) {
        let gathers = role
            .aggregation_rule
            .iter()
            .flat_map(|a| a.cluster_role_selectors.iter().flatten())
            .filter_map(|s| LabelSelector::from_object(s).ok())
            .collect();
        let stored = StoredRole {
            rules: role.rules.clone().unwrap_or_default().into(),
            labels: role.metadata.labels.clone().unwrap_or_default(),
            gathers,
        };
        self.cluster_roles.insert(role.metadata.name.clone().unwrap_or_default(), stored);
        self.gathered.get_mut().clear();
    }

    pub fn remove_cluster_role(&mut self, name: &str) {
        self.cluster_roles.remove(name);
        self.gathered.get_mut().clear();
    }

    pub fn set_role(&mut self, role: &Role) {
        let (namespace, name) = (role.metadata.namespace.clone(), role.metadata.name.clone());
        let key = (namespace.unwrap_or_default(), name.unwrap_or_default());
        self.roles.insert(key, role.rules.clone().unwrap_or_default().into());
    }

    pub fn remove_role(&mut self, namespace: &str, name: &str) {
        self.roles.remove(&(namespace.to_owned(), name.to_owned()));
    }

    pub fn set_cluster_role_binding(&mut self, b: &ClusterRoleBinding) {
        self.bindings.entry(String::new()).or_default().set(Binding {
            name: b.metadata.name.clone().unwrap_or_default(),
            namespace: String::new(),
            role: b.role_ref.clone(),
            subjects: b.subjects.clone().unwrap_or_default(),
        });
    }

    pub fn set_role_binding(&mut self, b: &RoleBinding) {
        let namespace = b.metadata.namespace.clone().unwrap_or_default();
        self.bindings.entry(namespace.clone()).or_default().set(Binding {
            name: b.metadata.name.clone().unwrap_or_default(),
            namespace,
            role: b.role_ref.clone(),
            subjects: b.subjects.clone().unwrap_or_default(),
        });
    }

    /// `namespace`: empty for a cluster role binding.
    pub fn remove_binding(&mut self, namespace: &str, name: &str) {
        if let Some(bindings) = self.bindings.get_mut(namespace) {
            bindings.remove(name);
            if bindings.by_name.is_empty() {
                self.bindings.remove(namespace);
            }
        }
    }

    /// The rules a reference means; None where there is no such role.
    pub fn role_rules(&self, role: &RoleRef, namespace: &str) -> Option<Rules> {
        match role.kind.as_str() {
            "ClusterRole" => self.cluster_role_rules(&role.name),
            "Role" => self.roles.get(&(namespace.to_owned(), role.name.clone())).cloned(),
            _ => None,
        }
    }

    /// The rules of a cluster role with those it gathers.
    pub fn cluster_role_rules(&self, name: &str) -> Option<Rules> {
        let stored = self.cluster_roles.get(name)?;
        if stored.gathers.is_empty() {
            return Some(stored.rules.clone());
        }
        if let Some(rules) = self.gathered.read().get(name) {
            return Some(rules.clone());
        }
        let mut rules = Vec::new();
        self.gather(name, &mut HashSet::new(), &mut rules);
        let rules: Rules = rules.into();
        self.gathered.write().insert(name.to_owned(), rules.clone());
        Some(rules)
    }

    fn gather<'a>(&'a self, name: &'a str, seen: &mut HashSet<&'a str>, out: &mut Vec<PolicyRule>) {
        let Some(stored) = self.cluster_roles.get(name).filter(|_| seen.insert(name)) else { return };
        for rule in stored.rules.iter() {
            if !out.contains(rule) {
                out.push(rule.clone());
            }
        }
        let mut chosen: Vec<&String> = self
            .cluster_roles
            .iter()
            .filter(|(_, r)| stored.gathers.iter().any(|s| s.matches(&r.labels)))
            .map(|(n, _)| n)
            .collect();
        chosen.sort();
        for other in chosen {
            self.gather(other, seen, out);
        }
    }

    /// Calls `visit` with every rule of `user` in `namespace` (empty: cluster bindings alone) until it says
    /// true. Gives what could not be resolved, in upstream's words.
    fn visit(
        &self,
        user: &User,
        namespace: &str,
        mut visit: impl FnMut(&Binding, &PolicyRule) -> bool,
    ) -> Vec<String> {
        let mut missing = Vec::new();
        let scopes = [Some(""), Some(namespace).filter(|n| !n.is_empty())];
        for bindings in scopes.into_iter().flatten().filter_map(|n| self.bindings.get(n)) {
            for binding in bindings.of(user) {
                let Some(rules) = self.role_rules(&binding.role, namespace) else {
                    let resource = if binding.role.kind == "Role" { "role" } else { "clusterrole" };
                    missing.push(format!(
                        "{resource}.rbac.authorization.k8s.io {:?} not found",
                        binding.role.name
                    ));
                    continue;
                };
                if rules.iter().any(|rule| visit(binding, rule)) {
                    return missing;
                }
            }
        }
        missing
    }

    pub fn authorize(&self, user: &User, attributes: &Attributes) -> Decision {
        let mut reason = None;
        let missing = self.visit(user, &attributes.namespace, |binding, rule| {
            let allowed = allows(rule, attributes);
            if allowed {
                reason = Some(format!("RBAC: allowed by {}", binding.describe(user)));
            }
            allowed
        });
        match reason {
            Some(reason) => Decision { verdict: Verdict::Allow, reason },
            None if missing.is_empty() => Decision { verdict: Verdict::NoOpinion, reason: String::new() },
            None => {
                let list = if let [one] = missing.as_slice() {
                    one.clone()
                } else {
                    format!("[{}]", missing.join(", "))
                };
                Decision { verdict: Verdict::NoOpinion, reason: format!("RBAC: {list}") }
            }
        }
    }

    /// Every rule that applies to `user` in `namespace`, and the roles that are bound but missing.
    pub fn rules_for(&self, user: &User, namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
        let mut rules = Vec::new();
        let missing = self.visit(user, namespace, |_, rule| {
            rules.push(rule.clone());
            false
        });
        (rules, missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap;

    fn cluster() -> Index {
        let mut index = Index::default();
        let all = bootstrap::policy();
        all.cluster_roles.iter().for_each(|r| index.set_cluster_role(r));
        all.cluster_role_bindings.iter().for_each(|b| index.set_cluster_role_binding(b));
        all.roles.iter().for_each(|r| index.set_role(r));
        all.role_bindings.iter().for_each(|b| index.set_role_binding(b));
        let subject =
            |kind: &str, name: &str| Subject { kind: kind.into(), name: name.into(), ..Default::default() };
        let mut bind = |name: &str, role: &str, subject: Subject| {
            let mut b = RoleBinding::default();
            b.metadata.name = Some(name.into());
            b.metadata.namespace = Some("dev".into());
            b.role_ref = RoleRef { kind: "ClusterRole".into(), name: role.into(), ..Default::default() };
            b.subjects = Some(vec![subject]);
            index.set_role_binding(&b);
        };
        bind("viewers", "view", subject("Group", "viewers"));
        bind("editor", "edit", subject("User", "eve"));
        bind("local", "admin", subject("ServiceAccount", "bot"));
        index
    }

    #[test]
    fn requests_against_the_bootstrap_roles() {
        let mut index = cluster();
        let check = |index: &Index, user: &User, verb: &str, what: &str, namespace: &str, allowed: bool| {
            let mut a = Attributes { verb: verb.into(), namespace: namespace.into(), ..Default::default() };
            if what.starts_with('/') {
                a.path = what.into();
            } else {
                let (resource, name) = what.split_once(':').unwrap_or((what, ""));
                let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
                a = Attributes {
                    is_resource: true,
                    resource: resource.into(),
                    subresource: subresource.into(),
                    group: group.into(),
                    name: name.into(),
                    ..a
                };
            }
            let decision = index.authorize(user, &a);
            assert_eq!(
                decision.verdict == Verdict::Allow,
                allowed,
                "{} {verb} {what}: {decision:?}",
                user.name
            );
        };
        let nobody = User::component("nobody", &[]);
        let anonymous = User::anonymous();
        check(&index, &anonymous, "get", "/healthz", "", true);
        check(&index, &anonymous, "get", "/livez", "", true);
        check(&index, &anonymous, "get", "/livez/ping", "", false);
        check(&index, &anonymous, "get", "/version/", "", true);
        check(&index, &anonymous, "get", "/api", "", false);
        check(&index, &nobody, "get", "/apis/apps/v1", "", true);
        check(&index, &nobody, "post", "/api", "", false);
        check(&index, &nobody, "create", "selfsubjectaccessreviews.authorization.k8s.io", "", true);
        check(&index, &nobody, "list", "pods", "dev", false);

        let masters = User::component("root", &["system:masters"]);
        check(&index, &masters, "anything", "at.all/whatever:x", "", true);
        check(&index, &masters, "anything", "/path", "", true);

        let viewer = User::component("v", &["viewers"]);
        check(&index, &viewer, "list", "pods", "dev", true);
        check(&index, &viewer, "get", "pods/log", "dev", true);
        check(&index, &viewer, "list", "deployments.apps", "dev", true);
        check(&index, &viewer, "list", "pods", "prod", false);
        check(&index, &viewer, "list", "pods", "", false);
        check(&index, &viewer, "get", "secrets", "dev", false);
        check(&index, &viewer, "delete", "pods", "dev", false);

        let editor = User::component("eve", &[]);
        check(&index, &editor, "get", "configmaps", "dev", true);
        check(&index, &editor, "create", "pods/exec", "dev", true);
        check(&index, &editor, "create", "rolebindings.rbac.authorization.k8s.io", "dev", false);
        let bot = User::component("system:serviceaccount:dev:bot", &["system:serviceaccounts"]);
        check(&index, &bot, "create", "rolebindings.rbac.authorization.k8s.io", "dev", true);
        check(&index, &bot, "get", "pods", "dev", true);
        check(&index, &bot, "get", "/openid/v1/jwks", "", true);

        let scheduler = User::component("system:kube-scheduler", &[]);
        check(&index, &scheduler, "create", "pods/binding", "dev", true);
        check(&index, &scheduler, "update", "leases.coordination.k8s.io:kube-scheduler", "kube-system", true);
        check(&index, &scheduler, "delete", "nodes", "", false);

        index.remove_binding("dev", "viewers");
        check(&index, &viewer, "list", "pods", "dev", false);
        index.remove_cluster_role("system:aggregate-to-view");
        check(&index, &editor, "get", "configmaps", "dev", false);
        check(&index, &editor, "create", "configmaps", "dev", true);
    }

    #[test]
    fn the_reason_names_the_binding() {
        let index = cluster();
        let a = Attributes {
            verb: "list".into(),
            resource: "pods".into(),
            is_resource: true,
            namespace: "dev".into(),
            ..Default::default()
        };
        let reason = |user: &User| index.authorize(user, &a).reason;
        assert_eq!(
            reason(&User::component("v", &["viewers"])),
            r#"RBAC: allowed by RoleBinding "viewers/dev" of ClusterRole "view" to Group "viewers""#
        );
        assert_eq!(
            reason(&User::component("system:serviceaccount:dev:bot", &[])),
            r#"RBAC: allowed by RoleBinding "local/dev" of ClusterRole "admin" to ServiceAccount "bot/dev""#
        );
    }
}
