//! What the job controller counts, under upstream's names (`pkg/controller/job/metrics`).

use super::intervals::Indexes;
use super::{End, has_finalizer, is_indexed, is_managed_elsewhere};
use crate::metrics::{Buckets, Metric, Sample};
use crate::plan::Measure;
use crate::pods::is_terminal;
use client::Delta;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;

const SUBJECT: &[&str] = &["completion_mode", "result", "action"];

static SYNC_SECONDS: Metric = Metric::histogram(
    "job_controller_job_sync_duration_seconds",
    SUBJECT,
    Buckets::Exponential { first: 0.004, factor: 2.0, count: 15 },
    "The time it took to sync a job",
);
static SYNCS: Metric = Metric::counter("job_controller_job_syncs_total", SUBJECT, "The number of job syncs");
static FINISHED: Metric = Metric::counter(
    "job_controller_jobs_finished_total",
    &["completion_mode", "result", "reason"],
    "The number of finished jobs",
);
static EXTERNAL: Metric = Metric::counter(
    "job_controller_jobs_by_external_controller_total",
    &["controller_name"],
    "The number of Jobs managed by an external controller",
);
static PODS_FINISHED: Metric = Metric::counter(
    "job_controller_job_pods_finished_total",
    &["completion_mode", "result"],
    "The number of finished Pods that are fully tracked",
);
static POLICY_FAILURES: Metric = Metric::counter(
    "job_controller_pod_failures_handled_by_failure_policy_total",
    &["action"],
    "The number of failed Pods handled by failure policy with respect to the failure policy action applied based on the matched rule",
);
static TERMINATED_PODS: Metric = Metric::counter(
    "job_controller_terminated_pods_tracking_finalizer_total",
    &["event"],
    "The number of terminated pods (phase=Failed|Succeeded) that have the finalizer batch.kubernetes.io/job-tracking. The event label can be \"add\" or \"delete\"",
);
static FINISHED_INDEXES: Metric = Metric::counter(
    "job_controller_job_finished_indexes_total",
    &["status", "backoffLimit"],
    "The number of finished indexes",
);
static PODS_CREATED: Metric = Metric::counter(
    "job_controller_job_pods_creation_total",
    &["reason", "status"],
    "The number of Pods created by the Job controller labelled with a reason for the Pod creation",
);

pub(super) const ALL: &[&Metric] = &[
    &SYNC_SECONDS,
    &SYNCS,
    &FINISHED,
    &EXTERNAL,
    &PODS_FINISHED,
    &POLICY_FAILURES,
    &TERMINATED_PODS,
    &FINISHED_INDEXES,
    &PODS_CREATED,
];

/// What a look at a job did about the number of its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Nothing: the job ends, or is being deleted.
    Reconciling,
    Tracking,
    PodsCreated,
    PodsDeleted,
}

impl Act {
    fn label(self) -> &'static str {
        match self {
            Self::Reconciling => "reconciling",
            Self::Tracking => "tracking",
            Self::PodsCreated => "pods_created",
            Self::PodsDeleted => "pods_deleted",
        }
    }
}

fn mode(spec: &JobSpec) -> &'static str {
    if is_indexed(spec) { "Indexed" } else { "NonIndexed" }
}

pub(super) fn synced(spec: &JobSpec, act: Act) -> Measure {
    let (mode, action) = (mode(spec), act.label());
    Box::new(move |outcome| {
        let labels = [mode, if outcome.failure.is_some() { "error" } else { "success" }, action];
        vec![SYNCS.one(labels), SYNC_SECONDS.of(outcome.took.as_secs_f64(), labels)]
    })
}

pub(super) fn finished(spec: &JobSpec, end: &End) -> Sample {
    FINISHED.one([mode(spec), if end.success { "succeeded" } else { "failed" }, &end.reason])
}

/// The pods and indexes that a status counts, and the one before did not.
pub(super) fn counted(spec: &JobSpec, before: &JobStatus, after: &JobStatus) -> Vec<Sample> {
    let more = |before: i64, after: i64| (after - before).max(0) as f64;
    let n = |count: Option<i32>| i64::from(count.unwrap_or(0));
    let mut samples = Vec::new();
    let succeeded = if is_indexed(spec) {
        let completions = spec.completions.unwrap_or(0);
        let count =
            |text: &Option<String>| Indexes::parse(text.as_deref().unwrap_or(""), completions).count();
        // Of indexes that the job still has: a status may count some that it was made smaller by.
        let succeeded = more(count(&before.completed_indexes), count(&after.completed_indexes));
        let limit = if spec.backoff_limit_per_index.is_some() { "perIndex" } else { "global" };
        samples.push(FINISHED_INDEXES.of(succeeded, ["succeeded", limit]));
        let failed = more(count(&before.failed_indexes), count(&after.failed_indexes));
        if failed > 0.0 {
            samples.push(FINISHED_INDEXES.of(failed, ["failed", limit]));
        }
        succeeded
    } else {
        more(n(before.succeeded), n(after.succeeded))
    };
    samples.push(PODS_FINISHED.of(succeeded, [mode(spec), "succeeded"]));
    samples.push(PODS_FINISHED.of(more(n(before.failed), n(after.failed)), [mode(spec), "failed"]));
    samples
}

/// A failed pod was dealt with as a rule says.
pub(super) fn by_policy(action: &str) -> Sample {
    POLICY_FAILURES.one([action])
}

/// Why pods are created, where so many of the job's failed and so many are terminating.
pub(super) fn reason_of_creation(spec: &JobSpec, failed: i64, terminating: usize) -> &'static str {
    if failed > 0 && spec.pod_replacement_policy.as_deref() == Some("Failed") {
        "recreate_failed"
    } else if failed > 0 || terminating > 0 {
        "recreate_terminating_or_failed"
    } else {
        "new"
    }
}

/// A pod is created: what is counted if that succeeds, and if it fails.
pub(super) fn created(reason: &'static str) -> [Sample; 2] {
    ["succeeded", "failed"].map(|status| PODS_CREATED.one([reason, status]))
}

pub(super) fn external(delta: &Delta<Job>) -> Option<Sample> {
    let spec = delta.new.as_ref().filter(|_| delta.old.is_none())?.spec.as_ref()?;
    is_managed_elsewhere(spec).then(|| EXTERNAL.one([spec.managed_by.as_deref().unwrap_or("")]))
}

/// An ended pod got, or lost, the finalizer.
pub(super) fn terminated(delta: &Delta<Pod>) -> Option<Sample> {
    let is_waiting = |p: &Pod| is_terminal(p) && has_finalizer(p);
    let was = delta.old.as_ref().is_some_and(|p| is_waiting(p));
    let is = delta.new.as_ref().is_some_and(|p| is_waiting(p));
    (was != is).then(|| TERMINATED_PODS.one([if is { "add" } else { "delete" }]))
}
