//! What the scheduler knows of the cluster, kept up to date change by change: nodes with their pods, pods
//! that are on their way to a node (assumed), pods for which preemption makes room (nominated), and what
//! plugins need besides.

use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::volumes::Volumes;
use client::Key;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use meta::LabelSelector;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The cluster as decisions see it.
#[derive(Default)]
pub struct Snapshot {
    nodes: HashMap<String, NodeInfo>,
    /// Names of the nodes that exist, one zone after the other in turn.
    order: Vec<String>,
    pods: HashMap<Key, Placed>,
    /// On how many nodes an image is.
    image_nodes: HashMap<String, usize>,
    nominated: HashMap<Key, (String, Arc<PodInfo>)>,
    namespaces: HashMap<String, BTreeMap<String, String>>,
    /// Selectors by namespace, then kind and name of the object that has them (services and workloads).
    selectors: HashMap<String, BTreeMap<(String, String), LabelSelector>>,
    budgets: BTreeMap<Key, Arc<PodDisruptionBudget>>,
    pods_with_required_anti_affinity: usize,
    pods_with_affinity: usize,
    /// What the volume plugins look at.
    pub volumes: Volumes,
    /// How many volumes of pods on nodes are of a claim, but for those made for their pod.
    claim_users: HashMap<Key, usize>,
}

struct Placed {
    pod: Arc<PodInfo>,
    node: String,
    assumed: bool,
}

static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

impl Snapshot {
    pub fn new() -> Self {
        Self::default()
    }

    /// The nodes that exist, in the order in which they are tried.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &NodeInfo> {
        self.order.iter().map(|name| &self.nodes[name])
    }

    /// The `i`-th of [`nodes`](Self::nodes).
    pub fn node_at(&self, i: usize) -> &NodeInfo {
        &self.nodes[&self.order[i]]
    }

    pub fn node_count(&self) -> usize {
        self.order.len()
    }

    /// A node that exists.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name).filter(|n| n.node.is_some())
    }

    /// A node appeared or changed.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let info = self.nodes.entry(name.clone()).or_insert_with(|| NodeInfo::new(&name));
        let before = info.node.is_some().then(|| info.zone());
        count_images(&mut self.image_nodes, info, -1);
        info.set_node(node);
        count_images(&mut self.image_nodes, info, 1);
        if before != Some(info.zone()) {
            self.reorder();
        }
    }

    /// A node went; its pods are known until they go too.
    pub fn remove_node(&mut self, name: &str) {
        let Some(info) = self.nodes.get_mut(name) else { return };
        count_images(&mut self.image_nodes, info, -1);
        if info.pods.is_empty() {
            self.nodes.remove(name);
        } else {
            // its pods leave one by one
            let pods = std::mem::take(&mut info.pods);
            *info = NodeInfo::new(name);
            pods.into_iter().for_each(|p| info.add_pod(p));
        }
        self.reorder();
    }

    fn reorder(&mut self) {
        let mut zones: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
        for info in self.nodes.values().filter(|n| n.node.is_some()) {
            zones.entry(info.zone()).or_default().push(&info.name);
        }
        let mut lists: Vec<Vec<&str>> = zones.into_values().collect();
        for list in &mut lists {
            list.sort_unstable();
        }
        let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
        let turns = (0..longest).flat_map(|i| lists.iter().filter_map(move |l| l.get(i)));
        self.order = turns.map(|n| (*n).to_owned()).collect();
    }

    /// Counts a pod as on the node before the API server knows.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.place(pod, node, true);
    }

    /// Takes back an assumption that did not come true.
    pub fn forget(&mut self, key: &Key) {
        if self.pods.get(key).is_some_and(|p| p.assumed) {
            self.remove_pod(key);
        }
    }

    pub fn is_assumed(&self, key: &Key) -> bool {
        self.pods.get(key).is_some_and(|p| p.assumed)
    }

    /// A pod that the API server says is bound to the node: new, changed, or an assumption that came true.
    pub fn confirm(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.place(pod, node, false);
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: &str, assumed: bool) {
        self.remove_pod(&pod.key);
        self.nominated.remove(&pod.key);
        self.pods_with_affinity += usize::from(pod.has_affinity());
        self.pods_with_required_anti_affinity += usize::from(!pod.required_anti_affinity.is_empty());
        for claim in pod.claims.iter().filter(|c| !c.ephemeral) {
            *self.claim_users.entry(claim.key.clone()).or_default() += 1;
        }
        self.pods.insert(pod.key.clone(), Placed { pod: pod.clone(), node: node.to_owned(), assumed });
        self.nodes.entry(node.to_owned()).or_insert_with(|| NodeInfo::new(node)).add_pod(pod);
    }

    /// The pod that was known, if any.
    pub fn remove_pod(&mut self, key: &Key) -> Option<Arc<PodInfo>> {
        let placed = self.pods.remove(key)?;
        self.pods_with_affinity -= usize::from(placed.pod.has_affinity());
        self.pods_with_required_anti_affinity -= usize::from(!placed.pod.required_anti_affinity.is_empty());
        for claim in placed.pod.claims.iter().filter(|c| !c.ephemeral) {
            if let Some(users) = self.claim_users.get_mut(&claim.key) {
                *users -= 1;
                if *users == 0 {
                    self.claim_users.remove(&claim.key);
                }
            }
        }
        if let Some(info) = self.nodes.get_mut(&placed.node) {
            info.remove_pod(key);
            if info.node.is_none() && info.pods.is_empty() {
                self.nodes.remove(&placed.node);
            }
        }
        Some(placed.pod)
    }

    /// A pod on a node, bound or assumed.
    pub fn pod(&self, key: &Key) -> Option<&Arc<PodInfo>> {
        self.pods.get(key).map(|p| &p.pod)
    }

    /// How many pods are on nodes, and how many of them are assumed.
    pub fn pod_counts(&self) -> (usize, usize) {
        (self.pods.len(), self.pods.values().filter(|p| p.assumed).count())
    }

    /// The node that a pod is on, bound or assumed.
    pub fn node_of(&self, key: &Key) -> Option<&str> {
        self.pods.get(key).map(|p| p.node.as_str())
    }

    /// Whether a pod on a node uses the claim.
    pub fn is_claim_used(&self, claim: &Key) -> bool {
        self.claim_users.contains_key(claim)
    }

    /// Whether any pod on a node could refuse another one's company.
    pub fn has_required_anti_affinity(&self) -> bool {
        self.pods_with_required_anti_affinity > 0
    }

    pub fn has_affinity(&self) -> bool {
        self.pods_with_affinity > 0
    }

    /// Keeps room on the node for the pod.
    pub fn nominate(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.nominated.insert(pod.key.clone(), (node.to_owned(), pod));
    }

    /// The pod that room was kept for, if any.
    pub fn denominate(&mut self, key: &Key) -> Option<Arc<PodInfo>> {
        self.nominated.remove(key).map(|(_, pod)| pod)
    }

    /// Keeps no more room on the node for pods less important than `priority`: those that it was kept for.
    pub fn displace(&mut self, node: &str, priority: i32) -> Vec<Arc<PodInfo>> {
        let of_node = self.nominated.extract_if(|_, (on, pod)| on == node && pod.priority < priority);
        let mut pods: Vec<Arc<PodInfo>> = of_node.map(|(_, (_, pod))| pod).collect();
        pods.sort_by(|a, b| a.key.cmp(&b.key));
        pods
    }

    /// Pods that wait for room on the node, at least as important as `priority`, but for `but`.
    pub fn nominated(&self, node: &str, priority: i32, but: &Key) -> Vec<Arc<PodInfo>> {
        let mut pods: Vec<Arc<PodInfo>> = self
            .nominated
            .values()
            .filter(|(n, p)| n == node && p.priority >= priority && p.key != *but)
            .map(|(_, p)| p.clone())
            .collect();
        pods.sort_by(|a, b| a.key.cmp(&b.key));
        pods
    }

    /// The node on which room is made for the pod: by what was decided here, else by its status.
    pub fn nominated_node<'a>(&'a self, pod: &'a PodInfo) -> Option<&'a str> {
        self.nominated.get(&pod.key).map(|(node, _)| node.as_str()).or_else(|| pod.nominated_node())
    }

    pub fn has_nominated(&self) -> bool {
        !self.nominated.is_empty()
    }

    /// On how many nodes an image is.
    pub fn image_nodes(&self, name: &str) -> usize {
        self.image_nodes.get(name).copied().unwrap_or(0)
    }

    pub fn set_namespace(&mut self, name: &str, labels: BTreeMap<String, String>) {
        self.namespaces.insert(name.to_owned(), labels);
    }

    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    pub fn namespace_labels(&self, name: &str) -> &BTreeMap<String, String> {
        self.namespaces.get(name).unwrap_or(&NO_LABELS)
    }

    /// The selector of a service or workload; None where it is gone or selects by hand.
    pub fn set_selector(&mut self, namespace: &str, kind: &str, name: &str, selector: Option<LabelSelector>) {
        let of_namespace = self.selectors.entry(namespace.to_owned()).or_default();
        let key = (kind.to_owned(), name.to_owned());
        match selector {
            Some(selector) => of_namespace.insert(key, selector),
            None => of_namespace.remove(&key),
        };
    }

    /// The selector of what the pod belongs to: services that select it, and the workload that owns it.
    /// None where there is none.
    pub fn default_selector(&self, pod: &PodInfo) -> Option<LabelSelector> {
        let of_namespace = self.selectors.get(&*pod.key.namespace)?;
        let owners = pod.pod.metadata.owner_references.iter().flatten();
        let controller =
            owners.filter(|o| o.controller == Some(true)).map(|o| (o.kind.clone(), o.name.clone())).next();
        let mut requirements = Vec::new();
        for (key, selector) in of_namespace {
            let is_owner = controller.as_ref() == Some(key);
            if is_owner || (key.0 == "Service" && selector.matches(pod.labels())) {
                requirements.extend(selector.requirements.iter().cloned());
            }
        }
        (!requirements.is_empty()).then_some(LabelSelector { requirements, nothing: false })
    }

    pub fn set_budget(&mut self, key: Key, budget: Option<Arc<PodDisruptionBudget>>) {
        match budget {
            Some(budget) => self.budgets.insert(key, budget),
            None => self.budgets.remove(&key),
        };
    }

    pub fn budgets(&self) -> impl Iterator<Item = &PodDisruptionBudget> {
        self.budgets.values().map(|b| &**b)
    }
}

fn count_images(counts: &mut HashMap<String, usize>, node: &NodeInfo, change: isize) {
    for name in node.images.keys() {
        let count = counts.entry(name.clone()).or_default();
        *count = count.saturating_add_signed(change);
        if *count == 0 {
            counts.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};
    use serde_json::json;

    #[test]
    fn an_assumed_pod_counts_until_it_is_forgotten_or_confirmed() {
        let mut snapshot = Snapshot::new();
        snapshot.set_node(node("a", json!({})));
        let p = pod("p", json!({"containers": [{"resources": {"requests": {"cpu": "500m"}}}]}));
        let cpu = |s: &Snapshot| s.node("a").unwrap().requested.milli_cpu;

        snapshot.assume(p.clone(), "a");
        assert_eq!((cpu(&snapshot), snapshot.is_assumed(&p.key)), (500, true));
        snapshot.forget(&p.key);
        assert_eq!(cpu(&snapshot), 0);

        snapshot.assume(p.clone(), "a");
        snapshot.confirm(p.clone(), "a");
        snapshot.forget(&p.key);
        assert_eq!((cpu(&snapshot), snapshot.is_assumed(&p.key)), (500, false));
        snapshot.remove_pod(&p.key);
        assert_eq!(cpu(&snapshot), 0);
    }

    #[test]
    fn a_pod_may_be_seen_before_its_node_and_after_it() {
        let mut snapshot = Snapshot::new();
        let p = pod("p", json!({}));
        snapshot.confirm(p.clone(), "a");
        assert_eq!(snapshot.node_count(), 0);
        snapshot.set_node(node("a", json!({})));
        assert_eq!(snapshot.node("a").unwrap().pods.len(), 1);
        snapshot.remove_node("a");
        assert_eq!(snapshot.node_count(), 0);
        assert!(snapshot.pod(&p.key).is_some());
        snapshot.remove_pod(&p.key);
        assert!(snapshot.nodes.is_empty());
    }

    #[test]
    fn zones_take_turns() {
        let mut snapshot = Snapshot::new();
        for (name, zone) in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b")] {
            snapshot.set_node(node(name, json!({"metadata": {"labels": {meta::labels::ZONE: zone}}})));
        }
        let names: Vec<&str> = snapshot.nodes().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["a1", "b1", "a2", "a3"]);
    }
}
