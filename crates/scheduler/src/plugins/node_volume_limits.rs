//! A node takes no more volumes of a CSI driver than the driver says it can attach there.

use crate::framework::{Event, Filter, Plugin, PreFilter, Refusal, Verdict, wakes};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;
use client::Key;
use k8s_openapi::api::storage::v1::CSINode;
use std::collections::{BTreeMap, BTreeSet};

pub struct NodeVolumeLimits;

const EXCEEDED: &str = "node(s) exceed max volume count";

/// A volume by its driver and the driver's name for it; one that is still to be made by its claim.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Handle {
    Volume(String),
    Claim(Key),
}

type Attached = BTreeSet<(String, Handle)>;

/// The driver's volume behind a claim; None where no driver has to do with it.
fn of_claim(key: &Key, cluster: &Snapshot) -> Option<(String, Handle)> {
    let claim = cluster.volumes.claim(key)?;
    let volume = meta::volumes::volume_name(claim).and_then(|name| cluster.volumes.volume(name));
    if let Some(volume) = volume {
        let csi = volume.spec.as_ref()?.csi.as_ref()?;
        return Some((csi.driver.clone(), Handle::Volume(csi.volume_handle.clone())));
    }
    let class = cluster.volumes.class(meta::volumes::claim_class(claim)?)?;
    Some((class.provisioner.clone(), Handle::Claim(key.clone())))
}

fn of_pod<'a>(pod: &'a PodInfo, cluster: &'a Snapshot) -> impl Iterator<Item = (String, Handle)> + 'a {
    pod.claims.iter().filter_map(|c| of_claim(&c.key, cluster))
}

/// Of which driver a node can attach how many volumes.
fn limits(node: &CSINode) -> BTreeMap<&str, i32> {
    let limit = |d: &k8s_openapi::api::storage::v1::CSINodeDriver| d.allocatable.as_ref()?.count;
    node.spec.drivers.iter().filter_map(|d| Some((d.name.as_str(), limit(d)?))).collect()
}

#[derive(Clone)]
struct Limited<'a> {
    new: Attached,
    cluster: &'a Snapshot,
}

impl<'a> Filter<'a> for Limited<'a> {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        let Some(csi_node) = self.cluster.volumes.csi_node(&node.name) else { return Ok(()) };
        let limits = limits(csi_node);
        if limits.is_empty() {
            return Ok(());
        }
        let mut there: Attached = node.pods.iter().flat_map(|p| of_pod(p, self.cluster)).collect();
        let new: Vec<&str> =
            self.new.iter().filter(|n| !there.contains(n)).map(|(driver, _)| driver.as_str()).collect();
        // what a pod left behind may still be attached
        there.extend(self.cluster.volumes.attachments(&node.name).filter_map(|a| {
            let volume = self.cluster.volumes.volume(a.spec.source.persistent_volume_name.as_deref()?)?;
            let handle = volume.spec.as_ref()?.csi.as_ref()?.volume_handle.clone();
            Some((a.spec.attacher.clone(), Handle::Volume(handle)))
        }));
        let count = |driver: &str| there.iter().filter(|(d, _)| d == driver).count();
        let fits = |driver: &str| {
            limits.get(driver).is_none_or(|limit| {
                let wanted = new.iter().filter(|d| **d == driver).count();
                count(driver) + wanted <= usize::try_from(*limit).unwrap_or(0)
            })
        };
        if new.iter().all(|driver| fits(driver)) { Ok(()) } else { Err(Refusal::preemptible(EXCEEDED)) }
    }
}

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn wakes(&self) -> u32 {
        wakes::CSI_NODE | wakes::POD_GONE | wakes::CLAIM | wakes::ATTACHMENT_GONE
    }

    fn could_help(&self, pod: &PodInfo, event: &Event<'_>) -> bool {
        match event {
            Event::CsiNode(now, was) => was.is_none_or(|was| {
                let before = limits(was);
                limits(now).iter().any(|(driver, limit)| limit > before.get(driver).unwrap_or(&0))
            }),
            Event::PodGone(gone) => !gone.claims.is_empty(),
            Event::Claim(claim, None) => pod.uses_claim(claim),
            Event::AttachmentGone(_) => pod.claims.iter().any(|c| !c.ephemeral),
            _ => false,
        }
    }

    fn pre_filter<'a>(&self, pod: &'a PodInfo, cluster: &'a Snapshot) -> PreFilter<'a> {
        if pod.claims.is_empty() {
            return PreFilter::Skip;
        }
        let new: Attached = of_pod(pod, cluster).collect();
        if new.is_empty() { PreFilter::Skip } else { PreFilter::run(Limited { new, cluster }) }
    }
}
