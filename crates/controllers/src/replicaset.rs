//! ReplicaSets and ReplicationControllers: as many pods as asked for.

use crate::children::{claimable, creation, deletion, owners_and_adopters, pod_from, positive};
use crate::controller::{Controller, Watches};
use crate::plan::{Mode, Op, Plan, Step};
use crate::pods::{deletion_order, is_active, is_available, is_ready, is_terminating, node_name};
use crate::refs::{claim, controller_of, is_controlled_by, matches};
use crate::world::{BY_CONTROLLER, World};
use client::Key;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    Pod, PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time as MetaTime;
use kube::Resource;
use meta::{LabelSelector, Time};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;

/// Pods created or deleted in one plan at most (upstream's BurstReplicas).
const BURST: usize = 500;
const FAILURE: &str = "ReplicaFailure";

pub struct ReplicaSets;

impl Controller for ReplicaSets {
    const NAME: &'static str = "replicaset-controller";
    const QUEUE: &'static str = "replicaset";

    fn watches(w: &mut Watches) {
        w.own(|w| &w.replica_sets).on(
            |w| &w.pods,
            |delta, world| owners_and_adopters(delta, &world.replica_sets, ReplicaSet::selector),
        );
    }

    fn reconcile(&self, key: &Key, world: &World, now: Time) -> Plan {
        let Some(set) = world.replica_sets.get(key) else { return Plan::idle("the replica set is gone") };
        let related = related(&set, world);
        plan(&*set, related, world, now)
    }
}

pub struct ReplicationControllers;

impl Controller for ReplicationControllers {
    const NAME: &'static str = "replicationcontroller-controller";
    const QUEUE: &'static str = "replicationmanager";

    fn watches(w: &mut Watches) {
        w.own(|w| &w.replication_controllers).on(
            |w| &w.pods,
            |delta, world| {
                owners_and_adopters(delta, &world.replication_controllers, ReplicationController::selector)
            },
        );
    }

    fn reconcile(&self, key: &Key, world: &World, now: Time) -> Plan {
        let Some(rc) = world.replication_controllers.get(key) else {
            return Plan::idle("the replication controller is gone");
        };
        plan(&*rc, None, world, now)
    }
}

/// What replica sets and replication controllers have in common.
trait Replicated: Resource<DynamicType = ()> + Serialize + Clone + Send + 'static {
    /// None where it selects nothing, or is not valid.
    fn selector(&self) -> Option<LabelSelector>;

    /// Replicas, minReadySeconds and the template.
    fn wanted(&self) -> Option<(i32, i32, PodTemplateSpec)>;

    /// The condition ReplicaFailure.
    fn failure(&self) -> Option<Failing>;

    /// The object with these counts and this failure; None where its status says so already.
    fn with_status(&self, counts: &Counts, failure: Option<Failing>) -> Option<Self>;
}

macro_rules! replicated {
    ($kind:ident, $status:ident, $condition:ident, $selector:expr, |$counts:ident| { $($field:ident: $value:expr)? }) => {
        impl Replicated for $kind {
            fn selector(&self) -> Option<LabelSelector> {
                $selector(self)
            }

            fn wanted(&self) -> Option<(i32, i32, PodTemplateSpec)> {
                let spec = self.spec.as_ref()?;
                let template = spec.template.clone().unwrap_or_default();
                Some((spec.replicas.unwrap_or(1), spec.min_ready_seconds.unwrap_or(0), template))
            }

            fn failure(&self) -> Option<Failing> {
                let c = self.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == FAILURE)?;
                Some(Failing {
                    status: c.status.clone(),
                    reason: c.reason.clone(),
                    message: c.message.clone(),
                    since: c.last_transition_time.clone(),
                })
            }

            fn with_status(&self, $counts: &Counts, failure: Option<Failing>) -> Option<Self> {
                let was = self.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
                let others = was.into_iter().filter(|c| c.type_ != FAILURE);
                let failure = failure.map(|f| $condition {
                    type_: FAILURE.into(),
                    status: f.status,
                    reason: f.reason,
                    message: f.message,
                    last_transition_time: f.since,
                });
                let conditions: Vec<_> = others.chain(failure).collect();
                let status = $status {
                    replicas: $counts.replicas,
                    fully_labeled_replicas: positive($counts.fully_labeled),
                    ready_replicas: positive($counts.ready),
                    available_replicas: positive($counts.available),
                    observed_generation: self.metadata.generation,
                    conditions: (!conditions.is_empty()).then_some(conditions),
                    $($field: $value,)?
                };
                (self.status.as_ref() != Some(&status)).then(|| Self { status: Some(status), ..self.clone() })
            }
        }
    };
}

replicated!(ReplicaSet, ReplicaSetStatus, ReplicaSetCondition, selector_of_set, |counts| {
    terminating_replicas: Some(counts.terminating)
});
replicated!(
    ReplicationController,
    ReplicationControllerStatus,
    ReplicationControllerCondition,
    |rc: &ReplicationController| {
        let map = rc.spec.as_ref()?.selector.as_ref()?;
        (!map.is_empty()).then(|| LabelSelector::from_map(map))
    },
    |counts| {}
);

fn selector_of_set(set: &ReplicaSet) -> Option<LabelSelector> {
    let selector = LabelSelector::from_object(&set.spec.as_ref()?.selector).ok()?;
    (!selector.is_everything()).then_some(selector)
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

/// The condition ReplicaFailure.
#[derive(Clone, Debug, PartialEq)]
struct Failing {
    status: String,
    reason: Option<String>,
    message: Option<String>,
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

struct Owner<'a, O> {
    object: &'a O,
    replicas: i32,
    min_ready_seconds: i32,
    template: PodTemplateSpec,
    related: Option<HashMap<String, usize>>,
}

fn plan<O: Replicated>(
    object: &O,
    related: Option<HashMap<String, usize>>,
    world: &World,
    now: Time,
) -> Plan {
    let (Some((replicas, min_ready_seconds, template)), Some(selector)) =
        (object.wanted(), object.selector())
    else {
        return Plan::idle("there is no valid selector");
    };
    let meta = object.meta();
    let mut pods = claimable(meta, &world.pods);
    let terminating = pods.iter().filter(|p| {
        is_controlled_by(&p.metadata, meta) && is_terminating(p) && matches(&selector, &p.metadata)
    });
    let terminating = terminating.count();
    pods.retain(|p| is_active(p));
    let claim = claim(object, &selector, pods);
    let active = claim.claimed;

    let mut plan = Plan::default();
    for op in claim.ops {
        plan.op(op);
    }
    let owner = Owner { object, replicas, min_ready_seconds, template, related };
    let counts = owner.count(&active, terminating, now);
    if meta.deletion_timestamp.is_none() {
        let mut step = owner.manage(&active, now);
        if !step.ops.is_empty() {
            plan.because(format!("{} pods, {replicas} wanted", active.len()));
        }
        let reason = if step.mode == Mode::SlowStart { "FailedCreate" } else { "FailedDelete" };
        let object = object.clone();
        step.on_failure = Some(Box::new(move |f| {
            let failing = object.failure().unwrap_or_else(|| Failing {
                status: "True".into(),
                reason: Some(reason.into()),
                message: Some(f.to_string()),
                since: Some(MetaTime(now)),
            });
            object.with_status(&counts, Some(failing)).iter().map(Op::replace_status).collect()
        }));
        plan.step(step);
    }
    if let Some(new) = object.with_status(&counts, None) {
        plan.op(Op::replace_status(&new));
    }
    plan.wake_at = crate::pods::next_available(&active, min_ready_seconds, now);
    plan
}

impl<O: Replicated> Owner<'_, O> {
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
            let ops = vec![
                creation(self.object, &pod_from(self.object, &self.template));
                (wanted - active.len()).min(BURST)
            ];
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
        let ops = order.into_iter().take(excess).map(|pod| deletion(self.object, pod)).collect();
        Step { ops, mode: Mode::Parallel, on_failure: None }
    }
}

/// Pods a replica set controls, for its owner.
pub(crate) fn pods_of(set: &ReplicaSet, world: &World) -> Vec<Arc<Pod>> {
    let pods = world.pods.by_index(BY_CONTROLLER, set.metadata.uid.as_deref().unwrap_or(""));
    pods.into_iter().filter(|p| is_controlled_by(&p.metadata, &set.metadata)).collect()
}
