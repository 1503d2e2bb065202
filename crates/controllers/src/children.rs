//! What the controllers of pods have in common: which keys a change concerns, and creating and deleting pods with the
//! events that tell of it.

use crate::plan::{Note, Op};
use crate::refs::{controller_of, controller_ref, matches};
use crate::world::{BY_CONTROLLER, ORPHANS};
use client::events::reference;
use client::informer::Cached;
use client::{Delta, Informer, Key};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;
use meta::LabelSelector;
use std::sync::Arc;

/// The keys of the controllers of kind `O` an object names before and after a change.
pub(crate) fn owners<O: Resource<DynamicType = ()>, K: Resource>(delta: &Delta<K>) -> Vec<Key> {
    let mut keys = Vec::new();
    for object in [&delta.old, &delta.new].into_iter().flatten() {
        if let Some(r) = controller_of(object.meta())
            && r.kind == O::kind(&())
        {
            let key = Key { namespace: delta.key.namespace.clone(), name: r.name.as_str().into() };
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    keys
}

/// Those that might adopt an object without a controller, where the change made it one they select.
pub(crate) fn adopters<O: Cached, K: Resource>(
    delta: &Delta<K>,
    all: &Informer<O>,
    selector: fn(&O) -> Option<LabelSelector>,
) -> Vec<Key> {
    let Some(new) = delta.new.as_ref().map(|n| n.meta()).filter(|m| controller_of(m).is_none()) else {
        return Vec::new();
    };
    let news = delta
        .old
        .as_ref()
        .map(|o| o.meta())
        .is_none_or(|old| old.labels != new.labels || old.owner_references != new.owner_references);
    if !news {
        return Vec::new();
    }
    let adopters = all.by_namespace(&delta.key.namespace);
    let adopters = adopters.iter().filter(|o| selector(o).is_some_and(|s| matches(&s, new)));
    adopters.map(|o| Key::of(&**o)).collect()
}

/// The keys an object's change concerns: its controllers before and after, and who might adopt it.
pub(crate) fn owners_and_adopters<O: Cached + Resource<DynamicType = ()>, K: Resource>(
    delta: &Delta<K>,
    all: &Informer<O>,
    selector: fn(&O) -> Option<LabelSelector>,
) -> Vec<Key> {
    let mut keys = owners::<O, K>(delta);
    keys.extend(adopters(delta, all, selector));
    keys
}

/// What an owner controls and what nobody in its namespace does: what it may claim.
pub(crate) fn claimable<K: Cached>(owner: &ObjectMeta, all: &Informer<K>) -> Vec<Arc<K>> {
    let mut found = all.by_index(BY_CONTROLLER, owner.uid.as_deref().unwrap_or(""));
    let orphans = format!("{ORPHANS}{}", owner.namespace.as_deref().unwrap_or(""));
    found.extend(all.by_index(BY_CONTROLLER, &orphans));
    found
}

/// A pod as a template has it, controlled by its owner, under a name the server chooses.
pub(crate) fn pod_from<O: Resource<DynamicType = ()>>(owner: &O, template: &PodTemplateSpec) -> Pod {
    let meta = owner.meta();
    let template_meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace: meta.namespace.clone(),
            generate_name: Some(format!("{}-", meta.name.as_deref().unwrap_or(""))),
            labels: template_meta.labels,
            annotations: template_meta.annotations,
            finalizers: template_meta.finalizers,
            owner_references: Some(vec![controller_ref(owner)]),
            ..Default::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Creates a pod and tells of it at its owner.
pub(crate) fn creation<O: Resource<DynamicType = ()>>(owner: &O, pod: &Pod) -> Op {
    let about = reference(owner);
    Op::create(pod)
        .then(Note::normal(about.clone(), "SuccessfulCreate", "Created pod: {name}"))
        .otherwise(Note::warning(about, "FailedCreate", "Error creating: {error}"))
}

/// Deletes a pod and tells of it at its owner.
pub(crate) fn deletion<O: Resource<DynamicType = ()>>(owner: &O, pod: &Pod) -> Op {
    let about = reference(owner);
    let name = pod.metadata.name.as_deref().unwrap_or("");
    Op::delete(pod)
        .then(Note::normal(about.clone(), "SuccessfulDelete", format!("Deleted pod: {name}")))
        .otherwise(Note::warning(about, "FailedDelete", "Error deleting: {error}"))
}

/// A count, or a share of the whole. Text that is no percentage counts as 0: validation refuses it.
pub(crate) fn scaled(value: Option<&IntOrString>, whole: i32, round_up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(n)) => *n,
        Some(IntOrString::String(s)) => {
            let percent = s.strip_suffix('%').and_then(|p| p.parse::<i64>().ok()).unwrap_or(0);
            let n = percent * i64::from(whole);
            let n = if round_up { (n + 99).div_euclid(100) } else { n.div_euclid(100) };
            n.try_into().unwrap_or(i32::MAX)
        }
    }
}

/// A count as a status says it: 0 goes without saying.
pub(crate) fn positive(n: i32) -> Option<i32> {
    (n != 0).then_some(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_up_for_surge_and_down_for_unavailability() {
        let check = |v: &str, whole, up, expect| {
            assert_eq!(scaled(Some(&IntOrString::String(v.into())), whole, up), expect, "{v} of {whole}");
        };
        check("25%", 3, true, 1);
        check("25%", 3, false, 0);
        check("100%", 7, false, 7);
        check("1%", 100, true, 1);
        assert_eq!(scaled(Some(&IntOrString::Int(2)), 3, true), 2);
    }
}
