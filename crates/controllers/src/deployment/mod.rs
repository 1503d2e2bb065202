//! Deployments: a replica set for each pod template, scaled so that enough pods stay available.

mod conditions;
mod revision;
mod scale;
#[cfg(test)]
mod tests;

use crate::children::{claimable, owners_and_adopters};
use crate::controller::{Controller, Watches};
use crate::plan::{ALREADY_EXISTS, Mode, Note, Op, Plan, Recovery, Step};
use crate::pods;
use crate::refs::{claim, controller_of, controller_ref};
use crate::replicaset::pods_of;
use crate::template::{self, HASH_LABEL};
use crate::world::World;
use client::events::reference;
use client::{Delta, Key};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meta::{LabelSelector, Time};
use std::sync::Arc;

use conditions::Conditions;
use revision::{revision_of, set_annotations};

/// Longest name of an object, in bytes.
const MAX_NAME_BYTES: usize = 253;

pub struct Deployments;

impl Controller for Deployments {
    const NAME: &'static str = "deployment-controller";
    const QUEUE: &'static str = "deployment";

    fn watches(w: &mut Watches) {
        w.own(|w| &w.deployments)
            .on(
                |w| &w.replica_sets,
                |delta, world| owners_and_adopters(delta, &world.deployments, selector_of),
            )
            .on(|w| &w.pods, of_pod);
    }

    fn reconcile(&self, key: &Key, world: &World, now: Time) -> Plan {
        let Some(deployment) = world.deployments.get(key) else {
            return Plan::idle("the deployment is gone");
        };
        let Some(spec) = &deployment.spec else { return Plan::idle("the deployment has no spec") };
        let Ok(selector) = LabelSelector::from_object(&spec.selector) else {
            return Plan::idle("the selector is not valid");
        };
        if selector.is_everything() {
            let mut plan = Plan::idle("the selector is empty");
            plan.note(Note::warning(
                reference(&*deployment),
                "SelectingAll",
                "This deployment is selecting all pods. A non-empty selector is required.",
            ));
            let mut status = deployment.status.clone().unwrap_or_default();
            if status.observed_generation < deployment.metadata.generation {
                status.observed_generation = deployment.metadata.generation;
                plan.op(Op::replace_status(&with_status(&deployment, status)));
            }
            return plan;
        }
        let sets = claimable(&deployment.metadata, &world.replica_sets);
        let claim = claim(&*deployment, &selector, sets);
        let mut plan = Plan::default();
        for op in claim.ops {
            plan.op(op);
        }
        Rollout::new(&deployment, spec, claim.claimed, now).plan(&mut plan, world);
        plan
    }
}

fn selector_of(deployment: &Deployment) -> Option<LabelSelector> {
    let selector = LabelSelector::from_object(&deployment.spec.as_ref()?.selector).ok()?;
    (!selector.is_everything()).then_some(selector)
}

/// A pod that is gone concerns the deployment that waits for the last one before it creates anew.
fn of_pod(delta: &Delta<Pod>, world: &World) -> Vec<Key> {
    let gone = match (&delta.old, &delta.new) {
        (Some(old), None) => old,
        (Some(old), Some(new)) if pods::is_terminal(new) && !pods::is_terminal(old) => new,
        _ => return Vec::new(),
    };
    let owner = controller_of(&gone.metadata).filter(|r| r.kind == "ReplicaSet");
    let set = owner.and_then(|r| world.replica_sets.find(&delta.key.namespace, &r.name));
    let deployment = set.as_ref().and_then(|s| controller_of(&s.metadata)).filter(|r| r.kind == "Deployment");
    deployment
        .map(|r| Key { namespace: delta.key.namespace.clone(), name: r.name.as_str().into() })
        .into_iter()
        .collect()
}

fn with_status(deployment: &Deployment, status: DeploymentStatus) -> Deployment {
    Deployment { status: Some(status), ..deployment.clone() }
}

/// A replica set, as the plan changes it: written once, however many reasons there are.
struct Set {
    /// As it is in the cache, with the plan's changes.
    object: ReplicaSet,
    /// `spec.replicas` before the plan.
    was: i32,
    changed: bool,
}

impl Set {
    fn new(object: &ReplicaSet) -> Self {
        let was = object.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
        Self { object: object.clone(), was, changed: false }
    }

    /// `spec.replicas` after the plan.
    fn replicas(&self) -> i32 {
        self.object.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn name(&self) -> &str {
        self.object.metadata.name.as_deref().unwrap_or("")
    }

    fn status<T>(&self, f: impl Fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> T) -> Option<T> {
        self.object.status.as_ref().map(f)
    }

    fn available(&self) -> i32 {
        self.status(|s| s.available_replicas).flatten().unwrap_or(0)
    }

    /// Pods that exist, by the replica set's account.
    fn actual(&self) -> i32 {
        self.status(|s| s.replicas).unwrap_or(0)
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        self.object.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

/// One reconciliation of one deployment.
struct Rollout<'a> {
    deployment: &'a Deployment,
    spec: &'a DeploymentSpec,
    now: Time,
    /// The replica set of the current template, if it exists.
    new: Option<Set>,
    /// The others, oldest first.
    old: Vec<Set>,
    /// The status so far.
    status: DeploymentStatus,
    /// What the deployment's revision should be, where it is known.
    revision: Option<i64>,
}

impl<'a> Rollout<'a> {
    fn new(
        deployment: &'a Deployment,
        spec: &'a DeploymentSpec,
        mut sets: Vec<Arc<ReplicaSet>>,
        now: Time,
    ) -> Self {
        sets.sort_by(|a, b| age(a).cmp(&age(b)));
        let template = template::Normal::of(&spec.template);
        let current = sets.iter().position(|s| {
            s.spec.as_ref().and_then(|s| s.template.as_ref()).is_some_and(|t| template.same(t))
        });
        let new = current.map(|i| Set::new(&sets.remove(i)));
        let old = sets.iter().map(|s| Set::new(s)).collect();
        let status = deployment.status.clone().unwrap_or_default();
        Self { deployment, spec, now, new, old, status, revision: None }
    }

    fn plan(mut self, plan: &mut Plan, world: &World) {
        if self.deployment.metadata.deletion_timestamp.is_some() {
            plan.because("the deployment is being deleted: only its status is kept");
            return self.finish(plan, false);
        }
        self.note_pause();
        if self.spec.paused == Some(true) {
            plan.because("the deployment is paused");
            self.sync_new();
            self.scale_all();
            self.clean_up(plan);
            return self.finish(plan, false);
        }
        if self.is_scaling() {
            plan.because("the deployment was scaled");
            self.sync_new();
            self.scale_all();
            return self.finish(plan, false);
        }
        if self.is_rolling() {
            self.sync_new();
            if self.new.is_none() {
                self.create(plan);
            } else if !self.grow_new() && !self.shrink_old() && self.is_complete(&self.status) {
                self.clean_up(plan);
            }
        } else {
            self.sync_new();
            if self.stop_old() || self.old_pods_run(world) {
                plan.because("old pods run still");
            } else if self.new.is_none() {
                self.create(plan);
            } else {
                self.scale_new_fully();
                if self.is_complete(&self.status) {
                    self.clean_up(plan);
                }
            }
        }
        self.finish(plan, true);
    }

    fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    fn is_rolling(&self) -> bool {
        self.spec.strategy.as_ref().and_then(|s| s.type_.as_deref()).unwrap_or("RollingUpdate")
            == "RollingUpdate"
    }

    fn all(&self) -> impl Iterator<Item = &Set> {
        self.old.iter().chain(&self.new)
    }

    fn note_pause(&mut self) {
        if !self.has_deadline() {
            return;
        }
        let reason = self.progressing().and_then(|c| c.reason.clone()).unwrap_or_default();
        if reason == conditions::TIMED_OUT {
            return;
        }
        let paused = self.spec.paused == Some(true);
        let now = self.now;
        if paused && reason != conditions::PAUSED {
            self.status.set("Progressing", "Unknown", conditions::PAUSED, "Deployment is paused", now);
        } else if !paused && reason == conditions::PAUSED {
            self.status.set("Progressing", "Unknown", conditions::RESUMED, "Deployment is resumed", now);
        }
    }

    /// Brings the annotations of the current replica set up to date, and the deployment's revision.
    fn sync_new(&mut self) {
        let next = self.next_revision();
        let Some(new) = &mut self.new else { return };
        new.changed |= set_annotations(self.deployment, &mut new.object.metadata, next);
        if let Some(spec) = &mut new.object.spec
            && spec.min_ready_seconds.unwrap_or(0) != self.spec.min_ready_seconds.unwrap_or(0)
        {
            spec.min_ready_seconds = self.spec.min_ready_seconds;
            new.changed = true;
        }
        self.revision = Some(revision_of(&new.object));
        let message = format!("Found new replica set \"{}\"", new.name());
        if self.has_deadline() && self.progressing().is_none() {
            self.status.set("Progressing", "True", conditions::FOUND, message, self.now);
        }
    }

    fn next_revision(&self) -> i64 {
        self.old.iter().map(|s| revision_of(&s.object)).max().unwrap_or(0).max(0) + 1
    }

    /// Creates the replica set of the current template.
    fn create(&mut self, plan: &mut Plan) {
        let count = if self.is_rolling() { self.new_count(0) } else { self.replicas() };
        let next = self.next_revision();
        let set = self.new_set(count, next);
        let name = set.metadata.name.clone().unwrap_or_default();
        let failed = format!("Failed to create new replica set \"{name}\": {{error}}");
        let failed = Note::warning(reference(self.deployment), conditions::CREATE_FAILED, failed);
        let mut op = Op::create(&set).otherwise(failed);
        if count > 0 {
            let message = format!("Scaled up replica set {name} from 0 to {count}");
            op = op.then(Note::normal(reference(self.deployment), "ScalingReplicaSet", message));
        }
        plan.step(Step { ops: vec![op], mode: Mode::InOrder, on_failure: Some(self.creation_failed(&name)) });
        self.revision = Some(next);
        if self.has_deadline() {
            let message = format!("Created new replica set \"{name}\"");
            self.status.set("Progressing", "True", conditions::CREATED, message, self.now);
        }
        self.new = Some(Set { object: set, was: count, changed: false });
    }

    /// The replica set of the current template, which the template's hash tells from the others.
    fn new_set(&self, replicas: i32, revision: i64) -> ReplicaSet {
        let d = self.deployment;
        let hash = template::hash(&self.spec.template, self.status.collision_count.unwrap_or(0));
        let mut name = d.metadata.name.clone().unwrap_or_default();
        name.truncate(MAX_NAME_BYTES - hash.len() - 1);
        let mut pod_template = self.spec.template.clone();
        let labels = pod_template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(HASH_LABEL.into(), hash.clone());
        let labels = labels.clone();
        let mut selector = self.spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
        let mut metadata = ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: d.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![controller_ref(d)]),
            ..Default::default()
        };
        set_annotations(d, &mut metadata, revision);
        revision::set_sizes(&mut metadata, self.replicas(), self.replicas() + self.max_surge());
        let spec = ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: self.spec.min_ready_seconds,
            selector,
            template: Some(pod_template),
        };
        ReplicaSet { metadata, spec: Some(spec), status: None }
    }

    /// What the status says if the replica set of this name cannot be created.
    fn creation_failed(&self, name: &str) -> Recovery {
        let (deployment, mut status, now) = (self.deployment.clone(), self.status.clone(), self.now);
        let (has_deadline, name) = (self.has_deadline(), name.to_owned());
        Box::new(move |failure| {
            if failure.reason == ALREADY_EXISTS {
                // Ours would have been in the cache: another template has this hash, or somebody took the name.
                status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
            } else if has_deadline {
                let message = format!("Failed to create new replica set \"{name}\": {failure}");
                status.set("Progressing", "False", conditions::CREATE_FAILED, message, now);
            } else {
                return Vec::new();
            }
            vec![Op::replace_status(&with_status(&deployment, status))]
        })
    }

    /// Whether a pod of an old template may be running: a deployment that recreates waits for the last of them.
    fn old_pods_run(&self, world: &World) -> bool {
        self.old.iter().any(|s| s.actual() > 0)
            || self.old.iter().any(|s| pods_of(&s.object, world).iter().any(|p| !pods::is_terminal(p)))
    }

    /// Deletes the oldest replica sets beyond the history limit.
    fn clean_up(&self, plan: &mut Plan) {
        let Some(limit) = self.spec.revision_history_limit.filter(|l| *l != i32::MAX) else { return };
        let mut candidates: Vec<&Set> =
            self.old.iter().filter(|s| s.object.metadata.deletion_timestamp.is_none()).collect();
        let excess = candidates.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        candidates.sort_by_key(|s| (revision_of(&s.object), age(&s.object)));
        for set in candidates.into_iter().take(excess) {
            let observed = set.status(|s| s.observed_generation).flatten() >= set.object.metadata.generation;
            if set.actual() == 0 && set.replicas() == 0 && observed {
                plan.op(Op::delete(&set.object));
            }
        }
    }

    /// Writes the status. `rolling`: whether progress is estimated.
    fn finish(mut self, plan: &mut Plan, rolling: bool) {
        for set in self.all().filter(|s| s.changed) {
            let mut op = Op::replace(&set.object);
            let (from, to) = (set.was, set.replicas());
            if from != to {
                let direction = if from < to { "up" } else { "down" };
                let message = format!("Scaled {direction} replica set {} from {from} to {to}", set.name());
                op = op.then(Note::normal(reference(self.deployment), "ScalingReplicaSet", message));
            }
            plan.op(op);
        }
        self.count();
        if rolling {
            self.estimate_progress();
        }
        let mut new = with_status(self.deployment, self.status.clone());
        let annotated = match self.revision.map(|r| r.to_string()) {
            None => true,
            Some(r) => {
                let annotations = new.metadata.annotations.get_or_insert_default();
                annotations.insert(revision::REVISION.into(), r.clone()) == Some(r)
            }
        };
        if self.deployment.status != new.status {
            // As upstream's, the status carries the revision; where the server does not take it from there, the next
            // look writes it.
            plan.op(Op::replace_status(&new));
            return;
        }
        if rolling {
            self.wake_for_deadline(plan);
        }
        if !annotated {
            plan.op(Op::replace(&new));
        }
    }
}

fn age(set: &ReplicaSet) -> (Option<Time>, &str) {
    (set.metadata.creation_timestamp.as_ref().map(|t| t.0), set.metadata.name.as_deref().unwrap_or(""))
}
