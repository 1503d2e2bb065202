//! What a job's status may become: who manages jobs in the place of the controller must keep to what clients rely on
//! (upstream's `ValidateJobUpdateStatus`, KEP-4368).

use super::indexes::{overlap, parse_indexes};
use super::job_spec::{invalid, is_indexed};
use super::{has, is_finished};
use crate::strategy::semantic_eq;
use crate::support::{nonnegative, or_zero};
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus, UncountedTerminatedPods};
use meta::{FieldError, FieldErrors, Json, Path};
use std::collections::BTreeSet;

pub(super) fn validate(new: &Job, old: &Job) -> FieldErrors {
    let (no_status, no_spec) = (JobStatus::default(), JobSpec::default());
    let change = Change {
        new,
        old,
        spec: new.spec.as_ref().unwrap_or(&no_spec),
        status: new.status.as_ref().unwrap_or(&no_status),
        before: old.status.as_ref().unwrap_or(&no_status),
        path: Path::new("status"),
    };
    let mut errors = change.numbers();
    change.one_end(&mut errors);
    change.completion_time(&mut errors);
    change.announced_end(&mut errors);
    change.finished(&mut errors);
    change.indexes(&mut errors);
    change.conditions(&mut errors);
    change.transitions(&mut errors);
    errors
}

/// A rule that the stored status breaks already must not stop changes of something else: most rules are asked only
/// where what they are about has changed.
struct Change<'a> {
    new: &'a Job,
    old: &'a Job,
    spec: &'a JobSpec,
    status: &'a JobStatus,
    before: &'a JobStatus,
    path: Path,
}

impl Change<'_> {
    /// Whether a condition is true now where it was not, or the other way round.
    fn turned(&self, kind: &str) -> bool {
        has(self.new, kind) != has(self.old, kind)
    }

    fn at(&self, field: &str) -> Path {
        self.path.child(field)
    }

    fn numbers(&self) -> FieldErrors {
        let s = self.status;
        let mut errors = Vec::new();
        let counts = [
            ("active", or_zero(s.active)),
            ("succeeded", or_zero(s.succeeded)),
            ("failed", or_zero(s.failed)),
            ("ready", or_zero(s.ready)),
            ("terminating", or_zero(s.terminating)),
        ];
        nonnegative(&mut errors, &self.path, &counts);
        let mut seen = BTreeSet::new();
        let uncounted = s.uncounted_terminated_pods.iter();
        for (field, uids) in uncounted.flat_map(|u| [("succeeded", &u.succeeded), ("failed", &u.failed)]) {
            let path = self.at("uncountedTerminatedPods").child(field);
            for (i, uid) in uids.iter().flatten().enumerate() {
                if uid.is_empty() {
                    errors.push(FieldError::invalid(&path.index(i), uid, "must not be empty"));
                } else if !seen.insert(uid) {
                    errors.push(FieldError::duplicate(&path.index(i), uid));
                }
            }
        }
        errors
    }

    /// A job ends in one way only.
    fn one_end(&self, errors: &mut FieldErrors) {
        let conditions = self.at("conditions");
        let (complete, failed) = (has(self.new, "Complete"), has(self.new, "Failed"));
        if (self.turned("Complete") || self.turned("Failed")) && complete && failed {
            errors.push(invalid(&conditions, "cannot set Complete=True and Failed=true conditions"));
        }
        if (self.turned("Complete") || self.turned("FailureTarget"))
            && complete
            && has(self.new, "FailureTarget")
        {
            errors.push(invalid(&conditions, "cannot set Complete=True and FailureTarget=true conditions"));
        }
    }

    /// The time of completion: of jobs that are Complete, and not before their start.
    fn completion_time(&self, errors: &mut FieldErrors) {
        let s = self.status;
        let at = self.at("completionTime");
        let complete = has(self.new, "Complete");
        let started = s.start_time != self.before.start_time;
        let ended = s.completion_time != self.before.completion_time;
        if self.turned("Complete") || ended {
            match &s.completion_time {
                Some(time) if !complete => {
                    let why = "cannot set completionTime when there is no Complete=True condition";
                    errors.push(FieldError::invalid(&at, Json(time), why));
                }
                None if complete => {
                    errors.push(FieldError::required(&at, "completionTime is required for Complete jobs"));
                }
                _ => {}
            }
        }
        if let (Some(start), Some(end)) = (&s.start_time, &s.completion_time)
            && (started || ended)
            && end.0 < start.0
        {
            errors.push(FieldError::invalid(&at, Json(end), "must be equal to or after `startTime`"));
        }
    }

    /// The end is announced before it is reached.
    fn announced_end(&self, errors: &mut FieldErrors) {
        let conditions = self.at("conditions");
        let (complete, failed) = (has(self.new, "Complete"), has(self.new, "Failed"));
        let failed_indexes = self.status.failed_indexes != self.before.failed_indexes;
        if (self.turned("Failed") || failed_indexes) && failed && !has(self.new, "FailureTarget") {
            let why = "cannot set Failed=True condition without the FailureTarget=true condition";
            errors.push(invalid(&conditions, why));
        }
        if (self.turned("Complete") || self.turned("SuccessCriteriaMet"))
            && complete
            && !has(self.new, "SuccessCriteriaMet")
        {
            let why = "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
            errors.push(invalid(&conditions, why));
        }
    }

    /// What must hold of a job that is Complete or Failed.
    fn finished(&self, errors: &mut FieldErrors) {
        if !(has(self.new, "Complete") || has(self.new, "Failed")) {
            return;
        }
        let s = self.status;
        let finish_turned = is_finished(self.old) != is_finished(self.new);
        let started = s.start_time != self.before.start_time;
        let positive = |n: Option<i32>| n.filter(|n| *n > 0);
        if let Some(n) = positive(s.active).filter(|_| finish_turned || s.active != self.before.active) {
            errors.push(FieldError::invalid(&self.at("active"), n, "active>0 is invalid for finished job"));
        }
        let never_started = self.spec.suspend == Some(true) && self.spec.completions == Some(0);
        if (finish_turned || started) && !never_started && s.start_time.is_none() {
            errors
                .push(FieldError::required(&self.at("startTime"), "startTime is required for finished job"));
        }
        let uncounted = &s.uncounted_terminated_pods;
        let some = |u: &UncountedTerminatedPods| {
            u.failed.iter().flatten().count() + u.succeeded.iter().flatten().count() > 0
        };
        if let Some(left) = uncounted.as_ref().filter(|u| some(u))
            && (finish_turned || !semantic_eq(uncounted, &self.before.uncounted_terminated_pods))
        {
            let path = self.at("uncountedTerminatedPods");
            errors.push(FieldError::invalid(&path, Json(left), "must be empty for finished job"));
        }
    }

    fn indexes(&self, errors: &mut FieldErrors) {
        let (s, spec) = (self.status, self.spec);
        let completed = s.completed_indexes.as_deref().unwrap_or("");
        let completed_changed = completed != self.before.completed_indexes.as_deref().unwrap_or("");
        let failed_changed = s.failed_indexes != self.before.failed_indexes;
        let (at_completed, at_failed) = (self.at("completedIndexes"), self.at("failedIndexes"));
        if let Some(completions) = spec.completions {
            if let Err(e) = parse_indexes(completed, completions).map_err(|e| e.to_string())
                && completed_changed
            {
                let why = format!("error parsing completedIndexes: {e}");
                errors.push(FieldError::invalid(&at_completed, completed, why));
            }
            if let Some(failed) = s.failed_indexes.as_ref()
                && failed_changed
                && spec.backoff_limit_per_index.is_some()
                && let Err(e) = parse_indexes(failed, completions)
            {
                let why = format!("error parsing failedIndexes: {e}");
                errors.push(FieldError::invalid(&at_failed, failed, why));
            }
        }
        if completed_changed && !completed.is_empty() && !is_indexed(spec) {
            let why = "cannot set non-empty completedIndexes when non-indexed completion mode";
            errors.push(FieldError::invalid(&at_completed, completed, why));
        }
        let Some(failed) = &s.failed_indexes else { return };
        if failed_changed && spec.backoff_limit_per_index.is_none() {
            let why = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
            errors.push(FieldError::invalid(&at_failed, failed, why));
        }
        if (failed_changed || completed_changed)
            && let Some(at) = spec.completions.and_then(|n| overlap(completed, failed, n))
        {
            let why = format!("failedIndexes and completedIndexes overlap at index: {at}");
            errors.push(FieldError::invalid(&at_failed, failed, why));
        }
    }

    fn conditions(&self, errors: &mut FieldErrors) {
        let (s, before) = (self.status, self.before);
        let path = self.at("conditions");
        let finish_turned = is_finished(self.old) != is_finished(self.new);
        if let Some(n) = s.terminating.filter(|n| *n > 0)
            && (finish_turned || s.terminating != before.terminating)
            && is_finished(self.new)
        {
            let why = "terminating>0 is invalid for finished job";
            errors.push(FieldError::invalid(&self.at("terminating"), n, why));
        }
        if let Some(ready) = s.ready.filter(|n| *n > s.active.unwrap_or(0))
            && (s.ready != before.ready || s.active.unwrap_or(0) != before.active.unwrap_or(0))
        {
            let why = "cannot set more ready pods than active";
            errors.push(FieldError::invalid(&self.at("ready"), ready, why));
        }
        let met = has(self.new, "SuccessCriteriaMet");
        if met && has(self.new, "Failed") {
            errors.push(invalid(&path, "cannot set SuccessCriteriaMet=True and Failed=true conditions"));
        }
        if met && has(self.new, "FailureTarget") {
            let why = "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions";
            errors.push(invalid(&path, why));
        }
        if self.spec.success_policy.is_some() && !met && has(self.new, "Complete") {
            let why = "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True";
            errors.push(invalid(&path, why));
        }
    }

    fn transitions(&self, errors: &mut FieldErrors) {
        let (s, before) = (self.status, self.before);
        let path = self.at("conditions");
        for kind in ["Failed", "Complete", "FailureTarget"] {
            if has(self.old, kind) && !has(self.new, kind) {
                errors.push(invalid(&path, format!("cannot disable the terminal {kind}=True condition")));
            }
        }
        let n = |value: Option<i32>| value.unwrap_or(0);
        if n(s.failed) < n(before.failed) {
            let why = "cannot decrease the failed counter";
            errors.push(FieldError::invalid(&self.at("failed"), n(s.failed), why));
        }
        let elastic = is_indexed(self.spec) && self.spec.completions == self.spec.parallelism;
        if !elastic && n(s.succeeded) < n(before.succeeded) {
            let why = "cannot decrease the succeeded counter";
            errors.push(FieldError::invalid(&self.at("succeeded"), n(s.succeeded), why));
        }
        if let (Some(new), Some(old)) = (&s.completion_time, &before.completion_time)
            && new != old
        {
            let at = self.at("completionTime");
            errors.push(FieldError::invalid(&at, Json(new), "field is immutable"));
        }
        let is_false = |s: &JobStatus| {
            s.conditions.iter().flatten().any(|c| c.type_ == "Suspended" && c.status == "False")
        };
        let resumes = has(self.old, "Suspended") && is_false(s);
        if before.start_time.is_some()
            && s.start_time != before.start_time
            && !resumes
            && self.spec.suspend != Some(true)
        {
            let why = "field is immutable for unsuspended job once set";
            errors.push(FieldError::invalid(&self.at("startTime"), Json(&s.start_time), why));
        }
        let (met, was_met) = (has(self.new, "SuccessCriteriaMet"), has(self.old, "SuccessCriteriaMet"));
        if was_met && !met {
            errors.push(invalid(&path, "cannot disable the SuccessCriteriaMet=True condition"));
        }
        if has(self.old, "Complete") && !was_met && met {
            let why = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
            errors.push(invalid(&path, why));
        }
    }
}
