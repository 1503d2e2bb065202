//! What a ResourceQuota counts: which objects are in its scope and how much each uses. Shared by the admission plugin,
//! which charges a write before it is stored, and the quota controller, which counts again from what is stored.
//!
//! A name of `spec.hard` belongs to an [`Evaluator`], one for each resource with a measure of its own (pods, services,
//! claims) and one for the mere number of any other kind (API reference: ResourceQuota; upstream's
//! `pkg/quota/v1/evaluator`).

mod claims;
mod pods;
mod services;

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaSpec, ScopedResourceSelectorRequirement, Service,
};
use meta::{GroupResource, Quantity, Time};
use std::collections::{BTreeMap, BTreeSet};

/// Amounts by the names of `spec.hard`.
pub type Usage = meta::pod::Resources;

/// Kinds whose number had a name of its own before `count/` names.
const ALIASES: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];

/// Never counted: nothing is stored of them, or they are noise (events).
const IGNORED: [(&str, &str); 10] = [
    ("", "bindings"),
    ("", "componentstatuses"),
    ("", "events"),
    ("events.k8s.io", "events"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
];

/// An object as quota sees it.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    Pod(&'a Pod),
    Service(&'a Service),
    Claim(&'a PersistentVolumeClaim),
    /// Any other: it counts as one.
    Other,
}

/// What measures the objects of one resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Evaluator {
    Pods,
    Services,
    Claims,
    /// Counts any other resource.
    Count {
        group: String,
        resource: String,
    },
}

impl Evaluator {
    /// None for resources that quota leaves alone.
    pub fn of(resource: &GroupResource) -> Option<Self> {
        let (group, resource) = (resource.group.as_ref(), resource.resource.as_ref());
        match (group, resource) {
            ("", "pods") => Some(Self::Pods),
            ("", "services") => Some(Self::Services),
            ("", "persistentvolumeclaims") => Some(Self::Claims),
            pair if IGNORED.contains(&pair) => None,
            _ => Some(Self::Count { group: group.to_owned(), resource: resource.to_owned() }),
        }
    }

    /// The resource that is measured: (group, plural).
    pub fn resource(&self) -> (&str, &str) {
        match self {
            Self::Pods => ("", "pods"),
            Self::Services => ("", "services"),
            Self::Claims => ("", "persistentvolumeclaims"),
            Self::Count { group, resource } => (group, resource),
        }
    }

    /// Whether this is what measures the name.
    pub fn tracks(&self, name: &str) -> bool {
        match self {
            Self::Pods => pods::tracks(name),
            Self::Services => services::tracks(name),
            Self::Claims => claims::tracks(name),
            Self::Count { group, resource } => {
                name.strip_prefix("count/").is_some_and(|n| count_of(n) == (group, resource))
                    || (group.is_empty() && name == resource && ALIASES.contains(&name))
            }
        }
    }

    /// Those of `names` that this measures, in order.
    pub fn tracked<'n>(&self, names: impl IntoIterator<Item = &'n String>) -> BTreeSet<String> {
        names.into_iter().filter(|n| self.tracks(n)).cloned().collect()
    }

    /// What an object uses; names that it does not use may be absent.
    pub fn usage(&self, item: Item<'_>, now: Time) -> Usage {
        match (self, item) {
            (Self::Pods, Item::Pod(pod)) => pods::usage(pod, now),
            (Self::Services, Item::Service(service)) => services::usage(service),
            (Self::Claims, Item::Claim(claim)) => claims::usage(claim),
            (Self::Count { group, resource }, _) => {
                let mut usage = Usage::from([(count_name(group, resource), one())]);
                if group.is_empty() && ALIASES.contains(&resource.as_str()) {
                    usage.insert(resource.clone(), one());
                }
                usage
            }
            _ => Usage::new(),
        }
    }

    /// Whether the object is in all scopes of the quota.
    pub fn in_scope(&self, spec: &ResourceQuotaSpec, item: Item<'_>) -> bool {
        let matches = |requirement: &ScopedResourceSelectorRequirement| match item {
            Item::Pod(pod) => pods::in_scope(pod, requirement),
            Item::Claim(claim) => claims::in_scope(claim, requirement),
            Item::Service(_) | Item::Other => false,
        };
        let mut named = spec.scopes.iter().flatten().map(|scope| ScopedResourceSelectorRequirement {
            scope_name: scope.clone(),
            operator: "Exists".to_owned(),
            values: None,
        });
        let mut selected = spec.scope_selector.iter().flat_map(|s| s.match_expressions.iter().flatten());
        named.all(|r| matches(&r)) && selected.all(matches)
    }

    /// Whether the quota, as its status knows it, has a say on the object.
    pub fn concerns(&self, quota: &ResourceQuota, item: Item<'_>) -> bool {
        let mut hard = quota.status.iter().flat_map(|s| s.hard.iter().flatten());
        hard.any(|(name, _)| self.tracks(name))
            && quota.spec.as_ref().is_none_or(|spec| self.in_scope(spec, item))
    }

    /// What the object must say, given the names that are limited: a quota of cpu or memory makes each container name
    /// its own.
    ///
    /// # Errors
    /// What is missing, as `must specify limits.cpu for: c`.
    pub fn constrain(&self, limited: &BTreeSet<String>, item: Item<'_>) -> Result<(), String> {
        match item {
            Item::Pod(pod) => pods::constrain(limited, pod),
            Item::Service(_) | Item::Claim(_) | Item::Other => Ok(()),
        }
    }
}

/// Whether a change frees what a quota counted, or moves the object to another quota: then the quotas of the namespace
/// are to be counted again.
pub fn replenishes(old: Item<'_>, new: Item<'_>, now: Time) -> bool {
    match (old, new) {
        (Item::Pod(old), Item::Pod(new)) => pods::replenishes(old, new, now),
        (Item::Service(old), Item::Service(new)) => {
            services::counted_type(old) != services::counted_type(new)
        }
        (Item::Claim(old), Item::Claim(new)) => claims::replenishes(old, new),
        _ => false,
    }
}

pub use pods::is_terminating;

/// What must be listed to count a quota with these names.
pub fn evaluators<'n>(names: impl IntoIterator<Item = &'n String>) -> BTreeSet<Evaluator> {
    names.into_iter().filter_map(|name| evaluator_of(name)).collect()
}

fn evaluator_of(name: &str) -> Option<Evaluator> {
    let special = [Evaluator::Pods, Evaluator::Services, Evaluator::Claims];
    if let Some(found) = special.into_iter().find(|e| e.tracks(name)) {
        return Some(found);
    }
    let (group, resource) = match name.strip_prefix("count/") {
        Some(counted) => count_of(counted),
        None if ALIASES.contains(&name) => ("", name),
        None => return None,
    };
    (!IGNORED.contains(&(group, resource)))
        .then(|| Evaluator::Count { group: group.to_owned(), resource: resource.to_owned() })
}

/// Counts a quota from what is stored: `items` gives the objects of the quota's namespace, None where they cannot be
/// listed; what cannot be counted is absent from the answer.
pub fn count<'a>(
    spec: &ResourceQuotaSpec,
    now: Time,
    mut items: impl FnMut(&Evaluator) -> Option<Vec<Item<'a>>>,
) -> Usage {
    let names: Vec<&String> = spec.hard.iter().flat_map(BTreeMap::keys).collect();
    let mut used = Usage::new();
    for evaluator in evaluators(names.iter().copied()) {
        let Some(items) = items(&evaluator) else { continue };
        let mut own: Usage =
            evaluator.tracked(names.iter().copied()).into_iter().map(|n| (n, Quantity::ZERO)).collect();
        for item in items.into_iter().filter(|i| evaluator.in_scope(spec, *i)) {
            for (name, amount) in evaluator.usage(item, now) {
                if let Some(total) = own.get_mut(&name) {
                    *total += amount;
                }
            }
        }
        used.extend(own);
    }
    used
}

/// `deployments.apps`: (group, plural).
fn count_of(name: &str) -> (&str, &str) {
    name.split_once('.').map_or(("", name), |(resource, group)| (group, resource))
}

fn count_name(group: &str, resource: &str) -> String {
    if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") }
}

fn one() -> Quantity {
    units(1)
}

fn units(n: usize) -> Quantity {
    Quantity::new(i64::try_from(n).unwrap_or(i64::MAX), meta::quantity::Format::DecimalSI)
}

/// A scope's requirement on the one value, or the several, that the object has for it.
fn selects(requirement: &ScopedResourceSelectorRequirement, values: &[&str]) -> bool {
    let listed = |v: &&str| requirement.values.iter().flatten().any(|x| x == v);
    match requirement.operator.as_str() {
        "Exists" => !values.is_empty(),
        "DoesNotExist" => values.is_empty(),
        "In" => values.iter().any(listed),
        "NotIn" => values.is_empty() || values.iter().any(|v| !listed(v)),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
