//! Persistent volume claims: their number and the storage they ask for, in all and of each storage class.

use super::{Usage, one, selects};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, ScopedResourceSelectorRequirement};
use meta::Quantity;
use meta::quantity::Format;
use meta::volumes::claim_class;
use std::collections::BTreeSet;

const BY_CLASS: &str = ".storageclass.storage.k8s.io/";
const CLAIMS: &str = "persistentvolumeclaims";
const STORAGE: &str = "requests.storage";

/// Whether a quota may limit it by this name.
pub fn tracks(name: &str) -> bool {
    let of_class = || name.split_once(BY_CLASS).is_some_and(|(_, what)| matches!(what, CLAIMS | STORAGE));
    matches!(name, "count/persistentvolumeclaims" | CLAIMS | STORAGE) || of_class()
}

/// Whole bytes: what is requested, or allocated where an expansion that failed left more.
fn storage(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    let requested = Quantity::of(requests.get("storage")?);
    let allocated = allocated(claim).unwrap_or_default();
    let amount = requested.max(allocated);
    Some(if amount.is_whole() { amount } else { Quantity::new(amount.value(), Format::DecimalSI) })
}

fn allocated(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    claim.status.as_ref()?.allocated_resources.as_ref()?.get("storage").map(Quantity::of)
}

/// What the claim takes of its namespace's quotas.
pub fn usage(claim: &PersistentVolumeClaim) -> Usage {
    let mut usage =
        Usage::from([(CLAIMS.to_owned(), one()), ("count/persistentvolumeclaims".to_owned(), one())]);
    let class = claim_class(claim).unwrap_or("");
    if !class.is_empty() {
        usage.insert(format!("{class}{BY_CLASS}{CLAIMS}"), one());
    }
    if let Some(storage) = storage(claim) {
        usage.insert(STORAGE.to_owned(), storage);
        if !class.is_empty() {
            usage.insert(format!("{class}{BY_CLASS}{STORAGE}"), storage);
        }
    }
    usage
}

/// Every VolumeAttributesClass that the claim has, wants or moves to.
fn attributes_classes(claim: &PersistentVolumeClaim) -> BTreeSet<&str> {
    let status = claim.status.as_ref();
    let wanted = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
    let current = status.and_then(|s| s.current_volume_attributes_class_name.as_deref());
    let target = status
        .and_then(|s| s.modify_volume_status.as_ref())
        .and_then(|m| m.target_volume_attributes_class_name.as_deref());
    [wanted, current, target].into_iter().flatten().filter(|n| !n.is_empty()).collect()
}

/// Whether a quota with this requirement counts the claim.
pub fn in_scope(claim: &PersistentVolumeClaim, requirement: &ScopedResourceSelectorRequirement) -> bool {
    let classes: Vec<&str> = attributes_classes(claim).into_iter().collect();
    requirement.scope_name == "VolumeAttributesClass" && selects(requirement, &classes)
}

/// Whether a change of the claim may have given something back to its quotas.
pub fn replenishes(old: &PersistentVolumeClaim, new: &PersistentVolumeClaim) -> bool {
    allocated(old) != allocated(new) || attributes_classes(old) != attributes_classes(new)
}
