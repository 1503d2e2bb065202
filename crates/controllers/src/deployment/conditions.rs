//! The status: counts, and the conditions Available, Progressing and ReplicaFailure in upstream's words.

use super::{Rollout, Set};
use crate::children::positive;
use crate::plan::Plan;
use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time as MetaTime;
use k8s_openapi::jiff::SignedDuration;
use meta::Time;

pub(super) const UPDATED: &str = "ReplicaSetUpdated";
pub(super) const CREATE_FAILED: &str = "ReplicaSetCreateError";
pub(super) const CREATED: &str = "NewReplicaSetCreated";
pub(super) const FOUND: &str = "FoundNewReplicaSet";
pub(super) const AVAILABLE: &str = "NewReplicaSetAvailable";
pub(super) const TIMED_OUT: &str = "ProgressDeadlineExceeded";
pub(super) const PAUSED: &str = "DeploymentPaused";
pub(super) const RESUMED: &str = "DeploymentResumed";
const FAILURE: &str = "ReplicaFailure";

pub(super) trait Conditions {
    fn condition(&self, kind: &str) -> Option<&DeploymentCondition>;

    /// Sets a condition, unless it says so already; the transition time stays where the status stays.
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: impl Into<String>, now: Time);

    fn put(&mut self, condition: DeploymentCondition);

    fn drop_condition(&mut self, kind: &str);
}

impl Conditions for DeploymentStatus {
    fn condition(&self, kind: &str) -> Option<&DeploymentCondition> {
        self.conditions.iter().flatten().find(|c| c.type_ == kind)
    }

    fn set(&mut self, kind: &str, status: &str, reason: &str, message: impl Into<String>, now: Time) {
        self.put(DeploymentCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_update_time: Some(MetaTime(now)),
            last_transition_time: Some(MetaTime(now)),
        });
    }

    fn put(&mut self, mut condition: DeploymentCondition) {
        if let Some(c) = self.condition(&condition.type_)
            && c.status == condition.status
        {
            if c.reason == condition.reason {
                return;
            }
            condition.last_transition_time = c.last_transition_time.clone();
        }
        self.drop_condition(&condition.type_.clone());
        self.conditions.get_or_insert_default().push(condition);
    }

    fn drop_condition(&mut self, kind: &str) {
        if let Some(all) = &mut self.conditions {
            all.retain(|c| c.type_ != kind);
        }
    }
}

impl Rollout<'_> {
    pub(super) fn progressing(&self) -> Option<&DeploymentCondition> {
        self.status.condition("Progressing")
    }

    pub(super) fn has_deadline(&self) -> bool {
        self.spec.progress_deadline_seconds.is_some_and(|s| s != i32::MAX)
    }

    /// All replicas are of the current template and available, and no others run.
    pub(super) fn is_complete(&self, status: &DeploymentStatus) -> bool {
        let wanted = self.replicas();
        status.updated_replicas.unwrap_or(0) == wanted
            && status.replicas.unwrap_or(0) == wanted
            && status.available_replicas.unwrap_or(0) == wanted
            && status.observed_generation >= self.deployment.metadata.generation
    }

    /// Counts, and whether enough replicas are available.
    pub(super) fn count(&mut self) {
        let sum = |f: &dyn Fn(&Set) -> i32| self.all().map(f).sum::<i32>();
        let available = sum(&Set::available);
        let total = sum(&|s| s.was);
        let replicas = sum(&Set::actual);
        let ready = sum(&|s| s.status(|s| s.ready_replicas).flatten().unwrap_or(0));
        let updated = self.new.as_ref().map_or(0, Set::actual);
        // Known only where every replica set that was ever synced tells.
        let terminating = self
            .all()
            .filter_map(|s| s.object.status.as_ref())
            .filter(|s| s.observed_generation.unwrap_or(0) != 0 || s.terminating_replicas.is_some())
            .map(|s| s.terminating_replicas)
            .sum::<Option<i32>>();
        let s = &mut self.status;
        s.observed_generation = self.deployment.metadata.generation;
        s.replicas = positive(replicas);
        s.updated_replicas = positive(updated);
        s.ready_replicas = positive(ready);
        s.available_replicas = positive(available);
        s.unavailable_replicas = positive((total - available).max(0));
        s.terminating_replicas = terminating;
        let now = self.now;
        if available >= self.replicas() - self.max_unavailable() {
            let message = "Deployment has minimum availability.";
            self.status.set("Available", "True", "MinimumReplicasAvailable", message, now);
        } else {
            let message = "Deployment does not have minimum availability.";
            self.status.set("Available", "False", "MinimumReplicasUnavailable", message, now);
        }
    }

    pub(super) fn estimate_progress(&mut self) {
        if !self.has_deadline() {
            self.status.drop_condition("Progressing");
        }
        let current = self.progressing().cloned();
        let reason = current.as_ref().and_then(|c| c.reason.clone()).unwrap_or_default();
        let done = self.status.replicas == self.status.updated_replicas && reason == AVAILABLE;
        if self.has_deadline() && !done {
            let what = match &self.new {
                Some(set) => format!("ReplicaSet \"{}\"", set.name()),
                None => format!("Deployment \"{}\"", self.deployment.metadata.name.as_deref().unwrap_or("")),
            };
            let now = self.now;
            if self.is_complete(&self.status) {
                let message = format!("{what} has successfully progressed.");
                self.status.set("Progressing", "True", AVAILABLE, message, now);
            } else if self.has_progressed() {
                // Progress with the same reason moves the update time alone.
                let since = current.filter(|c| c.status == "True").and_then(|c| c.last_transition_time);
                self.status.drop_condition("Progressing");
                self.status.put(DeploymentCondition {
                    type_: "Progressing".into(),
                    status: "True".into(),
                    reason: Some(UPDATED.into()),
                    message: Some(format!("{what} is progressing.")),
                    last_update_time: Some(MetaTime(now)),
                    last_transition_time: since.or(Some(MetaTime(now))),
                });
            } else if self.has_timed_out() {
                let message = format!("{what} has timed out progressing.");
                self.status.set("Progressing", "False", TIMED_OUT, message, now);
            }
        }
        let failure =
            self.new.iter().chain(&self.old).find_map(|s| {
                s.object.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == FAILURE)
            });
        match failure.cloned() {
            Some(c) => self.status.put(DeploymentCondition {
                type_: c.type_,
                status: c.status,
                reason: c.reason,
                message: c.message,
                last_update_time: c.last_transition_time.clone(),
                last_transition_time: c.last_transition_time,
            }),
            None => self.status.drop_condition(FAILURE),
        }
        if self.status.conditions.as_ref().is_some_and(Vec::is_empty) {
            self.status.conditions = None;
        }
    }

    fn has_progressed(&self) -> bool {
        let n = |v: Option<i32>| v.unwrap_or(0);
        let old = self.deployment.status.clone().unwrap_or_default();
        let new = &self.status;
        n(new.updated_replicas) > n(old.updated_replicas)
            || n(new.replicas) - n(new.updated_replicas) < n(old.replicas) - n(old.updated_replicas)
            || n(new.ready_replicas) > n(old.ready_replicas)
            || n(new.available_replicas) > n(old.available_replicas)
    }

    fn deadline(&self) -> Option<Time> {
        let seconds = self.spec.progress_deadline_seconds?;
        let from = self.progressing()?.last_update_time.as_ref()?.0;
        Some(from + SignedDuration::from_secs(seconds.into()))
    }

    fn has_timed_out(&self) -> bool {
        match self.progressing().and_then(|c| c.reason.as_deref()) {
            None | Some(AVAILABLE) => false,
            Some(TIMED_OUT) => true,
            Some(_) => self.deadline().is_some_and(|t| t < self.now),
        }
    }

    /// Comes back to see whether the deadline passed without progress.
    pub(super) fn wake_for_deadline(&self, plan: &mut Plan) {
        let timed_out = self.progressing().is_some_and(|c| c.reason.as_deref() == Some(TIMED_OUT));
        if self.has_deadline()
            && !timed_out
            && !self.is_complete(&self.status)
            && let Some(at) = self.deadline()
        {
            // Times in the status have whole seconds.
            plan.wake(at.max(self.now) + SignedDuration::from_secs(1));
        }
    }
}
