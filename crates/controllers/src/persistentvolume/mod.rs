//! Binds claims to volumes, and says what became of both: the persistent volume binder.
//!
//! A binding is written in two rounds: first into both specs, then, once the cache has them, into both
//! statuses. Each round follows from what is there, so that it does not matter who began.

mod claim;
mod metrics;
mod reclaim;
mod volume;

use crate::controller::{Controller, Watches};
use crate::metrics::{Levels, Metric};
use crate::plan::{Note, Op, Plan};
use crate::world::World;
use client::{Delta, Key};
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Resource;
use meta::Time;
use meta::volumes as rules;

/// Index of claims that are not bound yet: by class, [`NO_CLASS`] where they left the choice open.
pub const UNBOUND: &str = "unbound";
/// Index of volumes by `namespace/name` of the claim they are for.
pub const BY_CLAIM_REF: &str = "claim-ref";
/// Not the name of a class.
const NO_CLASS: &str = "/";

pub(crate) fn unbound_class(claim: &PersistentVolumeClaim) -> Vec<String> {
    if rules::annotation(&claim.metadata, rules::BIND_COMPLETED).is_some() {
        return Vec::new();
    }
    vec![rules::claim_class(claim).unwrap_or(NO_CLASS).to_owned()]
}

pub(crate) fn claim_ref_of(volume: &PersistentVolume) -> Vec<String> {
    claim_key(volume).map(|k| k.to_string()).into_iter().collect()
}

/// The claim that a volume is for.
fn claim_key(volume: &PersistentVolume) -> Option<Key> {
    let r = rules::claim_ref(volume)?;
    Some(Key::new(r.namespace.as_deref().unwrap_or(""), r.name.as_deref().unwrap_or("")))
}

fn phase_of(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

fn about<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    client::events::reference(object)
}

/// Binds what fits. One worker: two claims that were looked at at a time could choose the same volume.
pub struct Binder;

impl Controller for Binder {
    const NAME: &'static str = "persistentvolume-binder-controller";
    const QUEUE: &'static str = "claims";
    const METRICS: &'static [&'static Metric] = metrics::ALL;

    fn watches(w: &mut Watches) {
        w.on(|w| &w.claims, of_claim)
            .on(|w| &w.volumes, of_volume)
            .on(|w| &w.storage_classes, of_class)
            .on(|w| &w.pods, of_pod);
    }

    fn reconcile(&self, key: &Key, world: &World, _: Time) -> Plan {
        if key.namespace().is_none() {
            return match world.volumes.get(key) {
                Some(volume) => volume::reconcile(&volume, world),
                None => Plan::idle("the volume is gone"),
            };
        }
        match world.claims.get(key) {
            Some(claim) => claim::reconcile(&claim, world),
            None => Plan::idle("the claim is gone"),
        }
    }

    fn levels(&self, world: &World, levels: &mut Levels) {
        metrics::levels(world, levels);
    }
}

/// The claim, and the volumes that have to do with it.
fn of_claim(delta: &Delta<PersistentVolumeClaim>, world: &World) -> Vec<Key> {
    let mut keys: Vec<Key> = delta.new.iter().map(|_| delta.key.clone()).collect();
    let named = delta.old.iter().chain(&delta.new).filter_map(|c| rules::volume_name(c));
    keys.extend(named.map(Key::cluster));
    let theirs = world.volumes.by_index(BY_CLAIM_REF, &delta.key.to_string());
    keys.extend(theirs.iter().map(|v| Key::of(&**v)));
    keys
}

/// The volume, the claims that it was and is for, and those that wait for one of its kind.
fn of_volume(delta: &Delta<PersistentVolume>, world: &World) -> Vec<Key> {
    let mut keys: Vec<Key> = delta.new.iter().map(|_| delta.key.clone()).collect();
    keys.extend(delta.old.iter().chain(&delta.new).filter_map(|v| claim_key(v)));
    if let Some(free) = delta.new.as_ref().filter(|v| rules::claim_ref(v).is_none()) {
        let class = rules::volume_class(free);
        let mut waiting = world.claims.by_index(UNBOUND, class);
        if class.is_empty() {
            waiting.extend(world.claims.by_index(UNBOUND, NO_CLASS));
        }
        keys.extend(waiting.iter().map(|c| Key::of(&**c)));
    }
    keys
}

/// Claims that wait for the class, or for a default one.
fn of_class(delta: &Delta<StorageClass>, world: &World) -> Vec<Key> {
    if delta.new.is_none() {
        return Vec::new();
    }
    let mut waiting = world.claims.by_index(UNBOUND, &delta.key.name);
    waiting.extend(world.claims.by_index(UNBOUND, NO_CLASS));
    waiting.iter().map(|c| Key::of(&**c)).collect()
}

/// Claims whose first consumer this may be: their events say so.
fn of_pod(delta: &Delta<Pod>, world: &World) -> Vec<Key> {
    let (None, Some(pod)) = (&delta.old, &delta.new) else { return Vec::new() };
    if pod.spec.as_ref().is_none_or(|s| s.node_name.is_some()) {
        return Vec::new();
    }
    let claims = crate::protection::claims_of(pod);
    let keys = claims.iter().filter_map(|c| c.split_once('/')).map(|(ns, name)| Key::new(ns, name));
    keys.filter(|k| world.claims.get(k).is_some_and(|c| !rules::is_fully_bound(&c))).collect()
}

/// Both specs, then both statuses: what is left of it.
fn bind(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Plan {
    let mut plan = Plan::default();
    if let Some(bound) = rules::bind_to_claim(volume, claim) {
        plan.op(Op::replace(&bound));
    }
    if let Some(bound) = bind_to_volume(claim, volume) {
        plan.op(Op::replace(&bound));
    }
    if !plan.steps.is_empty() {
        plan.because("the claim and the volume get each other's names");
        return plan;
    }
    if let Some(op) = volume::set_phase(volume, "Bound", "") {
        plan.op(op);
    }
    match claim::bound_status(claim, volume) {
        Ok(Some(op)) => drop(plan.op(op)),
        Ok(None) => {}
        Err(why) => return Plan::retry(why),
    }
    plan
}

/// The claim bound to the volume; None where it is already.
fn bind_to_volume(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<PersistentVolumeClaim> {
    let name = volume.metadata.name.as_deref().unwrap_or("");
    let mut bound = claim.clone();
    if rules::volume_name(claim) != Some(name) {
        bound.spec.get_or_insert_default().volume_name = Some(name.to_owned());
        if rules::annotation(&bound.metadata, rules::BOUND_BY_CONTROLLER).is_none() {
            rules::annotate(&mut bound.metadata, rules::BOUND_BY_CONTROLLER, rules::YES);
        }
    }
    if rules::annotation(&bound.metadata, rules::BIND_COMPLETED).is_none() {
        rules::annotate(&mut bound.metadata, rules::BIND_COMPLETED, rules::YES);
    }
    (bound != *claim).then_some(bound)
}

fn warning<K: Resource<DynamicType = ()>>(
    object: &K,
    reason: &'static str,
    message: impl Into<String>,
) -> Note {
    Note::warning(about(object), reason, message)
}

#[cfg(test)]
mod tests;
