//! PodDisruptionBudgets: how many of their pods may be evicted now, and how many there should be.

mod owners;
mod stale;
#[cfg(test)]
mod tests;

pub use stale::StaleDisruptions;

use crate::children::scaled;
use crate::controller::{Controller, Watches};
use crate::plan::{Note, Op, Plan};
use crate::pods::is_ready;
use crate::refs::matches;
use crate::world::World;
use client::events::reference;
use client::{Delta, Key};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time as MetaTime};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::SignedDuration;
use kinds::pod_disruption_budget::{DISRUPTION_ALLOWED, set_disruption_allowed};
use meta::{LabelSelector, Time};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How long an evicted pod may take until it is seen to go; after that the eviction has failed (upstream's
/// DeletionTimeout).
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);

/// The component under whose name upstream records these events.
pub const EVENTS_FROM: &str = "controllermanager";

pub struct Disruptions;

impl Controller for Disruptions {
    const NAME: &'static str = "disruption-controller";
    const QUEUE: &'static str = "disruption";

    fn watches(w: &mut Watches) {
        w.own(|w| &w.budgets)
            .on(
                |w| &w.pods,
                |delta, world| {
                    let metas = [&delta.old, &delta.new].into_iter().flatten().map(|p| &p.metadata);
                    selecting(world, &delta.key.namespace, metas)
                },
            )
            .on(
                |w| &w.replica_sets,
                |d, w| {
                    of_owner(d, w, |o| o.spec.as_ref().and_then(|s| Some((s.replicas, s.template.as_ref()?))))
                },
            )
            .on(
                |w| &w.replication_controllers,
                |d, w| {
                    of_owner(d, w, |o| o.spec.as_ref().and_then(|s| Some((s.replicas, s.template.as_ref()?))))
                },
            )
            .on(
                |w| &w.deployments,
                |d, w| of_owner(d, w, |o| o.spec.as_ref().map(|s| (s.replicas, &s.template))),
            )
            .on(
                |w| &w.stateful_sets,
                |d, w| of_owner(d, w, |o| o.spec.as_ref().map(|s| (s.replicas, &s.template))),
            );
    }

    fn reconcile(&self, key: &Key, world: &World, now: Time) -> Plan {
        let Some(budget) = world.budgets.get(key) else { return Plan::idle("the budget is gone") };
        let mut plan = Plan::default();
        let pods = pods_of(&budget, world);
        if pods.is_empty() {
            plan.note(Note::normal(reference(&*budget), "NoPods", "No matching pods found"));
        }
        tell_of_others(&budget, &pods, world, &mut plan);
        let wanted = match wanted(&budget, &pods, world) {
            Ok(wanted) => wanted,
            Err(why) => {
                let message = format!("Failed to calculate the number of expected pods: {why}");
                plan.note(Note::warning(reference(&*budget), "CalculateExpectedPodCountFailed", message));
                write(&budget, failed(&budget, why, now), &mut plan);
                return plan;
            }
        };
        if wanted.unmanaged {
            plan.note(Note::warning(reference(&*budget), "UnmanagedPods", unmanaged(&budget)));
        }
        let disrupted = disrupted(&budget, &pods, now, &mut plan);
        let healthy = |p: &&Arc<Pod>| {
            let leaving = p.metadata.name.as_ref().is_some_and(|n| disrupted.contains_key(n));
            p.metadata.deletion_timestamp.is_none() && !leaving && is_ready(p)
        };
        let healthy = count(pods.iter().filter(healthy).count());
        let spare = if wanted.expected <= 0 { 0 } else { (healthy - wanted.healthy).max(0) };
        let mut status = PodDisruptionBudgetStatus {
            conditions: budget.status.as_ref().and_then(|s| s.conditions.clone()),
            current_healthy: Some(healthy),
            desired_healthy: Some(wanted.healthy),
            expected_pods: Some(wanted.expected),
            disruptions_allowed: Some(spare),
            disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
            observed_generation: budget.metadata.generation,
        };
        set_disruption_allowed(&mut status, now);
        write(&budget, status, &mut plan);
        plan
    }
}

fn count(n: usize) -> i32 {
    n.try_into().unwrap_or(i32::MAX)
}

/// None where it selects nothing. An empty selector selects every pod.
fn selector_of(budget: &PodDisruptionBudget) -> Option<LabelSelector> {
    LabelSelector::from_object(budget.spec.as_ref()?.selector.as_ref()?).ok()
}

fn selects(budget: &PodDisruptionBudget, meta: &ObjectMeta) -> bool {
    selector_of(budget).is_some_and(|s| matches(&s, meta))
}

/// The budgets of a namespace that select one of these.
fn selecting<'a>(world: &World, namespace: &str, metas: impl Iterator<Item = &'a ObjectMeta>) -> Vec<Key> {
    let metas: Vec<&ObjectMeta> = metas.collect();
    let budgets = world.budgets.by_namespace(namespace);
    let concerned = budgets.iter().filter(|b| metas.iter().any(|m| selects(b, m)));
    concerned.map(|b| Key::of(&**b)).collect()
}

/// How many pods a workload wants, and of what template.
type Size<'a> = (Option<i32>, &'a PodTemplateSpec);

/// The budgets that a workload's new size concerns: its pods may be known before it is.
fn of_owner<K>(delta: &Delta<K>, world: &World, size: fn(&K) -> Option<Size<'_>>) -> Vec<Key> {
    let replicas = |o: &Option<Arc<K>>| o.as_ref().and_then(|o| size(o)).map(|(n, _)| n);
    if replicas(&delta.old) == replicas(&delta.new) {
        return Vec::new();
    }
    let owner = delta.new.as_ref().or(delta.old.as_ref());
    let Some((_, template)) = owner.and_then(|o| size(o)) else { return Vec::new() };
    selecting(world, &delta.key.namespace, template.metadata.iter())
}

fn pods_of(budget: &PodDisruptionBudget, world: &World) -> Vec<Arc<Pod>> {
    let Some(selector) = selector_of(budget) else { return Vec::new() };
    let mut pods = world.pods.by_namespace(budget.metadata.namespace.as_deref().unwrap_or(""));
    pods.retain(|p| matches(&selector, &p.metadata));
    pods
}

/// Pods that several budgets select cannot be evicted at all: the first of the budgets tells of it.
fn tell_of_others(budget: &PodDisruptionBudget, pods: &[Arc<Pod>], world: &World, plan: &mut Plan) {
    let namespace = budget.metadata.namespace.as_deref().unwrap_or("");
    let mut others = world.budgets.by_namespace(namespace);
    others.retain(|b| b.metadata.uid != budget.metadata.uid);
    for pod in pods {
        let mut names = others.iter().filter(|b| selects(b, &pod.metadata)).map(|b| &b.metadata.name);
        let first = names.clone().next().is_some() && names.all(|n| *n > budget.metadata.name);
        if first {
            let message = format!(
                "Pod {namespace:?}/{:?} matches multiple PodDisruptionBudgets.  Chose {:?} arbitrarily.",
                pod.metadata.name.as_deref().unwrap_or(""),
                budget.metadata.name.as_deref().unwrap_or(""),
            );
            plan.note(Note::warning(reference(&**pod), "MultiplePodDisruptionBudgets", message));
        }
    }
}

/// What a budget asks for.
struct Wanted {
    expected: i32,
    healthy: i32,
    /// Some of the pods have no controller that could say how many there should be.
    unmanaged: bool,
}

fn wanted(budget: &PodDisruptionBudget, pods: &[Arc<Pod>], world: &World) -> Result<Wanted, String> {
    let spec = budget.spec.as_ref();
    let (most_unavailable, least_available) =
        spec.map_or((None, None), |s| (s.max_unavailable.as_ref(), s.min_available.as_ref()));
    if let Some(most) = most_unavailable {
        let (expected, unmanaged) = owners::scale(pods, world)?;
        let healthy = (expected - scaled(Some(most), expected, true)).max(0);
        return Ok(Wanted { expected, healthy, unmanaged });
    }
    match least_available {
        None => Ok(Wanted { expected: 0, healthy: 0, unmanaged: false }),
        Some(IntOrString::Int(n)) => {
            Ok(Wanted { expected: count(pods.len()), healthy: *n, unmanaged: false })
        }
        Some(share) => {
            let (expected, unmanaged) = owners::scale(pods, world)?;
            Ok(Wanted { expected, healthy: scaled(Some(share), expected, true), unmanaged })
        }
    }
}

/// The evictions that are still awaited. An evicted pod that stays is told of.
fn disrupted(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    now: Time,
    plan: &mut Plan,
) -> BTreeMap<String, MetaTime> {
    let before = budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref());
    let mut awaited = BTreeMap::new();
    let Some(before) = before else { return awaited };
    for pod in pods.iter().filter(|p| p.metadata.deletion_timestamp.is_none()) {
        let name = pod.metadata.name.as_deref().unwrap_or("");
        let Some(since) = before.get(name) else { continue };
        let until = since.0 + DELETION_TIMEOUT;
        if until <= now {
            let message = format!("Pod was expected by PDB {} to be deleted but it wasn't", Key::of(budget));
            plan.note(Note::warning(reference(&**pod), "NotDeleted", message));
        } else {
            plan.wake(until);
            awaited.insert(name.to_owned(), since.clone());
        }
    }
    awaited
}

/// The status where the pods cannot be counted: nothing may be evicted.
fn failed(budget: &PodDisruptionBudget, why: String, now: Time) -> PodDisruptionBudgetStatus {
    let mut status = budget.status.clone().unwrap_or_default();
    status.disruptions_allowed = Some(0);
    let condition = Condition {
        type_: DISRUPTION_ALLOWED.into(),
        status: "False".into(),
        reason: "SyncFailed".into(),
        message: why,
        observed_generation: status.observed_generation,
        last_transition_time: MetaTime(now),
    };
    meta::conditions::set(status.conditions.get_or_insert_default(), condition, now);
    status
}

/// Writes the status where it says something new.
fn write(budget: &PodDisruptionBudget, status: PodDisruptionBudgetStatus, plan: &mut Plan) {
    let same = budget.status.as_ref().is_some_and(|old| {
        let mut old = old.clone();
        let empty = old.disrupted_pods.as_ref().is_some_and(BTreeMap::is_empty);
        old.disrupted_pods = old.disrupted_pods.filter(|_| !empty);
        old == status
    });
    if same {
        plan.because("the status says so already");
    } else {
        plan.op(Op::replace_status(&PodDisruptionBudget { status: Some(status), ..budget.clone() }));
    }
}

/// The selector stands in the message as Go prints one.
fn unmanaged(budget: &PodDisruptionBudget) -> String {
    let selector = budget.spec.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default();
    let labels = selector.match_labels.iter().flatten().map(|(k, v)| format!("{k}: {v},"));
    let expressions = selector.match_expressions.iter().flatten().map(|e| {
        let values = e.values.as_deref().unwrap_or_default().join(" ");
        format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},", e.key, e.operator)
    });
    format!(
        "Pods selected by this PodDisruptionBudget (selector: &LabelSelector{{MatchLabels:map[string]string{{{}}},\
         MatchExpressions:[]LabelSelectorRequirement{{{}}},}}) were found to be unmanaged. As a result, the status of the \
         PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \
         \".spec.minAvailable\" field of the PDB to an integer value.",
        labels.collect::<String>(),
        expressions.collect::<String>(),
    )
}
