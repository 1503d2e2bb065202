//! Evicts pods from nodes with NoExecute taints that they do not tolerate, or no longer.

use super::set_pod_status;
use crate::controller::{Controller, Watches};
use crate::metrics::{Buckets, Metric};
use crate::plan::{Note, Op, Plan};
use crate::pods;
use crate::world::{BY_NODE, World};
use client::{Delta, Key};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Taint, Toleration};
use k8s_openapi::jiff::SignedDuration;
use meta::Time;
use meta::taints::tolerates;
use parking_lot::Mutex;
use std::collections::HashMap;

static DELETIONS: Metric = Metric::counter(
    "taint_eviction_controller_pod_deletions_total",
    &[],
    "Total number of Pods deleted by TaintEvictionController since its start.",
);
static DELETION_SECONDS: Metric = Metric::histogram(
    "taint_eviction_controller_pod_deletion_duration_seconds",
    &[],
    Buckets::Of(&[0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 120.0, 180.0, 240.0]),
    "Latency, in seconds, between the time when a taint effect has been activated for the Pod and its deletion via TaintEvictionController.",
);

/// Remembers the pods whose time on their node is running out. A taint that comes, or takes another's place, while it
/// does gives no more time.
#[derive(Default)]
pub struct TaintEviction {
    waiting: Mutex<HashMap<Key, Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    uid: Option<String>,
    since: Time,
    /// Its deletion has begun: it cannot be taken back.
    is_over: bool,
}

impl Controller for TaintEviction {
    const NAME: &'static str = "taint-eviction-controller";
    const QUEUE: &'static str = "noexec_taint_pod";
    const METRICS: &'static [&'static Metric] = &[&DELETIONS, &DELETION_SECONDS];

    fn watches(w: &mut Watches) {
        w.on(|w| &w.pods, of_pod).on(|w| &w.nodes, of_node);
    }

    fn reconcile(&self, key: &Key, world: &World, now: Time) -> Plan {
        let mut plan = Plan::default();
        let pod =
            world.pods.get(key).filter(|p| p.metadata.deletion_timestamp.is_none() && !pods::is_terminal(p));
        let node = pod.as_ref().and_then(|p| world.nodes.find("", pods::node_name(p)));
        let taints = node.map(|n| no_execute(&n)).unwrap_or_default();
        let (Some(pod), false) = (pod, taints.is_empty()) else {
            self.cancel(key, &mut plan);
            return plan;
        };
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
        let due = match tolerated(&taints, tolerations) {
            Tolerated::Forever => {
                self.cancel(key, &mut plan);
                plan.because("every taint is tolerated");
                return plan;
            }
            Tolerated::For(time) => {
                let at = self.since(key, &pod, &taints, now) + time;
                if at > now {
                    plan.because("every taint is tolerated for some time");
                    plan.wake(at);
                    return plan;
                }
                at
            }
            Tolerated::No => {
                self.cancel(key, &mut plan);
                now
            }
        };
        if let Some(waiting) = self.waiting.lock().get_mut(key) {
            waiting.is_over = true;
        }
        let about = client::events::reference(&*pod);
        plan.note(Note::normal(about, "TaintManagerEviction", format!("Marking for deletion Pod {key}")));
        let why = ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint");
        plan.op(set_pod_status(&pod, "DisruptionTarget", "True", Some(why), None, now));
        let deletion = Op::delete(&*pod).count(DELETIONS.one([])).count(DELETION_SECONDS.since(due, []));
        plan.op(deletion);
        plan
    }
}

impl TaintEviction {
    /// Since when the pod's time is running: since the first of the taints that it does not tolerate forever was added,
    /// or since it came to the node, if that was later.
    fn since(&self, key: &Key, pod: &Pod, taints: &[Taint], now: Time) -> Time {
        let mut all = self.waiting.lock();
        if let Some(waiting) = all.get(key).filter(|w| w.uid == pod.metadata.uid) {
            return waiting.since;
        }
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
        let limited = taints.iter().filter(|t| tolerated(&[(*t).clone()], tolerations) != Tolerated::Forever);
        let added = limited.map(|t| t.time_added.as_ref().map_or(now, |t| t.0)).min().unwrap_or(now);
        let bound = pods::condition(pod, "PodScheduled").filter(|c| c.status == "True");
        let bound = bound.and_then(|c| c.last_transition_time.as_ref());
        let since = bound.map_or(added, |t| added.max(t.0));
        all.insert(key.clone(), Waiting { uid: pod.metadata.uid.clone(), since, is_over: false });
        since
    }

    /// The pod may stay, or has gone for another reason.
    fn cancel(&self, key: &Key, plan: &mut Plan) {
        let Some(waiting) = self.waiting.lock().remove(key).filter(|w| !w.is_over) else { return };
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(key.namespace.to_string()),
            name: Some(key.name.to_string()),
            uid: waiting.uid,
            ..Default::default()
        };
        plan.note(Note::normal(about, "TaintManagerEviction", format!("Cancelling deletion of Pod {key}")));
    }
}

fn no_execute(node: &Node) -> Vec<Taint> {
    let taints = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    taints.into_iter().filter(|t| t.effect == "NoExecute").collect()
}

fn of_pod(delta: &Delta<Pod>, _: &World) -> Vec<Key> {
    let what = |p: &Pod| p.spec.as_ref().map(|s| (s.node_name.clone(), s.tolerations.clone()));
    match (&delta.old, &delta.new) {
        (Some(old), Some(new)) if what(old) == what(new) => Vec::new(),
        _ => vec![delta.key.clone()],
    }
}

fn of_node(delta: &Delta<Node>, world: &World) -> Vec<Key> {
    let taints = |n: &Option<std::sync::Arc<Node>>| n.as_ref().map(|n| no_execute(n)).unwrap_or_default();
    if taints(&delta.old) == taints(&delta.new) {
        return Vec::new();
    }
    world.pods.by_index(BY_NODE, &delta.key.name).iter().map(|p| Key::of(&**p)).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tolerated {
    No,
    Forever,
    /// All are tolerated, one of them only so long.
    For(SignedDuration),
}

pub(super) fn tolerated(taints: &[Taint], tolerations: &[Toleration]) -> Tolerated {
    let mut least: Option<i64> = None;
    for taint in taints {
        let Some(t) = tolerations.iter().find(|t| tolerates(t, taint)) else { return Tolerated::No };
        if let Some(s) = t.toleration_seconds {
            least = Some(least.map_or(s, |l| l.min(s)));
        }
    }
    match least {
        None => Tolerated::Forever,
        Some(s) => Tolerated::For(SignedDuration::from_secs(s.max(0))),
    }
}
