//! Prefers nodes on which CPU and memory are used evenly with the pod, compared with without it.

use crate::framework::{BoxedScorer, MAX_NODE_SCORE, Plugin, Scorer};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

pub struct NodeResourcesBalancedAllocation;

struct Balance<'a>(&'a PodInfo);

/// 100 where all fractions are equal, less by their standard deviation.
fn evenness(used_and_have: [(i64, i64); 2]) -> i64 {
    let fractions: Vec<f64> = used_and_have
        .into_iter()
        .filter(|(_, have)| *have != 0)
        .map(|(used, have)| (used as f64 / have as f64).min(1.0))
        .collect();
    let deviation = if let [a, b] = fractions.as_slice() { ((a - b) / 2.0).abs() } else { 0.0 };
    ((1.0 - deviation) * MAX_NODE_SCORE as f64) as i64
}

impl Scorer for Balance<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let (have, used, want) = (&node.allocatable, &node.requested, &self.0.requests);
        let with = evenness([
            (used.milli_cpu + want.milli_cpu, have.milli_cpu),
            (used.memory + want.memory, have.memory),
        ]);
        let without = evenness([(used.milli_cpu, have.milli_cpu), (used.memory, have.memory)]);
        MAX_NODE_SCORE / 2 + (MAX_NODE_SCORE / 2 + with - without) / 2
    }
}

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn wakes(&self) -> u32 {
        0
    }

    fn pre_score<'a>(&self, pod: &'a PodInfo, _: &'a Snapshot, _: &[&NodeInfo]) -> Option<BoxedScorer<'a>> {
        // a pod that asks for neither changes no balance
        let indifferent = pod.requests.milli_cpu == 0 && pod.requests.memory == 0;
        (!indifferent).then(|| Box::new(Balance(pod)) as BoxedScorer)
    }
}
