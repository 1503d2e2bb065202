//! StatefulSets: members with a name, a place in the order and storage of their own.

mod claims;
mod identity;
mod members;
mod revisions;
#[cfg(test)]
mod tests;

use crate::children::{claimable, owners_and_adopters, positive};
use crate::controller::{Controller, Watches};
use crate::history::{self, HASH_LABEL};
use crate::plan::{Note, Op, Plan, Step};
use crate::pods::{is_available, is_ready, next_available, phase};
use crate::refs::{claim, claim_where, matches};
use crate::world::World;
use client::events::reference;
use client::{Delta, Key};
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetSpec, StatefulSetStatus, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use meta::{LabelSelector, Time};
use std::sync::Arc;

use members::{Member, Work};
use revisions::Revision;

pub struct StatefulSets;

impl Controller for StatefulSets {
    const NAME: &'static str = "statefulset-controller";
    const QUEUE: &'static str = "statefulset";

    fn watches(w: &mut Watches) {
        w.own(|w| &w.stateful_sets)
            .on(|w| &w.pods, |delta, world| owners_and_adopters(delta, &world.stateful_sets, selector_of))
            .on(|w| &w.claims, of_claim)
            .reads(|w| &w.controller_revisions);
    }

    fn reconcile(&self, key: &Key, world: &World, now: Time) -> Plan {
        let Some(set) = world.stateful_sets.get(key) else { return Plan::idle("the stateful set is gone") };
        let Some(spec) = &set.spec else { return Plan::idle("the stateful set has no spec") };
        let Some(selector) = selector_of(&set) else { return Plan::idle("the selector is not valid") };
        let mut plan = Plan::default();
        let mut known = claimable(&set.metadata, &world.controller_revisions);
        known.retain(|r| matches(&selector, &r.metadata));
        let mut known = claim(&*set, &selector, known);
        let selected = |m: &_| matches(&selector, m) && identity::is_member(&set, m);
        let pods = claim_where(&*set, selected, claimable(&set.metadata, &world.pods));
        for op in known.ops.drain(..).chain(pods.ops) {
            plan.op(op);
        }
        history::sort(&mut known.claimed);
        let (current, update) = revisions::choose(&set, spec, &known.claimed, &mut plan);
        let members = Members { set: &set, spec, world, now, current: &current, update: &update };
        let mut status = members.status(&pods.claimed);
        if set.metadata.deletion_timestamp.is_none() {
            members.plan(&pods.claimed, &mut status, &mut plan);
        }
        members.complete(&mut status);
        if is_news(set.status.as_ref(), &status) {
            plan.op(Op::replace_status(&with_status(&set, status.clone())));
        }
        let mut live = history::labelled(&pods.claimed, HASH_LABEL);
        live.extend([current.name.as_str(), update.name.as_str()]);
        revisions::clean_up(spec, &known.claimed, &live, &mut plan);
        plan.wake_at = next_available(&pods.claimed, members.min_ready_seconds(), now);
        plan
    }
}

fn selector_of(set: &StatefulSet) -> Option<LabelSelector> {
    let selector = LabelSelector::from_object(&set.spec.as_ref()?.selector).ok()?;
    (!selector.is_everything()).then_some(selector)
}

/// A claim that is gone concerns the set whose member may be waiting to have it anew.
fn of_claim(delta: &Delta<PersistentVolumeClaim>, world: &World) -> Vec<Key> {
    if delta.new.is_some() {
        return Vec::new();
    }
    let Some((rest, _)) = identity::parse(&delta.key.name) else { return Vec::new() };
    let is_template = |set: &StatefulSet| {
        let templates = set.spec.iter().flat_map(|s| s.volume_claim_templates.iter().flatten());
        let names = templates.filter_map(|t| t.metadata.name.as_deref());
        let set = set.metadata.name.as_deref().unwrap_or("");
        names.into_iter().any(|t| rest.strip_prefix(t).and_then(|r| r.strip_prefix('-')) == Some(set))
    };
    let sets = world.stateful_sets.by_namespace(&delta.key.namespace);
    sets.iter().filter(|s| is_template(s)).map(|s| Key::of(&**s)).collect()
}

fn with_status(set: &StatefulSet, status: StatefulSetStatus) -> StatefulSet {
    StatefulSet { status: Some(status), ..set.clone() }
}

/// Whether a status says other than the one before, where absent and 0 are the same.
fn is_news(old: Option<&StatefulSetStatus>, new: &StatefulSetStatus) -> bool {
    let said = |s: &StatefulSetStatus| {
        let counts = [s.ready_replicas, s.available_replicas, s.current_replicas, s.updated_replicas];
        (
            s.observed_generation,
            s.replicas,
            counts.map(|c| c.unwrap_or(0)),
            s.current_revision.clone(),
            s.update_revision.clone(),
        )
    };
    old.map(said) != Some(said(new))
}

/// One reconciliation of one set.
struct Members<'a> {
    set: &'a StatefulSet,
    spec: &'a StatefulSetSpec,
    world: &'a World,
    now: Time,
    current: &'a Revision,
    update: &'a Revision,
}

impl Members<'_> {
    fn min_ready_seconds(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }

    fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    /// The first ordinal.
    fn start(&self) -> i32 {
        self.spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0)
    }

    fn in_range(&self, ordinal: i32) -> bool {
        ordinal >= self.start() && ordinal < self.start().saturating_add(self.replicas())
    }

    /// Whether members come and go one after the other.
    fn is_ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn strategy(&self) -> StatefulSetUpdateStrategy {
        self.spec.update_strategy.clone().unwrap_or_default()
    }

    fn is_rolling(&self) -> bool {
        self.strategy().type_.as_deref().unwrap_or("RollingUpdate") == "RollingUpdate"
    }

    fn is_available(&self, pod: &Pod) -> bool {
        is_available(pod, self.min_ready_seconds(), self.now)
    }

    fn status(&self, pods: &[Arc<Pod>]) -> StatefulSetStatus {
        let old = self.set.status.clone().unwrap_or_default();
        let n = |f: &dyn Fn(&Pod) -> bool| {
            i32::try_from(pods.iter().filter(|p| f(p)).count()).unwrap_or(i32::MAX)
        };
        let is_of = |p: &Pod, r: &Revision| {
            p.metadata.deletion_timestamp.is_none() && history::label(&p.metadata, HASH_LABEL) == r.name
        };
        let serves = |p: &Pod| phase(p) == "Running" && is_ready(p);
        StatefulSetStatus {
            observed_generation: self.set.metadata.generation,
            replicas: n(&|_| true),
            ready_replicas: positive(n(&serves)),
            available_replicas: Some(n(&|p| serves(p) && self.is_available(p))),
            current_replicas: positive(n(&|p| is_of(p, self.current))),
            updated_replicas: positive(n(&|p| is_of(p, self.update))),
            current_revision: Some(self.current.name.clone()),
            update_revision: Some(self.update.name.clone()),
            collision_count: Some(old.collision_count.unwrap_or(0)),
            conditions: old.conditions,
        }
    }

    /// Once every member is of the new revision and ready, that is the current one.
    fn complete(&self, status: &mut StatefulSetStatus) {
        let wanted = self.replicas();
        let all = [status.updated_replicas, status.ready_replicas, Some(status.replicas)];
        if self.is_rolling() && all.into_iter().all(|n| n.unwrap_or(0) == wanted) {
            status.current_replicas = status.updated_replicas;
            status.current_revision.clone_from(&status.update_revision);
        }
    }

    fn plan(&self, pods: &[Arc<Pod>], status: &mut StatefulSetStatus, plan: &mut Plan) {
        let mut work = Work::default();
        self.work(pods, status, &mut work, plan);
        let written = is_news(self.set.status.as_ref(), status)
            .then(|| Op::replace_status(&with_status(self.set, status.clone())));
        for (ops, mode) in work.steps() {
            let written = written.clone();
            let on_failure: crate::plan::Recovery = Box::new(move |_| written.into_iter().collect());
            plan.step(Step { ops, mode, on_failure: Some(on_failure) });
        }
        plan.retry = work.retry;
    }

    fn note(&self, kind: &'static str, reason: &'static str, message: String) -> Note {
        Note { about: reference(self.set), kind, reason, message }
    }

    fn name(&self) -> &str {
        self.set.metadata.name.as_deref().unwrap_or("")
    }

    fn member(&self, ordinal: i32) -> Member {
        let strategy = self.strategy();
        let old = match strategy.rolling_update {
            Some(r) => r.partition.unwrap_or(0),
            None if self.is_rolling() => {
                self.set.status.as_ref().and_then(|s| s.current_replicas).unwrap_or(0)
            }
            None => 0,
        };
        let revision = if ordinal < self.start().saturating_add(old) { self.current } else { self.update };
        let pod = identity::member(self.set, &revision.template, &revision.name, ordinal);
        Member { pod: Arc::new(pod), ordinal, exists: false }
    }
}
