//! Taints keep pods away that do not tolerate them; soft taints are avoided.

use crate::framework::{
    BoxedScorer, Event, Filter, Plugin, PreFilter, Refusal, Scorer, Verdict, default_normalize, wakes,
};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;
use k8s_openapi::api::core::v1::{Node, Taint, Toleration};

pub struct TaintToleration;

/// Whether any of the tolerations tolerates the taint.
pub fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|t| meta::taints::tolerates(t, taint))
}

/// Whether a taint that keeps pods away is not tolerated.
pub fn is_kept_away(tolerations: &[Toleration], taints: &[Taint]) -> bool {
    !meta::taints::all_tolerated(tolerations, taints, &["NoSchedule", "NoExecute"])
}

#[derive(Clone)]
struct Tolerated<'a>(&'a PodInfo);

impl<'a> Filter<'a> for Tolerated<'a> {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        if is_kept_away(self.0.tolerations(), node.taints()) {
            return Err(Refusal::lasting("node(s) had untolerated taint(s)"));
        }
        Ok(())
    }
}

struct SoftTaints {
    /// Those that can tolerate a soft taint.
    tolerations: Vec<Toleration>,
}

impl Scorer for SoftTaints {
    fn score(&self, node: &NodeInfo) -> i64 {
        let soft = node.taints().iter().filter(|t| t.effect == "PreferNoSchedule");
        soft.filter(|t| !tolerates(&self.tolerations, t)).count() as i64
    }

    fn normalize(&self, scores: &mut [i64], _: &[&NodeInfo]) {
        default_normalize(scores, true);
    }
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn wakes(&self) -> u32 {
        wakes::NODE | wakes::POD_CHANGED
    }

    fn could_help(&self, pod: &PodInfo, event: &Event<'_>) -> bool {
        let fits = |n: &Node| {
            let taints = n.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
            !is_kept_away(pod.tolerations(), taints)
        };
        match event {
            Event::NodeAdded(n) => fits(n),
            Event::NodeChanged(now, was) => fits(now) && !fits(was),
            Event::PodChanged(now, was) => now.tolerations() != was.tolerations(),
            _ => false,
        }
    }

    fn pre_filter<'a>(&self, pod: &'a PodInfo, _: &'a Snapshot) -> PreFilter<'a> {
        PreFilter::run(Tolerated(pod))
    }

    fn pre_score<'a>(&self, pod: &'a PodInfo, _: &'a Snapshot, _: &[&NodeInfo]) -> Option<BoxedScorer<'a>> {
        let tolerations = pod
            .tolerations()
            .iter()
            .filter(|t| matches!(t.effect.as_deref().unwrap_or(""), "" | "PreferNoSchedule"))
            .cloned()
            .collect();
        Some(Box::new(SoftTaints { tolerations }))
    }
}
