//! Tells kubelets, by an annotation of their nodes, how long they may keep secrets and config maps before they ask again:
//! the longer, the larger the cluster.

use crate::controller::{Controller, Watches};
use crate::plan::{Op, Plan};
use crate::world::World;
use client::{Delta, Key};
use k8s_openapi::api::core::v1::Node;
use meta::Time;
use serde_json::json;

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";
/// The fewest and the most nodes, and the seconds for so many. The ranges overlap, so that a cluster at a boundary does
/// not waver.
const RANGES: [(usize, usize, u32); 5] =
    [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

pub struct Ttl;

impl Controller for Ttl {
    const NAME: &'static str = "ttl-controller";
    const QUEUE: &'static str = "ttlcontroller";

    fn watches(w: &mut Watches) {
        w.on(|w| &w.nodes, of_node);
    }

    fn reconcile(&self, key: &Key, world: &World, _: Time) -> Plan {
        let Some(node) = world.nodes.get(key) else { return Plan::idle("the node is gone") };
        let current = said(&node);
        let wanted = seconds(world.nodes.len(), current);
        if current == Some(wanted) {
            return Plan::idle("the node says so already");
        }
        let mut plan = Plan::default();
        let patch = json!({"metadata": {
            "uid": node.metadata.uid,
            "annotations": {ANNOTATION: wanted.to_string()},
        }});
        plan.op(Op::strategic_patch(&*node, &patch));
        plan
    }
}

/// A node more or less concerns all, where it changes what they should say.
fn of_node(delta: &Delta<Node>, world: &World) -> Vec<Key> {
    if delta.old.is_some() == delta.new.is_some() {
        return vec![delta.key.clone()];
    }
    let nodes = world.nodes.list();
    let due = nodes.iter().filter(|n| said(n) != Some(seconds(nodes.len(), said(n))));
    due.map(|n| Key::of(&**n)).collect()
}

fn said(node: &Node) -> Option<u32> {
    node.metadata.annotations.as_ref()?.get(ANNOTATION)?.parse().ok()
}

/// What is said already stands as long as its range holds.
fn seconds(nodes: usize, current: Option<u32>) -> u32 {
    let holds = |(least, most, _): &&(usize, usize, u32)| (*least..=*most).contains(&nodes);
    let stands = RANGES.iter().filter(holds).find(|(.., s)| Some(*s) == current);
    stands.or_else(|| RANGES.iter().find(holds)).map_or(0, |(.., s)| *s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_grows_with_the_cluster_and_does_not_waver() {
        let check =
            |nodes, current, expect| assert_eq!(seconds(nodes, current), expect, "{nodes} {current:?}");
        check(1, None, 0);
        check(100, None, 0);
        check(101, Some(0), 15);
        check(95, Some(15), 15);
        check(89, Some(15), 0);
        check(950, Some(30), 30);
        check(5000, Some(0), 300);
    }
}
