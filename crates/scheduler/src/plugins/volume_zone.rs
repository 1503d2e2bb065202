//! A volume that is labelled with a zone or region wants a node there.

use crate::framework::{Event, Filter, Plugin, PreFilter, Refusal, Verdict, wakes};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;
use k8s_openapi::api::core::v1::PersistentVolume;
use meta::labels::{REGION, ZONE};
use meta::volumes::waits_for_consumer;
use std::collections::BTreeMap;

pub struct VolumeZone;

const CONFLICT: &str = "node(s) had no available volume zone";
/// Labels of the topology with the ones that took their place.
const LABELS: [(&str, &str); 4] = [
    ("failure-domain.beta.kubernetes.io/zone", ZONE),
    ("failure-domain.beta.kubernetes.io/region", REGION),
    (ZONE, ZONE),
    (REGION, REGION),
];
/// Between the zones of a volume that is in several.
const SEPARATOR: &str = "__";

/// Where a volume is, by one of its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Topology {
    label: &'static str,
    successor: &'static str,
    values: Vec<String>,
}

fn topologies(volume: &PersistentVolume) -> Vec<Topology> {
    let labels = volume.metadata.labels.as_ref();
    let of = |(label, successor): (&'static str, &'static str)| {
        let values: Vec<String> = labels?.get(label)?.split(SEPARATOR).map(|v| v.trim().to_owned()).collect();
        // a label that is not a list of zones says nothing
        values.iter().all(|v| !v.is_empty()).then_some(Topology { label, successor, values })
    };
    LABELS.into_iter().filter_map(of).collect()
}

#[derive(Clone)]
struct Zoned(Vec<Topology>);

impl Zoned {
    fn admits(&self, labels: &BTreeMap<String, String>) -> bool {
        // where nodes have no zones there is but one
        if !LABELS.iter().any(|(label, _)| labels.contains_key(*label)) {
            return true;
        }
        self.0.iter().all(|t| {
            labels.get(t.label).or_else(|| labels.get(t.successor)).is_some_and(|v| t.values.contains(v))
        })
    }
}

impl<'a> Filter<'a> for Zoned {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        if self.admits(node.labels()) { Ok(()) } else { Err(Refusal::lasting(CONFLICT)) }
    }
}

/// What the pod's volumes ask of a node.
fn zoned(pod: &PodInfo, cluster: &Snapshot) -> Result<Vec<Topology>, String> {
    let mut all = Vec::new();
    for claim in pod.claims.iter().filter(|c| !c.ephemeral) {
        let name = &claim.key.name;
        if name.is_empty() {
            return Err("PersistentVolumeClaim had no name".to_owned());
        }
        let known = cluster.volumes.claim(&claim.key);
        let known = known.ok_or_else(|| format!("persistentvolumeclaim \"{name}\" not found"))?;
        let Some(volume) = meta::volumes::volume_name(known) else {
            let class = meta::volumes::claim_class(known).filter(|c| !c.is_empty());
            let class = class.ok_or("PersistentVolumeClaim had no pv name and storageClass name")?;
            let known = cluster.volumes.class(class);
            let known = known.ok_or_else(|| format!("storageclass.storage.k8s.io \"{class}\" not found"))?;
            if known.volume_binding_mode.is_none() {
                return Err(format!("VolumeBindingMode not set for StorageClass {class:?}"));
            }
            if waits_for_consumer(known) {
                continue;
            }
            return Err("PersistentVolume had no name".to_owned());
        };
        let known = cluster.volumes.volume(volume);
        all.extend(topologies(known.ok_or_else(|| format!("persistentvolume \"{volume}\" not found"))?));
    }
    Ok(all)
}

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn wakes(&self) -> u32 {
        wakes::NODE | wakes::STORAGE_CLASS | wakes::CLAIM | wakes::VOLUME
    }

    fn could_help(&self, pod: &PodInfo, event: &Event<'_>) -> bool {
        match event {
            Event::NodeAdded(_) => true,
            Event::NodeChanged(now, was) => now.metadata.labels != was.metadata.labels,
            Event::StorageClass(class, None) => waits_for_consumer(class),
            Event::Claim(claim, _) => pod.uses_claim(claim),
            Event::Volume(now, was) => was.is_none_or(|was| topologies(now) != topologies(was)),
            _ => false,
        }
    }

    fn pre_filter<'a>(&self, pod: &'a PodInfo, cluster: &'a Snapshot) -> PreFilter<'a> {
        match zoned(pod, cluster) {
            Err(why) => PreFilter::Refuse(Refusal::lasting(why)),
            Ok(all) if all.is_empty() => PreFilter::Skip,
            Ok(all) => PreFilter::run(Zoned(all)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(volume: Value, node: Value, expect: bool) {
        let volume: PersistentVolume =
            serde_json::from_value(json!({"metadata": {"labels": volume}})).unwrap();
        let node: BTreeMap<String, String> = serde_json::from_value(node).unwrap();
        assert_eq!(Zoned(topologies(&volume)).admits(&node), expect, "{node:?}");
    }

    #[test]
    fn a_node_in_the_volumes_zone() {
        let beta = "failure-domain.beta.kubernetes.io/zone";
        check(json!({ZONE: "a"}), json!({ZONE: "a"}), true);
        check(json!({ZONE: "a"}), json!({ZONE: "b"}), false);
        check(json!({ZONE: "a__b"}), json!({ZONE: "b"}), true);
        check(json!({ZONE: "a__"}), json!({ZONE: "b"}), true);
        check(json!({ZONE: "a"}), json!({"other": "b"}), true);
        check(json!({ZONE: "a"}), json!({REGION: "r"}), false);
        check(json!({beta: "a"}), json!({ZONE: "a"}), true);
        check(json!({beta: "a"}), json!({ZONE: "b"}), false);
    }
}
