//! Room for volumes that are still to be made, as far as their driver tells (CSIStorageCapacity).

use crate::snapshot::Snapshot;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};
use meta::{LabelSelector, Quantity};
use std::collections::BTreeMap;

/// The largest volume that can be made; None where the driver says nothing.
pub(super) fn limit(capacity: &CSIStorageCapacity) -> Option<Quantity> {
    capacity.maximum_volume_size.as_ref().or(capacity.capacity.as_ref()).map(Quantity::of)
}

fn reaches(capacity: &CSIStorageCapacity, node: &Node) -> bool {
    let no_labels = BTreeMap::new();
    let selector = capacity.node_topology.as_ref().and_then(|t| LabelSelector::from_object(t).ok());
    selector.is_some_and(|s| s.matches(node.metadata.labels.as_ref().unwrap_or(&no_labels)))
}

/// Whether a volume for the claim can be made within the node's reach. Drivers that do not count are trusted.
pub(super) fn suffices(
    cluster: &Snapshot,
    class: &StorageClass,
    claim: &PersistentVolumeClaim,
    node: &Node,
) -> bool {
    let driver = cluster.volumes.driver(&class.provisioner);
    if driver.is_none_or(|d| d.spec.storage_capacity != Some(true)) {
        return true;
    }
    let size = meta::volumes::requested(claim);
    cluster.volumes.capacities().any(|c| {
        Some(&c.storage_class_name) == class.metadata.name.as_ref()
            && limit(c).is_some_and(|limit| limit >= size)
            && reaches(c, node)
    })
}
