//! Jobs: pods that run until enough of them have succeeded.
//!
//! A pod carries a finalizer until it is counted: its uid first stands in the status' `uncountedTerminatedPods`, then
//! the finalizer goes, then the uid makes way for a higher count (KEP-2307). Each plan writes the status, takes
//! finalizers off what the status now tells of, and creates pods last: what refuses a creation must not keep ended
//! pods from being counted.

mod backoff;
mod indexed;
mod intervals;
mod metrics;
mod policy;
#[cfg(test)]
mod tests;
mod track;
mod tracked;

pub(crate) use indexed::{FAILURES as INDEX_FAILURES, IGNORED as IGNORED_INDEX_FAILURES, INDEX};
pub use tracked::TrackedPods;

use crate::children::{claimable, deletion, owners_and_adopters, positive};
use crate::controller::{Controller, Watches};
use crate::metrics::{Metric, Sample};
use crate::plan::{Mode, NOT_FOUND, Note, Op, Plan, Step};
use crate::pods::{deletion_order, is_active, is_ready, is_terminating, phase};
use crate::refs::claim_finalized;
use crate::world::World;
use backoff::Failures;
use client::events::reference;
use client::{Delta, Key};
use intervals::Indexes;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time as MetaTime;
use k8s_openapi::jiff::SignedDuration;
use kinds::batch::{is_finished, is_true};
use meta::{LabelSelector, Time};
use metrics::Act;
use policy::Verdict;
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// On a pod until it is counted.
const TRACKING: &str = "batch.kubernetes.io/job-tracking";
const OWN_NAME: &str = "kubernetes.io/job-controller";
/// Pods created or deleted in one plan at most (upstream's MaxPodCreateDeletePerSync).
const BURST: usize = 500;

/// How long changes of pods are gathered before their job is looked at (upstream's syncJobBatchPeriod): the pods of a job
/// tend to start and to end together, and each look writes the status.
const SYNC_BATCH_PERIOD: Duration = Duration::from_secs(1);

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
        w.on_after(delay_of, |w| &w.jobs, |delta, _| vec![delta.key.clone()])
            .on_after(
                |_| SYNC_BATCH_PERIOD,
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
    if old.metadata.generation == new.metadata.generation { SYNC_BATCH_PERIOD } else { Duration::ZERO }
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

/// What a job comes to.
#[derive(Clone, Debug, PartialEq)]
struct End {
    success: bool,
    reason: String,
    message: String,
}

impl End {
    fn failure(reason: &str, message: impl Into<String>) -> Self {
        Self { success: false, reason: reason.into(), message: message.into() }
    }

    fn success(reason: &str, message: impl Into<String>) -> Self {
        Self { success: true, reason: reason.into(), message: message.into() }
    }

    /// What a condition said that was written before the pods were counted.
    fn told(conditions: &[JobCondition]) -> Option<Self> {
        let find = |kind| conditions.iter().find(|c| c.type_ == kind && c.status == "True");
        let of = |c: &JobCondition, success| Self {
            success,
            reason: c.reason.clone().unwrap_or_default(),
            message: c.message.clone().unwrap_or_default(),
        };
        find("SuccessCriteriaMet")
            .map(|c| of(c, true))
            .or_else(|| find("FailureTarget").map(|c| of(c, false)))
    }

    /// The condition before the pods are counted, and the one after.
    fn conditions(&self) -> [&'static str; 2] {
        if self.success { ["SuccessCriteriaMet", "Complete"] } else { ["FailureTarget", "Failed"] }
    }
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

/// How many pods there are, as the status says it.
struct Numbers {
    active: usize,
    ready: usize,
    terminating: usize,
}

impl Numbers {
    fn of(active: &[Arc<Pod>], all: &[Arc<Pod>]) -> Self {
        Self {
            active: active.len(),
            ready: active.iter().filter(|p| is_ready(p)).count(),
            terminating: all.iter().filter(|p| is_terminating(p)).count(),
        }
    }

    /// Active pods are deleted.
    fn leave(&mut self, pods: &[Arc<Pod>]) {
        self.active -= pods.len();
        self.ready -= pods.iter().filter(|p| is_ready(p)).count();
        self.terminating += pods.len();
    }

    fn write(&self, status: &mut JobStatus) {
        let n = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        status.active = positive(n(self.active));
        status.ready = Some(n(self.ready));
        status.terminating = Some(n(self.terminating));
    }
}

/// What is to be done about the number of pods.
enum Pods {
    Enough,
    Create(Vec<Option<i32>>),
    Delete(Vec<Arc<Pod>>),
    Wait(Time),
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

    /// The job ends: so do the pods that run.
    fn end_active(&self, numbers: &mut Numbers, plan: &mut Plan) {
        if !self.active.is_empty() {
            plan.because("the job ends: its pods go");
        }
        let ops = self.active.iter().map(|p| deletion(self.job, p)).collect();
        plan.step(Step { ops, mode: Mode::Parallel, on_failure: None });
        numbers.leave(&self.active);
    }

    /// Deletes the pods that are too many; the indexes of those to create.
    fn manage_pods(
        &self,
        wait_until: Option<Time>,
        numbers: &mut Numbers,
        plan: &mut Plan,
    ) -> (Act, Vec<Option<i32>>) {
        match self.manage(numbers.terminating, wait_until) {
            Pods::Enough => (Act::Tracking, Vec::new()),
            Pods::Wait(until) => {
                plan.because("pods failed lately");
                plan.wake(until);
                (Act::PodsCreated, Vec::new())
            }
            Pods::Create(indexes) => (Act::PodsCreated, indexes),
            Pods::Delete(pods) => {
                self.delete(&pods, plan);
                numbers.leave(&pods);
                (Act::PodsDeleted, Vec::new())
            }
        }
    }

    /// Whether enough pods have succeeded.
    fn completion(&self, active: usize) -> Option<End> {
        let enough = match self.spec.completions {
            None => self.succeeded > 0,
            Some(wanted) => self.succeeded >= i64::from(wanted),
        };
        let why = "Reached expected number of succeeded pods";
        (enough && active == 0).then(|| End::success("CompletionsReached", why))
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

    /// The end that was told already, or a failure of the whole.
    fn told_or_failed(&self, failed: i64, plan: &mut Plan) -> Option<End> {
        let told = End::told(self.status.conditions.as_deref().unwrap_or_default());
        if told.is_some() {
            return told;
        }
        let fails_job = |p: &Arc<Pod>| match policy::of_failure(self.spec, p) {
            Verdict::FailJob(why) => Some(why),
            _ => None,
        };
        if let Some(why) = self.pods.iter().filter(|p| self.is_failed(p)).find_map(fails_job) {
            return Some(End::failure("PodFailurePolicy", why));
        }
        let limit = i64::from(self.spec.backoff_limit.unwrap_or(0));
        if failed > limit || self.restarted_too_often(limit) {
            let why = "Job has reached the specified backoff limit";
            return Some(End::failure("BackoffLimitExceeded", why));
        }
        let start = self.status.start_time.as_ref().filter(|_| self.spec.suspend != Some(true))?;
        let deadline = start.0 + SignedDuration::from_secs(self.spec.active_deadline_seconds?);
        if self.now >= deadline {
            return Some(End::failure("DeadlineExceeded", "Job was active longer than specified deadline"));
        }
        plan.wake(deadline);
        None
    }

    /// Containers that restart in place count as failures too.
    fn restarted_too_often(&self, limit: i64) -> bool {
        let template = self.spec.template.spec.as_ref();
        if template.and_then(|s| s.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let alive = self.pods.iter().filter(|p| matches!(phase(p), "Running" | "Pending"));
        let statuses = alive.filter_map(|p| p.status.as_ref()).flat_map(|s| {
            s.container_statuses.iter().flatten().chain(s.init_container_statuses.iter().flatten())
        });
        let restarts: i64 = statuses.map(|s| i64::from(s.restart_count)).sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    fn look_at_indexes(&mut self) {
        let completions = self.spec.completions.unwrap_or(0);
        let told = self.status.completed_indexes.as_deref().unwrap_or("");
        self.previously_succeeded = Indexes::parse(told, completions);
        let new = self.pods.iter().filter(|p| phase(p) == "Succeeded" && has_finalizer(p));
        let new = Indexes::of(new.filter_map(|p| self.index(p)));
        self.succeeded_indexes = self.previously_succeeded.union(&new);
        self.succeeded = self.succeeded_indexes.count();
        if let Some(limit) = self.spec.backoff_limit_per_index {
            let told = self.status.failed_indexes.as_deref().unwrap_or("");
            let new = self.pods.iter().filter(|p| has_finalizer(p) && self.fails_index(p, limit));
            let new = Indexes::of(new.filter_map(|p| self.index(p)));
            self.failed_indexes = Indexes::parse(told, completions).union(&new);
            self.replaced_next = self.replaced_next();
        }
    }

    fn fails_index(&self, pod: &Pod, limit: i32) -> bool {
        if !self.is_failed(pod) {
            return false;
        }
        match policy::of_failure(self.spec, pod) {
            Verdict::FailIndex => true,
            Verdict::Ignore => false,
            Verdict::Unmatched | Verdict::Count | Verdict::FailJob(_) => indexed::failures(pod) >= limit,
        }
    }

    fn end_of_indexes(&self) -> Option<End> {
        let failed = self.failed_indexes.count();
        if self.spec.max_failed_indexes.is_some_and(|most| failed > i64::from(most)) {
            let why = "Job has exceeded the specified maximal number of failed indexes";
            return Some(End::failure("MaxFailedIndexesExceeded", why));
        }
        let completions = self.spec.completions.unwrap_or(0);
        if failed > 0 && failed + self.succeeded >= i64::from(completions) {
            return Some(End::failure("FailedIndexes", "Job has failed indexes"));
        }
        let met = policy::is_met(self.spec.success_policy.as_ref(), completions, &self.succeeded_indexes);
        met.map(|why| End::success("SuccessPolicy", why))
    }

    fn manage(&self, terminating: usize, wait_until: Option<Time>) -> Pods {
        let active = self.active.len();
        if self.is_suspended() {
            let pods = self.first_to_go(active);
            return Pods::Delete(pods);
        }
        let parallelism = usize::try_from(self.spec.parallelism.unwrap_or(1)).unwrap_or(0);
        let wanted = match self.spec.completions {
            None if self.succeeded > 0 => active,
            None => parallelism,
            Some(n) => usize::try_from(i64::from(n) - self.succeeded).unwrap_or(0).min(parallelism),
        };
        let mut excess = self.first_to_go(active.saturating_sub(wanted));
        excess.truncate(BURST);
        if !excess.is_empty() {
            return Pods::Delete(excess);
        }
        let leaving = if self.only_replaces_failed() { terminating } else { 0 };
        let lacking = wanted.saturating_sub(leaving).saturating_sub(active).min(BURST);
        if lacking == 0 {
            return Pods::Enough;
        }
        let per_index = self.spec.backoff_limit_per_index.is_some();
        if let Some(until) = wait_until.filter(|t| !per_index && *t > self.now) {
            return Pods::Wait(until);
        }
        if !is_indexed(self.spec) {
            return Pods::Create(vec![None; lacking]);
        }
        let (due, later) = self.due(self.pending(lacking));
        match later {
            Some(until) if due.is_empty() => Pods::Wait(until),
            _ => Pods::Create(due.into_iter().map(Some).collect()),
        }
    }

    /// The active pods that go: those that no index needs, then those that have come least far.
    fn first_to_go(&self, at_least: usize) -> Vec<Arc<Pod>> {
        let earlier = |a: &Arc<Pod>, b: &Arc<Pod>| deletion_order((a, 1), (b, 1), self.now);
        let (mut going, mut rest) = if is_indexed(self.spec) {
            self.without_need(earlier)
        } else {
            (Vec::new(), self.active.clone())
        };
        rest.sort_by(earlier);
        let more = at_least.saturating_sub(going.len());
        going.extend(rest.into_iter().take(more));
        going
    }

    /// Off with the finalizer first: pods that are not wanted do not count as failed.
    fn delete(&self, pods: &[Arc<Pod>], plan: &mut Plan) {
        if !pods.is_empty() {
            plan.because(format!("{} pods are not wanted", pods.len()));
        }
        let tracked = pods.iter().filter(|p| has_finalizer(p));
        let ops = tracked.map(|p| untrack(p)).collect();
        plan.step(Step { ops, mode: Mode::Parallel, on_failure: None });
        let ops = pods.iter().map(|p| deletion(self.job, p)).collect();
        plan.step(Step { ops, mode: Mode::Parallel, on_failure: None });
    }

    /// Says by the condition whether the job is suspended; the event where that is new.
    fn set_suspended(&mut self) -> Option<Note> {
        let suspended = self.is_suspended();
        let about = reference(self.job);
        let conditions = self.status.conditions.get_or_insert_default();
        if suspended {
            if set(conditions, "Suspended", "True", "JobSuspended", "Job suspended", self.now) {
                self.status.start_time = None;
                return Some(Note::normal(about, "Suspended", "Job suspended"));
            }
        } else if conditions.iter().any(|c| c.type_ == "Suspended")
            && set(conditions, "Suspended", "False", "JobResumed", "Job resumed", self.now)
        {
            // The time it may be active begins anew.
            self.status.start_time = Some(MetaTime(self.now));
            return Some(Note::normal(about, "Resumed", "Job resumed"));
        }
        None
    }

    /// Says by conditions that the job ends, and that it has ended where every pod is counted; the event for it.
    fn finish(&mut self, end: Option<&End>, counted: &track::Counted, plan: &mut Plan) -> Option<Note> {
        let end = end?;
        let [interim, last] = end.conditions();
        let conditions = self.status.conditions.get_or_insert_default();
        if !is_true(conditions, interim) {
            set(conditions, interim, "True", &end.reason, &end.message, self.now);
        }
        let left = !counted.untrack.is_empty() || counted.uncounted > 0;
        if left || self.status.terminating.unwrap_or(0) > 0 {
            plan.because("the job has ended, its pods are not all counted or gone");
            return None;
        }
        set(conditions, last, "True", &end.reason, &end.message, self.now);
        let about = reference(self.job);
        if !end.success {
            // events have reasons known at build time
            let reason = FAILURES.iter().find(|r| **r == end.reason).copied().unwrap_or("Failed");
            return Some(Note::warning(about, reason, end.message.clone()));
        }
        self.status.completion_time = Some(MetaTime(self.now));
        if self.spec.completions.is_some_and(|n| self.status.succeeded.unwrap_or(0) > n) {
            let why = "Too many succeeded pods running after completion count reached";
            plan.note(Note::warning(about.clone(), "TooManySucceededPods", why));
        }
        Some(Note::normal(about, "Completed", "Job completed"))
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

/// Reasons of failed jobs.
const FAILURES: [&str; 5] = [
    "BackoffLimitExceeded",
    "DeadlineExceeded",
    "FailedIndexes",
    "MaxFailedIndexesExceeded",
    "PodFailurePolicy",
];

fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// Sets a condition; whether that says something new.
fn set(
    conditions: &mut Vec<JobCondition>,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Time,
) -> bool {
    let some = |s: &str| Some(s.to_owned());
    let new = JobCondition {
        type_: kind.into(),
        status: status.into(),
        reason: some(reason),
        message: some(message),
        last_probe_time: Some(MetaTime(now)),
        last_transition_time: Some(MetaTime(now)),
    };
    match conditions.iter_mut().find(|c| c.type_ == kind) {
        Some(c) if c.status == new.status && c.reason == new.reason && c.message == new.message => false,
        Some(c) => {
            *c = new;
            true
        }
        None => {
            conditions.push(new);
            true
        }
    }
}
