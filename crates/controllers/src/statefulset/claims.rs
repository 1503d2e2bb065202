//! The members' persistent volume claims: their names, and who owns them by the retention policy (KEP-1847).

use crate::refs::controller_ref;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;

pub(super) fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    let name = |m: &ObjectMeta| m.name.clone().unwrap_or_default();
    format!("{}-{}-{ordinal}", name(&template.metadata), name(&set.metadata))
}

/// The claims that a member needs, in the order of their templates.
pub(super) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let Some(spec) = &set.spec else { return Vec::new() };
    let claim = |template: &PersistentVolumeClaim| {
        let mut labels = template.metadata.labels.clone().unwrap_or_default();
        labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
        PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(claim_name(set, template, ordinal)),
                namespace: set.metadata.namespace.clone(),
                labels: (!labels.is_empty()).then_some(labels),
                ..template.metadata.clone()
            },
            ..template.clone()
        }
    };
    spec.volume_claim_templates.iter().flatten().map(claim).collect()
}

/// Whether claims go with the set, and whether they go with a member that is scaled away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Policy {
    pub delete_with_set: bool,
    pub delete_when_scaled: bool,
}

impl Policy {
    pub fn of(set: &StatefulSet) -> Self {
        let policy = set.spec.as_ref().and_then(|s| s.persistent_volume_claim_retention_policy.as_ref());
        let deletes = |p: Option<&String>| p.is_some_and(|p| p == "Delete");
        Self {
            delete_with_set: deletes(policy.and_then(|p| p.when_deleted.as_ref())),
            delete_when_scaled: deletes(policy.and_then(|p| p.when_scaled.as_ref())),
        }
    }
}

/// A claim, its set and its member, where the member may not exist yet.
pub(super) struct Owned<'a> {
    pub claim: &'a PersistentVolumeClaim,
    pub set: &'a StatefulSet,
    pub pod: &'a Pod,
    /// Whether the set still wants the member.
    pub in_range: bool,
}

fn names<O: Resource<DynamicType = ()>>(r: &OwnerReference, owner: &O) -> bool {
    r.api_version == O::api_version(&())
        && r.kind == O::kind(&())
        && Some(&r.name) == owner.meta().name.as_ref()
}

fn is<O: Resource>(r: &OwnerReference, owner: &O) -> bool {
    owner.meta().uid.as_ref() == Some(&r.uid)
}

impl Owned<'_> {
    fn refs(&self) -> impl Iterator<Item = &OwnerReference> {
        self.claim.metadata.owner_references.iter().flatten()
    }

    fn has<O: Resource>(&self, owner: &O) -> bool {
        self.refs().any(|r| is(r, owner))
    }

    /// Whether the claim belongs to an earlier member of this name, and goes when that is collected.
    pub fn is_of_former_pod(&self) -> bool {
        self.refs().find(|r| names(r, self.pod)).is_some_and(|r| !is(r, self.pod))
    }

    fn is_of_former_set(&self) -> bool {
        self.refs().find(|r| names(r, self.set)).is_some_and(|r| !is(r, self.set))
    }

    /// Whether somebody else manages the claim, where the policy would have the set do so.
    pub fn has_other_manager(&self) -> bool {
        Policy::of(self.set) != Policy::default()
            && self.refs().any(|r| match (names(r, self.set), names(r, self.pod)) {
                (true, _) => !is(r, self.set),
                (_, true) => !is(r, self.pod),
                _ => r.controller == Some(true),
            })
    }

    /// Set and member, as the policy has them own the claim.
    fn wanted(&self) -> (bool, bool) {
        let policy = Policy::of(self.set);
        let pod = policy.delete_when_scaled && !self.in_range;
        (policy.delete_with_set && !pod, pod)
    }

    /// The claim as it should be; None where it is, or is not to be touched.
    pub fn corrected(&self) -> Option<PersistentVolumeClaim> {
        if self.is_of_former_set() || self.is_of_former_pod() {
            return None;
        }
        let ours = |r: &OwnerReference| is(r, self.set) || is(r, self.pod);
        let wanted = if self.has_other_manager() {
            if !self.refs().any(ours) {
                return None;
            }
            (false, false)
        } else {
            let wanted = self.wanted();
            let controls = self.refs().filter(|r| ours(r)).all(|r| r.controller == Some(true));
            if controls && (self.has(self.set), self.has(self.pod)) == wanted {
                return None;
            }
            wanted
        };
        let mut refs: Vec<_> =
            self.refs().filter(|r| !names(r, self.set) && !names(r, self.pod)).cloned().collect();
        if wanted.0 {
            refs.push(controller_ref(self.set));
        }
        if wanted.1 {
            refs.push(controller_ref(self.pod));
        }
        let mut claim = self.claim.clone();
        claim.metadata.owner_references = (!refs.is_empty()).then_some(refs);
        Some(claim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// `owners`: `set`, `pod`, `former pod`, `other`. Expects the owners afterwards, None where nothing changes.
    fn check(policy: (&str, &str), in_range: bool, owners: &[&str], expect: Option<&[&str]>) {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "web", "uid": "set"},
            "spec": {"selector": {}, "template": {}, "serviceName": "",
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": policy.0, "whenScaled": policy.1}},
        }))
        .unwrap();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "web-0", "uid": "pod"}})).unwrap();
        let reference = |who: &&str| -> Value {
            let (version, kind, name) = match *who {
                "set" => ("apps/v1", "StatefulSet", "web"),
                "other" => ("example.com/v1", "Backup", "b"),
                _ => ("v1", "Pod", "web-0"),
            };
            json!({"apiVersion": version, "kind": kind, "name": name, "uid": who, "controller": true})
        };
        let refs: Vec<Value> = owners.iter().map(reference).collect();
        let claim = serde_json::from_value(json!({"metadata": {"ownerReferences": refs}})).unwrap();
        let after = Owned { claim: &claim, set: &set, pod: &pod, in_range }.corrected();
        let after = after
            .map(|c| c.metadata.owner_references.iter().flatten().map(|r| r.uid.clone()).collect::<Vec<_>>());
        let expect = expect.map(|e| e.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(after, expect, "{policy:?} {in_range} {owners:?}");
    }

    #[test]
    fn the_policy_says_who_owns_a_claim() {
        check(("Retain", "Retain"), true, &[], None);
        check(("Retain", "Retain"), true, &["set"], Some(&[]));
        check(("Delete", "Retain"), true, &[], Some(&["set"]));
        check(("Delete", "Retain"), false, &["set"], None);
        check(("Delete", "Retain"), false, &["set", "pod"], Some(&["set"]));
        check(("Retain", "Delete"), true, &[], None);
        check(("Retain", "Delete"), false, &[], Some(&["pod"]));
        check(("Retain", "Delete"), true, &["pod"], Some(&[]));
        check(("Delete", "Delete"), true, &[], Some(&["set"]));
        check(("Delete", "Delete"), false, &["set"], Some(&["pod"]));
        check(("Delete", "Delete"), true, &["former pod"], None);
        check(("Delete", "Delete"), true, &["other"], None);
        check(("Delete", "Delete"), true, &["other", "set"], Some(&["other"]));
        check(("Retain", "Retain"), true, &["other"], None);
    }
}
