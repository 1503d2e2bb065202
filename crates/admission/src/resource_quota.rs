//! ResourceQuota: what a write adds to the quotas of its namespace, or why it may not. The last of the plugins; the
//! shell that runs it commits the new totals before the object, so that no two writers spend the same quota.

use crate::request::typed;
use crate::{Operation, Request};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use kinds::Object;
use kinds::quota::{Evaluator, Item, Usage, is_terminating, replenishes};
use meta::{ApiError, GroupResource, Quantity, Time};
use std::collections::{BTreeMap, BTreeSet};

/// Whether any quota could have a say in such a request.
pub fn handles(operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
    let special = group.is_empty() && matches!(resource, "pods" | "services" | "persistentvolumeclaims");
    match (operation, subresource) {
        (Operation::Create, "") => !matches!(resource, "events" | "namespaces" | "nodes"),
        (Operation::Update, "") => special,
        (Operation::Update, "resize") => group.is_empty() && resource == "pods",
        (Operation::Update, "status") => group.is_empty() && resource == "persistentvolumeclaims",
        _ => false,
    }
}

fn item(object: &Object) -> Item<'_> {
    if let Some(pod) = typed::<Pod>(object) {
        Item::Pod(pod)
    } else if let Some(service) = typed::<Service>(object) {
        Item::Service(service)
    } else if let Some(claim) = typed::<PersistentVolumeClaim>(object) {
        Item::Claim(claim)
    } else {
        Item::Other
    }
}

/// Whether this change can be one of what is used.
fn counts(r: &Request<'_>, new: Item<'_>, now: Time) -> bool {
    let old = r.old.map(item);
    match (r.operation, r.subresource, old, new) {
        (Operation::Update, "", Some(Item::Pod(old)), Item::Pod(new)) => {
            is_terminating(old) != is_terminating(new)
        }
        (Operation::Update, "status", Some(old), new) => replenishes(old, new, now),
        (operation, subresource, ..) => {
            handles(operation, &r.resource.group, &r.resource.resource, subresource)
        }
    }
}

fn amounts(list: Option<&Amounts>) -> Usage {
    list.into_iter().flatten().map(|(name, q)| (name.clone(), Quantity::of(q))).collect()
}

/// `cpu=1,pods=2`
fn text(usage: &Usage, names: &BTreeSet<&String>) -> String {
    let parts = names.iter().map(|n| format!("{n}={}", usage.get(*n).copied().unwrap_or_default()));
    parts.collect::<Vec<_>>().join(",")
}

fn join<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    names.into_iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

/// Amounts as a quota's status holds them.
pub type Amounts = BTreeMap<String, ApiQuantity>;

/// The new `status.used` of each quota that the write spends from, by its index in `quotas`.
///
/// # Errors
/// Forbidden: a quota would be exceeded, is not counted yet, or makes demands that the object does not meet.
pub fn charge(
    r: &Request<'_>,
    object: &Object,
    quotas: &[&ResourceQuota],
    now: Time,
) -> Result<Vec<(usize, Amounts)>, ApiError> {
    let resource: &GroupResource = r.resource;
    let Some(evaluator) = Evaluator::of(resource) else { return Ok(Vec::new()) };
    let new = item(object);
    if !counts(r, new, now) {
        return Ok(Vec::new());
    }
    let concerned = concerned(r, object, &evaluator, quotas)?;
    if concerned.is_empty() {
        return Ok(Vec::new());
    }
    let usage = evaluator.usage(new, now);
    let negative: Vec<&String> = usage.iter().filter(|(_, q)| q.is_negative()).map(|(n, _)| n).collect();
    if !negative.is_empty() {
        let why = format!("quota usage is negative for resource(s): {}", join(negative));
        return Err(r.forbidden(Some(object), why));
    }
    let before = r.old.filter(|_| r.operation == Operation::Update).map(item);
    let mut charges = Vec::new();
    for index in concerned {
        let quota = quotas[index];
        let mut added = usage.clone();
        if let Some(old) = before.filter(|old| evaluator.concerns(quota, *old)) {
            for (name, had) in evaluator.usage(old, now) {
                *added.entry(name).or_default() -= had;
            }
        }
        let empty = ResourceQuotaStatus::default();
        let status = quota.status.as_ref().unwrap_or(&empty);
        let (hard, used) = (amounts(status.hard.as_ref()), amounts(status.used.as_ref()));
        added.retain(|name, amount| !amount.is_zero() && !amount.is_negative() && hard.contains_key(name));
        if added.is_empty() {
            continue;
        }
        let mut total = used.clone();
        for (name, amount) in &added {
            *total.entry(name.clone()).or_default() += *amount;
        }
        let exceeded: BTreeSet<&String> = added.keys().filter(|n| total[*n] > hard[*n]).collect();
        // A status only tells what is so.
        if !exceeded.is_empty() && r.subresource != "status" {
            let name = quota.metadata.name.as_deref().unwrap_or("");
            let (asked, used, hard) =
                (text(&added, &exceeded), text(&used, &exceeded), text(&hard, &exceeded));
            let why = format!("exceeded quota: {name}, requested: {asked}, used: {used}, limited: {hard}");
            return Err(r.forbidden(Some(object), why));
        }
        charges.push((index, total.into_iter().map(|(name, amount)| (name, amount.to_api())).collect()));
    }
    Ok(charges)
}

/// The quotas that have a say on the object.
fn concerned(
    r: &Request<'_>,
    object: &Object,
    evaluator: &Evaluator,
    quotas: &[&ResourceQuota],
) -> Result<Vec<usize>, ApiError> {
    let new = item(object);
    let mut concerned = Vec::new();
    for (index, quota) in quotas.iter().enumerate() {
        if !evaluator.concerns(quota, new) {
            continue;
        }
        let name = quota.metadata.name.as_deref().unwrap_or("");
        let status = quota.status.as_ref();
        let limited = evaluator.tracked(status.iter().flat_map(|s| s.hard.iter().flatten()).map(|(n, _)| n));
        evaluator
            .constrain(&limited, new)
            .map_err(|why| r.forbidden(Some(object), format!("failed quota: {name}: {why}")))?;
        let used = status.and_then(|s| s.used.as_ref());
        if limited.iter().any(|n| used.is_none_or(|u| !u.contains_key(n))) {
            let why = format!("status unknown for quota: {name}, resources: {}", join(&limited));
            return Err(r.forbidden(Some(object), why));
        }
        concerned.push(index);
    }
    Ok(concerned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::World;
    use auth::User;
    use serde_json::{Value, json};

    struct Nothing;
    impl World for Nothing {
        fn get(&self, _: &str, _: &str, _: &str, _: &str) -> Option<Object> {
            None
        }
        fn list(&self, _: &str, _: &str, _: &str) -> Vec<Object> {
            Vec::new()
        }
    }

    fn object(resource: &str, value: Value) -> Object {
        let kind = kinds::find("", "v1", resource).expect("a kind");
        kind.from_value(value).expect("an object")
    }

    /// What `quota` has used after the write, or the refusal.
    fn charged(quota: &Value, resource: &str, old: Option<Value>, new: Value) -> Result<String, String> {
        let quota: ResourceQuota = serde_json::from_value(quota.clone()).expect("a quota");
        let (old, new) = (old.map(|o| object(resource, o)), object(resource, new));
        let user = User::default();
        let gr = GroupResource { group: "".into(), resource: resource.to_owned().into() };
        let request = Request {
            operation: if old.is_some() { Operation::Update } else { Operation::Create },
            resource: &gr,
            subresource: "",
            namespace: "ns",
            name: "x",
            user: &user,
            old: old.as_ref(),
            world: &Nothing,
            suffix: "",
            warn: &|_| {},
        };
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        let charges = charge(&request, &new, &[&quota], now).map_err(|e| e.message)?;
        let used = charges.into_iter().next().map(|(_, used)| used).unwrap_or_default();
        Ok(used.iter().map(|(n, q)| format!("{n}={}", q.0)).collect::<Vec<_>>().join(","))
    }

    fn quota(hard: Value, used: Value) -> Value {
        json!({"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})
    }

    fn pod(resources: Value) -> Value {
        json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    #[test]
    fn creations_are_charged_until_the_quota_is_full() {
        let check = |hard: Value, used: Value, resource: &str, new: Value, expect: Result<&str, &str>| {
            let got = charged(&quota(hard, used), resource, None, new);
            assert_eq!(got.as_deref().map_err(|e| e.as_str()), expect);
        };
        let (hard, some) = (json!({"pods": "2", "requests.cpu": "1"}), json!({"requests": {"cpu": "600m"}}));
        let used = json!({"pods": "1", "requests.cpu": "300m"});
        check(hard.clone(), used.clone(), "pods", pod(some.clone()), Ok("pods=2,requests.cpu=900m"));
        check(
            hard.clone(),
            json!({"pods": "2", "requests.cpu": "500m"}),
            "pods",
            pod(some.clone()),
            Err(
                r#"pods "x" is forbidden: exceeded quota: q, requested: pods=1,requests.cpu=600m, used: pods=2,requests.cpu=500m, limited: pods=2,requests.cpu=1"#,
            ),
        );
        check(
            hard.clone(),
            used,
            "pods",
            pod(json!({})),
            Err(r#"pods "x" is forbidden: failed quota: q: must specify requests.cpu for: c"#),
        );
        check(
            hard,
            json!({}),
            "pods",
            pod(some),
            Err(r#"pods "x" is forbidden: status unknown for quota: q, resources: pods,requests.cpu"#),
        );
        let map = json!({"metadata": {"name": "x"}});
        check(
            json!({"configmaps": "1"}),
            json!({"configmaps": "0"}),
            "configmaps",
            map.clone(),
            Ok("configmaps=1"),
        );
        check(
            json!({"count/configmaps": "1"}),
            json!({"count/configmaps": "1"}),
            "configmaps",
            map.clone(),
            Err(
                r#"configmaps "x" is forbidden: exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=1, limited: count/configmaps=1"#,
            ),
        );
        check(json!({"pods": "0"}), json!({"pods": "0"}), "configmaps", map, Ok(""));
    }

    #[test]
    fn a_change_is_charged_with_the_difference() {
        let service = |ty: &str, ports: usize| {
            let ports: Vec<Value> = (1..=ports).map(|p| json!({"port": p})).collect();
            json!({"metadata": {"name": "x"}, "spec": {"type": ty, "ports": ports}})
        };
        let q = quota(
            json!({"services": "1", "services.nodeports": "2"}),
            json!({"services": "1", "services.nodeports": "0"}),
        );
        let check = |old, new, expect: Result<&str, &str>| {
            let got = charged(&q, "services", Some(old), new);
            assert_eq!(got.as_deref().map_err(|e| e.as_str()), expect);
        };
        check(service("ClusterIP", 1), service("NodePort", 2), Ok("services=1,services.nodeports=2"));
        check(service("NodePort", 2), service("ClusterIP", 2), Ok(""));
        check(
            service("ClusterIP", 3),
            service("NodePort", 3),
            Err(
                r#"services "x" is forbidden: exceeded quota: q, requested: services.nodeports=3, used: services.nodeports=0, limited: services.nodeports=2"#,
            ),
        );
        let pods = quota(json!({"pods": "0"}), json!({"pods": "0"}));
        let (old, new) = (pod(json!({})), pod(json!({})));
        assert_eq!(charged(&pods, "pods", Some(old), new), Ok(String::new()));
    }
}
