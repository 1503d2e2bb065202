//! Spreads a pod's kind over the values of a node label: hosts, zones (KEP-895).

use crate::framework::{
    BoxedScorer, Event, Filter, MAX_NODE_SCORE, Plugin, PreFilter, Refusal, Scorer, Verdict, wakes,
};
use crate::node::NodeInfo;
use crate::plugins::taint_toleration::is_kept_away;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;
use k8s_openapi::api::core::v1::{Node, TopologySpreadConstraint};
use meta::LabelSelector;
use meta::labels::{HOSTNAME, ZONE};
use meta::selector::{Operator, Requirement};
use std::collections::{BTreeMap, HashMap, HashSet};

const NOT_MATCHED: &str = "node(s) didn't match pod topology spread constraints";
const LABEL_MISSING: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

/// What pods that belong to a service or workload prefer where they say nothing (upstream's
/// `systemDefaultConstraints`): topology and skew.
const SYSTEM_DEFAULTS: [(&str, i64); 2] = [(HOSTNAME, 3), (ZONE, 5)];

pub struct PodTopologySpread;

#[derive(Clone)]
struct Constraint {
    max_skew: i64,
    topology_key: String,
    selector: LabelSelector,
    min_domains: usize,
    honor_affinity: bool,
    honor_taints: bool,
}

impl Constraint {
    fn new(c: &TopologySpreadConstraint, pod: &PodInfo) -> Self {
        let mut selector = match &c.label_selector {
            None => LabelSelector::nothing(),
            Some(s) => LabelSelector::from_object(s).unwrap_or_else(|_| LabelSelector::nothing()),
        };
        for key in c.match_label_keys.iter().flatten() {
            if let Some(value) = pod.labels().get(key) {
                let requirement =
                    Requirement { key: key.clone(), operator: Operator::In, values: vec![value.clone()] };
                if !selector.requirements.contains(&requirement) {
                    selector.requirements.push(requirement);
                }
            }
        }
        Self {
            max_skew: i64::from(c.max_skew),
            topology_key: c.topology_key.clone(),
            selector,
            min_domains: c.min_domains.and_then(|d| usize::try_from(d).ok()).unwrap_or(1),
            honor_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: c.node_taints_policy.as_deref() == Some("Honor"),
        }
    }

    /// Whether pods on this node count.
    fn includes(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        let affine = || node.node.as_ref().is_some_and(|n| pod.node_selector.matches(n));
        (!self.honor_affinity || affine())
            && (!self.honor_taints || !is_kept_away(pod.tolerations(), node.taints()))
    }

    fn counts(&self, other: &PodInfo, pod: &PodInfo) -> bool {
        !other.is_terminating()
            && other.key.namespace == pod.key.namespace
            && self.selector.matches(other.labels())
    }

    fn count_on(&self, node: &NodeInfo, pod: &PodInfo) -> i64 {
        // an empty selector counts no pods, as upstream
        if self.selector.is_everything() {
            return 0;
        }
        node.pods.iter().filter(|p| self.counts(p, pod)).count() as i64
    }
}

fn constraints(pod: &PodInfo, action: &str) -> Vec<Constraint> {
    let all = pod.spec().and_then(|s| s.topology_spread_constraints.as_deref()).unwrap_or_default();
    all.iter().filter(|c| c.when_unsatisfiable == action).map(|c| Constraint::new(c, pod)).collect()
}

fn has_all_keys(node: &NodeInfo, constraints: &[Constraint]) -> bool {
    constraints.iter().all(|c| node.labels().contains_key(&c.topology_key))
}

#[derive(Clone)]
struct Spread<'a> {
    pod: &'a PodInfo,
    constraints: Vec<Constraint>,
    /// For each constraint, matching pods by value of its label.
    matching: Vec<HashMap<String, i64>>,
}

impl<'a> Filter<'a> for Spread<'a> {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        for (constraint, matching) in self.constraints.iter().zip(&self.matching) {
            let Some(value) = node.labels().get(&constraint.topology_key) else {
                return Err(Refusal::lasting(LABEL_MISSING));
            };
            let fewest = if matching.len() < constraint.min_domains {
                0
            } else {
                matching.values().copied().min().unwrap_or(i64::from(i32::MAX))
            };
            let own = i64::from(constraint.selector.matches(self.pod.labels()));
            let here = matching.get(value).copied().unwrap_or(0);
            if here + own - fewest > constraint.max_skew {
                return Err(Refusal::preemptible(NOT_MATCHED));
            }
        }
        Ok(())
    }

    fn count_pod(&mut self, pod: &PodInfo, node: &NodeInfo, by: i64) {
        if pod.key.namespace != self.pod.key.namespace || !has_all_keys(node, &self.constraints) {
            return;
        }
        for (constraint, matching) in self.constraints.iter().zip(&mut self.matching) {
            if constraint.selector.matches(pod.labels())
                && constraint.includes(self.pod, node)
                && let Some(value) = node.labels().get(&constraint.topology_key)
            {
                *matching.entry(value.clone()).or_default() += by;
            }
        }
    }
}

struct Preferred<'a> {
    pod: &'a PodInfo,
    constraints: Vec<Constraint>,
    counts: Vec<BTreeMap<String, i64>>,
    weights: Vec<f64>,
    ignored: HashSet<String>,
}

impl Scorer for Preferred<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        if self.ignored.contains(&node.name) {
            return 0;
        }
        let mut score = 0.0;
        for ((constraint, counts), weight) in self.constraints.iter().zip(&self.counts).zip(&self.weights) {
            let Some(value) = node.labels().get(&constraint.topology_key) else { continue };
            let count = if constraint.topology_key == HOSTNAME {
                constraint.count_on(node, self.pod)
            } else {
                counts.get(value).copied().unwrap_or(0)
            };
            score += count as f64 * weight + (constraint.max_skew - 1) as f64;
        }
        score.round() as i64
    }

    fn normalize(&self, scores: &mut [i64], nodes: &[&NodeInfo]) {
        let ignored: Vec<bool> = nodes.iter().map(|n| self.ignored.contains(&n.name)).collect();
        let counted = || scores.iter().zip(&ignored).filter(|(_, i)| !**i).map(|(s, _)| *s);
        let min = counted().min().unwrap_or(i64::MAX);
        let max = counted().max().unwrap_or(0).max(0);
        for (score, ignored) in scores.iter_mut().zip(&ignored) {
            *score = match (*ignored, max) {
                (true, _) => 0,
                (false, 0) => MAX_NODE_SCORE,
                (false, max) => MAX_NODE_SCORE * (max + min - *score) / max,
            };
        }
    }
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn wakes(&self) -> u32 {
        wakes::NODE
            | wakes::NODE_REMOVED
            | wakes::POD_PLACED
            | wakes::POD_GONE
            | wakes::PLACED_POD_CHANGED
            | wakes::POD_CHANGED
    }

    fn could_help(&self, pod: &PodInfo, event: &Event<'_>) -> bool {
        let constraints = constraints(pod, "DoNotSchedule");
        let counted = |other: &PodInfo| {
            other.key.namespace == pod.key.namespace
                && constraints.iter().any(|c| c.selector.matches(other.labels()))
        };
        let has_keys = |n: &Node| {
            let labels = n.metadata.labels.as_ref();
            constraints.iter().all(|c| labels.is_some_and(|l| l.contains_key(&c.topology_key)))
        };
        match event {
            Event::NodeAdded(n) | Event::NodeRemoved(n) => has_keys(n),
            Event::NodeChanged(now, was) => {
                now.metadata.labels != was.metadata.labels && (has_keys(now) || has_keys(was))
            }
            Event::PodPlaced(p) | Event::PodGone(p) => counted(p),
            Event::PlacedPodChanged(now, was) => {
                now.labels() != was.labels() && (counted(now) || counted(was))
            }
            Event::PodChanged(now, was) => now.labels() != was.labels(),
            _ => false,
        }
    }

    fn pre_filter<'a>(&self, pod: &'a PodInfo, cluster: &'a Snapshot) -> PreFilter<'a> {
        let constraints = constraints(pod, "DoNotSchedule");
        if constraints.is_empty() {
            return PreFilter::Skip;
        }
        let mut matching = vec![HashMap::new(); constraints.len()];
        for node in cluster.nodes().filter(|n| has_all_keys(n, &constraints)) {
            for (constraint, matching) in constraints.iter().zip(&mut matching) {
                if constraint.includes(pod, node)
                    && let Some(value) = node.labels().get(&constraint.topology_key)
                {
                    *matching.entry(value.clone()).or_default() += constraint.count_on(node, pod);
                }
            }
        }
        PreFilter::run(Spread { pod, constraints, matching })
    }

    fn pre_score<'a>(
        &self,
        pod: &'a PodInfo,
        cluster: &'a Snapshot,
        feasible: &[&NodeInfo],
    ) -> Option<BoxedScorer<'a>> {
        let own =
            pod.spec().and_then(|s| s.topology_spread_constraints.as_ref()).is_some_and(|c| !c.is_empty());
        let constraints =
            if own { constraints(pod, "ScheduleAnyway") } else { system_defaults(pod, cluster) };
        if constraints.is_empty() {
            return None;
        }
        let mut counts: Vec<BTreeMap<String, i64>> = vec![BTreeMap::new(); constraints.len()];
        let mut ignored = HashSet::new();
        for node in feasible {
            if own && !has_all_keys(node, &constraints) {
                ignored.insert(node.name.clone());
                continue;
            }
            for (constraint, counts) in constraints.iter().zip(&mut counts) {
                if constraint.topology_key != HOSTNAME {
                    let value = node.labels().get(&constraint.topology_key).cloned().unwrap_or_default();
                    counts.entry(value).or_default();
                }
            }
        }
        // a label with many values spreads more, so that one pod more on a value weighs more
        let weights = constraints
            .iter()
            .zip(&counts)
            .map(|(c, counts)| {
                let hosts = feasible.len() - ignored.len();
                let size = if c.topology_key == HOSTNAME { hosts } else { counts.len() };
                ((size + 2) as f64).ln()
            })
            .collect();
        let beyond_hosts = constraints.iter().any(|c| c.topology_key != HOSTNAME);
        for node in cluster.nodes().filter(|n| beyond_hosts && (!own || has_all_keys(n, &constraints))) {
            for (constraint, counts) in constraints.iter().zip(&mut counts) {
                let value = node.labels().get(&constraint.topology_key).map_or("", String::as_str);
                if let Some(count) = counts.get_mut(value)
                    && constraint.includes(pod, node)
                {
                    *count += constraint.count_on(node, pod);
                }
            }
        }
        Some(Box::new(Preferred { pod, constraints, counts, weights, ignored }))
    }
}

fn system_defaults(pod: &PodInfo, cluster: &Snapshot) -> Vec<Constraint> {
    let Some(selector) = cluster.default_selector(pod) else { return Vec::new() };
    SYSTEM_DEFAULTS
        .iter()
        .map(|(key, max_skew)| Constraint {
            max_skew: *max_skew,
            topology_key: (*key).to_owned(),
            selector: selector.clone(),
            min_domains: 1,
            honor_affinity: true,
            honor_taints: false,
        })
        .collect()
}
