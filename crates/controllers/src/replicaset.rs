//! ReplicaSets and ReplicationControllers: as many pods as asked for.

use crate::controller::{Controller, Watches};
use crate::plan::{Mode, Note, Op, Plan, Step};
use crate::pods::{deletion_order, is_active, is_available, is_ready, is_terminating, node_name};
use crate::refs::{claim, controller_of, controller_ref, is_controlled_by, matches};
use crate::world::{BY_CONTROLLER, ORPHANS, World};
use client::events::reference;
use client::{Delta, Informer, Key};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    Pod, PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time as MetaTime};
use k8s_openapi::jiff::SignedDuration;
use kube::Resource;
use meta::{LabelSelector, Time};
use std::collections::HashMap;
use std::sync::Arc;

/// Pods created or deleted in one plan at most (upstream's BurstReplicas).
const BURST: usize = 500;
const FAILURE: &str = "ReplicaFailure";

pub struct ReplicaSets;

impl Controller for ReplicaSets {
    const NAME: &'static str = "replicaset-controller";

    fn watches(w: &mut Watches) {
        w.own(|w| &w.replica_sets)
            .on(|w| &w.pods, |delta, world| owners(delta, &world.replica_sets, selector_of_set));
    }

    fn reconcile(&self, key: &Key, world: &World, now: Time) -> Plan {
        let Some(set) = world.replica_sets.get(key) else { return Plan::idle("the replica set is gone") };
        let (Some(spec), Some(selector)) = (&set.spec, selector_of_set(&set)) else {
            return Plan::idle("the selector is not valid");
        };
        let template = spec.template.clone().unwrap_or_default();
        let status = set.status.clone().unwrap_or_default();
        let owner = Owner {
            object: &*set,
            selector,
            replicas: spec.replicas.unwrap_or(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            template,
            related: related(&set, world),
            failure: status.conditions.iter().flatten().find(|c| c.type_ == FAILURE).map(|c| Condition {
                status: c.status.clone(),
                reason: c.reason.clone().unwrap_or_default(),
                message: c.message.clone().unwrap_or_default(),
                since: c.last_transition_time.clone(),
            }),
        };
        let old = (*set).clone();
        let write = move |counts: &Counts, failure: Option<Condition>| {
            let mut new = old.clone();
            let was = old.status.clone().unwrap_or_default();
            let mut conditions = was.conditions.clone().unwrap_or_default();
            conditions.retain(|c| c.type_ != FAILURE);
            conditions.extend(failure.map(|f| ReplicaSetCondition {
                type_: FAILURE.into(),
                status: f.status,
                reason: Some(f.reason),
                message: Some(f.message),
                last_transition_time: f.since,
            }));
            let status = ReplicaSetStatus {
                replicas: counts.replicas,
                fully_labeled_replicas: positive(counts.fully_labeled),
                ready_replicas: positive(counts.ready),
                available_replicas: positive(counts.available),
                terminating_replicas: Some(counts.terminating),
                observed_generation: old.metadata.generation,
                conditions: (!conditions.is_empty()).then_some(conditions),
            };
            let same = new.status.as_ref() == Some(&status);
            new.status = Some(status);
            (!same).then(|| Op::replace_status(&new))
        };
        owner.plan(world, now, write)
    }
}

pub struct ReplicationControllers;

impl Controller for ReplicationControllers {
    const NAME: &'static str = "replicationcontroller-controller";

    fn watches(w: &mut Watches) {
        w.own(|w| &w.replication_controllers).on(
            |w| &w.pods,
            |delta, world| owners(delta, &world.replication_controllers, selector_of_controller),
        );
    }

    fn reconcile(&self, key: &Key, world: &World, now: Time) -> Plan {
        let Some(rc) = world.replication_controllers.get(key) else {
            return Plan::idle("the replication controller is gone");
        };
        let (Some(spec), Some(selector)) = (&rc.spec, selector_of_controller(&rc)) else {
            return Plan::idle("there is no selector");
        };
        let status = rc.status.clone().unwrap_or_default();
        let owner = Owner {
            object: &*rc,
            selector,
            replicas: spec.replicas.unwrap_or(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            template: spec.template.clone().unwrap_or_default(),
            related: None,
            failure: status.conditions.iter().flatten().find(|c| c.type_ == FAILURE).map(|c| Condition {
                status: c.status.clone(),
                reason: c.reason.clone().unwrap_or_default(),
                message: c.message.clone().unwrap_or_default(),
                since: c.last_transition_time.clone(),
            }),
        };
        let old = (*rc).clone();
        let write = move |counts: &Counts, failure: Option<Condition>| {
            let mut new = old.clone();
            let was = old.status.clone().unwrap_or_default();
            let mut conditions = was.conditions.clone().unwrap_or_default();
            conditions.retain(|c| c.type_ != FAILURE);
            conditions.extend(failure.map(|f| ReplicationControllerCondition {
                type_: FAILURE.into(),
                status: f.status,
                reason: Some(f.reason),
                message: Some(f.message),
                last_transition_time: f.since,
            }));
            let status = ReplicationControllerStatus {
                replicas: counts.replicas,
                fully_labeled_replicas: positive(counts.fully_labeled),
                ready_replicas: positive(counts.ready),
                available_replicas: positive(counts.available),
                observed_generation: old.metadata.generation,
                conditions: (!conditions.is_empty()).then_some(conditions),
            };
            let same = new.status.as_ref() == Some(&status);
            new.status = Some(status);
            (!same).then(|| Op::replace_status(&new))
        };
        owner.plan(world, now, write)
    }
}

fn positive(n: i32) -> Option<i32> {
    (n != 0).then_some(n)
}

pub(crate) fn selector_of_set(set: &ReplicaSet) -> Option<LabelSelector> {
    let selector = LabelSelector::from_object(&set.spec.as_ref()?.selector).ok()?;
    (!selector.is_everything()).then_some(selector)
}

fn selector_of_controller(rc: &ReplicationController) -> Option<LabelSelector> {
    let map = rc.spec.as_ref()?.selector.as_ref()?;
    (!map.is_empty()).then(|| LabelSelector::from_map(map))
}

/// The keys a pod's change concerns: its controllers before and after, and who might adopt it.
fn owners<O: client::informer::Cached + Resource<DynamicType = ()>>(
    delta: &Delta<Pod>,
    all: &Informer<O>,
    selector: fn(&O) -> Option<LabelSelector>,
) -> Vec<Key> {
    let namespace = &delta.key.namespace;
    let mut keys = Vec::new();
    for pod in [&delta.old, &delta.new].into_iter().flatten() {
        if let Some(r) = controller_of(&pod.metadata)
            && r.kind == O::kind(&())
        {
            let key = Key { namespace: namespace.clone(), name: r.name.as_str().into() };
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    if let Some(new) = &delta.new
        && controller_of(&new.metadata).is_none()
        && delta.old.as_ref().is_none_or(|old| {
            old.metadata.labels != new.metadata.labels
                || old.metadata.owner_references != new.metadata.owner_references
        })
    {
        let adopters = all.by_namespace(namespace);
        let adopters = adopters.iter().filter(|o| selector(o).is_some_and(|s| matches(&s, &new.metadata)));
        keys.extend(adopters.map(|o| Key::of(&**o)));
    }
    keys
}

/// Active pods per node, of every replica set that has the same controller: pods that share a node go first.
fn related(set: &ReplicaSet, world: &World) -> Option<HashMap<String, usize>> {
    let controller = controller_of(&set.metadata)?;
    let mut on_node = HashMap::new();
    for sibling in world.replica_sets.by_index(BY_CONTROLLER, &controller.uid) {
        let uid = sibling.metadata.uid.as_deref().unwrap_or("");
        for pod in world.pods.by_index(BY_CONTROLLER, uid).iter().filter(|p| is_active(p)) {
            *on_node.entry(node_name(pod).to_owned()).or_insert(0) += 1;
        }
    }
    Some(on_node)
}

#[derive(Clone, Debug, PartialEq)]
struct Condition {
    status: String,
    reason: String,
    message: String,
    since: Option<MetaTime>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    replicas: i32,
    fully_labeled: i32,
    ready: i32,
    available: i32,
    terminating: i32,
}

/// What both kinds have in common.
struct Owner<'a, O> {
    object: &'a O,
    selector: LabelSelector,
    replicas: i32,
    min_ready_seconds: i32,
    template: PodTemplateSpec,
    related: Option<HashMap<String, usize>>,
    failure: Option<Condition>,
}

impl<O: Resource<DynamicType = ()>> Owner<'_, O> {
    /// `write`: the status update that says these counts and this failure, if it is not what the status says already.
    fn plan(
        &self,
        world: &World,
        now: Time,
        write: impl Fn(&Counts, Option<Condition>) -> Option<Op> + Clone + Send + 'static,
    ) -> Plan {
        let meta = self.object.meta();
        let uid = meta.uid.as_deref().unwrap_or("");
        let mut pods = world.pods.by_index(BY_CONTROLLER, uid);
        let orphans = format!("{ORPHANS}{}", meta.namespace.as_deref().unwrap_or(""));
        let terminating =
            pods.iter().filter(|p| is_terminating(p) && matches(&self.selector, &p.metadata)).count();
        pods.extend(world.pods.by_index(BY_CONTROLLER, &orphans));
        pods.retain(|p| is_active(p));
        let claim = claim(self.object, &self.selector, pods);
        let active = claim.claimed;

        let mut plan = Plan::default();
        for op in claim.ops {
            plan.op(op);
        }
        let counts = self.count(&active, terminating, now);
        if meta.deletion_timestamp.is_none() {
            let mut step = self.manage(&active, now);
            if !step.ops.is_empty() {
                plan.because(format!("{} pods, {} wanted", active.len(), self.replicas));
            }
            let reason = if step.mode == Mode::SlowStart { "FailedCreate" } else { "FailedDelete" };
            let (known, recover) = (self.failure.clone(), write.clone());
            step.on_failure = Some(Box::new(move |f| {
                let new = known.unwrap_or_else(|| Condition {
                    status: "True".into(),
                    reason: reason.into(),
                    message: f.to_string(),
                    since: Some(MetaTime(now)),
                });
                recover(&counts, Some(new)).into_iter().collect()
            }));
            plan.step(step);
        }
        if let Some(op) = write(&counts, None) {
            plan.op(op);
        }
        if self.min_ready_seconds > 0 && counts.ready != counts.available {
            let at = active.iter().filter_map(|p| crate::pods::available_at(p, self.min_ready_seconds));
            let fallback = now + SignedDuration::from_secs(self.min_ready_seconds.into());
            plan.wake(at.filter(|t| *t > now).min().unwrap_or(fallback));
        }
        plan
    }

    fn count(&self, active: &[Arc<Pod>], terminating: usize, now: Time) -> Counts {
        let template = self.template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
        let template = LabelSelector::from_map(&template);
        let n = |f: &dyn Fn(&Pod) -> bool| {
            i32::try_from(active.iter().filter(|p| f(p)).count()).unwrap_or(i32::MAX)
        };
        Counts {
            replicas: n(&|_| true),
            fully_labeled: n(&|p| matches(&template, &p.metadata)),
            ready: n(&is_ready),
            available: n(&|p| is_available(p, self.min_ready_seconds, now)),
            terminating: terminating.try_into().unwrap_or(i32::MAX),
        }
    }

    fn manage(&self, active: &[Arc<Pod>], now: Time) -> Step {
        let wanted = usize::try_from(self.replicas).unwrap_or(0);
        if active.len() < wanted {
            let ops = vec![self.creation(); (wanted - active.len()).min(BURST)];
            return Step { ops, mode: Mode::SlowStart, on_failure: None };
        }
        let excess = (active.len() - wanted).min(BURST);
        let mut order: Vec<&Arc<Pod>> = active.iter().collect();
        if excess < order.len() {
            let mut own = HashMap::new();
            for pod in active {
                *own.entry(node_name(pod).to_owned()).or_insert(0) += 1;
            }
            let on_node = self.related.as_ref().unwrap_or(&own);
            let rank = |p: &Pod| on_node.get(node_name(p)).copied().unwrap_or(0);
            order.sort_by(|a, b| deletion_order((a, rank(a)), (b, rank(b)), now));
        }
        let ops = order.into_iter().take(excess).map(|pod| self.deletion(pod)).collect();
        Step { ops, mode: Mode::Parallel, on_failure: None }
    }

    fn creation(&self) -> Op {
        let meta = self.object.meta();
        let template = self.template.metadata.clone().unwrap_or_default();
        let about = reference(self.object);
        let pod = Pod {
            metadata: ObjectMeta {
                namespace: meta.namespace.clone(),
                generate_name: Some(format!("{}-", meta.name.as_deref().unwrap_or(""))),
                labels: template.labels,
                annotations: template.annotations,
                finalizers: template.finalizers,
                owner_references: Some(vec![controller_ref(self.object)]),
                ..Default::default()
            },
            spec: self.template.spec.clone(),
            status: None,
        };
        Op::create(&pod)
            .then(Note::normal(about.clone(), "SuccessfulCreate", "Created pod: {name}"))
            .otherwise(Note::warning(about, "FailedCreate", "Error creating: {error}"))
    }

    fn deletion(&self, pod: &Pod) -> Op {
        let about = reference(self.object);
        let name = pod.metadata.name.as_deref().unwrap_or("");
        Op::delete(pod)
            .then(Note::normal(about.clone(), "SuccessfulDelete", format!("Deleted pod: {name}")))
            .otherwise(Note::warning(about, "FailedDelete", "Error deleting: {error}"))
    }
}

/// Pods a replica set controls, for its owner.
pub(crate) fn pods_of(set: &ReplicaSet, world: &World) -> Vec<Arc<Pod>> {
    let pods = world.pods.by_index(BY_CONTROLLER, set.metadata.uid.as_deref().unwrap_or(""));
    pods.into_iter().filter(|p| is_controlled_by(&p.metadata, &set.metadata)).collect()
}
