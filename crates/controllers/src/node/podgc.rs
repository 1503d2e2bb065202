//! Removes pods that nobody else will: bound to nodes that are gone, terminating without ever having been bound, stuck
//! on a node that is out of service, or ended and too many.

use super::{OUT_OF_SERVICE, is_ready, set_pod_status};
use crate::controller::{Controller, Watches};
use crate::metrics::Metric;
use crate::plan::{Action, NOT_FOUND, Op, Plan};
use crate::pods;
use crate::world::{BY_NODE, World};
use client::{Delta, Key};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::SignedDuration;
use meta::Time;
use parking_lot::Mutex;
use std::collections::HashMap;

/// Ended pods kept in the cluster (`--terminated-pod-gc-threshold`).
const MAX_TERMINATED: usize = 12_500;
/// How long a node must be missing before its pods go (upstream's quarantineTime).
const QUARANTINE: SignedDuration = SignedDuration::from_secs(40);

static DELETIONS: Metric = Metric::counter(
    "pod_gc_collector_force_delete_pods_total",
    &["namespace", "reason"],
    "Number of pods that are being forcefully deleted since the Pod GC Controller started.",
);
static ERRORS: Metric = Metric::counter(
    "pod_gc_collector_force_delete_pod_errors_total",
    &["namespace", "reason"],
    "Number of errors encountered when forcefully deleting the pods since the Pod GC Controller started.",
);

/// Keys are pods; nodes, as cluster-scoped names; and the empty key for the ended pods of the whole cluster. Remembers
/// since when it misses each node.
#[derive(Default)]
pub struct PodGc {
    missing: Mutex<HashMap<Key, Time>>,
}

impl Controller for PodGc {
    const NAME: &'static str = "pod-garbage-collector-controller";
    const QUEUE: &'static str = "orphaned_pods_nodes";
    const METRICS: &'static [&'static Metric] = &[&DELETIONS, &ERRORS];

    fn watches(w: &mut Watches) {
        w.on(|w| &w.pods, of_pod).on(|w| &w.nodes, of_node);
    }

    fn reconcile(&self, key: &Key, world: &World, now: Time) -> Plan {
        match (&*key.namespace, &*key.name) {
            ("", "") => terminated(world),
            ("", _) => self.node(key, world, now),
            _ => pod(key, world),
        }
    }
}

fn of_pod(delta: &Delta<Pod>, world: &World) -> Vec<Key> {
    let Some(pod) = &delta.new else { return Vec::new() };
    let mut keys = Vec::new();
    let bound_now = delta.old.as_ref().is_none_or(|old| pods::node_name(old) != pods::node_name(pod));
    let node = Key::cluster(pods::node_name(pod));
    if !node.name.is_empty() && bound_now && world.nodes.get(&node).is_none() {
        keys.push(node);
    }
    if pod.metadata.deletion_timestamp.is_some() {
        keys.push(delta.key.clone());
    }
    if pods::is_terminal(pod)
        && delta.old.as_ref().is_none_or(|old| !pods::is_terminal(old))
        && world.pods.len() > MAX_TERMINATED
    {
        keys.push(Key::cluster(""));
    }
    keys
}

fn of_node(delta: &Delta<Node>, world: &World) -> Vec<Key> {
    let out = |n: &Option<std::sync::Arc<Node>>| n.as_ref().is_some_and(|n| is_out_of_service(n));
    let mut keys = Vec::new();
    if delta.new.is_none() || delta.old.is_none() {
        keys.push(delta.key.clone());
    }
    if out(&delta.new) && !out(&delta.old) {
        keys.extend(world.pods.by_index(BY_NODE, &delta.key.name).iter().map(|p| Key::of(&**p)));
    }
    keys
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    !is_ready(node) && taints.into_iter().any(|t| t.key == OUT_OF_SERVICE)
}

impl PodGc {
    fn node(&self, key: &Key, world: &World, now: Time) -> Plan {
        let pods = world.pods.by_index(BY_NODE, &key.name);
        if pods.is_empty() || world.nodes.get(key).is_some() {
            self.missing.lock().remove(key);
            return Plan::idle("the node is there, or has no pods");
        }
        let since = *self.missing.lock().entry(key.clone()).or_insert(now);
        let mut plan = Plan::default();
        if now < since + QUARANTINE {
            plan.because("the node is missing since lately");
            plan.wake(since + QUARANTINE);
            return plan;
        }
        plan.op(Op::verify_absent::<Node>(key.clone()));
        for pod in pods {
            let why = ("DeletionByPodGC", "PodGC: node no longer exists");
            let phase = (!pods::is_terminal(&pod)).then_some("Failed");
            plan.op(set_pod_status(&pod, "DisruptionTarget", "True", Some(why), phase, now));
            plan.op(delete_now(&pod, "orphaned"));
        }
        plan
    }
}

fn pod(key: &Key, world: &World) -> Plan {
    let Some(pod) = world.pods.get(key).filter(|p| p.metadata.deletion_timestamp.is_some()) else {
        return Plan::idle("the pod is not being deleted");
    };
    let unbound = pods::node_name(&pod).is_empty();
    let stuck = world.nodes.find("", pods::node_name(&pod)).is_some_and(|n| is_out_of_service(&n));
    if !unbound && !stuck {
        return Plan::idle("its kubelet will remove the pod");
    }
    let mut plan = Plan::default();
    if !pods::is_terminal(&pod) {
        let patch = serde_json::json!({"metadata": {"uid": pod.metadata.uid}, "status": {"phase": "Failed"}});
        plan.op(Op::strategic_patch(&*pod, &patch).subresource("status").tolerating(&[NOT_FOUND]));
    }
    plan.op(delete_now(&pod, if unbound { "unscheduled" } else { "out-of-service" }));
    plan
}

/// The oldest of the ended pods, those evicted first.
fn terminated(world: &World) -> Plan {
    let mut ended = world.pods.list();
    ended.retain(|p| pods::is_terminal(p));
    let excess = ended.len().saturating_sub(MAX_TERMINATED);
    if excess == 0 {
        return Plan::idle("not too many pods have ended");
    }
    let evicted = |p: &Pod| p.status.as_ref().and_then(|s| s.reason.as_deref()) == Some("Evicted");
    ended.sort_by_key(|p| {
        (!evicted(p), p.metadata.creation_timestamp.as_ref().map(|t| t.0), p.metadata.name.clone())
    });
    let mut plan = Plan::default();
    for pod in &ended[..excess] {
        plan.op(delete_now(pod, "terminated"));
    }
    plan
}

/// `reason`: in metrics.
fn delete_now(pod: &Pod, reason: &str) -> Op {
    let labels = [pod.metadata.namespace.as_deref().unwrap_or(""), reason];
    let tried = DELETIONS.one(labels);
    let mut op = Op::delete(pod).count(tried.clone()).count_failure(tried).count_failure(ERRORS.one(labels));
    if let Action::Delete { grace_seconds, .. } = &mut op.action {
        *grace_seconds = Some(0);
    }
    op
}
