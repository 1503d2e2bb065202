//! `nodeSelector` and node affinity, required and preferred.

use crate::framework::{
    BoxedScorer, Event, Filter, Plugin, PreFilter, Refusal, Scorer, Verdict, default_normalize, wakes,
};
use crate::node::NodeInfo;
use crate::node_selector::Term;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

pub struct NodeAffinity;

#[derive(Clone)]
struct Selected<'a>(&'a PodInfo);

impl<'a> Filter<'a> for Selected<'a> {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        if node.node.as_ref().is_some_and(|n| self.0.node_selector.matches(n)) {
            return Ok(());
        }
        Err(Refusal::lasting("node(s) didn't match Pod's node affinity/selector"))
    }
}

struct Preferred(Vec<(Term, i64)>);

impl Scorer for Preferred {
    fn score(&self, node: &NodeInfo) -> i64 {
        let Some(node) = &node.node else { return 0 };
        self.0.iter().filter(|(term, _)| term.matches(node)).map(|(_, weight)| weight).sum()
    }

    fn normalize(&self, scores: &mut [i64], _: &[&NodeInfo]) {
        default_normalize(scores, false);
    }
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn wakes(&self) -> u32 {
        wakes::NODE
    }

    fn could_help(&self, pod: &PodInfo, event: &Event<'_>) -> bool {
        match event {
            Event::NodeAdded(n) => pod.node_selector.matches(n),
            Event::NodeChanged(now, was) => pod.node_selector.matches(now) && !pod.node_selector.matches(was),
            _ => false,
        }
    }

    fn pre_filter<'a>(&self, pod: &'a PodInfo, _: &'a Snapshot) -> PreFilter<'a> {
        if pod.node_selector.is_empty() {
            return PreFilter::Skip;
        }
        let nodes = pod.node_selector.allowed_names();
        if nodes.as_ref().is_some_and(|n| n.is_empty()) {
            return PreFilter::Refuse(Refusal::lasting("pod affinity terms conflict"));
        }
        PreFilter::Run { filter: Box::new(Selected(pod)), nodes }
    }

    fn pre_score<'a>(&self, pod: &'a PodInfo, _: &'a Snapshot, _: &[&NodeInfo]) -> Option<BoxedScorer<'a>> {
        let affinity = pod.spec()?.affinity.as_ref()?.node_affinity.as_ref()?;
        let preferred = affinity.preferred_during_scheduling_ignored_during_execution.as_ref()?;
        // a term of weight 0 is left out, as upstream
        let terms: Vec<(Term, i64)> = preferred
            .iter()
            .filter(|p| p.weight != 0)
            .map(|p| (Term::new(&p.preference), i64::from(p.weight)))
            .collect();
        (!terms.is_empty()).then(|| Box::new(Preferred(terms)) as BoxedScorer)
    }
}
