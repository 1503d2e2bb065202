//! What a plugin is. A plugin is pure: it reads the pod and the snapshot and answers with values. A refusal
//! is a verdict with its reasons, not an error.
//!
//! Filters and scorers are made for one pod (upstream's PreFilter and PreScore): what they need of the whole
//! cluster they work out then, once, and are asked about each node after.

use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;
use crate::volumes::Reservation;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// The highest score a plugin gives a node; the lowest is 0.
pub const MAX_NODE_SCORE: i64 = 100;

/// Why a node, or the pod altogether, is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// In upstream's words, as the user reads them.
    pub reasons: Vec<Cow<'static, str>>,
    /// Whether the node could take the pod if other pods left it (upstream's `Unschedulable`, as against
    /// `UnschedulableAndUnresolvable`).
    pub preemptible: bool,
}

impl Refusal {
    /// Other pods are in the way.
    pub fn preemptible(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { reasons: vec![reason.into()], preemptible: true }
    }

    /// The node would not do even if it were empty.
    pub fn lasting(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { reasons: vec![reason.into()], preemptible: false }
    }
}

/// Whether a node will do.
pub type Verdict = Result<(), Refusal>;

/// Judges nodes for one pod. What is tried in thought (room that is made, pods that may yet come) is tried on a
/// clone.
pub trait Filter<'a>: BoxedClone<'a> {
    fn filter(&self, node: &NodeInfo) -> Verdict;

    /// Counts pods onto the node (`by` 1) or away from it (`by` -1), where what was worked out for the cluster
    /// depends on them.
    fn count_pod(&mut self, _pod: &PodInfo, _node: &NodeInfo, _by: i64) {}
}

/// Cloning behind a pointer, which every [`Filter`] that is `Clone` has.
pub trait BoxedClone<'a> {
    fn boxed_clone(&self) -> Box<dyn Filter<'a> + 'a>;
}

impl<'a, F: Filter<'a> + Clone + 'a> BoxedClone<'a> for F {
    fn boxed_clone(&self) -> Box<dyn Filter<'a> + 'a> {
        Box::new(self.clone())
    }
}

/// What a plugin has to say before nodes are looked at.
pub enum PreFilter<'a> {
    /// The plugin does not care about this pod.
    Skip,
    /// No node will do.
    Refuse(Refusal),
    Run {
        filter: Box<dyn Filter<'a> + 'a>,
        /// Only these nodes can pass, where the plugin knows it already.
        nodes: Option<BTreeSet<String>>,
    },
}

impl<'a> PreFilter<'a> {
    /// Judges every node.
    pub fn run(filter: impl Filter<'a> + 'a) -> Self {
        Self::Run { filter: Box::new(filter), nodes: None }
    }
}

/// Ranks nodes for one pod.
pub trait Scorer {
    fn score(&self, node: &NodeInfo) -> i64;

    /// Brings the scores of all feasible nodes into 0 to [`MAX_NODE_SCORE`].
    fn normalize(&self, _scores: &mut [i64], _nodes: &[&NodeInfo]) {}
}

/// A [`Scorer`] for one pod.
pub type BoxedScorer<'a> = Box<dyn Scorer + 'a>;

/// Scales scores so that the highest is [`MAX_NODE_SCORE`]. `reverse`: the lowest raw score is the best.
pub fn default_normalize(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        if max == 0 {
            *score = if reverse { MAX_NODE_SCORE } else { *score };
            continue;
        }
        let scaled = MAX_NODE_SCORE * *score / max;
        *score = if reverse { MAX_NODE_SCORE - scaled } else { scaled };
    }
}

/// An extension point of which the time is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    PreFilter,
    Filter,
    PostFilter,
    PreScore,
    Score,
    Reserve,
    PreBind,
    Bind,
}

impl Point {
    /// Each at the place of its number, with upstream's name.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::PreFilter, "PreFilter"),
        (Self::Filter, "Filter"),
        (Self::PostFilter, "PostFilter"),
        (Self::PreScore, "PreScore"),
        (Self::Score, "Score"),
        (Self::Reserve, "Reserve"),
        (Self::PreBind, "PreBind"),
        (Self::Bind, "Bind"),
    ];
}

/// What an extension point came to, over all its plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Success,
    Unschedulable,
    UnschedulableAndUnresolvable,
    Error,
}

impl Status {
    /// Each at the place of its number, with upstream's name.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Success, "Success"),
        (Self::Unschedulable, "Unschedulable"),
        (Self::UnschedulableAndUnresolvable, "UnschedulableAndUnresolvable"),
        (Self::Error, "Error"),
    ];
}

/// Hears of extension points as they run. A decision has no clock: whoever wants to know how long they take
/// has one here.
pub trait Probe {
    fn begins(&mut self) {}
    fn ends(&mut self, _point: Point, _status: Status) {}
}

impl Probe for () {}

/// A change in the cluster that could let a waiting pod be scheduled.
#[derive(Clone, Copy)]
pub enum Event<'a> {
    NodeAdded(&'a Node),
    /// The node as it is now, and as it was.
    NodeChanged(&'a Node, &'a Node),
    NodeRemoved(&'a Node),
    /// A pod came onto a node.
    PodPlaced(&'a PodInfo),
    /// A pod left its node.
    PodGone(&'a PodInfo),
    /// A pod on a node changed: now, and as it was.
    PlacedPodChanged(&'a PodInfo, &'a PodInfo),
    /// The waiting pod itself changed: now, and as it was.
    PodChanged(&'a PodInfo, &'a PodInfo),
    /// Labels of a namespace changed.
    NamespaceChanged,
    /// Of what volumes need: as it is now, and as it was unless it is new.
    Claim(&'a PersistentVolumeClaim, Option<&'a PersistentVolumeClaim>),
    Volume(&'a PersistentVolume, Option<&'a PersistentVolume>),
    StorageClass(&'a StorageClass, Option<&'a StorageClass>),
    CsiNode(&'a CSINode, Option<&'a CSINode>),
    CsiDriver(&'a CSIDriver, Option<&'a CSIDriver>),
    CsiStorageCapacity(&'a CSIStorageCapacity, Option<&'a CSIStorageCapacity>),
    AttachmentGone(&'a VolumeAttachment),
}

/// Bits of [`Event`]: what a plugin wants to hear about.
pub mod wakes {
    pub const NODE_ADDED: u32 = 1;
    pub const NODE_CHANGED: u32 = 1 << 1;
    pub const NODE_REMOVED: u32 = 1 << 2;
    pub const POD_PLACED: u32 = 1 << 3;
    pub const POD_GONE: u32 = 1 << 4;
    pub const PLACED_POD_CHANGED: u32 = 1 << 5;
    pub const POD_CHANGED: u32 = 1 << 6;
    pub const NAMESPACE_CHANGED: u32 = 1 << 7;
    pub const CLAIM: u32 = 1 << 8;
    pub const VOLUME: u32 = 1 << 9;
    pub const STORAGE_CLASS: u32 = 1 << 10;
    pub const CSI_NODE: u32 = 1 << 11;
    pub const CSI_DRIVER: u32 = 1 << 12;
    pub const CSI_STORAGE_CAPACITY: u32 = 1 << 13;
    pub const ATTACHMENT_GONE: u32 = 1 << 14;
    /// A node appeared or changed.
    pub const NODE: u32 = NODE_ADDED | NODE_CHANGED;
    pub const ANY: u32 = u32::MAX;
}

impl Event<'_> {
    /// Its bit in [`wakes`].
    pub fn bit(&self) -> u32 {
        match self {
            Self::NodeAdded(_) => wakes::NODE_ADDED,
            Self::NodeChanged(..) => wakes::NODE_CHANGED,
            Self::NodeRemoved(_) => wakes::NODE_REMOVED,
            Self::PodPlaced(_) => wakes::POD_PLACED,
            Self::PodGone(_) => wakes::POD_GONE,
            Self::PlacedPodChanged(..) => wakes::PLACED_POD_CHANGED,
            Self::PodChanged(..) => wakes::POD_CHANGED,
            Self::NamespaceChanged => wakes::NAMESPACE_CHANGED,
            Self::Claim(..) => wakes::CLAIM,
            Self::Volume(..) => wakes::VOLUME,
            Self::StorageClass(..) => wakes::STORAGE_CLASS,
            Self::CsiNode(..) => wakes::CSI_NODE,
            Self::CsiDriver(..) => wakes::CSI_DRIVER,
            Self::CsiStorageCapacity(..) => wakes::CSI_STORAGE_CAPACITY,
            Self::AttachmentGone(_) => wakes::ATTACHMENT_GONE,
        }
    }

    /// As upstream calls it in its metrics.
    pub fn label(&self) -> &'static str {
        let either = |new: bool, added, changed| if new { added } else { changed };
        match self {
            Self::NodeAdded(_) => "NodeAdd",
            Self::NodeChanged(..) => "NodeUpdate",
            Self::NodeRemoved(_) => "NodeDelete",
            Self::PodPlaced(_) => "AssignedPodAdd",
            Self::PodGone(_) => "AssignedPodDelete",
            Self::PlacedPodChanged(..) => "AssignedPodUpdate",
            Self::PodChanged(..) => "UnschedulablePodUpdate",
            Self::NamespaceChanged => "NamespaceUpdate",
            Self::Claim(_, was) => {
                either(was.is_none(), "PersistentVolumeClaimAdd", "PersistentVolumeClaimUpdate")
            }
            Self::Volume(_, was) => either(was.is_none(), "PersistentVolumeAdd", "PersistentVolumeUpdate"),
            Self::StorageClass(_, was) => {
                either(was.is_none(), "storage.k8s.io/StorageClassAdd", "storage.k8s.io/StorageClassUpdate")
            }
            Self::CsiNode(_, was) => {
                either(was.is_none(), "storage.k8s.io/CSINodeAdd", "storage.k8s.io/CSINodeUpdate")
            }
            Self::CsiDriver(_, was) => {
                either(was.is_none(), "storage.k8s.io/CSIDriverAdd", "storage.k8s.io/CSIDriverUpdate")
            }
            Self::CsiStorageCapacity(_, was) => either(
                was.is_none(),
                "storage.k8s.io/CSIStorageCapacityAdd",
                "storage.k8s.io/CSIStorageCapacityUpdate",
            ),
            Self::AttachmentGone(_) => "storage.k8s.io/VolumeAttachmentDelete",
        }
    }

    /// The node that appeared or changed.
    pub fn node(&self) -> Option<&Node> {
        match self {
            Self::NodeAdded(n) | Self::NodeChanged(n, _) => Some(n),
            _ => None,
        }
    }
}

/// One rule of scheduling. Each method is an extension point; a plugin implements those it needs.
pub trait Plugin: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// Which events could change the plugin's mind, as bits of [`wakes`].
    fn wakes(&self) -> u32;

    /// Whether this event could change the plugin's mind about a pod it refused (upstream's queueing hint).
    fn could_help(&self, _pod: &PodInfo, _event: &Event<'_>) -> bool {
        true
    }

    /// Keeps a pod out of the queue: the reason.
    fn pre_enqueue(&self, _pod: &PodInfo) -> Option<String> {
        None
    }

    fn pre_filter<'a>(&self, _pod: &'a PodInfo, _cluster: &'a Snapshot) -> PreFilter<'a> {
        PreFilter::Skip
    }

    /// None where the plugin has no preference among the nodes.
    fn pre_score<'a>(
        &self,
        _pod: &'a PodInfo,
        _cluster: &'a Snapshot,
        _feasible: &[&NodeInfo],
    ) -> Option<BoxedScorer<'a>> {
        None
    }

    /// What has to be written and awaited before the pod can be bound to the node that was chosen.
    fn reserve(&self, _pod: &PodInfo, _cluster: &Snapshot, _node: &NodeInfo) -> Reservation {
        Reservation::default()
    }
}
