//! DaemonSets: a pod on every node that is meant.

mod failures;
mod nodes;
mod placement;
mod revisions;
mod rolling;
#[cfg(test)]
mod tests;

use crate::children::{claimable, creation, deletion, owners_and_adopters, pod_from, positive};
use crate::controller::{Controller, Watches};
use crate::history::{self, HASH_LABEL};
use crate::plan::{Mode, Note, Op, Plan, Step};
use crate::pods::{is_available, is_ready, next_available, node_name};
use crate::refs::{claim, controller_of};
use crate::world::World;
use client::events::reference;
use client::{Delta, Key};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use meta::{LabelSelector, Time};
use std::collections::BTreeMap;
use std::sync::Arc;

use failures::Failures;
use nodes::Work;
use placement::{Placement, Wanted};

/// Pods created or deleted in one plan at most (upstream's BurstReplicas).
const BURST: usize = 250;
/// Counts the changes of a template, for objects of old.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
const TEMPLATE_GENERATION_LABEL: &str = "pod-template-generation";

/// Remembers how often daemons failed on each node, not to fight with a kubelet that refuses them.
#[derive(Default)]
pub struct DaemonSets {
    failures: Failures,
}

impl Controller for DaemonSets {
    const NAME: &'static str = "daemonset-controller";
    const QUEUE: &'static str = "daemonset";

    fn watches(w: &mut Watches) {
        w.own(|w| &w.daemon_sets)
            .on(|w| &w.pods, |delta, world| owners_and_adopters(delta, &world.daemon_sets, selector_of))
            .on(|w| &w.controller_revisions, of_revision)
            .on(|w| &w.nodes, of_node);
    }

    fn reconcile(&self, key: &Key, world: &World, now: Time) -> Plan {
        let Some(set) = world.daemon_sets.get(key) else {
            self.failures.forget(key);
            return Plan::idle("the daemon set is gone");
        };
        let Some(spec) = &set.spec else { return Plan::idle("the daemon set has no spec") };
        let (Ok(selector), Some(placement)) =
            (LabelSelector::from_object(&spec.selector), Placement::of(&set))
        else {
            return Plan::idle("the selector is not valid");
        };
        if selector.is_everything() {
            let mut plan = Plan::idle("the selector is empty");
            plan.note(Note::warning(
                reference(&*set),
                "SelectingAll",
                "This daemon set is selecting all pods. A non-empty selector is required.",
            ));
            return plan;
        }
        if set.metadata.deletion_timestamp.is_some() {
            return Plan::idle("the daemon set is being deleted: so may be its revisions");
        }
        let mut nodes = world.nodes.list();
        nodes.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let wanted = nodes.iter().map(|n| placement.on(n)).collect();
        let mut plan = Plan::default();
        let claimed_revisions =
            claim(&*set, &selector, claimable(&set.metadata, &world.controller_revisions));
        let claimed_pods = claim(&*set, &selector, claimable(&set.metadata, &world.pods));
        for op in claimed_revisions.ops.into_iter().chain(claimed_pods.ops) {
            plan.op(op);
        }
        let mut daemons = Daemons {
            set: &set,
            spec,
            now,
            nodes: &nodes,
            wanted,
            pods: by_node(&claimed_pods.claimed),
            hash: String::new(),
        };
        let old = daemons.revisions(claimed_revisions.claimed, &claimed_pods.claimed, &mut plan);
        let status = daemons.status();
        let write = (set.status.as_ref() != Some(&status))
            .then(|| Op::replace_status(&DaemonSet { status: Some(status.clone()), ..(*set).clone() }));
        let mut work = daemons.manage(&self.failures, key, &mut plan);
        if work.is_empty() && is_rolling(spec) {
            work = daemons.roll();
        }
        daemons.carry_out(work, write.as_ref(), &mut plan);
        daemons.clean_up(&old, &claimed_pods.claimed, &mut plan);
        if let Some(op) = write {
            plan.op(op);
        }
        if let Some(at) = next_available(&claimed_pods.claimed, daemons.min_ready_seconds(), now) {
            plan.wake(at);
        }
        plan
    }
}

fn selector_of(set: &DaemonSet) -> Option<LabelSelector> {
    let selector = LabelSelector::from_object(&set.spec.as_ref()?.selector).ok()?;
    (!selector.is_everything()).then_some(selector)
}

/// A revision that appears with its owner is the owner's own work.
fn of_revision(delta: &Delta<ControllerRevision>, world: &World) -> Vec<Key> {
    match (&delta.old, &delta.new) {
        (None, Some(new)) if controller_of(&new.metadata).is_some() => Vec::new(),
        _ => owners_and_adopters(delta, &world.daemon_sets, selector_of),
    }
}

/// A node concerns the daemon sets that now want something else of it.
fn of_node(delta: &Delta<Node>, world: &World) -> Vec<Key> {
    let taints = |n: &Node| n.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    if let (Some(old), Some(new)) = (&delta.old, &delta.new)
        && old.metadata.labels == new.metadata.labels
        && taints(old) == taints(new)
    {
        return Vec::new();
    }
    let changed = |set: &DaemonSet| {
        let placement = Placement::of(set);
        let wanted = |node: &Option<Arc<Node>>| -> Wanted {
            placement.as_ref().zip(node.as_ref()).map(|(p, n)| p.on(n)).unwrap_or_default()
        };
        wanted(&delta.old) != wanted(&delta.new)
    };
    world.daemon_sets.list().iter().filter(|s| changed(s)).map(|s| Key::of(&**s)).collect()
}

fn is_rolling(spec: &DaemonSetSpec) -> bool {
    let strategy = spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref());
    strategy.unwrap_or("RollingUpdate") == "RollingUpdate"
}

/// Daemons by the node they are on or wait for. One that ended and is being deleted is somebody else's to remove.
fn by_node(pods: &[Arc<Pod>]) -> BTreeMap<String, Vec<Arc<Pod>>> {
    let mut map: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        if crate::pods::is_terminal(pod) && pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        if let Some(node) = placement::target(pod) {
            map.entry(node.into()).or_default().push(pod.clone());
        }
    }
    for pods in map.values_mut() {
        pods.sort_by_key(|p| {
            let created = p.metadata.creation_timestamp.as_ref().map(|t| t.0);
            (node_name(p).is_empty(), created, p.metadata.name.clone())
        });
    }
    map
}

/// One reconciliation of one daemon set.
struct Daemons<'a> {
    set: &'a DaemonSet,
    spec: &'a DaemonSetSpec,
    now: Time,
    /// By name.
    nodes: &'a [Arc<Node>],
    /// Of each of the nodes.
    wanted: Vec<Wanted>,
    /// By node; bound pods first, then the oldest.
    pods: BTreeMap<String, Vec<Arc<Pod>>>,
    /// Of the current template.
    hash: String,
}

impl Daemons<'_> {
    fn min_ready_seconds(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        is_available(pod, self.min_ready_seconds(), self.now)
    }

    fn template_generation(&self) -> Option<i64> {
        self.set.metadata.annotations.as_ref()?.get(TEMPLATE_GENERATION)?.parse().ok()
    }

    /// Whether a pod is of the current template.
    fn is_updated(&self, pod: &Pod) -> bool {
        let generation = self.template_generation().map(|g| g.to_string());
        let label = |l| Some(history::label(&pod.metadata, l)).filter(|v| !v.is_empty());
        label(HASH_LABEL) == Some(&self.hash)
            || generation.is_some() && label(TEMPLATE_GENERATION_LABEL) == generation.as_deref()
    }

    fn on(&self, node: &Node) -> &[Arc<Pod>] {
        self.pods.get(node.metadata.name.as_deref().unwrap_or("")).map_or(&[], Vec::as_slice)
    }

    /// Deletions before creations: both are due, and what refuses a creation must not hold a deletion up.
    fn carry_out(&self, work: Work, status: Option<&Op>, plan: &mut Plan) {
        let mut deletions: Vec<Op> = work.delete.iter().map(|p| deletion(self.set, p)).collect();
        deletions.truncate(BURST);
        let mut creations: Vec<Op> = work.create.iter().map(|n| creation(self.set, &self.pod(n))).collect();
        creations.truncate(BURST);
        for (ops, mode) in [(deletions, Mode::Parallel), (creations, Mode::SlowStart)] {
            let status = status.cloned();
            let on_failure: crate::plan::Recovery = Box::new(move |_| status.into_iter().collect());
            plan.step(Step { ops, mode, on_failure: Some(on_failure) });
        }
    }

    /// A daemon for a node; the scheduler binds it.
    fn pod(&self, node: &str) -> Pod {
        let mut pod = pod_from(self.set, &self.spec.template);
        let labels = pod.metadata.labels.get_or_insert_default();
        if let Some(generation) = self.template_generation() {
            labels.insert(TEMPLATE_GENERATION_LABEL.into(), generation.to_string());
        }
        labels.insert(HASH_LABEL.into(), self.hash.clone());
        let spec = pod.spec.get_or_insert_default();
        placement::tolerate(spec);
        placement::pin(spec, node);
        pod
    }

    fn status(&self) -> DaemonSetStatus {
        let old = self.set.status.clone().unwrap_or_default();
        let (mut desired, mut current, mut misscheduled) = (0, 0, 0);
        let (mut ready, mut updated, mut available) = (0, 0, 0);
        for (node, wanted) in self.nodes.iter().zip(&self.wanted) {
            let pod = self.on(node).first();
            if !wanted.run {
                misscheduled += i32::from(pod.is_some());
                continue;
            }
            desired += 1;
            let Some(pod) = pod else { continue };
            current += 1;
            ready += i32::from(is_ready(pod));
            available += i32::from(self.is_available(pod));
            updated += i32::from(self.is_updated(pod));
        }
        DaemonSetStatus {
            observed_generation: self.set.metadata.generation,
            desired_number_scheduled: desired,
            current_number_scheduled: current,
            number_misscheduled: misscheduled,
            number_ready: ready,
            updated_number_scheduled: positive(updated),
            number_available: positive(available),
            number_unavailable: positive(desired - available),
            collision_count: old.collision_count,
            conditions: old.conditions,
        }
    }
}
