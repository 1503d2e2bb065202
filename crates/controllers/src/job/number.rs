//! How many pods a job has, and what is to be done about it.

use super::metrics::Act;
use super::{Sync, has_finalizer, is_indexed, untrack};
use crate::children::{deletion, positive};
use crate::plan::{Mode, Plan, Step};
use crate::pods::{deletion_order, is_ready, is_terminating};
use k8s_openapi::api::batch::v1::JobStatus;
use k8s_openapi::api::core::v1::Pod;
use meta::Time;
use std::sync::Arc;

/// Pods created or deleted in one plan at most (upstream's MaxPodCreateDeletePerSync).
const BURST: usize = 500;

/// How many pods there are, as the status says it.
pub(super) struct Numbers {
    pub active: usize,
    ready: usize,
    pub terminating: usize,
}

impl Numbers {
    pub(super) fn of(active: &[Arc<Pod>], all: &[Arc<Pod>]) -> Self {
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

    pub(super) fn write(&self, status: &mut JobStatus) {
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

impl Sync<'_> {
    /// The job ends: so do the pods that run.
    pub(super) fn end_active(&self, numbers: &mut Numbers, plan: &mut Plan) {
        if !self.active.is_empty() {
            plan.because("the job ends: its pods go");
        }
        let ops = self.active.iter().map(|p| deletion(self.job, p)).collect();
        plan.step(Step { ops, mode: Mode::Parallel, on_failure: None });
        numbers.leave(&self.active);
    }

    /// Deletes the pods that are too many; the indexes of those to create.
    pub(super) fn manage_pods(
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
}
