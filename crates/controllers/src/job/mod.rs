//! Jobs: pods that run until enough of them have succeeded.
//!
//! A pod carries a finalizer until it is counted: its uid first stands in the status' `uncountedTerminatedPods`, then
//! the finalizer goes, then the uid makes way for a higher count (KEP-2307). Each plan writes the status, takes
//! finalizers off what the status now tells of, and creates pods last: what refuses a creation must not keep ended
//! pods from being counted.

mod backoff;
mod end;
mod indexed;
mod intervals;
mod metrics;
mod number;
mod policy;
#[cfg(test)]
mod tests;
mod track;
mod tracked;

pub(crate) use indexed::{FAILURES as INDEX_FAILURES, IGNORED as IGNORED_INDEX_FAILURES, INDEX};
pub use tracked::TrackedPods;

use crate::children::{claimable, owners_and_adopters};
use crate::controller::{Controller, Watches};
use crate::metrics::{Metric, Sample};
use crate::plan::{Mode, NOT_FOUND, Note, Op, Plan, Step};
use crate::pods::{is_active, phase};
use crate::refs::claim_finalized;
use crate::world::World;
use backoff::Failures;
use client::events::reference;
use client::{Delta, Key};
use end::End;
use intervals::Indexes;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time as MetaTime;
use kinds::batch::is_finished;
use meta::{LabelSelector, Time};
use metrics::Act;
use number::Numbers;
use policy::Verdict;
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// On a pod until it is counted.
const TRACKING: &str = "batch.kubernetes.io/job-tracking";
const OWN_NAME: &str = "kubernetes.io/job-controller";

/// How long changes of a job's pods are gathered before the job is looked at (upstream's syncJobBatchPeriod): many pods
/// tend to start and to end together, and each look writes the status.
const SYNC_BATCH_PERIOD: Duration = Duration::from_secs(1);
/// Pods at a time up to which nothing is gathered: who waits for a small job does not wait longer.
const SMALL: i32 = 8;

/// Remembers how often pods of each job failed in a row.
#[derive(Default)]
pub struct Jobs {
    failures: Failures,
}

impl Controller for Jobs {
    const NAME: &'static str = "job-controller";
    const QUEUE: &'static str = "job";
    const METRICS: &'static [&'static Metric] = metrics::ALL;

    fn watches(w: &mut Watches) {
        w.on_after(|delta, _, _| delay_of(delta), |w| &w.jobs, |delta, _| vec![delta.key.clone()])
            .on_after(
                |_, key, world| world.jobs.get(key).map_or(Duration::ZERO, |job| gathering(&job)),
                |w| &w.pods,
                |delta, world| owners_and_adopters(delta, &world.jobs, selector_of),
            )
            .count(|w| &w.jobs, metrics::external)
            .count(|w| &w.pods, metrics::terminated);
    }

    fn reconcile(&self, key: &Key, world: &World, now: Time) -> Plan {
        let job = world.jobs.get(key).filter(|j| !is_finished(j));
        let Some(job) = job else {
            self.failures.forget(key);
            return Plan::idle("the job is gone or finished");
        };
        let Some(spec) = job.spec.as_ref().filter(|s| !is_managed_elsewhere(s)) else {
            return Plan::idle("the job is another controller's");
        };
        if !matches!(spec.completion_mode.as_deref(), None | Some("Indexed" | "NonIndexed")) {
            let mut plan = Plan::idle("the completion mode is unknown");
            let why = "Skipped Job sync because completion mode is unknown";
            plan.note(Note::warning(reference(&*job), "UnknownCompletionMode", why));
            return plan;
        }
        let Some(selector) = selector_of(&job) else { return Plan::idle("the selector is not valid") };
        let mut plan = Plan::default();
        let claim = claim_finalized(&*job, &selector, claimable(&job.metadata, &world.pods), TRACKING);
        for op in claim.ops {
            plan.op(op);
        }
        Sync::of(&job, spec, claim.claimed, now).run(key, &self.failures, &mut plan);
        plan
    }
}

/// What changed but the status is looked at at once; a status changes with the pods, and with them it is looked at.
fn delay_of(delta: &Delta<Job>) -> Duration {
    let (Some(old), Some(new)) = (&delta.old, &delta.new) else { return Duration::ZERO };
    if old.metadata.generation == new.metadata.generation { gathering(new) } else { Duration::ZERO }
}

fn gathering(job: &Job) -> Duration {
    let at_a_time = job.spec.as_ref().and_then(|s| s.parallelism).unwrap_or(1);
    if at_a_time > SMALL { SYNC_BATCH_PERIOD } else { Duration::ZERO }
}

fn is_managed_elsewhere(spec: &JobSpec) -> bool {
    spec.managed_by.as_deref().is_some_and(|m| m != OWN_NAME)
}

fn selector_of(job: &Job) -> Option<LabelSelector> {
    LabelSelector::from_object(job.spec.as_ref()?.selector.as_ref()?).ok()
}

fn has_finalizer(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == TRACKING)
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or("")
}

/// Takes the finalizer off a pod; that it is gone already is no failure.
fn untrack(pod: &Pod) -> Op {
    let patch =
        json!({"metadata": {"uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [TRACKING]}});
    Op::strategic_patch(pod, &patch).tolerating(&[NOT_FOUND])
}

/// One reconciliation of one job.
struct Sync<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    now: Time,
    /// By completion index, where the job has indexes.
    pods: Vec<Arc<Pod>>,
    active: Vec<Arc<Pod>>,
    status: JobStatus,
    /// Uids that the status tells of and does not count yet.
    uncounted_succeeded: HashSet<String>,
    uncounted_failed: HashSet<String>,
    /// Pods that succeeded, with those that are seen for the first time.
    succeeded: i64,
    previously_succeeded: Indexes,
    succeeded_indexes: Indexes,
    failed_indexes: Indexes,
    /// Failed pods that stay until their index has a new pod, which takes over their counts.
    replaced_next: BTreeMap<i32, Arc<Pod>>,
}

impl<'a> Sync<'a> {
    fn of(job: &'a Job, spec: &'a JobSpec, mut pods: Vec<Arc<Pod>>, now: Time) -> Self {
        let status = job.status.clone().unwrap_or_default();
        if is_indexed(spec) {
            pods.sort_by_key(|p| indexed::index(p));
        }
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        Self {
            job,
            spec,
            now,
            active: pods.iter().filter(|p| is_active(p)).cloned().collect(),
            pods,
            status,
            uncounted_succeeded: uncounted.succeeded.into_iter().flatten().collect(),
            uncounted_failed: uncounted.failed.into_iter().flatten().collect(),
            succeeded: 0,
            previously_succeeded: Indexes::default(),
            succeeded_indexes: Indexes::default(),
            failed_indexes: Indexes::default(),
            replaced_next: BTreeMap::new(),
        }
    }

    fn run(mut self, key: &Key, failures: &Failures, plan: &mut Plan) {
        let mut numbers = Numbers::of(&self.active, &self.pods);
        let (failed, wait_until) = self.count(key, failures);
        let reason = metrics::reason_of_creation(self.spec, failed, numbers.terminating);
        if self.status.start_time.is_none() && !self.is_suspended() {
            self.status.start_time = Some(MetaTime(self.now));
        }
        let mut end = self.told_or_failed(failed, plan);
        if is_indexed(self.spec) {
            self.look_at_indexes();
            end = end.or_else(|| self.end_of_indexes());
        }
        let (mut act, mut create, mut news) = (Act::Reconciling, Vec::new(), None);
        if end.is_some() {
            self.end_active(&mut numbers, plan);
        } else {
            let lives = self.job.metadata.deletion_timestamp.is_none();
            if lives {
                (act, create) = self.manage_pods(wait_until, &mut numbers, plan);
            }
            end = self.completion(numbers.active);
            if lives && end.is_none() {
                news = self.set_suspended();
            }
        }
        numbers.write(&mut self.status);
        let counted = self.track(end.as_ref());
        let finished = self.finish(end.as_ref(), &counted, plan);
        let sample = end.filter(|_| finished.is_some()).map(|end| metrics::finished(self.spec, &end));
        self.write(finished.or(news), sample, plan);
        if !counted.untrack.is_empty() {
            // What has no finalizer any more is counted at once.
            plan.wake(self.now);
        }
        plan.step(Step { ops: counted.untrack, mode: Mode::Parallel, on_failure: None });
        let ops: Vec<Op> = create.into_iter().map(|index| self.creation(index, reason)).collect();
        if !ops.is_empty() {
            plan.because(format!("{} pods run, {} more are wanted", numbers.active, ops.len()));
        }
        plan.step(Step { ops, mode: Mode::SlowStart, on_failure: None });
        plan.measure = Some(metrics::synced(self.spec, act));
    }

    fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    /// Takes in the pods that ended since the status was written: how many have failed by now, and until when new ones
    /// must wait for it.
    fn count(&mut self, key: &Key, failures: &Failures) -> (i64, Option<Time>) {
        let new_succeeded = self.uncounted(&self.uncounted_succeeded, |p| phase(p) == "Succeeded");
        let new_failed = self.uncounted(&self.uncounted_failed, |p| self.is_failed(p));
        let counting = new_failed.iter().filter(|p| policy::of_failure(self.spec, p) != Verdict::Ignore);
        let n = |told: Option<i32>, more: usize| {
            i64::from(told.unwrap_or(0)).saturating_add(i64::try_from(more).unwrap_or(i64::MAX))
        };
        let failed = n(self.status.failed, counting.count() + self.uncounted_failed.len());
        let succeeded = n(self.status.succeeded, new_succeeded.len() + self.uncounted_succeeded.len());
        let wait_until = failures.count(key, self.job.metadata.uid.as_ref(), &new_succeeded, &new_failed);
        self.succeeded = succeeded;
        (failed, wait_until)
    }

    /// Ended pods that the status does not tell of yet.
    fn uncounted(&self, told: &HashSet<String>, is: impl Fn(&Pod) -> bool) -> Vec<&Arc<Pod>> {
        let valid = |p: &Pod| {
            has_finalizer(p) && !told.contains(uid(p)) && (!is_indexed(self.spec) || self.index(p).is_some())
        };
        self.pods.iter().filter(|p| valid(p) && is(p)).collect()
    }

    /// The completion index, where the job has it.
    fn index(&self, pod: &Pod) -> Option<i32> {
        indexed::index(pod).filter(|i| *i < self.spec.completions.unwrap_or(0))
    }

    fn only_replaces_failed(&self) -> bool {
        self.spec.pod_replacement_policy.as_deref() == Some("Failed")
            || self.spec.pod_failure_policy.is_some()
    }

    /// A deleted pod may never get to say that it failed.
    fn is_failed(&self, pod: &Pod) -> bool {
        let gone = pod.metadata.deletion_timestamp.is_some() && phase(pod) != "Succeeded";
        phase(pod) == "Failed" || gone && !self.only_replaces_failed()
    }

    /// The status, where it says something new: with the event that tells of it, and what is counted then.
    fn write(&self, news: Option<Note>, sample: Option<Sample>, plan: &mut Plan) {
        let mut status = self.status.clone();
        if status.conditions.as_ref().is_some_and(Vec::is_empty) {
            status.conditions = None;
        }
        if self.job.status.as_ref() == Some(&status) {
            return;
        }
        let before = self.job.status.clone().unwrap_or_default();
        let mut op = Op::replace_status(&Job { status: Some(status), ..self.job.clone() });
        op.counts.extend(sample);
        op.counts.extend(metrics::counted(self.spec, &before, &self.status));
        op.then = news;
        plan.op(op);
    }
}

fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}
