//! The roles and bindings every cluster has from its first start, and how a start brings those stored up to
//! date: what is missing is added, what an administrator added stays, and an object annotated
//! `rbac.authorization.kubernetes.io/autoupdate: "false"` is left alone.

use crate::rbac::Index;
use crate::rbac::rules::uncovered;
use k8s_openapi::api::rbac::v1::{
    AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use std::collections::BTreeMap;

const GROUP: &str = "rbac.authorization.k8s.io";
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// The text form's grammar stands at the top of each file.
static TEXTS: [&str; 4] = [
    include_str!("cluster.rules"),
    include_str!("controllers.rules"),
    include_str!("namespaces.rules"),
    include_str!("addons.rules"),
];

#[derive(Clone, Debug, Default)]
pub struct Policy {
    pub cluster_roles: Vec<ClusterRole>,
    pub cluster_role_bindings: Vec<ClusterRoleBinding>,
    pub roles: Vec<Role>,
    pub role_bindings: Vec<RoleBinding>,
}

/// Upstream's bootstrap policy, and the rights of our own add-ons.
pub fn policy() -> Policy {
    let mut policy = Policy::default();
    for text in TEXTS {
        parse(text, &mut policy);
    }
    policy
}

/// The rules of `system:node`, which the node authorizer applies to what it does not look at more closely.
pub fn node_rules() -> Vec<PolicyRule> {
    let mut policy = Policy::default();
    parse(TEXTS[0], &mut policy);
    let role = policy.cluster_roles.into_iter().find(|r| r.metadata.name.as_deref() == Some("system:node"));
    role.and_then(|r| r.rules).unwrap_or_default()
}

fn parse(text: &str, out: &mut Policy) {
    enum Current {
        ClusterRole,
        Role,
    }
    let mut current = Current::ClusterRole;
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(rule) = line.strip_prefix("  ") {
            let rules = match current {
                Current::ClusterRole => out.cluster_roles.last_mut().map(|r| &mut r.rules),
                Current::Role => out.roles.last_mut().map(|r| &mut r.rules),
            };
            rules.expect("a rule follows its role").get_or_insert_default().push(parse_rule(rule));
            continue;
        }
        let (head, rest) = line.split_once("  ").unwrap_or((line, ""));
        let (word, name) = head.split_once(' ').expect("a heading has a name");
        match word {
            "clusterrole" => {
                current = Current::ClusterRole;
                out.cluster_roles.push(cluster_role(name, rest));
            }
            "role" => {
                current = Current::Role;
                out.roles.push(Role { metadata: metadata(name), rules: None });
            }
            "clusterbinding" => {
                let (role_ref, subjects) = parse_binding(rest);
                out.cluster_role_bindings.push(ClusterRoleBinding {
                    metadata: metadata(name),
                    role_ref,
                    subjects,
                });
            }
            "binding" => {
                let (role_ref, subjects) = parse_binding(rest);
                out.role_bindings.push(RoleBinding { metadata: metadata(name), role_ref, subjects });
            }
            other => unreachable!("unknown heading {other} in the bootstrap policy"),
        }
    }
}

/// `name`: with its namespace before a slash.
fn metadata(name: &str) -> ObjectMeta {
    let (namespace, name) = name.split_once('/').map_or((None, name), |(ns, n)| (Some(ns.to_owned()), n));
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace,
        annotations: Some(BTreeMap::from([(AUTOUPDATE.to_owned(), "true".to_owned())])),
        labels: Some(BTreeMap::from([(
            "kubernetes.io/bootstrapping".to_owned(),
            "rbac-defaults".to_owned(),
        )])),
        ..ObjectMeta::default()
    }
}

fn cluster_role(name: &str, options: &str) -> ClusterRole {
    let mut role = ClusterRole { metadata: metadata(name), ..ClusterRole::default() };
    let label = |to: &str| (format!("{GROUP}/aggregate-to-{to}"), "true".to_owned());
    for option in options.split_whitespace() {
        if let Some(to) = option.strip_prefix("to=") {
            role.metadata.labels.get_or_insert_default().extend([label(to)]);
        } else if let Some(from) = option.strip_prefix("from=") {
            let selector = LabelSelector {
                match_labels: Some(BTreeMap::from([label(from)])),
                ..LabelSelector::default()
            };
            let rule = role.aggregation_rule.get_or_insert_with(AggregationRule::default);
            rule.cluster_role_selectors.get_or_insert_default().push(selector);
        }
    }
    role
}

fn parse_rule(line: &str) -> PolicyRule {
    let mut fields = line.split("  ");
    let mut next = || fields.next().map(|f| f.split(',').map(str::to_owned).collect::<Vec<_>>());
    let verbs = next().expect("a rule begins with its verbs");
    let groups = next().expect("a rule has groups or paths");
    let rest = next();
    if groups == ["url"] {
        return PolicyRule { verbs, non_resource_urls: rest, ..PolicyRule::default() };
    }
    let groups = groups.into_iter().map(|g| if g == "core" { String::new() } else { g }).collect();
    PolicyRule {
        verbs,
        api_groups: Some(groups),
        resources: rest,
        resource_names: next(),
        non_resource_urls: None,
    }
}

fn parse_binding(text: &str) -> (RoleRef, Option<Vec<Subject>>) {
    let (role, subjects) = text.split_once("  ").unwrap_or((text, ""));
    let (kind, name) = role.split_once('/').expect("a binding names kind and role");
    let role_ref =
        RoleRef { api_group: Some(GROUP.to_owned()), kind: kind.to_owned(), name: name.to_owned() };
    let subjects: Vec<Subject> = subjects
        .split(", ")
        .filter_map(|s| s.split_once(' '))
        .map(|(word, name)| match word {
            "sa" => {
                let (namespace, name) = name.split_once('/').expect("a service account has a namespace");
                Subject {
                    kind: "ServiceAccount".into(),
                    namespace: Some(namespace.into()),
                    name: name.into(),
                    api_group: None,
                }
            }
            word => Subject {
                kind: if word == "group" { "Group" } else { "User" }.into(),
                api_group: Some(GROUP.to_owned()),
                name: name.into(),
                namespace: None,
            },
        })
        .collect();
    (role_ref, Some(subjects).filter(|s| !s.is_empty()))
}

fn frozen(meta: &ObjectMeta) -> bool {
    meta.annotations.as_ref().and_then(|a| a.get(AUTOUPDATE)).is_some_and(|v| v == "false")
}

/// Adds the labels and annotations that are missing. True where something was.
fn complete_metadata(stored: &mut ObjectMeta, wanted: &ObjectMeta) -> bool {
    let mut changed = false;
    for (have, want) in [(&mut stored.labels, &wanted.labels), (&mut stored.annotations, &wanted.annotations)]
    {
        for (k, v) in want.iter().flatten() {
            let map = have.get_or_insert_default();
            if !map.contains_key(k) {
                map.insert(k.clone(), v.clone());
                changed = true;
            }
        }
    }
    changed
}

fn complete_rules(stored: &mut Option<Vec<PolicyRule>>, wanted: &Option<Vec<PolicyRule>>) -> bool {
    let missing = uncovered(stored.as_deref().unwrap_or_default(), wanted.as_deref().unwrap_or_default());
    let changed = !missing.is_empty();
    if changed {
        stored.get_or_insert_default().extend(missing);
    }
    changed
}

fn complete_subjects(stored: &mut Option<Vec<Subject>>, wanted: &Option<Vec<Subject>>) -> bool {
    let mut changed = false;
    for subject in wanted.iter().flatten() {
        let list = stored.get_or_insert_default();
        let same = |s: &Subject| {
            s.kind == subject.kind && s.name == subject.name && s.namespace == subject.namespace
        };
        if !list.iter().any(same) {
            list.push(subject.clone());
            changed = true;
        }
    }
    changed
}

/// A bootstrap object that a start brings up to date.
pub trait Reconcile: Sized {
    /// The stored object with what it lacks; None where it needs nothing.
    fn completed(&self, stored: &Self) -> Option<Self>;
    /// Puts the object into the authorizer's index, ahead of its event.
    fn index(&self, index: &mut Index);
}

impl Reconcile for ClusterRole {
    fn index(&self, index: &mut Index) {
        index.set_cluster_role(self);
    }

    fn completed(&self, stored: &Self) -> Option<Self> {
        let mut next = stored.clone();
        let mut changed = complete_metadata(&mut next.metadata, &self.metadata);
        changed |= complete_rules(&mut next.rules, &self.rules);
        let wanted = self.aggregation_rule.iter().flat_map(|a| a.cluster_role_selectors.iter().flatten());
        for selector in wanted {
            let rule = next.aggregation_rule.get_or_insert_with(AggregationRule::default);
            let list = rule.cluster_role_selectors.get_or_insert_default();
            if !list.contains(selector) {
                list.push(selector.clone());
                changed = true;
            }
        }
        (changed && !frozen(&stored.metadata)).then_some(next)
    }
}

impl Reconcile for Role {
    fn index(&self, index: &mut Index) {
        index.set_role(self);
    }

    fn completed(&self, stored: &Self) -> Option<Self> {
        let mut next = stored.clone();
        let mut changed = complete_metadata(&mut next.metadata, &self.metadata);
        changed |= complete_rules(&mut next.rules, &self.rules);
        (changed && !frozen(&stored.metadata)).then_some(next)
    }
}

impl Reconcile for ClusterRoleBinding {
    fn index(&self, index: &mut Index) {
        index.set_cluster_role_binding(self);
    }

    fn completed(&self, stored: &Self) -> Option<Self> {
        let mut next = stored.clone();
        let mut changed = complete_metadata(&mut next.metadata, &self.metadata);
        changed |= complete_subjects(&mut next.subjects, &self.subjects);
        (changed && !frozen(&stored.metadata)).then_some(next)
    }
}

impl Reconcile for RoleBinding {
    fn index(&self, index: &mut Index) {
        index.set_role_binding(self);
    }

    fn completed(&self, stored: &Self) -> Option<Self> {
        let mut next = stored.clone();
        let mut changed = complete_metadata(&mut next.metadata, &self.metadata);
        changed |= complete_subjects(&mut next.subjects, &self.subjects);
        (changed && !frozen(&stored.metadata)).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_is_whole() {
        let p = policy();
        let role = |name: &str| p.cluster_roles.iter().find(|r| r.metadata.name.as_deref() == Some(name));
        assert!(p.cluster_roles.len() > 60, "{}", p.cluster_roles.len());
        let everything = role("cluster-admin").and_then(|r| r.rules.clone()).unwrap_or_default();
        for r in p.cluster_roles.iter().filter(|r| r.aggregation_rule.is_none()) {
            let rules = r.rules.as_deref().unwrap_or_default();
            assert!(!rules.is_empty(), "{:?} has no rules", r.metadata.name);
            assert_eq!(uncovered(&everything, rules), []);
        }
        for b in &p.cluster_role_bindings {
            assert!(role(&b.role_ref.name).is_some(), "{:?}", b.role_ref);
        }
        assert_eq!(
            node_rules().len(),
            role("system:node").and_then(|r| r.rules.as_ref()).map_or(0, Vec::len)
        );
    }

    #[test]
    fn a_start_adds_what_is_missing_and_keeps_the_rest() {
        let p = policy();
        let wanted =
            p.cluster_roles.iter().find(|r| r.metadata.name.as_deref() == Some("system:kube-dns")).unwrap();
        assert_eq!(wanted.completed(wanted), None);
        let mut stored = wanted.clone();
        stored.rules = Some(vec![parse_rule("get  apps  deployments")]);
        let next = wanted.completed(&stored).unwrap();
        assert_eq!(next.rules.as_ref().unwrap()[0], parse_rule("get  apps  deployments"));
        assert_eq!(wanted.completed(&next), None);
        stored.metadata.annotations.as_mut().unwrap().insert(AUTOUPDATE.into(), "false".into());
        assert_eq!(wanted.completed(&stored), None);
    }
}
