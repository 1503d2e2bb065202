//! How fast nodes that are not ready are emptied: one after the other, and hardly where most of a zone is not ready. Such
//! a zone has more likely lost its way to the control plane than its nodes.

use super::{is_ready, zone};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::SignedDuration;
use meta::Time;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Pause between two nodes of a zone (`--node-eviction-rate`, 0.1 a second).
const PAUSE: SignedDuration = SignedDuration::from_secs(10);
/// The same of a large cluster's zone that is disrupted (`--secondary-node-eviction-rate`, 0.01 a second).
const DISRUPTED_PAUSE: SignedDuration = SignedDuration::from_secs(100);
/// Nodes of a zone up to which none is emptied while it is disrupted (`--large-cluster-size-threshold`).
const SMALL_ZONE: usize = 50;
/// Share of a zone's nodes that are not ready, from which on it is disrupted (`--unhealthy-zone-threshold`).
const DISRUPTED_SHARE: f64 = 0.55;
/// Nodes not ready up to which a zone is not disrupted, whatever their share.
const FEW: usize = 2;
/// Label of nodes that say nothing of their zone.
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";

/// The nodes of a zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Health {
    pub ready: usize,
    pub unready: usize,
}

impl Health {
    pub fn size(self) -> usize {
        self.ready + self.unready
    }

    /// How long after one node the next may be emptied; None for never.
    fn pause(self) -> Option<SignedDuration> {
        let share = self.unready as f64 / self.size().max(1) as f64;
        let disrupted = self.ready > 0 && self.unready > FEW && share >= DISRUPTED_SHARE;
        match (disrupted, self.size() > SMALL_ZONE) {
            (false, _) => Some(PAUSE),
            (true, true) => Some(DISRUPTED_PAUSE),
            (true, false) => None,
        }
    }
}

/// The zones, without nodes that are excluded.
pub(super) fn zones(nodes: &[Arc<Node>]) -> BTreeMap<String, Health> {
    let mut zones: BTreeMap<String, Health> = BTreeMap::new();
    let excluded = |n: &Node| n.metadata.labels.as_ref().is_some_and(|l| l.contains_key(EXCLUDED));
    for node in nodes.iter().filter(|n| !excluded(n)) {
        let health = zones.entry(zone(node)).or_default();
        if is_ready(node) {
            health.ready += 1;
        } else {
            health.unready += 1;
        }
    }
    zones
}

/// Whether no node at all is ready.
pub(super) fn is_all_down(zones: &BTreeMap<String, Health>) -> bool {
    !zones.is_empty() && zones.values().all(|z| z.ready == 0)
}

/// Whether a node may be emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Now,
    At(Time),
    /// Not as its zone, or all of the cluster, is now: when a node's readiness changes, it is looked at again.
    Never,
}

/// Remembers when a node of each zone was emptied last.
#[derive(Default)]
pub(super) struct Pace(Mutex<BTreeMap<String, Time>>);

impl Pace {
    /// A node that may be emptied now counts as emptied.
    pub fn turn(&self, node: &Node, nodes: &[Arc<Node>], now: Time) -> Turn {
        let (zones, zone) = (zones(nodes), zone(node));
        if is_all_down(&zones) {
            return Turn::Never;
        }
        let Some(pause) = zones.get(&zone).copied().unwrap_or_default().pause() else { return Turn::Never };
        let mut last = self.0.lock();
        match last.get(&zone).map(|last| *last + pause).filter(|at| *at > now) {
            Some(at) => Turn::At(at),
            None => {
                last.insert(zone, now);
                Turn::Now
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_that_is_mostly_down_keeps_its_pods() {
        let check = |ready, unready, expect: Option<i64>| {
            let pause = Health { ready, unready }.pause().map(|p| p.as_secs());
            assert_eq!(pause, expect, "{ready} ready, {unready} not");
        };
        check(9, 1, Some(10));
        check(1, 2, Some(10));
        check(2, 3, None);
        check(4, 4, Some(10));
        check(20, 40, Some(100));
        // all of this zone, while others live: its pods are needed elsewhere
        check(0, 5, Some(10));
    }
}
