//! Which ended pods the status tells of, and which need their finalizer no more.

use super::intervals::Indexes;
use super::policy::{self, Verdict};
use super::{End, Sync, has_finalizer, is_indexed, metrics, uid, untrack};
use crate::children::positive;
use crate::plan::Op;
use crate::pods::phase;
use k8s_openapi::api::batch::v1::UncountedTerminatedPods;
use k8s_openapi::api::core::v1::Pod;
use std::collections::HashSet;

/// Uids in a status at most: 500 of them are under 20 KB.
const MAX_UNCOUNTED: usize = 500;

/// What was counted.
pub(super) struct Counted {
    /// Take the finalizer off pods that the status, once written, tells of.
    pub untrack: Vec<Op>,
    /// Uids that the status tells of and does not count yet.
    pub uncounted: usize,
}

impl Sync<'_> {
    /// Raises the counts by the pods that lost their finalizer, and adds those that ended since.
    pub(super) fn track(&mut self, end: Option<&End>) -> Counted {
        let tracked: HashSet<&str> = self.pods.iter().filter(|p| has_finalizer(p)).map(|p| uid(p)).collect();
        let before = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let split = |uids: Option<Vec<String>>| -> (Vec<String>, i32) {
            let all = uids.unwrap_or_default();
            let len = all.len();
            let left: Vec<String> = all.into_iter().filter(|u| tracked.contains(u.as_str())).collect();
            let counted = i32::try_from(len - left.len()).unwrap_or(i32::MAX);
            (left, counted)
        };
        let (mut succeeded, more_succeeded) = split(before.succeeded);
        let (mut failed, more_failed) = split(before.failed);
        let add = |n: Option<i32>, more: i32| positive(n.unwrap_or(0).saturating_add(more));
        self.status.succeeded = add(self.status.succeeded, more_succeeded);
        self.status.failed = add(self.status.failed, more_failed);

        let indexed = is_indexed(self.spec);
        let mut ops = Vec::new();
        let mut new_indexes = Vec::new();
        for pod in self.pods.iter().filter(|p| has_finalizer(p)) {
            if !self.may_untrack(pod, end) {
                continue;
            }
            let mut op = untrack(pod);
            let id = uid(pod);
            if phase(pod) == "Succeeded" && !self.uncounted_failed.contains(id) {
                if indexed {
                    // The index keeps it from being counted again.
                    let index = self.index(pod).filter(|i| !self.previously_succeeded.has(*i));
                    new_indexes.extend(index);
                } else if !self.uncounted_succeeded.contains(id) {
                    succeeded.push(id.to_owned());
                }
            } else if self.is_failed(pod) || end.is_some_and(|e| !e.success) {
                // Of a job that failed, pods that have not ended have failed.
                let valid = !indexed || self.index(pod).is_some();
                let verdict = policy::of_failure(self.spec, pod);
                if valid {
                    op.counts.extend(verdict.action().map(metrics::by_policy));
                }
                if valid && verdict != Verdict::Ignore && !self.uncounted_failed.contains(id) {
                    failed.push(id.to_owned());
                }
            }
            ops.push(op);
            if new_indexes.len() + succeeded.len() + failed.len() >= MAX_UNCOUNTED {
                // the rest is counted when these are
                break;
            }
        }
        if indexed {
            let completed = self.previously_succeeded.union(&Indexes::of(new_indexes));
            self.status.succeeded = positive(completed.count().try_into().unwrap_or(i32::MAX));
            self.status.completed_indexes = Some(completed.to_string()).filter(|s| !s.is_empty());
            let per_index = self.spec.backoff_limit_per_index.is_some();
            self.status.failed_indexes = per_index.then(|| self.failed_indexes.to_string());
        }
        let uncounted = succeeded.len() + failed.len();
        let some = |uids: Vec<String>| (!uids.is_empty()).then_some(uids);
        self.status.uncounted_terminated_pods =
            Some(UncountedTerminatedPods { succeeded: some(succeeded), failed: some(failed) });
        Counted { untrack: ops, uncounted }
    }

    /// Whether nothing more is to be learnt from a pod.
    fn may_untrack(&self, pod: &Pod, end: Option<&End>) -> bool {
        let over = self.job.metadata.deletion_timestamp.is_some() || end.is_some();
        if over || phase(pod) == "Succeeded" {
            return true;
        }
        let awaited = self.index(pod).and_then(|i| self.replaced_next.get(&i));
        self.is_failed(pod) && awaited.is_none_or(|p| uid(p) != uid(pod))
    }
}
