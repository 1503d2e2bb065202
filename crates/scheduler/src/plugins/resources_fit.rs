//! The node must have what the pod asks for; the emptier node is preferred (LeastAllocated).

use crate::framework::{
    BoxedScorer, Event, Filter, MAX_NODE_SCORE, Plugin, PreFilter, Refusal, Scorer, Verdict, wakes,
};
use crate::node::NodeInfo;
use crate::pod::{PodInfo, Resources};
use crate::snapshot::Snapshot;
use k8s_openapi::api::core::v1::Node;
use std::borrow::Cow;
use std::sync::Arc;

pub struct NodeResourcesFit;

#[derive(Clone)]
struct Fits<'a>(&'a Resources);

impl<'a> Filter<'a> for Fits<'a> {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        let mut reasons: Vec<Cow<'static, str>> = Vec::new();
        let mut preemptible = true;
        if node.pods.len() as i64 + 1 > node.allowed_pods {
            reasons.push("Too many pods".into());
        }
        let mut check = |want: i64, have: i64, used: i64, reason: &dyn Fn() -> Cow<'static, str>| {
            if want > 0 && want > have - used {
                preemptible &= want <= have;
                reasons.push(reason());
            }
        };
        let (have, used) = (&node.allocatable, &node.requested);
        check(self.0.milli_cpu, have.milli_cpu, used.milli_cpu, &|| "Insufficient cpu".into());
        check(self.0.memory, have.memory, used.memory, &|| "Insufficient memory".into());
        check(self.0.ephemeral_storage, have.ephemeral_storage, used.ephemeral_storage, &|| {
            "Insufficient ephemeral-storage".into()
        });
        for (name, want) in &self.0.scalar {
            let of = |r: &Resources| r.scalar.get(name).copied().unwrap_or(0);
            check(*want, of(have), of(used), &|| format!("Insufficient {name}").into());
        }
        if reasons.is_empty() { Ok(()) } else { Err(Refusal { reasons, preemptible }) }
    }
}

struct LeastAllocated<'a>(&'a PodInfo);

impl Scorer for LeastAllocated<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let resources = [
            (node.allocatable.milli_cpu, node.scored_cpu + self.0.scored_cpu),
            (node.allocatable.memory, node.scored_memory + self.0.scored_memory),
        ];
        let scores: Vec<i64> = resources
            .into_iter()
            .filter(|(have, _)| *have != 0)
            .map(|(have, used)| if used > have { 0 } else { (have - used) * MAX_NODE_SCORE / have })
            .collect();
        if scores.is_empty() { 0 } else { scores.iter().sum::<i64>() / scores.len() as i64 }
    }
}

/// Whether an empty node of this kind would do.
fn would_fit(pod: &PodInfo, node: &Node) -> bool {
    let mut info = NodeInfo::new("");
    info.set_node(Arc::new(node.clone()));
    Fits(&pod.requests).filter(&info).is_ok()
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn wakes(&self) -> u32 {
        wakes::NODE | wakes::POD_GONE | wakes::PLACED_POD_CHANGED | wakes::POD_CHANGED
    }

    fn could_help(&self, pod: &PodInfo, event: &Event<'_>) -> bool {
        let allocatable = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
        match event {
            // room for one pod more may be all that was missing
            Event::PodGone(_) => true,
            Event::PlacedPodChanged(now, was) => now.requests != was.requests,
            Event::PodChanged(now, was) => now.requests != was.requests,
            Event::NodeAdded(n) => would_fit(pod, n),
            Event::NodeChanged(now, was) => allocatable(now) != allocatable(was) && would_fit(pod, now),
            _ => false,
        }
    }

    fn pre_filter<'a>(&self, pod: &'a PodInfo, _: &'a Snapshot) -> PreFilter<'a> {
        PreFilter::run(Fits(&pod.requests))
    }

    fn pre_score<'a>(&self, pod: &'a PodInfo, _: &'a Snapshot, _: &[&NodeInfo]) -> Option<BoxedScorer<'a>> {
        Some(Box::new(LeastAllocated(pod)))
    }
}
