//! v1 ResourceQuota.

use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Subresource, Validate};
use crate::object::Registered;
use crate::pod_spec::defaults::canonical_resources;
use crate::resources::{amount_text, check_amount, check_quota_name, is_quota_name};
use crate::strategy::{spec_and_status_no_generation, status_access};
use crate::support::{FIELD_IMMUTABLE, age, column, json};
use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaSpec, ScopedResourceSelectorRequirement};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, Quantity};
use std::collections::{BTreeMap, BTreeSet};

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

const COLUMNS: &[Column<ResourceQuota>] = &[
    column(
        "Request",
        "Request represents a minimum amount of cpu/memory that a container may consume.",
        |q| Cell::str(usage(q, false)),
    ),
    column(
        "Limit",
        "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
        |q| Cell::str(usage(q, true)),
    ),
    age(),
];

const SUBRESOURCES: &[Subresource<ResourceQuota>] =
    &[Subresource::Status(status_access!(ResourceQuota, validate_status))];

pub static RESOURCE_QUOTA: Registered<ResourceQuota> = Registered::new(Kind {
    gvk: GroupVersionKind::of("", "v1", "ResourceQuota"),
    names: Names { plural: "resourcequotas", singular: "resourcequota", short: &["quota"], categories: &[] },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.core.v1.ResourceQuota",
    storage: "resourcequotas",
    name_rule: NameRule::DnsSubdomain,
    default,
    validate: Validate { create: validate, update: validate_update },
    strategy: crate::kind::Strategy {
        warnings: |new, old| {
            if old.is_none() { crate::warnings::objects::resource_quota(new) } else { Vec::new() }
        },
        ..spec_and_status_no_generation!(ResourceQuota)
    },
    subresources: SUBRESOURCES,
    selectable: &[],
    columns: COLUMNS,
});

fn default(quota: &mut ResourceQuota) {
    canonical_resources(quota.spec.get_or_insert_default().hard.as_mut());
    let status = quota.status.get_or_insert_default();
    canonical_resources(status.hard.as_mut());
    canonical_resources(status.used.as_mut());
}

/// `pods: 1/10, services: 0/5`; limits stand in a column of their own.
fn usage(quota: &ResourceQuota, limits: bool) -> String {
    let Some(status) = &quota.status else { return String::new() };
    let one = |(name, hard): (&String, &ApiQuantity)| {
        let used = status.used.as_ref().and_then(|u| u.get(name));
        format!("{name}: {}/{}", amount_text(used), amount_text(Some(hard)))
    };
    let of_column = status.hard.iter().flatten().filter(|(name, _)| name.starts_with("limits.") == limits);
    of_column.map(one).collect::<Vec<_>>().join(", ")
}

fn amounts(list: Option<&BTreeMap<String, ApiQuantity>>, path: &Path) -> FieldErrors {
    list.into_iter()
        .flatten()
        .flat_map(|(name, amount)| {
            let at = || path.key(name);
            let mut errors = check_quota_name(name, &at);
            errors.extend(check_amount(name, Quantity::of(amount), &at));
            errors
        })
        .collect()
}

fn scope_counts(scope: &str, resource: &str) -> bool {
    let compute = matches!(
        resource,
        "pods" | "cpu" | "memory" | "limits.cpu" | "limits.memory" | "requests.cpu" | "requests.memory"
    );
    match scope {
        "Terminating"
        | "NotTerminating"
        | "NotBestEffort"
        | "PriorityClass"
        | "CrossNamespacePodAffinity" => compute,
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    }
}

fn validate(quota: &ResourceQuota) -> FieldErrors {
    let Some(spec) = &quota.spec else { return Vec::new() };
    let path = Path::new("spec");
    let mut errors = amounts(spec.hard.as_ref(), &path.child("hard"));
    errors.extend(scopes(spec, &path.child("scopes")));
    errors.extend(scope_selector(spec, &path.child("scopeSelector").child("matchExpressions")));
    errors
}

fn hard_names(spec: &ResourceQuotaSpec) -> impl Iterator<Item = &String> {
    spec.hard.iter().flat_map(BTreeMap::keys).filter(|n| is_quota_name(n))
}

fn conflicting(scopes: &BTreeSet<&str>) -> usize {
    [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")]
        .iter()
        .filter(|(a, b)| scopes.contains(a) && scopes.contains(b))
        .count()
}

fn scopes(spec: &ResourceQuotaSpec, path: &Path) -> FieldErrors {
    let given = spec.scopes.as_deref().unwrap_or_default();
    let mut errors = Vec::new();
    let refuse = |why: &str| FieldError::invalid(path, json(&given), why);
    for scope in given {
        if !SCOPES.contains(&scope.as_str()) {
            errors.push(refuse("unsupported scope"));
        }
        let wrong = hard_names(spec).filter(|r| !scope_counts(scope, r));
        errors.extend(wrong.map(|_| refuse("unsupported scope applied to resource")));
    }
    let set = given.iter().map(String::as_str).collect();
    errors.extend((0..conflicting(&set)).map(|_| refuse("conflicting scopes")));
    errors
}

fn scope_selector(spec: &ResourceQuotaSpec, path: &Path) -> FieldErrors {
    let Some(selector) = &spec.scope_selector else { return Vec::new() };
    let mut errors = Vec::new();
    let mut set = BTreeSet::new();
    for requirement in selector.match_expressions.iter().flatten() {
        let scope = requirement.scope_name.as_str();
        if !SCOPES.contains(&scope) {
            errors.push(FieldError::invalid(&path.child("scopeName"), scope, "unsupported scope"));
        }
        for _ in hard_names(spec).filter(|r| !scope_counts(scope, r)) {
            errors.push(FieldError::invalid(path, json(selector), "unsupported scope applied to resource"));
        }
        errors.extend(operator(requirement, path));
        set.insert(scope);
    }
    for _ in 0..conflicting(&set) {
        errors.push(FieldError::invalid(path, json(&spec.scopes), "conflicting scopes"));
    }
    errors
}

fn operator(requirement: &ScopedResourceSelectorRequirement, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let operator = requirement.operator.as_str();
    let at = path.child("operator");
    let only_exists = matches!(
        requirement.scope_name.as_str(),
        "BestEffort" | "NotBestEffort" | "Terminating" | "NotTerminating" | "CrossNamespacePodAffinity"
    );
    if only_exists && operator != "Exists" {
        errors.push(FieldError::invalid(&at, operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"));
    }
    let values = requirement.values.as_deref().unwrap_or_default();
    match operator {
        "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
            &path.child("values"),
            "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
        )),
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::invalid(
            &path.child("values"),
            json(&values),
            "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
        )),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        _ => errors.push(FieldError::invalid(&at, operator, "not a valid selector operator")),
    }
    errors
}

fn validate_status(new: &ResourceQuota, _: &ResourceQuota) -> FieldErrors {
    let Some(status) = &new.status else { return Vec::new() };
    let path = Path::new("status");
    let mut errors = amounts(status.hard.as_ref(), &path.child("hard"));
    errors.extend(amounts(status.used.as_ref(), &path.child("used")));
    errors
}

fn validate_update(new: &ResourceQuota, old: &ResourceQuota) -> FieldErrors {
    let mut errors = validate(new);
    let scopes = |q: &ResourceQuota| -> BTreeSet<String> {
        q.spec.iter().flat_map(|s| s.scopes.iter().flatten().cloned()).collect()
    };
    if scopes(new) != scopes(old) {
        let given = new.spec.as_ref().and_then(|s| s.scopes.as_ref());
        errors.push(FieldError::invalid(&Path::new("spec").child("scopes"), json(&given), FIELD_IMMUTABLE));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{check_spec, object};
    use serde_json::json;

    #[test]
    fn refusals() {
        check_spec(
            validate,
            json!({"hard": {"pods": "10", "requests.cpu": "1", "count/jobs.batch": "3"}}),
            &[],
        );
        check_spec(
            validate,
            json!({"hard": {"pods": "1.5", "beer": "6"}}),
            &[
                "spec.hard[beer]: Invalid value: \"beer\": must be a standard resource type or fully qualified",
                "spec.hard[beer]: Invalid value: \"beer\": must be a standard resource for quota",
                "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
            ],
        );
        check_spec(
            validate,
            json!({"hard": {"pods": "1"}, "scopes": ["BestEffort", "NotBestEffort"]}),
            &["spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes"],
        );
        check_spec(
            validate,
            json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}}),
            &[
                "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ],
        );
    }

    #[test]
    fn the_table_shows_what_is_used() {
        let quota: ResourceQuota = object(
            json!({"status": {"hard": {"pods": "10", "limits.cpu": "2", "cpu": "4"}, "used": {"pods": "3"}}}),
        );
        assert_eq!(usage(&quota, false), "cpu: 0/4, pods: 3/10");
        assert_eq!(usage(&quota, true), "limits.cpu: 0/2");
    }
}
