//! Claims and volumes: which volume is whose, and which would do for a claim. The scheduler binds by these
//! rules where a class waits for the first consumer, the binder controller elsewhere; they must agree.

use crate::node_selector::NodeSelector;
use crate::{LabelSelector, Quantity};
use k8s_openapi::api::core::v1::{
    Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PersistentVolumeSpec,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;
use std::sync::Arc;

/// On a claim: it has been bound once.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a claim or volume: the binding was made by a controller, and not asked for by a user.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a claim: the node for which the scheduler wants it provisioned.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The provisioner of classes whose volumes are made by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// The class, as claims and volumes once named it.
pub const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// The volume binding mode that leaves the binding to the scheduler; also the reason of the event that says so.
pub const WAIT_FOR_FIRST_CONSUMER: &str = "WaitForFirstConsumer";
/// What binders write as the value of their annotations.
pub const YES: &str = "yes";
const STORAGE: &str = "storage";
const FILESYSTEM: &str = "Filesystem";

pub fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

pub fn annotate(meta: &mut ObjectMeta, key: &str, value: &str) {
    meta.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
}

/// The class that a claim asks for; None where it left the choice open.
pub fn claim_class(claim: &PersistentVolumeClaim) -> Option<&str> {
    annotation(&claim.metadata, BETA_CLASS).or_else(|| claim.spec.as_ref()?.storage_class_name.as_deref())
}

/// The class of a volume, empty where it has none.
pub fn volume_class(volume: &PersistentVolume) -> &str {
    let of_spec = || volume.spec.as_ref()?.storage_class_name.as_deref();
    annotation(&volume.metadata, BETA_CLASS).or_else(of_spec).unwrap_or("")
}

/// Whether claims of the class are bound once a pod is scheduled, by the scheduler.
pub fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some(WAIT_FOR_FIRST_CONSUMER)
}

/// The name of the claim that a pod's generic ephemeral volume gets.
pub fn ephemeral_claim_name(pod: &str, volume: &str) -> String {
    format!("{pod}-{volume}")
}

/// The volume that a claim names.
pub fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|n| !n.is_empty())
}

/// Whether nothing is left to do for the claim.
pub fn is_fully_bound(claim: &PersistentVolumeClaim) -> bool {
    volume_name(claim).is_some() && annotation(&claim.metadata, BIND_COMPLETED).is_some()
}

pub fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

fn same(have: Option<&str>, want: Option<&str>) -> bool {
    have.unwrap_or("") == want.unwrap_or("")
}

/// Whether the volume is bound to this very claim, or set aside for one of its name.
pub fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(r) = claim_ref(volume) else { return false };
    let m = &claim.metadata;
    same(r.name.as_deref(), m.name.as_deref())
        && same(r.namespace.as_deref(), m.namespace.as_deref())
        && (r.uid.as_deref().unwrap_or("").is_empty() || same(r.uid.as_deref(), m.uid.as_deref()))
}

/// The volume bound to the claim; None where it is already.
pub fn bind_to_claim(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let set_aside = is_bound_to(volume, claim);
    let by_uid = |r: &ObjectReference| same(r.uid.as_deref(), claim.metadata.uid.as_deref());
    if set_aside && claim_ref(volume).is_some_and(by_uid) {
        return None;
    }
    let m = &claim.metadata;
    let mut volume = volume.clone();
    volume.spec.get_or_insert_default().claim_ref = Some(ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: m.namespace.clone(),
        name: m.name.clone(),
        uid: m.uid.clone(),
        resource_version: m.resource_version.clone(),
        ..ObjectReference::default()
    });
    if !set_aside && annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_none() {
        annotate(&mut volume.metadata, BOUND_BY_CONTROLLER, YES);
    }
    Some(volume)
}

/// Where the volume can be reached from: None for everywhere.
pub fn node_affinity(volume: &PersistentVolume) -> Option<NodeSelector> {
    let required = volume.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref()?;
    Some(NodeSelector::required(None, Some(required)))
}

pub fn reaches(volume: &PersistentVolume, node: &Node) -> bool {
    node_affinity(volume).is_none_or(|selector| selector.matches(node))
}

fn amount(of: Option<&BTreeMap<String, ApiQuantity>>) -> Quantity {
    of.and_then(|m| m.get(STORAGE)).map(Quantity::of).unwrap_or_default()
}

/// How much a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    amount(claim.spec.as_ref().and_then(|s| s.resources.as_ref()?.requests.as_ref()))
}

pub fn capacity(volume: &PersistentVolume) -> Quantity {
    amount(volume.spec.as_ref().and_then(|s| s.capacity.as_ref()))
}

/// Whether one is a device and the other a file system.
pub fn modes_differ(claim: &PersistentVolumeClaimSpec, volume: &PersistentVolumeSpec) -> bool {
    claim.volume_mode.as_deref().unwrap_or(FILESYSTEM) != volume.volume_mode.as_deref().unwrap_or(FILESYSTEM)
}

/// Whether the volume can be accessed in every way that the claim wants.
pub fn access_fits(claim: &PersistentVolumeClaimSpec, volume: &PersistentVolumeSpec) -> bool {
    let offered = volume.access_modes.as_deref().unwrap_or_default();
    claim.access_modes.iter().flatten().all(|m| offered.contains(m))
}

pub fn attributes_fit(claim: &PersistentVolumeClaimSpec, volume: &PersistentVolumeSpec) -> bool {
    same(claim.volume_attributes_class_name.as_deref(), volume.volume_attributes_class_name.as_deref())
}

/// The volumes that would do for a claim, wherever they are.
#[derive(Clone, Debug, Default)]
pub struct Matches {
    /// Set aside for the claim: it gets this one or none.
    set_aside: Option<Match>,
    /// The smallest first.
    free: Vec<Match>,
}

#[derive(Clone, Debug)]
struct Match {
    volume: Arc<PersistentVolume>,
    affinity: Option<NodeSelector>,
}

impl Match {
    fn new(volume: &Arc<PersistentVolume>) -> Self {
        Self { volume: volume.clone(), affinity: node_affinity(volume) }
    }

    fn reaches(&self, node: Option<&Node>) -> bool {
        match (&self.affinity, node) {
            (Some(affinity), Some(node)) => affinity.matches(node),
            _ => true,
        }
    }
}

impl Matches {
    /// `free`: whether volumes that are set aside for nobody count too.
    pub fn of<'a>(
        claim: &PersistentVolumeClaim,
        volumes: impl IntoIterator<Item = &'a Arc<PersistentVolume>>,
        free: bool,
    ) -> Self {
        let Some(wanted) = &claim.spec else { return Self::default() };
        let (class, size) = (claim_class(claim).unwrap_or(""), requested(claim));
        // what the API let through is valid; anything else selects nothing
        let selector = wanted
            .selector
            .as_ref()
            .map(|s| LabelSelector::from_object(s).unwrap_or_else(|_| LabelSelector::nothing()));
        let no_labels = BTreeMap::new();
        let mut found = Self::default();
        for volume in volumes {
            let Some(spec) = &volume.spec else { continue };
            let set_aside = is_bound_to(volume, claim);
            let do_not_fit = capacity(volume) < size
                || modes_differ(wanted, spec)
                || !attributes_fit(wanted, spec)
                || volume.metadata.deletion_timestamp.is_some();
            if do_not_fit || (spec.claim_ref.is_some() && !set_aside) {
                continue;
            }
            if set_aside {
                found.set_aside.get_or_insert_with(|| Match::new(volume));
                continue;
            }
            let labels = volume.metadata.labels.as_ref().unwrap_or(&no_labels);
            let available =
                volume.status.as_ref().and_then(|s| s.phase.as_deref()).is_some_and(|p| p == "Available");
            if free
                && available
                && selector.as_ref().is_none_or(|s| s.matches(labels))
                && volume_class(volume) == class
                && access_fits(wanted, spec)
            {
                found.free.push(Match::new(volume));
            }
        }
        found.free.sort_by_cached_key(|m| capacity(&m.volume));
        found
    }

    /// The best of them that reaches the node and is not one of `taken`.
    pub fn best(
        &self,
        node: Option<&Node>,
        taken: &[Arc<PersistentVolume>],
    ) -> Option<&Arc<PersistentVolume>> {
        if let Some(own) = &self.set_aside {
            return own.reaches(node).then_some(&own.volume);
        }
        let is_taken = |m: &&Match| taken.iter().any(|t| t.metadata.name == m.volume.metadata.name);
        let best = self.free.iter().find(|m| !is_taken(m) && m.reaches(node));
        best.map(|m| &m.volume)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn volume(name: &str, size: &str, spec: Value) -> Arc<PersistentVolume> {
        let mut v = json!({"metadata": {"name": name, "labels": {"name": name}}, "status": {"phase": "Available"},
            "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "a"}});
        for (k, value) in spec.as_object().into_iter().flatten() {
            v["spec"][k] = value.clone();
        }
        Arc::new(serde_json::from_value(v).unwrap())
    }

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let mut c = json!({"metadata": {"namespace": "ns", "name": "c", "uid": "u"},
            "spec": {"storageClassName": "a", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}}});
        for (k, value) in spec.as_object().into_iter().flatten() {
            c["spec"][k] = value.clone();
        }
        serde_json::from_value(c).unwrap()
    }

    #[test]
    fn the_smallest_volume_that_fits() {
        let on = |node: &str| {
            json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "host", "operator": "In", "values": [node]}]}]}}})
        };
        let volumes = [
            volume("big", "20Gi", json!({})),
            volume("fits", "6Gi", json!({})),
            volume("small", "1Gi", json!({})),
            volume("there", "5Gi", on("b")),
            volume("class", "5Gi", json!({"storageClassName": "b"})),
            volume("modes", "5Gi", json!({"accessModes": ["ReadOnlyMany"]})),
            volume("device", "5Gi", json!({"volumeMode": "Block"})),
            volume("others", "5Gi", json!({"claimRef": {"namespace": "ns", "name": "other"}})),
        ];
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "a", "labels": {"host": "a"}}})).unwrap();
        let check = |spec: Value, free: bool, taken: &[Arc<PersistentVolume>], expect: Option<&str>| {
            let found = Matches::of(&claim(spec), &volumes, free);
            let best = found.best(Some(&node), taken).and_then(|v| v.metadata.name.as_deref());
            assert_eq!(best, expect);
        };
        check(json!({}), true, &[], Some("fits"));
        check(json!({}), true, &volumes[1..2], Some("big"));
        check(json!({}), false, &[], None);
        check(json!({"storageClassName": "c"}), true, &[], None);
        check(json!({"volumeMode": "Block"}), true, &[], Some("device"));
        check(json!({"selector": {"matchLabels": {"name": "big"}}}), true, &[], Some("big"));
        check(json!({"resources": {"requests": {"storage": "1Ti"}}}), true, &[], None);
    }

    #[test]
    fn a_volume_set_aside_is_the_only_one() {
        let mine = json!({"claimRef": {"namespace": "ns", "name": "c"}, "storageClassName": "b"});
        let volumes = [volume("free", "5Gi", json!({})), volume("mine", "50Gi", mine)];
        let claim = claim(json!({}));
        let found = Matches::of(&claim, &volumes, false);
        assert_eq!(found.best(None, &[]).unwrap().metadata.name.as_deref(), Some("mine"));
        let bound = bind_to_claim(&volumes[1], &claim).unwrap();
        assert_eq!(claim_ref(&bound).unwrap().uid.as_deref(), Some("u"));
        assert_eq!(annotation(&bound.metadata, BOUND_BY_CONTROLLER), None);
        assert!(bind_to_claim(&bound, &claim).is_none());
        let free = bind_to_claim(&volumes[0], &claim).unwrap();
        assert_eq!(annotation(&free.metadata, BOUND_BY_CONTROLLER), Some(YES));
        // another claim of the same name
        let mut other = claim.clone();
        other.metadata.uid = Some("v".to_owned());
        assert!(!is_bound_to(&bound, &other) && is_bound_to(&volumes[1], &other));
    }
}
