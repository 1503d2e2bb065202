//! What is to be done about a claim.

use super::{about, bind, metrics, warning};
use crate::plan::{Note, Op, Plan};
use crate::world::{BY_CLAIM, World};
use client::Key;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use meta::Quantity;
use meta::volumes::{self as rules, Matches};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const BETA_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// On a volume whose file system is yet to grow: its capacity before.
const BEFORE_RESIZE: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";
const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
/// Provisioners of this prefix were part of Kubernetes once: nobody else takes their classes.
const OWN_PROVISIONERS: &str = "kubernetes.io/";
const STORAGE: &str = "storage";

pub(super) fn reconcile(claim: &PersistentVolumeClaim, world: &World) -> Plan {
    let named = rules::volume_name(claim);
    let volume = named.and_then(|name| world.volumes.get(&Key::cluster(name)));
    if rules::annotation(&claim.metadata, rules::BIND_COMPLETED).is_some() {
        return was_bound(claim, volume.as_deref());
    }
    match (named, volume) {
        (None, _) => choose(claim, world),
        (Some(_), None) => pending(claim, "the volume that it names does not exist"),
        (Some(name), Some(volume)) => take(claim, name, &volume),
    }
}

/// A claim that was bound once either still is, or is lost.
fn was_bound(claim: &PersistentVolumeClaim, volume: Option<&PersistentVolume>) -> Plan {
    if rules::volume_name(claim).is_none() {
        const NO_NAME: &str =
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
        return lost(claim, "ClaimLost", NO_NAME);
    }
    let Some(volume) = volume else {
        const GONE: &str = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
        return lost(claim, "ClaimLost", GONE);
    };
    match rules::claim_ref(volume) {
        Some(r) if r.uid != claim.metadata.uid => {
            const TAKEN: &str = "Two claims are bound to the same volume, this one is bound incorrectly";
            lost(claim, "ClaimMisbound", TAKEN)
        }
        _ => bind(volume, claim),
    }
}

/// A claim that names its volume.
fn take(claim: &PersistentVolumeClaim, name: &str, volume: &PersistentVolume) -> Plan {
    if rules::is_bound_to(volume, claim) {
        return bind(volume, claim);
    }
    if rules::claim_ref(volume).is_none() {
        let Err(why) = check_fits(volume, claim) else { return bind(volume, claim) };
        let mut plan = pending(claim, "the volume that it names does not fit");
        plan.note(warning(
            claim,
            "VolumeMismatch",
            format!("Cannot bind to requested volume {name:?}: {why}"),
        ));
        return plan;
    }
    let taken =
        warning(claim, "FailedBinding", format!("volume {name:?} already bound to a different claim."));
    let mut plan = pending(claim, "the volume that it names is another claim's");
    plan.note(taken);
    plan
}

/// Whether a volume that a claim names is what it asks for.
fn check_fits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), String> {
    let (Some(wanted), Some(spec)) = (&claim.spec, &volume.spec) else { return Ok(()) };
    if volume.metadata.deletion_timestamp.is_some() {
        let name = volume.metadata.name.as_deref().unwrap_or("");
        return Err(format!("the volume is marked for deletion {name:?}"));
    }
    let problem = if rules::capacity(volume).value() < rules::requested(claim).value() {
        "requested PV is too small"
    } else if rules::volume_class(volume) != rules::claim_class(claim).unwrap_or("") {
        "storageClassName does not match"
    } else if !rules::attributes_fit(wanted, spec) {
        "volumeAttributesClassName does not match"
    } else if rules::modes_differ(wanted, spec) {
        "incompatible volumeMode"
    } else if !rules::access_fits(wanted, spec) {
        "incompatible accessMode"
    } else {
        return Ok(());
    };
    Err(problem.to_owned())
}

/// A claim that takes what fits.
fn choose(claim: &PersistentVolumeClaim, world: &World) -> Plan {
    let class = rules::claim_class(claim);
    let known = class.and_then(|name| world.storage_classes.find("", name));
    let waits = known.as_ref().is_some_and(|c| rules::waits_for_consumer(c));
    if let Some(volume) = best_match(claim, &world.volumes.list(), !waits) {
        return bind(&volume, claim);
    }
    let Some(class) = class else { return without_class(claim, world) };
    if waits && rules::annotation(&claim.metadata, rules::SELECTED_NODE).is_none() {
        let mut plan = pending(claim, "the scheduler binds it with its first consumer");
        plan.note(waiting(claim, world));
        return plan;
    }
    if class.is_empty() {
        return unavailable(claim);
    }
    let Some(known) = known else {
        let why = format!("storageclass.storage.k8s.io {class:?} not found");
        let mut plan = Plan::idle("its class does not exist");
        plan.note(warning(claim, "ProvisioningFailed", why));
        return plan;
    };
    provision(claim, &known)
}

/// Volumes with the fewest ways of access first, among them the smallest (upstream's ordered index).
fn best_match(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    free: bool,
) -> Option<Arc<PersistentVolume>> {
    let mut by_modes: BTreeMap<(usize, &[String]), Vec<&Arc<PersistentVolume>>> = BTreeMap::new();
    for volume in volumes {
        let Some((wanted, spec)) = claim.spec.as_ref().zip(volume.spec.as_ref()) else { continue };
        if rules::access_fits(wanted, spec) {
            let modes = spec.access_modes.as_deref().unwrap_or_default();
            by_modes.entry((modes.len(), modes)).or_default().push(volume);
        }
    }
    by_modes.into_values().find_map(|group| Matches::of(claim, group, free).best(None, &[]).cloned())
}

/// A claim that left the choice of a class open gets the default one, also when that comes later.
fn without_class(claim: &PersistentVolumeClaim, world: &World) -> Plan {
    let is_default =
        |c: &StorageClass| DEFAULT_CLASS.iter().any(|k| rules::annotation(&c.metadata, k) == Some("true"));
    let mut classes = world.storage_classes.list();
    classes.retain(|c| is_default(c));
    classes.sort_by_key(|c| {
        (Reverse(c.metadata.creation_timestamp.as_ref().map(|t| t.0)), c.metadata.name.clone())
    });
    let Some(class) = classes.first() else { return unavailable(claim) };
    let mut claim = claim.clone();
    claim.spec.get_or_insert_default().storage_class_name = class.metadata.name.clone();
    let mut plan = Plan::default();
    plan.because("it gets the default class").op(metrics::retroactive(Op::replace(&claim)));
    plan
}

fn unavailable(claim: &PersistentVolumeClaim) -> Plan {
    const WHY: &str = "no persistent volumes available for this claim and no storage class is set";
    let mut plan = pending(claim, "no volume fits");
    plan.note(Note::normal(about(claim), "FailedBinding", WHY));
    plan
}

/// Whom a claim waits for that waits for its first consumer.
fn waiting(claim: &PersistentVolumeClaim, world: &World) -> Note {
    let is_over =
        |p: &Pod| matches!(p.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
    let is_placed =
        |p: &Pod| p.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_some_and(|n| !n.is_empty());
    let pods = world.pods.by_index(BY_CLAIM, &Key::of(claim).to_string());
    let names: Vec<&str> = pods
        .iter()
        .filter(|p| !is_over(p) && !is_placed(p))
        .filter_map(|p| p.metadata.name.as_deref())
        .collect();
    let (reason, message) = match names.as_slice() {
        [] => (
            rules::WAIT_FOR_FIRST_CONSUMER,
            "waiting for first consumer to be created before binding".to_owned(),
        ),
        [one] => ("WaitForPodScheduled", format!("waiting for pod {one} to be scheduled")),
        many => ("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", many.join(","))),
    };
    Note::normal(about(claim), reason, message)
}

/// Asks the provisioner of the class for a volume.
fn provision(claim: &PersistentVolumeClaim, class: &StorageClass) -> Plan {
    let provisioner = class.provisioner.as_str();
    if provisioner.starts_with(OWN_PROVISIONERS) {
        let mut plan = Plan::idle("nobody makes volumes of its class");
        let why = format!("no volume plugin matched name: {provisioner}");
        plan.note(warning(claim, "ProvisioningFailed", why));
        return plan;
    }
    let note = Note::normal(
        about(claim),
        "ExternalProvisioning",
        format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
        ),
    );
    let mut plan = Plan::default();
    if rules::annotation(&claim.metadata, PROVISIONER) == Some(provisioner) {
        plan.because("the provisioner was asked").note(note);
        return plan;
    }
    let failed = warning(claim, "ProvisioningFailed", "Error saving claim: {error}");
    let mut claim = claim.clone();
    rules::annotate(&mut claim.metadata, BETA_PROVISIONER, provisioner);
    rules::annotate(&mut claim.metadata, PROVISIONER, provisioner);
    plan.because("the provisioner is asked").op(Op::replace(&claim).otherwise(failed));
    plan
}

fn status_of(claim: &PersistentVolumeClaim) -> PersistentVolumeClaimStatus {
    claim.status.clone().unwrap_or_default()
}

fn set_status(claim: &PersistentVolumeClaim, status: PersistentVolumeClaimStatus) -> Option<Op> {
    if claim.status.as_ref() == Some(&status) {
        return None;
    }
    let claim = PersistentVolumeClaim { status: Some(status), ..claim.clone() };
    Some(Op::replace_status(&claim))
}

/// The status of a claim that has no volume.
fn without_volume(claim: &PersistentVolumeClaim, phase: &str) -> Option<Op> {
    let status = PersistentVolumeClaimStatus {
        phase: Some(phase.to_owned()),
        access_modes: None,
        capacity: None,
        current_volume_attributes_class_name: None,
        ..status_of(claim)
    };
    set_status(claim, status)
}

fn pending(claim: &PersistentVolumeClaim, why: &'static str) -> Plan {
    let mut plan = Plan::idle(why);
    if let Some(op) = without_volume(claim, "Pending") {
        plan.op(op);
    }
    plan
}

fn lost(claim: &PersistentVolumeClaim, reason: &'static str, message: &str) -> Plan {
    if status_of(claim).phase.as_deref() == Some("Lost") {
        return Plan::idle("the claim is lost");
    }
    let mut plan = Plan::default();
    if let Some(op) = without_volume(claim, "Lost") {
        plan.op(op.then(warning(claim, reason, message)));
    }
    plan
}

/// The status of a claim that has its volume; None where it is already.
///
/// # Errors
/// The volume does not say how large it is.
pub(super) fn bound_status(
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
) -> Result<Option<Op>, String> {
    const BOUND: &str = "Bound";
    let mut status = status_of(claim);
    let spec = volume.spec.clone().unwrap_or_default();
    status.access_modes = spec.access_modes;
    // later differences are meant: the file system may be smaller than the volume
    if status.phase.as_deref() != Some(BOUND) {
        let all = spec.capacity.unwrap_or_default();
        let Some(size) = all.get(STORAGE) else {
            let name = volume.metadata.name.as_deref().unwrap_or("");
            return Err(format!("PersistentVolume {name:?} is without a storage capacity"));
        };
        let size = Quantity::of(size);
        let have = status.capacity.as_ref().and_then(|c| c.get(STORAGE)).map(Quantity::of);
        if let Some(before) = rules::annotation(&volume.metadata, BEFORE_RESIZE) {
            let before = ApiQuantity(before.to_owned());
            status.capacity.get_or_insert_default().insert(STORAGE.to_owned(), before);
        } else if have != Some(size) {
            status.capacity = Some(all);
        }
        if status.phase.as_deref() == Some("Pending") {
            status.current_volume_attributes_class_name = spec.volume_attributes_class_name;
        }
        status.phase = Some(BOUND.to_owned());
    }
    Ok(set_status(claim, status))
}
