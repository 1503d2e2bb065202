//! Claims, volumes and what else the volume plugins look at. Writes that are decided but not yet seen are
//! assumed: they stand in for what the API last said until it says something newer.

use client::Key;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use kube::Resource;
use meta::volumes as rules;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// What has to be written for a pod's volumes before it is bound, and waited for.
#[derive(Clone, Debug, Default)]
pub struct Reservation {
    /// Volumes as they are to be, each bound to its claim.
    pub volumes: Vec<Arc<PersistentVolume>>,
    /// Claims as they are to be, each with the node to provision it for.
    pub claims: Vec<Arc<PersistentVolumeClaim>>,
}

impl Reservation {
    pub fn is_empty(&self) -> bool {
        self.volumes.is_empty() && self.claims.is_empty()
    }
}

/// What the API last said, and what is assumed on top.
struct Known<T> {
    said: Arc<T>,
    assumed: Option<Arc<T>>,
}

impl<T: Resource> Known<T> {
    fn now(&self) -> &Arc<T> {
        self.assumed.as_ref().unwrap_or(&self.said)
    }

    /// The assumption ends with the version it was made for.
    fn say(&mut self, new: Arc<T>) {
        if self.assumed.as_ref().is_some_and(|a| a.meta().resource_version != new.meta().resource_version) {
            self.assumed = None;
        }
        self.said = new;
    }

    fn assume(&mut self, what: &Arc<T>) {
        if self.said.meta().resource_version == what.meta().resource_version {
            self.assumed = Some(what.clone());
        }
    }

    fn forget(&mut self, what: &Arc<T>) {
        let version = &what.meta().resource_version;
        if self.assumed.as_ref().is_some_and(|a| a.meta().resource_version == *version) {
            self.assumed = None;
        }
    }
}

/// The new state of `key`; the one before.
fn put<K: std::hash::Hash + Eq, T: Resource>(
    map: &mut HashMap<K, Known<T>>,
    key: K,
    new: Option<Arc<T>>,
) -> Option<Arc<T>> {
    let Some(new) = new else { return map.remove(&key).map(|k| k.said) };
    match map.get_mut(&key) {
        Some(known) => {
            let was = known.said.clone();
            known.say(new);
            Some(was)
        }
        None => {
            map.insert(key, Known { said: new, assumed: None });
            None
        }
    }
}

fn set<K: std::hash::Hash + Eq, T>(map: &mut HashMap<K, T>, key: K, new: Option<T>) -> Option<T> {
    match new {
        Some(new) => map.insert(key, new),
        None => map.remove(&key),
    }
}

/// What is known of volumes and of what they come from.
#[derive(Default)]
pub struct Volumes {
    claims: HashMap<Key, Known<PersistentVolumeClaim>>,
    volumes: HashMap<String, Known<PersistentVolume>>,
    /// Names of the volumes of each class.
    by_class: HashMap<String, BTreeSet<String>>,
    classes: HashMap<String, Arc<StorageClass>>,
    csi_nodes: HashMap<String, Arc<CSINode>>,
    drivers: HashMap<String, Arc<CSIDriver>>,
    capacities: HashMap<Key, Arc<CSIStorageCapacity>>,
    /// By node, then name.
    attachments: HashMap<String, BTreeMap<String, Arc<VolumeAttachment>>>,
}

impl Volumes {
    /// The claim as it is or is about to be.
    pub fn claim(&self, key: &Key) -> Option<&Arc<PersistentVolumeClaim>> {
        self.claims.get(key).map(Known::now)
    }

    /// The claim as the API last said.
    pub fn claim_said(&self, key: &Key) -> Option<&Arc<PersistentVolumeClaim>> {
        self.claims.get(key).map(|k| &k.said)
    }

    /// The volume as it is or is about to be.
    pub fn volume(&self, name: &str) -> Option<&Arc<PersistentVolume>> {
        self.volumes.get(name).map(Known::now)
    }

    /// The volume as the API last said.
    pub fn volume_said(&self, name: &str) -> Option<&Arc<PersistentVolume>> {
        self.volumes.get(name).map(|k| &k.said)
    }

    /// The volumes of a class, ordered by name.
    pub fn volumes_of(&self, class: &str) -> impl Iterator<Item = &Arc<PersistentVolume>> {
        self.by_class.get(class).into_iter().flatten().filter_map(|name| self.volume(name))
    }

    pub fn class(&self, name: &str) -> Option<&Arc<StorageClass>> {
        self.classes.get(name)
    }

    pub fn csi_node(&self, node: &str) -> Option<&Arc<CSINode>> {
        self.csi_nodes.get(node)
    }

    pub fn driver(&self, name: &str) -> Option<&Arc<CSIDriver>> {
        self.drivers.get(name)
    }

    pub fn capacities(&self) -> impl Iterator<Item = &CSIStorageCapacity> {
        self.capacities.values().map(|c| &**c)
    }

    pub fn attachments(&self, node: &str) -> impl Iterator<Item = &VolumeAttachment> {
        self.attachments.get(node).into_iter().flat_map(|of| of.values()).map(|a| &**a)
    }

    /// Each `set_*` takes the new state, None where the object is gone, and gives the one before.
    pub fn set_claim(
        &mut self,
        key: &Key,
        new: Option<Arc<PersistentVolumeClaim>>,
    ) -> Option<Arc<PersistentVolumeClaim>> {
        put(&mut self.claims, key.clone(), new)
    }

    pub fn set_volume(
        &mut self,
        name: &str,
        new: Option<Arc<PersistentVolume>>,
    ) -> Option<Arc<PersistentVolume>> {
        let class = new.as_ref().map(|v| rules::volume_class(v).to_owned());
        let old = put(&mut self.volumes, name.to_owned(), new);
        let before = old.as_ref().map(|v| rules::volume_class(v).to_owned());
        if before != class {
            if let Some(of) = before.and_then(|c| self.by_class.get_mut(&c)) {
                of.remove(name);
            }
            if let Some(class) = class {
                self.by_class.entry(class).or_default().insert(name.to_owned());
            }
        }
        old
    }

    pub fn set_class(&mut self, name: &str, new: Option<Arc<StorageClass>>) -> Option<Arc<StorageClass>> {
        set(&mut self.classes, name.to_owned(), new)
    }

    pub fn set_csi_node(&mut self, name: &str, new: Option<Arc<CSINode>>) -> Option<Arc<CSINode>> {
        set(&mut self.csi_nodes, name.to_owned(), new)
    }

    pub fn set_driver(&mut self, name: &str, new: Option<Arc<CSIDriver>>) -> Option<Arc<CSIDriver>> {
        set(&mut self.drivers, name.to_owned(), new)
    }

    pub fn set_capacity(
        &mut self,
        key: &Key,
        new: Option<Arc<CSIStorageCapacity>>,
    ) -> Option<Arc<CSIStorageCapacity>> {
        set(&mut self.capacities, key.clone(), new)
    }

    /// An attachment stays on its node for life.
    pub fn set_attachment(&mut self, attachment: &Arc<VolumeAttachment>, gone: bool) {
        let name = attachment.metadata.name.clone().unwrap_or_default();
        let node = &attachment.spec.node_name;
        if !gone {
            self.attachments.entry(node.clone()).or_default().insert(name, attachment.clone());
        } else if let Some(of) = self.attachments.get_mut(node) {
            of.remove(&name);
            if of.is_empty() {
                self.attachments.remove(node);
            }
        }
    }

    /// Takes what is about to be written as written.
    pub fn assume(&mut self, reservation: &Reservation) {
        self.for_reserved(reservation, Known::assume, Known::assume);
    }

    /// Takes back what was assumed and did not come true.
    pub fn forget(&mut self, reservation: &Reservation) {
        self.for_reserved(reservation, Known::forget, Known::forget);
    }

    fn for_reserved(
        &mut self,
        reservation: &Reservation,
        each_volume: fn(&mut Known<PersistentVolume>, &Arc<PersistentVolume>),
        each_claim: fn(&mut Known<PersistentVolumeClaim>, &Arc<PersistentVolumeClaim>),
    ) {
        for volume in &reservation.volumes {
            if let Some(known) = self.volumes.get_mut(volume.metadata.name.as_deref().unwrap_or("")) {
                each_volume(known, volume);
            }
        }
        for claim in &reservation.claims {
            if let Some(known) = self.claims.get_mut(&Key::of(&**claim)) {
                each_claim(known, claim);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_assumption_ends_with_the_version_it_was_made_for() {
        let claim = |version: &str, node: Option<&str>| -> Arc<PersistentVolumeClaim> {
            let annotations = node.map(|n| json!({rules::SELECTED_NODE: n}));
            Arc::new(
                serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "c",
                    "resourceVersion": version, "annotations": annotations}}))
                .unwrap(),
            )
        };
        let key = Key::new("ns", "c");
        let node = |v: &Volumes| {
            v.claim(&key)
                .and_then(|c| rules::annotation(&c.metadata, rules::SELECTED_NODE).map(str::to_owned))
        };
        let mut v = Volumes::default();
        v.set_claim(&key, Some(claim("1", None)));
        let reservation = Reservation { claims: vec![claim("1", Some("a"))], ..Default::default() };
        v.assume(&reservation);
        v.set_claim(&key, Some(claim("1", None)));
        assert_eq!(node(&v).as_deref(), Some("a"));
        v.forget(&reservation);
        assert_eq!(node(&v), None);
        v.assume(&reservation);
        v.set_claim(&key, Some(claim("2", Some("b"))));
        assert_eq!(node(&v).as_deref(), Some("b"));
        v.assume(&reservation);
        assert_eq!(node(&v).as_deref(), Some("b"));
    }
}
