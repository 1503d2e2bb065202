//! How a job ends, and what it says of itself.

use super::policy::{self, Verdict};
use super::{Sync, track};
use crate::plan::{Note, Plan};
use crate::pods::phase;
use client::events::reference;
use k8s_openapi::api::batch::v1::JobCondition;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time as MetaTime;
use k8s_openapi::jiff::SignedDuration;
use kinds::batch::is_true;
use meta::Time;
use std::sync::Arc;

/// Reasons of failed jobs.
const FAILURES: [&str; 5] = [
    "BackoffLimitExceeded",
    "DeadlineExceeded",
    "FailedIndexes",
    "MaxFailedIndexesExceeded",
    "PodFailurePolicy",
];

/// What a job comes to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct End {
    pub success: bool,
    pub reason: String,
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

impl Sync<'_> {
    /// The end that was told already, or a failure of the whole.
    pub(super) fn told_or_failed(&self, failed: i64, plan: &mut Plan) -> Option<End> {
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

    pub(super) fn end_of_indexes(&self) -> Option<End> {
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

    /// Whether enough pods have succeeded.
    pub(super) fn completion(&self, active: usize) -> Option<End> {
        let enough = match self.spec.completions {
            None => self.succeeded > 0,
            Some(wanted) => self.succeeded >= i64::from(wanted),
        };
        let why = "Reached expected number of succeeded pods";
        (enough && active == 0).then(|| End::success("CompletionsReached", why))
    }

    /// Says by the condition whether the job is suspended; the event where that is new.
    pub(super) fn set_suspended(&mut self) -> Option<Note> {
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
    pub(super) fn finish(
        &mut self,
        end: Option<&End>,
        counted: &track::Counted,
        plan: &mut Plan,
    ) -> Option<Note> {
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
