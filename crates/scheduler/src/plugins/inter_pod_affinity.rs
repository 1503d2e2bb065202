//! Pods that want to be near others, or away from them.

use crate::framework::{
    BoxedScorer, Event, Filter, MAX_NODE_SCORE, Plugin, PreFilter, Refusal, Scorer, Verdict, wakes,
};
use crate::node::NodeInfo;
use crate::pod::{AffinityTerm, PodInfo};
use crate::snapshot::Snapshot;
use std::collections::{BTreeMap, HashMap};

/// What a pod on a node that requires the company of the pod in question counts (upstream's
/// `hardPodAffinityWeight`).
const HARD_POD_AFFINITY_WEIGHT: i64 = 1;

pub struct InterPodAffinity;

/// Matching pods by label name and value.
type Counts = HashMap<String, HashMap<String, i64>>;

fn change(counts: &mut Counts, node: &NodeInfo, topology_key: &str, by: i64) {
    let Some(value) = node.labels().get(topology_key) else { return };
    let of_key = counts.entry(topology_key.to_owned()).or_default();
    let count = of_key.entry(value.clone()).or_default();
    *count += by;
    if *count == 0 {
        of_key.remove(value);
    }
}

fn count(counts: &Counts, topology_key: &str, value: &str) -> i64 {
    counts.get(topology_key).and_then(|c| c.get(value)).copied().unwrap_or(0)
}

fn matches_all(terms: &[AffinityTerm], pod: &PodInfo, labels: &BTreeMap<String, String>) -> bool {
    !terms.is_empty() && terms.iter().all(|t| t.matches(pod, labels))
}

#[derive(Clone)]
struct Company<'a> {
    pod: &'a PodInfo,
    cluster: &'a Snapshot,
    /// Pods whose required anti-affinity refuses this pod.
    refusing: Counts,
    /// Pods that match all of this pod's affinity terms.
    wanted: Counts,
    /// Pods that match one of its anti-affinity terms.
    unwanted: Counts,
}

impl Company<'_> {
    fn count(&mut self, other: &PodInfo, node: &NodeInfo, by: i64) {
        let own_labels = self.cluster.namespace_labels(&self.pod.key.namespace);
        for term in other.required_anti_affinity.iter().filter(|t| t.matches(self.pod, own_labels)) {
            change(&mut self.refusing, node, &term.topology_key, by);
        }
        if self.pod.required_affinity.is_empty() && self.pod.required_anti_affinity.is_empty() {
            return;
        }
        let labels = self.cluster.namespace_labels(&other.key.namespace);
        if matches_all(&self.pod.required_affinity, other, labels) {
            for term in &self.pod.required_affinity {
                change(&mut self.wanted, node, &term.topology_key, by);
            }
        }
        for term in self.pod.required_anti_affinity.iter().filter(|t| t.matches(other, labels)) {
            change(&mut self.unwanted, node, &term.topology_key, by);
        }
    }

    fn finds_company(&self, node: &NodeInfo) -> bool {
        let mut found = true;
        for term in &self.pod.required_affinity {
            let Some(value) = node.labels().get(&term.topology_key) else { return false };
            found &= count(&self.wanted, &term.topology_key, value) > 0;
        }
        // the first of a group that wants its own company finds none, and may start
        found
            || (self.wanted.values().all(HashMap::is_empty)
                && matches_all(
                    &self.pod.required_affinity,
                    self.pod,
                    self.cluster.namespace_labels(&self.pod.key.namespace),
                ))
    }
}

impl<'a> Filter<'a> for Company<'a> {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        if !self.finds_company(node) {
            return Err(Refusal::lasting("node(s) didn't match pod affinity rules"));
        }
        let meets_unwanted = self.pod.required_anti_affinity.iter().any(|t| {
            node.labels().get(&t.topology_key).is_some_and(|v| count(&self.unwanted, &t.topology_key, v) > 0)
        });
        if meets_unwanted {
            return Err(Refusal::preemptible("node(s) didn't match pod anti-affinity rules"));
        }
        let refused = self
            .refusing
            .iter()
            .any(|(key, values)| node.labels().get(key).and_then(|v| values.get(v)).is_some_and(|n| *n > 0));
        if refused {
            return Err(Refusal::preemptible("node(s) didn't satisfy existing pods anti-affinity rules"));
        }
        Ok(())
    }

    fn count_pod(&mut self, pod: &PodInfo, node: &NodeInfo, by: i64) {
        self.count(pod, node, by);
    }
}

struct Preferred(Counts);

impl Scorer for Preferred {
    fn score(&self, node: &NodeInfo) -> i64 {
        self.0.iter().filter_map(|(key, values)| values.get(node.labels().get(key)?)).sum()
    }

    fn normalize(&self, scores: &mut [i64], _: &[&NodeInfo]) {
        let min = scores.iter().copied().min().unwrap_or(0);
        let max = scores.iter().copied().max().unwrap_or(0);
        for score in scores {
            *score = if max > min {
                (MAX_NODE_SCORE as f64 * ((*score - min) as f64 / (max - min) as f64)) as i64
            } else {
                0
            };
        }
    }
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn wakes(&self) -> u32 {
        wakes::NODE
            | wakes::POD_PLACED
            | wakes::POD_GONE
            | wakes::PLACED_POD_CHANGED
            | wakes::POD_CHANGED
            | wakes::NAMESPACE_CHANGED
    }

    fn could_help(&self, pod: &PodInfo, event: &Event<'_>) -> bool {
        // the namespace's labels are not at hand: a selector over them may match
        let could_match = |t: &AffinityTerm, p: &PodInfo| {
            (t.namespaces.contains(&*p.key.namespace) || !t.namespace_selector.nothing)
                && t.selector.matches(p.labels())
        };
        let wanted = |p: &PodInfo| {
            !pod.required_affinity.is_empty() && pod.required_affinity.iter().all(|t| could_match(t, p))
        };
        let in_the_way = |p: &PodInfo| {
            pod.required_anti_affinity.iter().any(|t| could_match(t, p))
                || p.required_anti_affinity.iter().any(|t| could_match(t, pod))
        };
        match event {
            Event::PodPlaced(p) => wanted(p),
            Event::PodGone(p) => in_the_way(p),
            Event::PlacedPodChanged(now, was) => {
                now.labels() != was.labels() && (wanted(now) || in_the_way(was))
            }
            Event::PodChanged(now, was) => now.labels() != was.labels(),
            Event::NodeAdded(_) | Event::NamespaceChanged => true,
            Event::NodeChanged(now, was) => now.metadata.labels != was.metadata.labels,
            _ => false,
        }
    }

    fn pre_filter<'a>(&self, pod: &'a PodInfo, cluster: &'a Snapshot) -> PreFilter<'a> {
        let has_terms = !pod.required_affinity.is_empty() || !pod.required_anti_affinity.is_empty();
        if !has_terms && !cluster.has_required_anti_affinity() {
            return PreFilter::Skip;
        }
        let mut company =
            Company { pod, cluster, refusing: Counts::new(), wanted: Counts::new(), unwanted: Counts::new() };
        for node in cluster.nodes().filter(|n| has_terms || n.pods_with_required_anti_affinity > 0) {
            for other in &node.pods {
                company.count(other, node, 1);
            }
        }
        if !has_terms && company.refusing.is_empty() {
            return PreFilter::Skip;
        }
        PreFilter::run(company)
    }

    fn pre_score<'a>(
        &self,
        pod: &'a PodInfo,
        cluster: &'a Snapshot,
        _: &[&NodeInfo],
    ) -> Option<BoxedScorer<'a>> {
        let prefers = !pod.preferred_affinity.is_empty() || !pod.preferred_anti_affinity.is_empty();
        if !prefers && !cluster.has_affinity() {
            return None;
        }
        let own_labels = cluster.namespace_labels(&pod.key.namespace);
        let mut scores = Counts::new();
        for node in cluster.nodes().filter(|n| prefers || n.pods_with_affinity > 0) {
            for other in node.pods.iter().filter(|p| prefers || p.has_affinity()) {
                let labels = cluster.namespace_labels(&other.key.namespace);
                let own = [(&pod.preferred_affinity, 1), (&pod.preferred_anti_affinity, -1)];
                for (terms, sign) in own {
                    for term in terms.iter().filter(|t| t.matches(other, labels)) {
                        change(&mut scores, node, &term.topology_key, sign * term.weight);
                    }
                }
                for term in other.required_affinity.iter().filter(|t| t.matches(pod, own_labels)) {
                    change(&mut scores, node, &term.topology_key, HARD_POD_AFFINITY_WEIGHT);
                }
                let theirs = [(&other.preferred_affinity, 1), (&other.preferred_anti_affinity, -1)];
                for (terms, sign) in theirs {
                    for term in terms.iter().filter(|t| t.matches(pod, own_labels)) {
                        change(&mut scores, node, &term.topology_key, sign * term.weight);
                    }
                }
            }
        }
        (!scores.is_empty()).then(|| Box::new(Preferred(scores)) as BoxedScorer)
    }
}
