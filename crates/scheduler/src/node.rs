//! A node with what runs on it.

use crate::pod::{HostPort, PodInfo, Resources};
use client::Key;
use k8s_openapi::api::core::v1::{Node, Taint};
use meta::Quantity;
use meta::labels::{REGION, ZONE};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A node as plugins see it: what it has, and what the pods on it take of that.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    pub name: String,
    /// None while pods are known to be on a node that has not been seen yet, or that is gone.
    pub node: Option<Arc<Node>>,
    pub pods: Vec<Arc<PodInfo>>,
    pub requested: Resources,
    pub scored_cpu: i64,
    pub scored_memory: i64,
    pub allocatable: Resources,
    pub allowed_pods: i64,
    pub host_ports: Vec<HostPort>,
    /// Bytes of each image that the node holds, by each of its names.
    pub images: HashMap<String, i64>,
    /// How many of the pods have pod affinity or anti-affinity, and how many required anti-affinity.
    pub pods_with_affinity: usize,
    pub pods_with_required_anti_affinity: usize,
}

impl NodeInfo {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Default::default() }
    }

    /// Takes the node as it is now; its pods stay.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|s| s.allocatable.as_ref());
        let amounts = allocatable.into_iter().flatten().map(|(k, q)| (k.clone(), Quantity::of(q))).collect();
        self.allocatable = Resources::of(&amounts);
        self.allowed_pods = amounts.get("pods").map_or(0, |q| q.value());
        self.images = status
            .and_then(|s| s.images.as_ref())
            .into_iter()
            .flatten()
            .flat_map(|i| i.names.iter().flatten().map(|n| (n.clone(), i.size_bytes.unwrap_or(0))))
            .collect();
        self.node = Some(node);
    }

    pub fn labels(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.node.as_ref().and_then(|n| n.metadata.labels.as_ref()).unwrap_or(&NONE)
    }

    pub fn taints(&self) -> &[Taint] {
        self.node.as_ref().and_then(|n| n.spec.as_ref()?.taints.as_deref()).unwrap_or_default()
    }

    pub fn is_unschedulable(&self) -> bool {
        self.node.as_ref().and_then(|n| n.spec.as_ref()?.unschedulable).unwrap_or(false)
    }

    /// Region and zone; nodes are visited in turn from each.
    pub fn zone(&self) -> (String, String) {
        let label = |key: &str| self.labels().get(key).cloned().unwrap_or_default();
        (label(REGION), label(ZONE))
    }

    pub fn add_pod(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.scored_cpu += pod.scored_cpu;
        self.scored_memory += pod.scored_memory;
        self.host_ports.extend(pod.host_ports.iter().cloned());
        self.pods_with_affinity += usize::from(pod.has_affinity());
        self.pods_with_required_anti_affinity += usize::from(!pod.required_anti_affinity.is_empty());
        self.pods.push(pod);
    }

    /// Takes the pod away; false where it is not there.
    pub fn remove_pod(&mut self, key: &Key) -> bool {
        let Some(i) = self.pods.iter().position(|p| p.key == *key) else { return false };
        let pod = self.pods.swap_remove(i);
        self.requested.subtract(&pod.requests);
        self.scored_cpu -= pod.scored_cpu;
        self.scored_memory -= pod.scored_memory;
        for port in &pod.host_ports {
            if let Some(i) = self.host_ports.iter().position(|p| p == port) {
                self.host_ports.swap_remove(i);
            }
        }
        self.pods_with_affinity -= usize::from(pod.has_affinity());
        self.pods_with_required_anti_affinity -= usize::from(!pod.required_anti_affinity.is_empty());
        true
    }
}
