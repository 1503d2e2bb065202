//! What is to be done about a volume.

use super::{claim_key, phase_of, reclaim, warning};
use crate::plan::{Action, Op, Plan, Target};
use crate::world::World;
use client::Key;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use meta::volumes as rules;

const AVAILABLE: &str = "Available";
const RELEASED: &str = "Released";
const FAILED: &str = "Failed";

pub(super) fn reconcile(volume: &PersistentVolume, world: &World) -> Plan {
    let uid = rules::claim_ref(volume).and_then(|r| r.uid.as_deref()).unwrap_or("");
    let (Some(key), false) = (claim_key(volume), uid.is_empty()) else {
        return phase(volume, AVAILABLE, "the volume is bound to no claim");
    };
    let known = world.claims.get(&key);
    let Some(claim) = known.as_ref().filter(|c| c.metadata.uid.as_deref() == Some(uid)) else {
        // the cache may be behind whoever bound the volume
        return release(volume, Some(is_gone(&key, known.as_deref())));
    };
    let name = volume.metadata.name.as_deref();
    match rules::volume_name(claim) {
        None => not_yet(volume, claim),
        bound if bound == name => phase(volume, "Bound", "all is bound"),
        Some(_) if reclaim::is_provisioned(volume) && reclaim::policy(volume) == reclaim::DELETE => {
            release(volume, None)
        }
        Some(_) => unbind(volume),
    }
}

/// A check past the cache that the claim a volume is bound to does not exist.
fn is_gone(key: &Key, instead: Option<&PersistentVolumeClaim>) -> Op {
    let uid = instead.and_then(|c| c.metadata.uid.clone());
    let check = uid.map_or(Action::VerifyAbsent, |uid| Action::VerifyAlive { uid });
    Op::at(Target::of::<PersistentVolumeClaim>(), key.clone(), check)
}

/// The status with another phase; None where it is in it.
pub(super) fn set_phase(volume: &PersistentVolume, phase: &str, message: &str) -> Option<Op> {
    if phase_of(volume) == phase {
        return None;
    }
    let mut volume = volume.clone();
    let status = volume.status.get_or_insert_default();
    status.phase = Some(phase.to_owned());
    status.message = Some(message.to_owned()).filter(|m| !m.is_empty());
    Some(Op::replace_status(&volume))
}

fn phase(volume: &PersistentVolume, phase: &str, why: &'static str) -> Plan {
    let mut plan = Plan::idle(why);
    if let Some(op) = set_phase(volume, phase, "") {
        plan.op(op);
    }
    plan
}

/// A volume that is for a claim which does not know yet: the claim finishes it, where it can.
fn not_yet(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Plan {
    let mut plan = Plan::idle("the claim finishes the binding");
    if let (Some(wanted), Some(spec)) = (&claim.spec, &volume.spec)
        && rules::modes_differ(wanted, spec)
    {
        let (name, of) =
            (volume.metadata.name.as_deref().unwrap_or(""), claim.metadata.name.as_deref().unwrap_or(""));
        let to_volume = format!(
            "Cannot bind PersistentVolume to requested PersistentVolumeClaim {of:?} due to incompatible volumeMode."
        );
        let to_claim = format!(
            "Cannot bind PersistentVolume {name:?} to requested PersistentVolumeClaim due to incompatible volumeMode."
        );
        plan.note(warning(volume, "VolumeMismatch", to_volume));
        plan.note(warning(claim, "VolumeMismatch", to_claim));
    }
    plan
}

/// The volume's claim is gone, or has another volume.
fn release(volume: &PersistentVolume, check: Option<Op>) -> Plan {
    if matches!(phase_of(volume), RELEASED | FAILED) {
        return reclaim::plan(volume);
    }
    let mut plan = Plan::default();
    plan.because("the volume is released");
    if let Some(check) = check {
        plan.op(check);
    }
    if let Some(op) = set_phase(volume, RELEASED, "") {
        plan.op(op);
    }
    plan
}

/// Takes back a binding that came to nothing; one that a user made stays, but for the uid.
fn unbind(volume: &PersistentVolume) -> Plan {
    let mut free = volume.clone();
    let spec = free.spec.get_or_insert_default();
    let annotations = free.metadata.annotations.as_mut();
    if annotations.is_some_and(|a| a.remove(rules::BOUND_BY_CONTROLLER).is_some()) {
        spec.claim_ref = None;
        free.metadata.annotations = free.metadata.annotations.filter(|a| !a.is_empty());
    } else if let Some(claim) = &mut spec.claim_ref {
        claim.uid = None;
    }
    let mut plan = Plan::default();
    plan.because("the claim has another volume").op(Op::replace(&free));
    plan
}
