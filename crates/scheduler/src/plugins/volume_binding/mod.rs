//! A pod goes where its claims' volumes can be reached: those that are bound, those that could be bound, and
//! those that could be made. What is to be bound or made is reserved with the node, written before the pod is
//! bound, and waited for.

mod capacity;
pub mod progress;

use crate::framework::{Event, Filter, Plugin, PreFilter, Refusal, Verdict, wakes};
use crate::node::NodeInfo;
use crate::pod::{PodClaim, PodInfo};
use crate::snapshot::Snapshot;
use crate::volumes::Reservation;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, StorageClass};
use meta::node_selector::NodeSelector;
use meta::volumes::{self as rules, Matches};
use std::sync::Arc;

pub struct VolumeBinding;

const NOT_THERE: &str = "node(s) didn't match PersistentVolume's node affinity";
const NONE_TO_BIND: &str = "node(s) didn't find available persistent volumes to bind";
const NO_SPACE: &str = "node(s) did not have enough free storage";
const NO_VOLUME: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
const UNBOUND: &str = "pod has unbound immediate PersistentVolumeClaims";
const MIGRATED_PLUGINS: &str = "storage.alpha.kubernetes.io/migrated-plugins";

type Claim = Arc<PersistentVolumeClaim>;

/// What a pod's claims ask of a node.
struct Wanted<'a> {
    cluster: &'a Snapshot,
    /// Of bound claims, in order: where their volume can be reached from; None where there is no such volume.
    bound: Vec<Option<NodeSelector>>,
    /// To be made, on a node that was chosen before.
    selected: Vec<(&'a Claim, &'a str)>,
    /// To be bound or made on whichever node; who asks least first.
    unbound: Vec<(&'a Claim, Matches)>,
}

/// What would be done about a pod's claims on a node.
#[derive(Default)]
struct Found {
    bind: Vec<(Arc<PersistentVolume>, Claim)>,
    provision: Vec<Claim>,
}

fn check_owner(pod: &PodInfo, of: &PodClaim, claim: &PersistentVolumeClaim) -> Result<(), String> {
    let mut owners = claim.metadata.owner_references.iter().flatten();
    if of.ephemeral && !owners.any(|o| o.controller == Some(true) && o.uid == pod.uid) {
        return Err(format!("PVC {} was not created for pod {} (pod is not owner)", of.key, pod.key));
    }
    Ok(())
}

/// The claim if a pod could start with it; else why not.
fn usable<'a>(pod: &PodInfo, of: &PodClaim, cluster: &'a Snapshot) -> Result<&'a Claim, String> {
    let name = &of.key.name;
    let Some(claim) = cluster.volumes.claim(&of.key) else {
        return Err(if of.ephemeral {
            format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
        } else {
            format!("persistentvolumeclaim {name:?} not found")
        });
    };
    if claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Lost") {
        let volume = rules::volume_name(claim).unwrap_or("");
        return Err(format!(
            "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
        ));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
    }
    check_owner(pod, of, claim).map(|()| claim)
}

/// Whether the class leaves the binding of the claim to the scheduler.
fn waits_for_consumer(claim: &PersistentVolumeClaim, cluster: &Snapshot) -> bool {
    let class = rules::claim_class(claim).and_then(|name| cluster.volumes.class(name));
    class.is_some_and(|c| rules::waits_for_consumer(c))
}

impl<'a> Wanted<'a> {
    fn of(pod: &PodInfo, cluster: &'a Snapshot) -> Result<Self, String> {
        let claims: Vec<&Claim> =
            pod.claims.iter().map(|of| usable(pod, of, cluster)).collect::<Result<_, _>>()?;
        let mut wanted = Self { cluster, bound: Vec::new(), selected: Vec::new(), unbound: Vec::new() };
        for claim in claims {
            if rules::is_fully_bound(claim) {
                let volume = rules::volume_name(claim).and_then(|name| cluster.volumes.volume(name));
                match volume.map(|v| rules::node_affinity(v)) {
                    None => wanted.bound.push(None),
                    Some(Some(affinity)) => wanted.bound.push(Some(affinity)),
                    Some(None) => {}
                }
            } else if rules::volume_name(claim).is_some() || !waits_for_consumer(claim, cluster) {
                return Err(UNBOUND.to_owned());
            } else if let Some(node) = rules::annotation(&claim.metadata, rules::SELECTED_NODE) {
                wanted.selected.push((claim, node));
            } else {
                let class = rules::claim_class(claim).unwrap_or("");
                let matches = Matches::of(claim, cluster.volumes.volumes_of(class), true);
                wanted.unbound.push((claim, matches));
            }
        }
        wanted.unbound.sort_by_cached_key(|(claim, _)| rules::requested(claim));
        Ok(wanted)
    }

    fn is_everywhere(&self) -> bool {
        self.bound.is_empty() && self.selected.is_empty() && self.unbound.is_empty()
    }

    fn bound_reason(&self, node: &Node) -> Option<&'static str> {
        self.bound.iter().find_map(|affinity| match affinity {
            None => Some(NO_VOLUME),
            Some(affinity) => (!affinity.matches(node)).then_some(NOT_THERE),
        })
    }

    fn unbound(&self, node: &Node) -> Result<Found, &'static str> {
        let name = node.metadata.name.as_deref().unwrap_or("");
        if self.selected.iter().any(|(_, selected)| *selected != name) {
            return Err(NONE_TO_BIND);
        }
        let mut found = Found {
            provision: self.selected.iter().map(|(c, _)| (*c).clone()).collect(),
            ..Found::default()
        };
        let mut taken = Vec::new();
        for (claim, matches) in &self.unbound {
            match matches.best(Some(node), &taken) {
                Some(volume) => {
                    taken.push(volume.clone());
                    found.bind.push((volume.clone(), (*claim).clone()));
                }
                None => found.provision.push((*claim).clone()),
            }
        }
        for claim in &found.provision {
            self.check_provisioning(claim, node)?;
        }
        Ok(found)
    }

    fn check_provisioning(&self, claim: &PersistentVolumeClaim, node: &Node) -> Result<(), &'static str> {
        let class = rules::claim_class(claim).and_then(|name| self.cluster.volumes.class(name));
        let class = class.ok_or(NONE_TO_BIND)?;
        if matches!(class.provisioner.as_str(), "" | rules::NO_PROVISIONER) || !topology_allows(class, node) {
            return Err(NONE_TO_BIND);
        }
        if capacity::suffices(self.cluster, class, claim, node) { Ok(()) } else { Err(NO_SPACE) }
    }

    fn find(&self, node: &Node) -> Result<Found, Refusal> {
        let bound = self.bound_reason(node);
        let unbound = self.unbound(node);
        let lacks_volume = bound == Some(NO_VOLUME);
        let (found, why) = match unbound {
            Ok(found) => (found, None),
            Err(why) => (Found::default(), Some(why)),
        };
        let mut reasons: Vec<_> = bound.into_iter().chain(why).map(Into::into).collect();
        if reasons.is_empty() {
            return Ok(found);
        }
        if lacks_volume {
            reasons.rotate_left(1);
        }
        Err(Refusal { reasons, preemptible: false })
    }
}

/// Whether the class makes volumes that can be reached from the node.
fn topology_allows(class: &StorageClass, node: &Node) -> bool {
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|l| l.get(key));
    terms.is_empty()
        || terms.iter().any(|term| {
            let expressions = term.match_label_expressions.as_deref().unwrap_or_default();
            !expressions.is_empty()
                && expressions.iter().all(|e| label(&e.key).is_some_and(|v| e.values.contains(v)))
        })
}

#[derive(Clone)]
struct Reachable<'a>(Arc<Wanted<'a>>);

impl<'a> Filter<'a> for Reachable<'a> {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        match &node.node {
            Some(node) => self.0.find(node).map(drop),
            None => Ok(()),
        }
    }
}

fn counts_capacity(driver: &CSIDriver) -> bool {
    driver.spec.storage_capacity == Some(true)
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn wakes(&self) -> u32 {
        wakes::NODE
            | wakes::STORAGE_CLASS
            | wakes::CLAIM
            | wakes::VOLUME
            | wakes::CSI_NODE
            | wakes::CSI_DRIVER
            | wakes::CSI_STORAGE_CAPACITY
    }

    fn could_help(&self, pod: &PodInfo, event: &Event<'_>) -> bool {
        match event {
            Event::NodeAdded(_) | Event::Volume(..) => true,
            Event::NodeChanged(now, was) => now.metadata.labels != was.metadata.labels,
            Event::Claim(claim, _) => pod.uses_claim(claim),
            Event::StorageClass(now, was) => {
                was.is_none_or(|was| was.allowed_topologies != now.allowed_topologies)
            }
            Event::CsiNode(now, was) => was.is_none_or(|was| {
                rules::annotation(&was.metadata, MIGRATED_PLUGINS)
                    != rules::annotation(&now.metadata, MIGRATED_PLUGINS)
            }),
            Event::CsiDriver(now, Some(was)) => {
                let name = now.metadata.name.as_deref();
                let inline = |v: &k8s_openapi::api::core::v1::Volume| {
                    v.csi.as_ref().is_some_and(|csi| Some(csi.driver.as_str()) == name)
                };
                counts_capacity(was) && !counts_capacity(now) && pod.volumes().iter().any(inline)
            }
            Event::CsiStorageCapacity(now, was) => {
                was.is_none_or(|was| capacity::limit(now) > capacity::limit(was))
            }
            _ => false,
        }
    }

    fn pre_filter<'a>(&self, pod: &'a PodInfo, cluster: &'a Snapshot) -> PreFilter<'a> {
        if pod.claims.is_empty() {
            return PreFilter::Skip;
        }
        match Wanted::of(pod, cluster) {
            Err(why) => PreFilter::Refuse(Refusal::lasting(why)),
            Ok(wanted) if wanted.is_everywhere() => PreFilter::Skip,
            Ok(wanted) => PreFilter::run(Reachable(Arc::new(wanted))),
        }
    }

    fn reserve(&self, pod: &PodInfo, cluster: &Snapshot, node: &NodeInfo) -> Reservation {
        let Some(node) = node.node.as_ref().filter(|_| !pod.claims.is_empty()) else {
            return Reservation::default();
        };
        // the filter passed, over this very snapshot
        let found =
            Wanted::of(pod, cluster).ok().and_then(|wanted| wanted.find(node).ok()).unwrap_or_default();
        let bound = |(volume, claim): (Arc<PersistentVolume>, Claim)| {
            rules::bind_to_claim(&volume, &claim).map_or(volume, Arc::new)
        };
        let selected = |claim: Claim| {
            let mut claim = (*claim).clone();
            let name = node.metadata.name.as_deref().unwrap_or("");
            rules::annotate(&mut claim.metadata, rules::SELECTED_NODE, name);
            Arc::new(claim)
        };
        Reservation {
            volumes: found.bind.into_iter().map(bound).collect(),
            claims: found.provision.into_iter().map(selected).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
