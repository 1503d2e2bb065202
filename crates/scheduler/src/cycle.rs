//! One decision: where a pod goes, or why it goes nowhere.

use crate::framework::{
    BoxedScorer, Filter, MAX_NODE_SCORE, Plugin, Point, PreFilter, Probe, Refusal, Status,
};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::preemption::{self, Room};
use crate::snapshot::Snapshot;
use crate::volumes::Reservation;
use std::collections::{BTreeMap, BTreeSet};

/// Below this many nodes all are tried (upstream's `minFeasibleNodesToFind`).
const MIN_FEASIBLE_NODES: usize = 100;
/// The least share of nodes to find, in percent (upstream's `minFeasibleNodesPercentageToFind`).
const MIN_FEASIBLE_PERCENT: usize = 5;

/// Plugins with the weights of their scores, in the order in which they are asked.
pub struct Profile {
    pub plugins: Vec<(Box<dyn Plugin>, i64)>,
    /// How many nodes to find before scoring, in percent; 0 adapts to the size of the cluster.
    pub percentage_of_nodes_to_score: usize,
}

impl Profile {
    pub fn new(plugins: Vec<(Box<dyn Plugin>, i64)>) -> Self {
        Self { plugins, percentage_of_nodes_to_score: 0 }
    }

    pub fn plugin(&self, name: &str) -> Option<&dyn Plugin> {
        self.plugins.iter().map(|(p, _)| &**p).find(|p| p.name() == name)
    }

    /// The plugin that keeps the pod out of the queue, and why.
    pub fn pre_enqueue(&self, pod: &PodInfo) -> Option<(&'static str, String)> {
        self.plugins.iter().find_map(|(p, _)| Some((p.name(), p.pre_enqueue(pod)?)))
    }

    /// What the plugins have to have written before the pod is bound to the node.
    pub fn reserve(&self, pod: &PodInfo, cluster: &Snapshot, node: &str) -> Reservation {
        let mut all = Reservation::default();
        for (plugin, _) in &self.plugins {
            if let Some(node) = cluster.node(node) {
                let one = plugin.reserve(pod, cluster, node);
                all.volumes.extend(one.volumes);
                all.claims.extend(one.claims);
            }
        }
        all
    }

    /// How many feasible nodes are enough.
    pub fn feasible_nodes_to_find(&self, all: usize) -> usize {
        if all < MIN_FEASIBLE_NODES {
            return all;
        }
        let percent = match self.percentage_of_nodes_to_score {
            0 => 50usize.saturating_sub(all / 125).max(MIN_FEASIBLE_PERCENT),
            given => given,
        };
        (all * percent / 100).max(MIN_FEASIBLE_NODES)
    }
}

/// What varies between two decisions about the same pod and cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct Turn {
    /// The node to try first; the turn goes round, so that all nodes are used alike.
    pub start: usize,
    /// Chooses among nodes that score the same.
    pub dice: u64,
}

/// Where a pod goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub node: String,
    /// How many nodes were looked at: the next turn starts after them.
    pub evaluated: usize,
    pub feasible: usize,
}

/// Why a pod goes nowhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FitError {
    pub all_nodes: usize,
    /// The refusal of each node that was asked.
    pub nodes: BTreeMap<String, Refusal>,
    /// The plugin that refused the pod before nodes were asked, in its words.
    pub pre_filter: Option<String>,
    /// What preemption has to say.
    pub post_filter: Option<String>,
    /// Who refused: what they wait for wakes the pod.
    pub plugins: BTreeSet<&'static str>,
    /// Room that preemption can make.
    pub room: Room,
}

impl FitError {
    /// Upstream's message: `0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu.`
    pub fn message(&self) -> String {
        if self.all_nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut out = explain(self.all_nodes, self.pre_filter.as_deref(), self.nodes.values());
        if let Some(more) = &self.post_filter {
            out.push(' ');
            out.push_str(more);
        }
        out
    }
}

/// How often each reason was given, as one sentence.
pub(crate) fn explain<'a>(
    all_nodes: usize,
    pre_filter: Option<&str>,
    refusals: impl Iterator<Item = &'a Refusal>,
) -> String {
    let mut out = format!("0/{all_nodes} nodes are available:");
    if let Some(reason) = pre_filter {
        out.push_str(&format!(" {reason}."));
        return out;
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in refusals.flat_map(|r| &r.reasons) {
        *counts.entry(reason).or_default() += 1;
    }
    let mut lines: Vec<String> = counts.into_iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    lines.sort();
    if !lines.is_empty() {
        out.push_str(&format!(" {}.", lines.join(", ")));
    }
    out
}

/// The filters that plugins made for one pod, with their plugins' names.
pub(crate) struct Filters<'a>(Vec<(&'static str, Box<dyn Filter<'a> + 'a>)>);

impl<'a> Clone for Filters<'a> {
    fn clone(&self) -> Self {
        Self(self.0.iter().map(|(name, f)| (*name, f.boxed_clone())).collect())
    }
}

impl Filters<'_> {
    /// The first refusal, with its plugin.
    pub fn filter(&self, node: &NodeInfo) -> Result<(), (&'static str, Refusal)> {
        self.0.iter().try_for_each(|(name, f)| f.filter(node).map_err(|r| (*name, r)))
    }

    /// See [`Filter::count_pod`].
    pub fn count_pod(&mut self, pod: &PodInfo, node: &NodeInfo, by: i64) {
        self.0.iter_mut().for_each(|(_, f)| f.count_pod(pod, node, by));
    }

    /// Judges a node on which room is made for more important pods: the pod must fit with them and, since
    /// they may not come, without them.
    pub fn filter_with_nominated(
        &self,
        node: &NodeInfo,
        pod: &PodInfo,
        cluster: &Snapshot,
    ) -> Result<(), (&'static str, Refusal)> {
        if cluster.has_nominated() {
            let nominated = cluster.nominated(&node.name, pod.priority, &pod.key);
            if !nominated.is_empty() {
                let (mut filters, mut node) = (self.clone(), node.clone());
                for other in nominated {
                    filters.count_pod(&other, &node, 1);
                    node.add_pod(other);
                }
                filters.filter(&node)?;
            }
        }
        self.filter(node)
    }
}

/// What the plugins had to say before nodes are looked at.
struct Prepared<'a> {
    filters: Filters<'a>,
    /// Only these nodes can pass, where plugins know it already.
    only: Option<BTreeSet<String>>,
    /// The plugins that know it.
    restricting: BTreeSet<&'static str>,
}

/// Asks the plugins about the pod, or gives the one that refuses it.
fn prepare<'a>(
    profile: &Profile,
    cluster: &'a Snapshot,
    pod: &'a PodInfo,
) -> Result<Prepared<'a>, (&'static str, Refusal)> {
    let mut filters = Vec::new();
    let mut only: Option<BTreeSet<String>> = None;
    let mut restricting = BTreeSet::new();
    for (plugin, _) in &profile.plugins {
        match plugin.pre_filter(pod, cluster) {
            PreFilter::Skip => {}
            PreFilter::Refuse(refusal) => return Err((plugin.name(), refusal)),
            PreFilter::Run { filter, nodes } => {
                filters.push((plugin.name(), filter));
                if let Some(nodes) = nodes {
                    restricting.insert(plugin.name());
                    only = Some(match only {
                        None => nodes,
                        Some(before) => before.intersection(&nodes).cloned().collect(),
                    });
                }
            }
        }
    }
    Ok(Prepared { filters: Filters(filters), only, restricting })
}

/// What came of asking the nodes.
#[derive(Default)]
struct Asked<'a> {
    feasible: Vec<&'a NodeInfo>,
    refused: BTreeMap<String, Refusal>,
    /// The plugins that refused.
    plugins: BTreeSet<&'static str>,
    /// How many nodes were looked at in turn.
    evaluated: usize,
}

impl<'a> Prepared<'a> {
    fn allows(&self, node: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(node))
    }

    /// Asks the nodes that can pass, or all in turn until `enough` are feasible.
    fn ask(&self, cluster: &'a Snapshot, pod: &PodInfo, start: usize, enough: usize) -> Asked<'a> {
        let mut asked = Asked::default();
        match &self.only {
            Some(names) => {
                names
                    .iter()
                    .filter_map(|n| cluster.node(n))
                    .for_each(|n| self.judge(&mut asked, cluster, pod, n));
            }
            None => {
                let all = cluster.node_count();
                while asked.evaluated < all && asked.feasible.len() < enough {
                    let node = cluster.node_at((start + asked.evaluated) % all);
                    asked.evaluated += 1;
                    self.judge(&mut asked, cluster, pod, node);
                }
            }
        }
        asked
    }

    fn judge(&self, asked: &mut Asked<'a>, cluster: &Snapshot, pod: &PodInfo, node: &'a NodeInfo) {
        match self.filters.filter_with_nominated(node, pod, cluster) {
            Ok(()) => asked.feasible.push(node),
            Err((plugin, refusal)) => {
                asked.plugins.insert(plugin);
                asked.refused.insert(node.name.clone(), refusal);
            }
        }
    }

    /// Why no node will do, and what preemption can make of it.
    fn refuse(
        self,
        cluster: &Snapshot,
        pod: &PodInfo,
        asked: Asked<'_>,
        probe: &mut dyn Probe,
    ) -> Box<FitError> {
        let Asked { refused: mut nodes, mut plugins, .. } = asked;
        if self.only.is_some() {
            let by = self.restricting.iter().copied().collect::<Vec<_>>().join(" ");
            let refusal = Refusal::lasting(format!("node(s) didn't satisfy plugin(s) [{by}]"));
            plugins.extend(&self.restricting);
            for node in cluster.nodes() {
                nodes.entry(node.name.clone()).or_insert_with(|| refusal.clone());
            }
        }
        probe.begins();
        let (room, post_filter) = match preemption::evaluate(cluster, pod, &self.filters, &nodes) {
            Ok(candidate) => {
                probe.ends(Point::PostFilter, Status::Success);
                (Room::Made(candidate), None)
            }
            Err(none) => {
                probe.ends(Point::PostFilter, Status::Unschedulable);
                (none.room, Some(no_help(&none.why)))
            }
        };
        let all_nodes = cluster.node_count();
        Box::new(FitError { all_nodes, nodes, pre_filter: None, post_filter, plugins, room })
    }
}

/// Decides where the pod goes. Pure: the same pod, cluster and turn give the same answer.
///
/// # Errors
/// Why it goes nowhere.
pub fn schedule(
    profile: &Profile,
    cluster: &Snapshot,
    pod: &PodInfo,
    turn: Turn,
) -> Result<Placement, Box<FitError>> {
    schedule_probed(profile, cluster, pod, turn, &mut ())
}

/// As [`schedule`]; `probe` hears of the extension points.
///
/// # Errors
/// Why it goes nowhere.
pub fn schedule_probed(
    profile: &Profile,
    cluster: &Snapshot,
    pod: &PodInfo,
    turn: Turn,
    probe: &mut dyn Probe,
) -> Result<Placement, Box<FitError>> {
    let all = cluster.node_count();
    if all == 0 {
        return Err(Box::default());
    }
    probe.begins();
    let prepared = match prepare(profile, cluster, pod) {
        Ok(prepared) => prepared,
        Err((plugin, refusal)) => {
            probe.ends(Point::PreFilter, Status::UnschedulableAndUnresolvable);
            return Err(Box::new(FitError {
                all_nodes: all,
                pre_filter: Some(refusal.reasons.join(", ")),
                post_filter: Some(no_help(&preemption::not_helpful(all))),
                plugins: BTreeSet::from([plugin]),
                ..FitError::default()
            }));
        }
    };
    probe.ends(Point::PreFilter, Status::Success);
    probe.begins();
    // where an earlier attempt made room, the pod goes there if it can
    if let Some(name) = cluster.nominated_node(pod)
        && let Some(node) = cluster.node(name)
        && prepared.allows(name)
        && prepared.filters.filter_with_nominated(node, pod, cluster).is_ok()
    {
        probe.ends(Point::Filter, Status::Success);
        return Ok(Placement { node: name.to_owned(), evaluated: 0, feasible: 1 });
    }
    let asked = prepared.ask(cluster, pod, turn.start, profile.feasible_nodes_to_find(all));
    probe.ends(Point::Filter, Status::Success);
    let node = match asked.feasible.as_slice() {
        [] => return Err(prepared.refuse(cluster, pod, asked, probe)),
        [only] => only.name.clone(),
        many => best(profile, cluster, pod, many, turn.dice, probe),
    };
    Ok(Placement { node, evaluated: asked.evaluated, feasible: asked.feasible.len() })
}

/// What upstream's post-filter plugins say, in their order, when none of them found a way out: DynamicResources
/// of a pod without claims, then DefaultPreemption.
fn no_help(preemption: &str) -> String {
    format!("no new claims to deallocate, preemption: {preemption}")
}

/// The node with the highest sum of weighted scores.
fn best(
    profile: &Profile,
    cluster: &Snapshot,
    pod: &PodInfo,
    feasible: &[&NodeInfo],
    dice: u64,
    probe: &mut dyn Probe,
) -> String {
    probe.begins();
    let scorers: Vec<(&dyn Plugin, i64, BoxedScorer<'_>)> = profile
        .plugins
        .iter()
        .filter(|(_, weight)| *weight > 0)
        .filter_map(|(plugin, weight)| Some((&**plugin, *weight, plugin.pre_score(pod, cluster, feasible)?)))
        .collect();
    probe.ends(Point::PreScore, Status::Success);
    probe.begins();
    let mut totals = vec![0i64; feasible.len()];
    for (plugin, weight, scorer) in scorers {
        let mut scores: Vec<i64> = feasible.iter().map(|n| scorer.score(n)).collect();
        scorer.normalize(&mut scores, feasible);
        for (total, score) in totals.iter_mut().zip(scores) {
            debug_assert!((0..=MAX_NODE_SCORE).contains(&score), "{} gave {score}", plugin.name());
            *total += weight * score;
        }
    }
    probe.ends(Point::Score, Status::Success);
    let top = totals.iter().copied().max().unwrap_or(0);
    let ties: Vec<&NodeInfo> =
        feasible.iter().zip(&totals).filter(|(_, t)| **t == top).map(|(n, _)| *n).collect();
    ties[(dice % ties.len() as u64) as usize].name.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::default_profile;
    use crate::testing::{node, pod, pod_with};
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn cluster(nodes: &[(&str, Value)], pods: &[(&str, Arc<PodInfo>)]) -> Snapshot {
        let mut snapshot = Snapshot::new();
        for (name, patch) in nodes {
            snapshot.set_node(node(name, patch.clone()));
        }
        for (on, pod) in pods {
            snapshot.confirm(pod.clone(), on);
        }
        snapshot
    }

    fn check(cluster: &Snapshot, pod: &PodInfo, expect: &str) {
        let got = match schedule(&default_profile(), cluster, pod, Turn::default()) {
            Ok(p) => p.node,
            Err(e) => e.message(),
        };
        assert_eq!(got, expect);
    }

    fn cpu(amount: &str) -> Value {
        json!({"containers": [{"resources": {"requests": {"cpu": amount}}}]})
    }

    #[test]
    fn refusals_in_upstreams_words() {
        check(&cluster(&[], &[]), &pod("p", json!({})), "no nodes available to schedule pods");
        let one = cluster(&[("a", json!({}))], &[]);
        check(
            &one,
            &pod("p", cpu("5")),
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
        );
        check(
            &cluster(&[("a", json!({}))], &[("a", pod("q", cpu("3")))]),
            &pod("p", cpu("2")),
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
        );
        check(
            &cluster(
                &[
                    ("a", json!({"spec": {"unschedulable": true}})),
                    ("b", json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})),
                    ("c", json!({"status": {"allocatable": {"pods": "0"}}})),
                ],
                &[],
            ),
            &pod("p", json!({})),
            "0/3 nodes are available: 1 Too many pods, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable. no new claims to deallocate, preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling.",
        );
        check(
            &one,
            &pod("p", json!({"nodeSelector": {"disk": "ssd"}})),
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
        );
        check(
            &one,
            &pod(
                "p",
                json!({"containers": [{"resources": {"requests": {"example.com/gpu": "1"}}}], "preemptionPolicy": "Never"}),
            ),
            "0/1 nodes are available: 1 Insufficient example.com/gpu. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.",
        );
    }

    #[test]
    fn the_emptier_node_is_chosen() {
        let c = cluster(&[("a", json!({})), ("b", json!({}))], &[("a", pod("q", cpu("2")))]);
        check(&c, &pod("p", cpu("1")), "b");
    }

    #[test]
    fn preferences_weigh() {
        let prefer = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
            [{"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}]}}});
        let c = cluster(&[("a", json!({})), ("b", json!({"metadata": {"labels": {"disk": "ssd"}}}))], &[]);
        check(&c, &pod("p", prefer), "b");
        let soft = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
        check(&cluster(&[("a", soft), ("b", json!({}))], &[]), &pod("p", json!({})), "b");
        let image = json!({"status": {"images": [{"names": ["demo:latest"], "sizeBytes": 900_000_000}]}});
        check(&cluster(&[("a", json!({})), ("b", image)], &[]), &pod("p", json!({})), "b");
    }

    #[test]
    fn a_daemons_pod_visits_only_its_node() {
        let to = |name: &str| {
            pod(
                "p",
                json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms":
                [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]}}}}),
            )
        };
        let c = cluster(&[("a", json!({})), ("b", json!({}))], &[]);
        check(&c, &to("b"), "b");
        check(
            &c,
            &to("z"),
            "0/2 nodes are available: 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
        );
    }

    #[test]
    fn host_ports_exclude_each_other() {
        let port = |ip: &str| json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": ip}]}]});
        let c = cluster(&[("a", json!({}))], &[("a", pod("q", port("10.0.0.1")))]);
        check(&c, &pod("p", port("10.0.0.2")), "a");
        check(
            &c,
            &pod("p", port("")),
            "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
        );
    }

    fn zones() -> Vec<(&'static str, Value)> {
        let zone = |z: &str| json!({"metadata": {"labels": {"zone": z}}});
        vec![("a", zone("x")), ("b", zone("x")), ("c", zone("y"))]
    }

    #[test]
    fn pods_keep_their_distance_and_their_company() {
        let term = |key: &str, app: &str| json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}});
        let affinity = |kind: &str, t: Value| json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [t]}}});

        let web = pod("web", affinity("podAntiAffinity", term("zone", "web")));
        let c = cluster(&zones(), &[("a", web.clone())]);
        let second = pod_with(
            "web2",
            json!({"metadata": {"labels": {"app": "web"}}, "spec": affinity("podAntiAffinity", term("zone", "web"))}),
        );
        check(&c, &second, "c");
        // the pod on the node refuses, though this one does not mind
        check(&c, &pod_with("web3", json!({"metadata": {"labels": {"app": "web"}}})), "c");

        let near = pod("near", affinity("podAffinity", term("zone", "web")));
        let placed = schedule(&default_profile(), &c, &near, Turn::default()).unwrap().node;
        assert!(placed == "a" || placed == "b");
        check(
            &cluster(&zones(), &[]),
            &near,
            "0/3 nodes are available: 3 node(s) didn't match pod affinity rules. no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
        );
        // the first of a group that seeks its own kind may start
        let first = pod("self", affinity("podAffinity", term("zone", "self")));
        assert!(schedule(&default_profile(), &cluster(&zones(), &[]), &first, Turn::default()).is_ok());
    }

    #[test]
    fn pods_are_spread() {
        let spread = |when: &str| {
            json!({"metadata": {"labels": {"app": "s"}}, "spec": {"topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"app": "s"}}}]}})
        };
        let c = cluster(&zones(), &[("a", pod_with("s1", spread("DoNotSchedule")))]);
        check(&c, &pod_with("s2", spread("DoNotSchedule")), "c");
        check(&c, &pod_with("s2", spread("ScheduleAnyway")), "c");
        let full = cluster(
            &[zones(), vec![("d", json!({"spec": {"unschedulable": true}}))]].concat()[..],
            &[
                ("c", pod_with("s0", spread("DoNotSchedule"))),
                ("a", pod_with("s1", spread("DoNotSchedule"))),
                ("b", pod_with("s3", spread("DoNotSchedule"))),
            ],
        );
        check(&full, &pod_with("s4", spread("DoNotSchedule")), "c");
    }

    #[test]
    fn large_clusters_are_not_searched_whole() {
        let profile = default_profile();
        let check = |all: usize, expect: usize| assert_eq!(profile.feasible_nodes_to_find(all), expect);
        check(10, 10);
        check(100, 100);
        check(1000, 420);
        check(5000, 500);
        check(6000, 300);
    }
}
