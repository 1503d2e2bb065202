//! Whether nodes are alive: one that shows no sign of life becomes Unknown, is tainted, and its pods are not ready.

use super::pace::{self, Pace, Turn};
use super::{NOT_READY, UNREACHABLE, condition, name, reference, set_pod_status, zone};
use crate::controller::{Controller, Watches};
use crate::metrics::{Buckets, Levels, Metric};
use crate::plan::{Note, Op, Outcome, Plan};
use crate::pods;
use crate::world::{BY_NODE, World};
use client::{Delta, Key};
use k8s_openapi::api::core::v1::{Node, NodeCondition, ObjectReference, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time as MetaTime};
use k8s_openapi::jiff::SignedDuration;
use meta::Time;
use parking_lot::Mutex;
use serde_json::json;
use std::collections::HashMap;

/// Silence after which a node is unknown (`--node-monitor-grace-period`).
pub const MONITOR_GRACE: SignedDuration = SignedDuration::from_secs(50);
/// The same for a node that has not yet reported (`--node-startup-grace-period`).
pub const STARTUP_GRACE: SignedDuration = SignedDuration::from_secs(60);
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// What each condition, in which state, taints.
const CONDITION_TAINTS: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];
/// What becomes unknown with a node. The network's condition is the control plane's own.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

static EVICTIONS: Metric = Metric::counter(
    "node_collector_evictions_total",
    &["zone"],
    "Number of Node evictions that happened since current instance of NodeController started.",
);
static UPDATE_SECONDS: Metric = Metric::histogram(
    "node_collector_update_node_health_duration_seconds",
    &[],
    Buckets::Exponential { first: 0.001, factor: 4.0, count: 8 },
    "Duration in seconds for NodeController to update the health of a single node.",
);
static ZONE_SIZE: Metric = Metric::gauge(
    "node_collector_zone_size",
    &["zone"],
    "Gauge measuring number of registered Nodes per zones.",
);
static ZONE_HEALTH: Metric = Metric::gauge(
    "node_collector_zone_health",
    &["zone"],
    "Gauge measuring percentage of healthy nodes per zone.",
);
static UNHEALTHY: Metric = Metric::gauge(
    "node_collector_unhealthy_nodes_in_zone",
    &["zone"],
    "Gauge measuring number of not Ready Nodes per zones.",
);

/// Remembers when it saw each node's last sign of life, by its own clock: those of the nodes need not agree with it.
#[derive(Default)]
pub struct NodeLifecycle {
    seen: Mutex<HashMap<Key, Seen>>,
    pace: Pace,
}

#[derive(Clone, Debug, PartialEq)]
struct Seen {
    uid: Option<String>,
    heartbeat: Option<MetaTime>,
    renewed: Option<MicroTime>,
    /// When either of them last changed.
    at: Time,
}

impl Controller for NodeLifecycle {
    const NAME: &'static str = "node-lifecycle-controller";
    const QUEUE: &'static str = "node_lifecycle_controller";
    const METRICS: &'static [&'static Metric] = &[&EVICTIONS, &UPDATE_SECONDS];

    fn watches(w: &mut Watches) {
        w.on(|w| &w.nodes, of_node)
            .on(|w| &w.leases, |d, _| vec![Key::cluster(&d.key.name)])
            .on(|w| &w.pods, of_pod);
    }

    fn reconcile(&self, key: &Key, world: &World, now: Time) -> Plan {
        let mut plan = Plan::default();
        match world.nodes.get(key) {
            Some(node) => self.look_at(key, &node, world, now, &mut plan),
            None => self.forget(key, &mut plan),
        }
        plan
    }

    fn levels(&self, world: &World, levels: &mut Levels) {
        for (zone, health) in pace::zones(&world.nodes.list()) {
            let size = health.size() as f64;
            levels.set(&ZONE_SIZE, [&zone], size);
            levels.set(&ZONE_HEALTH, [&zone], 100.0 * health.ready as f64 / size);
            levels.set(&UNHEALTHY, [&zone], health.unready as f64);
        }
    }
}

impl NodeLifecycle {
    fn forget(&self, key: &Key, plan: &mut Plan) {
        let Some(seen) = self.seen.lock().remove(key) else { return };
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(key.name.to_string()),
            uid: seen.uid,
            ..Default::default()
        };
        let message = format!("Node {} event: Removing Node {} from Controller", key.name, key.name);
        plan.note(Note::normal(about, "RemovingNode", message));
    }

    fn look_at(&self, key: &Key, node: &Node, world: &World, now: Time, plan: &mut Plan) {
        let seconds = |outcome: &Outcome<'_>| vec![UPDATE_SECONDS.of(outcome.took.as_secs_f64(), [])];
        plan.measure = Some(Box::new(seconds));
        let at = self.observe(key, node, world, now, plan);
        let ready = condition(node, "Ready");
        let deadline = at + if ready.is_some() { MONITOR_GRACE } else { STARTUP_GRACE };
        if now <= deadline {
            plan.wake(deadline + SignedDuration::from_millis(1));
        } else if let Some(op) = mark_unknown(node, now) {
            plan.because("the node has been silent for too long");
            plan.op(op);
            if ready.is_some_and(|c| c.status == "True") {
                let message = format!("Node {} status is now: NodeNotReady", name(node));
                plan.note(Note::normal(reference(node), "NodeNotReady", message));
            }
            // The taints follow from the conditions as written: with the next look.
            return;
        }
        let empties = self.empties(node, world, now, plan);
        if let Some(op) = set_taints(node, empties, now) {
            plan.op(op);
        }
        if ready.is_some_and(|c| c.status == "Unknown") {
            for pod in world.pods.by_index(BY_NODE, name(node)).iter().filter(|p| pods::is_ready(p)) {
                let about = client::events::reference(&**pod);
                let op = set_pod_status(pod, "Ready", "False", None, None, now);
                plan.op(op.then(Note::warning(about, "NodeNotReady", "Node is not ready")));
            }
        }
    }

    /// Whether a node that is not ready loses its pods by now.
    fn empties(&self, node: &Node, world: &World, now: Time, plan: &mut Plan) -> bool {
        if !condition(node, "Ready").is_some_and(|c| matches!(&*c.status, "False" | "Unknown")) {
            return false;
        }
        let nodes = world.nodes.list();
        let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
        if taints.into_iter().any(is_ours_to_empty) {
            return !pace::is_all_down(&pace::zones(&nodes));
        }
        match self.pace.turn(node, &nodes, now) {
            Turn::Now => true,
            Turn::At(at) => {
                plan.because("another node of its zone lost its pods lately").wake(at);
                false
            }
            Turn::Never => {
                plan.because("too many nodes are not ready: the fault is more likely with the control plane");
                false
            }
        }
    }

    /// When the node last gave a sign of life.
    fn observe(&self, key: &Key, node: &Node, world: &World, now: Time, plan: &mut Plan) -> Time {
        let lease = world.leases.find("kube-node-lease", &key.name);
        let renewed = lease.and_then(|l| l.spec.as_ref()?.renew_time.clone());
        let heartbeat = condition(node, "Ready").and_then(|c| c.last_heartbeat_time.clone());
        let mut all = self.seen.lock();
        let known = all.get(key).filter(|s| s.uid == node.metadata.uid).cloned();
        let at = match &known {
            Some(s) if s.heartbeat == heartbeat && s.renewed == renewed => s.at,
            Some(_) => now,
            None => {
                let message = format!("Node {} event: Registered Node {} in Controller", key.name, key.name);
                plan.note(Note::normal(reference(node), "RegisteredNode", message));
                match &node.metadata.creation_timestamp {
                    Some(created) if heartbeat.is_none() && renewed.is_none() => created.0,
                    _ => now,
                }
            }
        };
        all.insert(key.clone(), Seen { uid: node.metadata.uid.clone(), heartbeat, renewed, at });
        at
    }
}

/// A node's own key; where its readiness or presence changed, everyone's: whether all are down may have changed.
fn of_node(delta: &Delta<Node>, world: &World) -> Vec<Key> {
    let ready = |n: &Option<std::sync::Arc<Node>>| n.as_ref().map(|n| super::is_ready(n));
    if ready(&delta.old) == ready(&delta.new) {
        return vec![delta.key.clone()];
    }
    let mut keys: Vec<Key> = world.nodes.list().iter().map(|n| Key::of(&**n)).collect();
    if !keys.contains(&delta.key) {
        keys.push(delta.key.clone());
    }
    keys
}

/// A pod that claims to be ready on a node that is not.
fn of_pod(delta: &Delta<k8s_openapi::api::core::v1::Pod>, world: &World) -> Vec<Key> {
    let Some(pod) = delta.new.as_ref().filter(|p| pods::is_ready(p)) else { return Vec::new() };
    let key = Key::cluster(pods::node_name(pod));
    let unknown =
        world.nodes.get(&key).is_some_and(|n| condition(&n, "Ready").is_some_and(|c| c.status == "Unknown"));
    if unknown { vec![key] } else { Vec::new() }
}

/// Makes the conditions unknown; None where they are so already.
fn mark_unknown(node: &Node, now: Time) -> Option<Op> {
    let mut changed = Vec::new();
    for kind in CONDITIONS {
        let unknown = |reason: &str, message: &str, last_heartbeat_time| NodeCondition {
            type_: kind.into(),
            status: "Unknown".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time,
            last_transition_time: Some(MetaTime(now)),
        };
        changed.push(match condition(node, kind) {
            Some(c) if c.status == "Unknown" => continue,
            Some(c) => {
                let message = "Kubelet stopped posting node status.";
                unknown("NodeStatusUnknown", message, c.last_heartbeat_time.clone())
            }
            None => {
                let message = "Kubelet never posted node status.";
                unknown("NodeStatusNeverUpdated", message, node.metadata.creation_timestamp.clone())
            }
        });
    }
    if changed.is_empty() {
        return None;
    }
    // The resourceVersion: a sign of life that is on its way must win.
    let m = &node.metadata;
    let patch = json!({
        "metadata": {"uid": m.uid, "resourceVersion": m.resource_version},
        "status": {"conditions": changed},
    });
    Some(Op::strategic_patch(node, &patch).subresource("status"))
}

/// The taints that make the pods go.
fn is_ours_to_empty(taint: &Taint) -> bool {
    taint.effect == "NoExecute" && (taint.key == NOT_READY || taint.key == UNREACHABLE)
}

/// The taints that follow from conditions, in place of those that no longer do; None where they are right. `empties`:
/// whether those of a node that is not ready make its pods go.
fn set_taints(node: &Node, empties: bool, now: Time) -> Option<Op> {
    let spec = node.spec.clone().unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (kind, status, taint) in CONDITION_TAINTS {
        if condition(node, kind).is_some_and(|c| c.status == status) {
            wanted.push((taint, "NoSchedule"));
            if kind == "Ready" && empties {
                wanted.push((taint, "NoExecute"));
            }
        }
    }
    if spec.unschedulable == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let ours = |t: &Taint| {
        let said = t.key == UNSCHEDULABLE || CONDITION_TAINTS.iter().any(|(_, _, key)| *key == t.key);
        t.effect == "NoSchedule" && said || is_ours_to_empty(t)
    };
    let mut taints = spec.taints.clone().unwrap_or_default();
    taints.retain(|t| !ours(t) || wanted.contains(&(t.key.as_str(), t.effect.as_str())));
    for (key, effect) in wanted {
        if !taints.iter().any(|t| t.key == key && t.effect == effect) {
            taints.push(Taint {
                key: key.into(),
                effect: effect.into(),
                time_added: Some(MetaTime(now)),
                value: None,
            });
        }
    }
    let before = spec.taints.unwrap_or_default();
    if taints == before {
        return None;
    }
    let m = &node.metadata;
    let patch = json!({
        "metadata": {"uid": m.uid, "resourceVersion": m.resource_version},
        "spec": {"taints": taints},
    });
    let mut op = Op::merge_patch(node, &patch);
    if taints.iter().any(is_ours_to_empty) && !before.iter().any(is_ours_to_empty) {
        op = op.count(EVICTIONS.one([&zone(node)]));
    }
    Some(op)
}
