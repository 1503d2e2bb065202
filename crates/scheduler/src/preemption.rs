//! Making room: which less important pods would have to go so that a pod fits (upstream's
//! DefaultPreemption). Pure; the shell evicts.

use crate::cycle::{Filters, explain};
use crate::framework::Refusal;
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;
use k8s_openapi::jiff::Timestamp;
use meta::LabelSelector;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
/// Of the nodes where preemption could help, try a tenth, but at least this many (upstream's
/// `minCandidateNodesPercentage` and `-Absolute`).
const MIN_CANDIDATES: usize = 100;
const CANDIDATES_PERCENT: usize = 10;

/// A node on which there is room once its victims are gone.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub node: String,
    /// The most important first.
    pub victims: Vec<Arc<PodInfo>>,
    /// How many of them a disruption budget protects.
    pub violations: usize,
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        let keys = |c: &Self| c.victims.iter().map(|v| v.key.clone()).collect::<Vec<_>>();
        self.node == other.node && self.violations == other.violations && keys(self) == keys(other)
    }
}

/// What preemption comes to, and with it what becomes of an earlier nomination.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Room {
    /// It helps nowhere; an earlier nomination came to nothing and is taken back.
    #[default]
    None,
    /// It was not tried, since the pod may not preempt or waits for victims to go; a nomination stands.
    NotSought,
    /// The pod is nominated for the node.
    Made(Candidate),
}

/// Why there is no candidate, in upstream's words.
pub(crate) struct NoCandidate {
    pub room: Room,
    pub why: String,
}

impl NoCandidate {
    fn not_eligible(why: &str) -> Self {
        Self { room: Room::NotSought, why: format!("not eligible due to {why}.") }
    }
}

/// The message where no node would gain anything.
pub(crate) fn not_helpful(all_nodes: usize) -> String {
    let refusals = vec![Refusal::lasting(NOT_HELPFUL); all_nodes];
    explain(all_nodes, None, refusals.iter())
}

/// The best node to make room on.
pub(crate) fn evaluate(
    cluster: &Snapshot,
    pod: &PodInfo,
    filters: &Filters<'_>,
    refused: &BTreeMap<String, Refusal>,
) -> Result<Candidate, NoCandidate> {
    if pod.spec().and_then(|s| s.preemption_policy.as_deref()) == Some("Never") {
        return Err(NoCandidate::not_eligible("preemptionPolicy=Never"));
    }
    if let Some(name) = cluster.nominated_node(pod)
        && refused.get(name).is_none_or(|r| r.preemptible)
        && let Some(node) = cluster.node(name)
        && node.pods.iter().any(|p| p.priority < pod.priority && is_leaving_by_preemption(p))
    {
        return Err(NoCandidate::not_eligible("a terminating pod on the nominated node"));
    }
    let mut verdicts: BTreeMap<&str, Refusal> = refused
        .iter()
        .filter(|(_, r)| !r.preemptible)
        .map(|(name, _)| (name.as_str(), Refusal::lasting(NOT_HELPFUL)))
        .collect();
    let possible: Vec<&NodeInfo> =
        refused.iter().filter(|(_, r)| r.preemptible).filter_map(|(name, _)| cluster.node(name)).collect();
    let enough = (possible.len() * CANDIDATES_PERCENT / 100).max(MIN_CANDIDATES);
    let mut candidates: Vec<Candidate> = Vec::new();
    for node in possible {
        match victims_on(cluster, pod, filters, node) {
            Ok(candidate) => candidates.push(candidate),
            Err(refusal) => {
                verdicts.insert(&node.name, refusal);
            }
        }
        // one that harms nobody's budget is worth looking further for
        if candidates.len() >= enough && candidates.iter().any(|c| c.violations == 0) {
            break;
        }
    }
    let explained = || explain(cluster.node_count(), None, verdicts.values());
    candidates.into_iter().min_by_key(cost).ok_or_else(|| NoCandidate { room: Room::None, why: explained() })
}

fn is_leaving_by_preemption(pod: &PodInfo) -> bool {
    let conditions = pod.pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    pod.is_terminating()
        && conditions.iter().any(|c| {
            c.type_ == "DisruptionTarget"
                && c.status == "True"
                && c.reason.as_deref() == Some("PreemptionByScheduler")
        })
}

fn start_time(pod: &PodInfo) -> Timestamp {
    let started = pod.pod.status.as_ref().and_then(|s| s.start_time.as_ref());
    started.map_or(Timestamp::MAX, |t| t.0)
}

/// Least first: violated budgets, the most important victim, the sum of importance, the number of victims;
/// then the node whose most important victim started last.
fn cost(c: &Candidate) -> (usize, i32, i64, usize, Reverse<Timestamp>) {
    let highest = c.victims.iter().map(|v| v.priority).max().unwrap_or(i32::MIN);
    let sum = c.victims.iter().map(|v| i64::from(v.priority) + i64::from(i32::MAX) + 1).sum();
    let earliest = c
        .victims
        .iter()
        .filter(|v| v.priority == highest)
        .map(|v| start_time(v))
        .min()
        .unwrap_or(Timestamp::MAX);
    (c.violations, highest, sum, c.victims.len(), Reverse(earliest))
}

fn victims_on(
    cluster: &Snapshot,
    pod: &PodInfo,
    filters: &Filters<'_>,
    node: &NodeInfo,
) -> Result<Candidate, Refusal> {
    let (mut filters, mut node) = (filters.clone(), node.clone());
    let mut lesser: Vec<Arc<PodInfo>> =
        node.pods.iter().filter(|p| p.priority < pod.priority).cloned().collect();
    if lesser.is_empty() {
        return Err(Refusal::lasting(NO_VICTIMS));
    }
    for p in &lesser {
        node.remove_pod(&p.key);
        filters.count_pod(p, &node, -1);
    }
    filters.filter_with_nominated(&node, pod, cluster).map_err(|(_, refusal)| refusal)?;
    // give back as many as there is room for, protected and important ones first
    lesser.sort_by_key(|p| (Reverse(p.priority), start_time(p)));
    let (protected, free) = split_by_budget(cluster, lesser);
    let mut victims = Vec::new();
    let mut violations = 0;
    for (is_protected, p) in
        protected.into_iter().map(|p| (true, p)).chain(free.into_iter().map(|p| (false, p)))
    {
        node.add_pod(p.clone());
        filters.count_pod(&p, &node, 1);
        if filters.filter_with_nominated(&node, pod, cluster).is_err() {
            node.remove_pod(&p.key);
            filters.count_pod(&p, &node, -1);
            violations += usize::from(is_protected);
            victims.push(p);
        }
    }
    victims.sort_by_key(|p| (Reverse(p.priority), start_time(p)));
    Ok(Candidate { node: node.name, victims, violations })
}

/// Pods whose going would violate a disruption budget, and the others.
fn split_by_budget(cluster: &Snapshot, pods: Vec<Arc<PodInfo>>) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut budgets: Vec<(String, LabelSelector, i32, &k8s_openapi::api::policy::v1::PodDisruptionBudget)> =
        cluster
            .budgets()
            .filter_map(|b| {
                let selector = LabelSelector::from_object(b.spec.as_ref()?.selector.as_ref()?).ok()?;
                let allowed = b.status.as_ref().and_then(|s| s.disruptions_allowed).unwrap_or(0);
                let selects = !selector.is_everything();
                selects.then(|| (b.metadata.namespace.clone().unwrap_or_default(), selector, allowed, b))
            })
            .collect();
    pods.into_iter().partition(|pod| {
        let mut violated = false;
        for (namespace, selector, allowed, budget) in &mut budgets {
            if *namespace != *pod.key.namespace || pod.labels().is_empty() || !selector.matches(pod.labels())
            {
                continue;
            }
            let disrupted = budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref());
            if disrupted.is_some_and(|d| d.contains_key(&*pod.key.name)) {
                continue;
            }
            *allowed -= 1;
            violated |= *allowed < 0;
        }
        violated
    })
}

#[cfg(test)]
mod tests {
    use super::Room;
    use crate::cycle::{Turn, schedule};
    use crate::plugins::default_profile;
    use crate::snapshot::Snapshot;
    use crate::testing::{node, pod, pod_with};
    use client::Key;
    use serde_json::json;
    use std::sync::Arc;

    fn asks(cpu: &str, priority: i32) -> serde_json::Value {
        json!({"priority": priority, "containers": [{"resources": {"requests": {"cpu": cpu}}}]})
    }

    #[test]
    fn the_least_harm_is_chosen() {
        let mut c = Snapshot::new();
        c.set_node(node("a", json!({})));
        c.set_node(node("b", json!({})));
        c.confirm(pod("a1", asks("2", 5)), "a");
        c.confirm(pod("a2", asks("2", 1)), "a");
        c.confirm(pod("b1", asks("4", 5)), "b");
        let important = pod("p", asks("2", 10));
        let victims = |c: &Snapshot| {
            let error = schedule(&default_profile(), c, &important, Turn::default()).unwrap_err();
            let Room::Made(candidate) = error.room else { panic!("{}", error.message()) };
            let names: Vec<String> = candidate.victims.iter().map(|v| v.key.name.to_string()).collect();
            (candidate.node, names.join(","), candidate.violations)
        };
        assert_eq!(victims(&c), ("a".to_owned(), "a2".to_owned(), 0));

        let budget = json!({"metadata": {"namespace": "default", "name": "b"},
            "spec": {"selector": {"matchLabels": {"app": "a2"}}}, "status": {"disruptionsAllowed": 0}});
        c.set_budget(Key::new("default", "b"), Some(Arc::new(serde_json::from_value(budget).unwrap())));
        assert_eq!(victims(&c), ("a".to_owned(), "a1".to_owned(), 0));
    }

    #[test]
    fn budgets_are_spared_however_many_nodes_there_are() {
        let mut c = Snapshot::new();
        let (protected, free) = (super::MIN_CANDIDATES + 1, "z");
        for i in 0..protected {
            c.set_node(node(&format!("n{i}"), json!({})));
            let guarded = json!({"metadata": {"labels": {"app": "guarded"}}, "spec": asks("4", 1)});
            c.confirm(pod_with(&format!("guarded-{i}"), guarded), &format!("n{i}"));
        }
        c.set_node(node(free, json!({})));
        c.confirm(pod("free", asks("4", 1)), free);
        let budget = json!({"metadata": {"namespace": "default", "name": "b"},
            "spec": {"selector": {"matchLabels": {"app": "guarded"}}}, "status": {"disruptionsAllowed": 0}});
        c.set_budget(Key::new("default", "b"), Some(Arc::new(serde_json::from_value(budget).unwrap())));
        let important = pod("p", asks("2", 10));
        let error = schedule(&default_profile(), &c, &important, Turn::default()).unwrap_err();
        let Room::Made(candidate) = error.room else { panic!("there are lesser pods") };
        assert_eq!((candidate.node.as_str(), candidate.violations), (free, 0));
    }

    #[test]
    fn a_pod_that_waits_for_a_victim_to_go_waits() {
        let mut c = Snapshot::new();
        c.set_node(node("a", json!({})));
        let leaving = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": asks("4", 1),
            "status": {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]}});
        c.confirm(pod_with("v", leaving), "a");
        let waiting = pod_with("p", json!({"spec": asks("2", 10), "status": {"nominatedNodeName": "a"}}));
        let error = schedule(&default_profile(), &c, &waiting, Turn::default()).unwrap_err();
        assert_eq!(
            error.message(),
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to a terminating pod on the nominated node."
        );
    }

    #[test]
    fn room_is_kept_for_whom_it_was_made() {
        let mut c = Snapshot::new();
        c.set_node(node("a", json!({})));
        c.nominate(pod("p", asks("3", 10)), "a");
        let fits = |priority| {
            schedule(&default_profile(), &c, &pod("q", asks("2", priority)), Turn::default()).is_ok()
        };
        assert_eq!((fits(1), fits(20)), (false, true));
    }
}
