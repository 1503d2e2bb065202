//! Whether a rule allows a request, and whether rules cover other rules.

use crate::identity::Attributes;
use k8s_openapi::api::rbac::v1::PolicyRule;

fn list(field: &Option<Vec<String>>) -> &[String] {
    field.as_deref().unwrap_or_default()
}

fn has(set: &[String], element: &str) -> bool {
    set.iter().any(|s| s == element)
}

fn has_or_all(set: &[String], element: &str) -> bool {
    set.iter().any(|s| s == "*" || s == element)
}

/// Whether `rule` allows the request (pkg/apis/rbac/v1 evaluation helpers).
pub fn allows(rule: &PolicyRule, a: &Attributes) -> bool {
    if !has_or_all(&rule.verbs, &a.verb) {
        return false;
    }
    if !a.is_resource {
        return list(&rule.non_resource_urls).iter().any(|p| p == "*" || path_covers(p, &a.path));
    }
    let names = list(&rule.resource_names);
    has_or_all(list(&rule.api_groups), &a.group)
        && list(&rule.resources).iter().any(|r| resource_matches(r, &a.resource, &a.subresource))
        && (names.is_empty() || has(names, &a.name))
}

/// `pods`, `pods/log`, `*/log` or `*`.
fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    if subresource.is_empty() {
        return rule == resource;
    }
    rule.strip_suffix(subresource)
        .and_then(|r| r.strip_suffix('/'))
        .is_some_and(|r| r == "*" || r == resource)
}

/// A trailing `*` covers everything below.
fn path_covers(owner: &str, path: &str) -> bool {
    owner == path || (owner.ends_with('*') && path.starts_with(owner.trim_end_matches('*')))
}

/// The part of `wanted` that `held` does not cover, broken into rules of one verb, resource and name each.
pub fn uncovered(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    wanted.iter().flat_map(break_down).filter(|one| !held.iter().any(|h| covers(h, one))).collect()
}

fn break_down(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut out = Vec::new();
    let one = |s: &String| Some(vec![s.clone()]);
    for group in list(&rule.api_groups) {
        for resource in list(&rule.resources) {
            for verb in &rule.verbs {
                let base = PolicyRule {
                    api_groups: one(group),
                    resources: one(resource),
                    verbs: vec![verb.clone()],
                    ..PolicyRule::default()
                };
                match list(&rule.resource_names) {
                    [] => out.push(base),
                    names => {
                        out.extend(
                            names.iter().map(|n| PolicyRule { resource_names: one(n), ..base.clone() }),
                        );
                    }
                }
            }
        }
    }
    for path in list(&rule.non_resource_urls) {
        for verb in &rule.verbs {
            let rule = PolicyRule {
                non_resource_urls: one(path),
                verbs: vec![verb.clone()],
                ..PolicyRule::default()
            };
            out.push(rule);
        }
    }
    out
}

/// Whether `owner` covers `one`, which has at most one verb, group, resource, name and path.
fn covers(owner: &PolicyRule, one: &PolicyRule) -> bool {
    let all = |set: &[String], wanted: &[String]| wanted.iter().all(|w| has_or_all(set, w));
    let resource = |wanted: &String| {
        let held = list(&owner.resources);
        has_or_all(held, wanted)
            || wanted.split_once('/').is_some_and(|(_, sub)| has(held, &format!("*/{sub}")))
    };
    let (names, wanted_names) = (list(&owner.resource_names), list(&one.resource_names));
    let names_cover =
        names.is_empty() || (!wanted_names.is_empty() && wanted_names.iter().all(|n| has(names, n)));
    all(&owner.verbs, &one.verbs)
        && all(list(&owner.api_groups), list(&one.api_groups))
        && list(&one.resources).iter().all(resource)
        && names_cover
        && list(&one.non_resource_urls)
            .iter()
            .all(|path| list(&owner.non_resource_urls).iter().any(|o| path_covers(o, path)))
}

/// Joins rules that differ by verb alone, and prints each as upstream's refusals do, sorted.
pub fn describe(rules: Vec<PolicyRule>) -> Vec<String> {
    let mut joined: Vec<PolicyRule> = Vec::new();
    for rule in rules {
        let same = joined.iter_mut().find(|j| {
            rule.non_resource_urls.is_none()
                && j.api_groups == rule.api_groups
                && j.resources == rule.resources
                && j.resource_names == rule.resource_names
                && j.non_resource_urls.is_none()
        });
        match same {
            Some(j) => j.verbs.extend(rule.verbs),
            None => joined.push(rule),
        }
    }
    let mut out: Vec<String> = joined.iter().map(compact).collect();
    out.sort();
    out.dedup();
    out
}

fn compact(rule: &PolicyRule) -> String {
    let parts = [
        ("APIGroups", list(&rule.api_groups)),
        ("Resources", list(&rule.resources)),
        ("NonResourceURLs", list(&rule.non_resource_urls)),
        ("ResourceNames", list(&rule.resource_names)),
        ("Verbs", &rule.verbs),
    ];
    let shown: Vec<String> = parts
        .iter()
        .filter(|(_, v)| !v.is_empty())
        .map(|(name, v)| {
            let quoted: Vec<String> = v.iter().map(|s| format!("{s:?}")).collect();
            format!("{name}:[{}]", quoted.join(" "))
        })
        .collect();
    format!("{{{}}}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> PolicyRule {
        let split = |s: &str| s.split(',').map(str::to_owned).collect::<Vec<_>>();
        let some = |s: &str| Some(split(s)).filter(|_| s != "-");
        PolicyRule {
            verbs: split(verbs),
            api_groups: some(groups),
            resources: some(resources),
            resource_names: some(names),
            non_resource_urls: None,
        }
    }

    #[test]
    fn a_rule_allows() {
        let check = |r: PolicyRule, verb: &str, group: &str, resource: &str, name: &str, expect: bool| {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let a = Attributes {
                verb: verb.into(),
                group: group.into(),
                resource: resource.into(),
                subresource: subresource.into(),
                name: name.into(),
                is_resource: true,
                ..Default::default()
            };
            assert_eq!(allows(&r, &a), expect, "{r:?} {verb} {resource}/{subresource}");
        };
        check(rule("get", "", "pods", "-"), "get", "", "pods", "x", true);
        check(rule("get", "", "pods", "-"), "get", "", "pods/log", "x", false);
        check(rule("get", "", "pods/*", "-"), "get", "", "pods/log", "x", false);
        check(rule("get", "", "*/log", "-"), "get", "", "pods/log", "x", true);
        check(rule("get", "", "*/log", "-"), "get", "", "pods/mylog", "x", false);
        check(rule("get", "", "*", "-"), "get", "", "pods/log", "x", true);
        check(rule("get", "apps", "pods", "-"), "get", "", "pods", "x", false);
        check(rule("*", "*", "*", "a,b"), "list", "", "pods", "", false);
        check(rule("*", "*", "*", "a,b"), "get", "", "pods", "b", true);
    }

    #[test]
    fn what_is_not_covered_is_named() {
        let check = |held: &[PolicyRule], wanted: PolicyRule, expect: &[&str]| {
            assert_eq!(describe(uncovered(held, &[wanted])), expect);
        };
        let held = [
            rule("get,list", "", "pods,secrets", "-"),
            rule("*", "apps", "*", "-"),
            rule("get", "", "*/log", "-"),
        ];
        check(&held, rule("get,list", "", "pods", "-"), &[]);
        check(&held, rule("get", "", "pods/log", "-"), &[]);
        check(&held, rule("get", "", "pods", "one"), &[]);
        check(&held, rule("delete", "apps", "deployments/scale", "-"), &[]);
        check(
            &held,
            rule("get,watch,delete", "", "pods", "-"),
            &[r#"{APIGroups:[""], Resources:["pods"], Verbs:["watch" "delete"]}"#],
        );
        check(
            &[rule("get", "", "pods", "one")],
            rule("get", "", "pods", "-"),
            &[r#"{APIGroups:[""], Resources:["pods"], Verbs:["get"]}"#],
        );
    }
}
