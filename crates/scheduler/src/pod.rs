//! A pod as the scheduler needs it: parsed once, read for every node.

use crate::node_selector::NodeSelector;
use client::Key;
use k8s_openapi::api::core::v1::{
    Affinity, Container, PersistentVolumeClaim, Pod, PodAffinityTerm, PodSpec, Toleration, Volume,
    WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use meta::{LabelSelector, pod as meta_pod};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

/// What a container that asks for nothing counts in scores: 0.1 CPU and 200 MiB (upstream's
/// `DefaultMilliCPURequest`, `DefaultMemoryRequest`).
const DEFAULT_CPU: &str = "100m";
const DEFAULT_MEMORY: &str = "209715200";

/// Amounts of resources. CPU in thousandths, memory and storage in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    /// Extended resources and huge pages.
    pub scalar: BTreeMap<String, i64>,
}

impl Resources {
    /// From amounts by their names.
    pub fn of(amounts: &meta_pod::Resources) -> Self {
        let mut out = Self::default();
        for (name, quantity) in amounts {
            match name.as_str() {
                "cpu" => out.milli_cpu = quantity.milli_value(),
                "memory" => out.memory = quantity.value(),
                "ephemeral-storage" => out.ephemeral_storage = quantity.value(),
                "pods" => {}
                _ => {
                    out.scalar.insert(name.clone(), quantity.value());
                }
            }
        }
        out
    }

    pub fn is_zero(&self) -> bool {
        self.milli_cpu == 0
            && self.memory == 0
            && self.ephemeral_storage == 0
            && self.scalar.values().all(|v| *v == 0)
    }

    pub fn add(&mut self, other: &Self) {
        self.change(other, 1);
    }

    pub fn subtract(&mut self, other: &Self) {
        self.change(other, -1);
    }

    fn change(&mut self, other: &Self, sign: i64) {
        self.milli_cpu += sign * other.milli_cpu;
        self.memory += sign * other.memory;
        self.ephemeral_storage += sign * other.ephemeral_storage;
        for (name, amount) in &other.scalar {
            *self.scalar.entry(name.clone()).or_default() += sign * amount;
        }
    }
}

/// A port that a pod takes on its node. An empty address means all of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    pub port: i32,
    pub protocol: String,
    pub ip: String,
}

impl HostPort {
    /// Whether both cannot be on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        let all = |ip: &str| ip.is_empty() || ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || all(&self.ip) || all(&other.ip))
    }
}

/// A term of pod affinity or anti-affinity.
#[derive(Clone, Debug)]
pub struct AffinityTerm {
    pub namespaces: BTreeSet<String>,
    pub namespace_selector: LabelSelector,
    pub selector: LabelSelector,
    pub topology_key: String,
    /// Of a preferred term; 0 for a required one.
    pub weight: i64,
}

impl AffinityTerm {
    fn new(term: &PodAffinityTerm, own_namespace: &str, weight: i64) -> Self {
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(own_namespace.to_owned());
        }
        let parse = |s: Option<&_>| match s {
            None => LabelSelector::nothing(),
            // what the API let through is valid; anything else selects nothing
            Some(s) => LabelSelector::from_object(s).unwrap_or_else(|_| LabelSelector::nothing()),
        };
        Self {
            namespaces,
            namespace_selector: parse(term.namespace_selector.as_ref()),
            selector: parse(term.label_selector.as_ref()),
            topology_key: term.topology_key.clone(),
            weight,
        }
    }

    /// `namespace_labels`: those of the pod's namespace.
    pub fn matches(&self, pod: &PodInfo, namespace_labels: &BTreeMap<String, String>) -> bool {
        let namespace = &*pod.key.namespace;
        (self.namespaces.contains(namespace) || self.namespace_selector.matches(namespace_labels))
            && self.selector.matches(pod.labels())
    }
}

/// A claim that a volume of a pod is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodClaim {
    pub key: Key,
    /// Made for the pod, which must own it.
    pub ephemeral: bool,
}

/// A pod with everything derived from it.
#[derive(Debug)]
pub struct PodInfo {
    pub pod: Arc<Pod>,
    pub key: Key,
    pub uid: String,
    pub priority: i32,
    pub requests: Resources,
    /// CPU in thousandths and memory in bytes as scores count them, with defaults for containers that ask
    /// for nothing.
    pub scored_cpu: i64,
    pub scored_memory: i64,
    pub host_ports: Vec<HostPort>,
    pub node_selector: NodeSelector,
    pub required_affinity: Vec<AffinityTerm>,
    pub required_anti_affinity: Vec<AffinityTerm>,
    pub preferred_affinity: Vec<AffinityTerm>,
    pub preferred_anti_affinity: Vec<AffinityTerm>,
    /// In the order of the pod's volumes.
    pub claims: Vec<PodClaim>,
    /// Whether a volume is a disk that pods must not share at will.
    pub has_exclusive_disks: bool,
}

impl PodInfo {
    pub fn new(pod: Arc<Pod>) -> Self {
        static NO_SPEC: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);
        let spec = pod.spec.as_ref().unwrap_or(&NO_SPEC);
        let key = Key::of(&*pod);
        let namespace = &*key.namespace;
        let affinity = spec.affinity.as_ref();
        let pod_affinity = affinity.and_then(|a| a.pod_affinity.as_ref());
        let anti_affinity = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
        let required = |terms: Option<&Vec<PodAffinityTerm>>| -> Vec<AffinityTerm> {
            terms.into_iter().flatten().map(|t| AffinityTerm::new(t, namespace, 0)).collect()
        };
        let preferred = |terms: Option<&Vec<WeightedPodAffinityTerm>>| -> Vec<AffinityTerm> {
            terms
                .into_iter()
                .flatten()
                .map(|t| AffinityTerm::new(&t.pod_affinity_term, namespace, i64::from(t.weight)))
                .collect()
        };
        // while a resize is under way the node gives up the larger amount
        let held = meta_pod::effective_spec(&pod).unwrap_or(Cow::Borrowed(spec));
        let requests = Resources::of(&meta_pod::pod_requests(&held));
        let (scored_cpu, scored_memory) = scored_requests(&held);
        Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            priority: spec.priority.unwrap_or(0),
            requests,
            scored_cpu,
            scored_memory,
            host_ports: host_ports(spec),
            node_selector: NodeSelector::required(
                spec.node_selector.as_ref(),
                affinity.and_then(required_nodes),
            ),
            required_affinity: required(
                pod_affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            required_anti_affinity: required(
                anti_affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred_affinity: preferred(
                pod_affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred_anti_affinity: preferred(
                anti_affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()),
            ),
            claims: claims(spec, &key),
            has_exclusive_disks: spec.volumes.iter().flatten().any(is_exclusive_disk),
            key,
            pod,
        }
    }

    pub fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    pub fn labels(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.pod.metadata.labels.as_ref().unwrap_or(&NONE)
    }

    pub fn tolerations(&self) -> &[Toleration] {
        self.spec().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
    }

    /// The scheduler that the pod is left to.
    pub fn scheduler_name(&self) -> &str {
        self.spec().and_then(|s| s.scheduler_name.as_deref()).unwrap_or_default()
    }

    /// The node that the pod is bound to, if any.
    pub fn node_name(&self) -> Option<&str> {
        self.spec().and_then(|s| s.node_name.as_deref()).filter(|n| !n.is_empty())
    }

    pub fn volumes(&self) -> &[Volume] {
        self.spec().and_then(|s| s.volumes.as_deref()).unwrap_or_default()
    }

    /// Whether a volume is of this claim, in whichever way.
    pub fn uses_claim(&self, claim: &PersistentVolumeClaim) -> bool {
        let m = &claim.metadata;
        self.claims.iter().any(|c| {
            Some(&*c.key.name) == m.name.as_deref() && Some(&*c.key.namespace) == m.namespace.as_deref()
        })
    }

    /// Whether it is to be deleted and may still run.
    pub fn is_terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    pub fn has_affinity(&self) -> bool {
        !self.required_affinity.is_empty()
            || !self.required_anti_affinity.is_empty()
            || !self.preferred_affinity.is_empty()
            || !self.preferred_anti_affinity.is_empty()
    }

    /// The node that preemption made room on for this pod.
    pub fn nominated_node(&self) -> Option<&str> {
        self.pod.status.as_ref()?.nominated_node_name.as_deref().filter(|n| !n.is_empty())
    }

    /// Containers of both kinds.
    pub fn containers(&self) -> impl Iterator<Item = &Container> {
        let spec = self.spec();
        let init = spec.and_then(|s| s.init_containers.as_ref()).into_iter().flatten();
        init.chain(spec.into_iter().flat_map(|s| &s.containers))
    }
}

fn claims(spec: &PodSpec, pod: &Key) -> Vec<PodClaim> {
    let of = |v: &Volume| match (&v.persistent_volume_claim, &v.ephemeral) {
        (Some(claim), _) => Some((claim.claim_name.clone(), false)),
        (None, Some(_)) => Some((meta::volumes::ephemeral_claim_name(&pod.name, &v.name), true)),
        (None, None) => None,
    };
    let named = spec.volumes.iter().flatten().filter_map(of);
    named.map(|(name, ephemeral)| PodClaim { key: Key::new(&pod.namespace, name), ephemeral }).collect()
}

fn is_exclusive_disk(v: &Volume) -> bool {
    v.gce_persistent_disk.is_some()
        || v.aws_elastic_block_store.is_some()
        || v.iscsi.is_some()
        || v.rbd.is_some()
}

fn required_nodes(affinity: &Affinity) -> Option<&k8s_openapi::api::core::v1::NodeSelector> {
    affinity.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| meta_pod::is_sidecar(c));
    sidecars
        .chain(&spec.containers)
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            Some(HostPort {
                port: p.host_port.filter(|n| *n > 0)?,
                protocol: p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                ip: p.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}

fn scored_requests(spec: &PodSpec) -> (i64, i64) {
    let mut spec = PodSpec {
        containers: spec.containers.iter().map(only_resources).collect(),
        init_containers: spec.init_containers.as_ref().map(|c| c.iter().map(only_resources).collect()),
        resources: spec.resources.clone(),
        overhead: spec.overhead.clone(),
        ..Default::default()
    };
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let requests = container.resources.get_or_insert_default().requests.get_or_insert_default();
        for (name, amount) in [("cpu", DEFAULT_CPU), ("memory", DEFAULT_MEMORY)] {
            requests.entry(name.to_owned()).or_insert_with(|| ApiQuantity(amount.to_owned()));
        }
    }
    let requests = Resources::of(&meta_pod::pod_requests(&spec));
    (requests.milli_cpu, requests.memory)
}

fn only_resources(container: &Container) -> Container {
    Container {
        resources: container.resources.clone(),
        restart_policy: container.restart_policy.clone(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::pod_with;
    use serde_json::{Value, json};

    #[test]
    fn a_pod_that_is_resized_takes_the_larger_amount() {
        let check = |asked: &str, held: Value, expect: i64| {
            let pod = pod_with(
                "p",
                json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": asked}}}]},
                    "status": {"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true,
                        "restartCount": 0, "resources": held}]}}),
            );
            assert_eq!((pod.requests.milli_cpu, pod.scored_cpu), (expect, expect));
        };
        check("1", json!({"requests": {"cpu": "1"}}), 1000);
        check("500m", json!({"requests": {"cpu": "2"}}), 2000);
        check("2", json!({"requests": {"cpu": "500m"}}), 2000);
    }
}
