//! Jobs whose pods have indexes, and the pods of jobs.

use super::intervals::Indexes;
use super::{Sync, TRACKING, backoff, has_finalizer, is_indexed, metrics, policy};
use crate::children::{creation, pod_from};
use crate::plan::Op;
use crate::pods::{is_terminating, phase};
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use meta::Time;
use policy::Verdict;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// An annotation of pods, and a label.
pub(crate) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often pods of an index failed before this one, where that counts and where it does not.
pub(crate) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
pub(crate) const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// Of a name before the server's random letters.
const MAX_GENERATED_BYTES: usize = 58;

fn number(pod: &Pod, annotation: &str) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(annotation)?.parse().ok().filter(|n| *n >= 0)
}

/// The completion index a pod says it has.
pub(super) fn index(pod: &Pod) -> Option<i32> {
    number(pod, INDEX)
}

/// How many pods of its index failed before this one, and count.
pub(super) fn failures(pod: &Pod) -> i32 {
    number(pod, FAILURES).unwrap_or(0)
}

fn all_failures(pod: &Pod) -> i32 {
    failures(pod).saturating_add(number(pod, IGNORED).unwrap_or(0))
}

impl Sync<'_> {
    pub(super) fn look_at_indexes(&mut self) {
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
            Verdict::Unmatched | Verdict::Count | Verdict::FailJob(_) => failures(pod) >= limit,
        }
    }

    fn indexes_of<'p>(&self, pods: impl Iterator<Item = &'p Arc<Pod>>) -> Indexes {
        let all: BTreeSet<i32> = pods.filter_map(|p| index(p)).collect();
        Indexes::of(all)
    }

    /// The first indexes that lack a pod.
    pub(super) fn pending(&self, how_many: usize) -> Vec<i32> {
        let mut taken = self.succeeded_indexes.union(&self.failed_indexes);
        taken = taken.union(&self.indexes_of(self.active.iter()));
        if self.only_replaces_failed() {
            taken = taken.union(&self.indexes_of(self.pods.iter().filter(|p| is_terminating(p))));
        }
        taken.absent(how_many, self.spec.completions.unwrap_or(0))
    }

    /// Those of the indexes that may have a new pod now, and when the next of the others may.
    pub(super) fn due(&self, indexes: Vec<i32>) -> (Vec<i32>, Option<Time>) {
        if self.spec.backoff_limit_per_index.is_none() {
            return (indexes, None);
        }
        let mut next: Option<Time> = None;
        let mut due = indexes;
        due.retain(|i| {
            let Some(pod) = self.replaced_next.get(i) else { return true };
            let until = backoff::until(pod, all_failures(pod).saturating_add(1));
            if until > self.now {
                next = Some(next.map_or(until, |n| n.min(until)));
            }
            until <= self.now
        });
        (due, next)
    }

    /// Of each index that lacks a pod, the one that failed last.
    pub(super) fn replaced_next(&self) -> BTreeMap<i32, Arc<Pod>> {
        let active = self.indexes_of(self.active.iter());
        let mut last: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
        for pod in self.pods.iter().filter(|p| has_finalizer(p) && self.is_failed(p)) {
            let Some(i) = self.index(pod) else { continue };
            if self.succeeded_indexes.has(i) || self.failed_indexes.has(i) || active.has(i) {
                continue;
            }
            let later = last.get(&i).is_none_or(|l| {
                all_failures(l) <= all_failures(pod) && backoff::ended_at(pod) >= backoff::ended_at(l)
            });
            if later {
                last.insert(i, pod.clone());
            }
        }
        last
    }

    /// Active pods without an index of the job, and all but one of each index; then the others.
    pub(super) fn without_need(
        &self,
        earlier: impl Fn(&Arc<Pod>, &Arc<Pod>) -> Ordering,
    ) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
        let (mut going, mut rest) = (Vec::new(), Vec::new());
        let mut by_index: BTreeMap<i32, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in &self.active {
            match self.index(pod) {
                Some(i) => by_index.entry(i).or_default().push(pod.clone()),
                None => going.push(pod.clone()),
            }
        }
        for mut pods in by_index.into_values() {
            pods.sort_by(&earlier);
            rest.extend(pods.pop());
            going.extend(pods);
        }
        (going, rest)
    }

    /// A pod of the job, of this index where it has indexes.
    pub(super) fn creation(&self, index: Option<i32>, reason: &'static str) -> Op {
        let mut pod = pod_from(self.job, &self.spec.template);
        let finalizers = pod.metadata.finalizers.get_or_insert_default();
        if !finalizers.iter().any(|f| f == TRACKING) {
            finalizers.push(TRACKING.into());
        }
        let spec = pod.spec.get_or_insert_default();
        if is_indexed(self.spec) {
            let init = spec.init_containers.iter_mut().flatten();
            init.chain(&mut spec.containers).for_each(add_variable);
        }
        if let Some(index) = index {
            let name = self.job.metadata.name.as_deref().unwrap_or("");
            spec.hostname = Some(format!("{name}-{index}"));
            let end = format!("-{index}-");
            let kept = name.len().min(MAX_GENERATED_BYTES - end.len());
            pod.metadata.generate_name = Some(format!("{}{end}", name.get(..kept).unwrap_or(name)));
            let labels = pod.metadata.labels.get_or_insert_default();
            labels.insert(INDEX.into(), index.to_string());
            let annotations = pod.metadata.annotations.get_or_insert_default();
            annotations.insert(INDEX.into(), index.to_string());
            if self.spec.backoff_limit_per_index.is_some() {
                let (counting, ignored) = self.inherited_failures(index);
                annotations.insert(FAILURES.into(), counting.to_string());
                if ignored > 0 {
                    annotations.insert(IGNORED.into(), ignored.to_string());
                }
            }
        }
        let [succeeded, failed] = metrics::created(reason);
        creation(self.job, &pod).count(succeeded).count_failure(failed)
    }

    /// How often pods of an index have failed, with the one that is replaced: those that count, and those that do not.
    fn inherited_failures(&self, index: i32) -> (i32, i32) {
        let Some(pod) = self.replaced_next.get(&index) else { return (0, 0) };
        let (counting, ignored) = (failures(pod), number(pod, IGNORED).unwrap_or(0));
        match policy::of_failure(self.spec, pod) {
            Verdict::Ignore => (counting, ignored.saturating_add(1)),
            Verdict::Unmatched | Verdict::Count | Verdict::FailIndex | Verdict::FailJob(_) => {
                (counting.saturating_add(1), ignored)
            }
        }
    }
}

fn add_variable(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|v| v.name == VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector {
        field_path: format!("metadata.labels['{INDEX}']"),
        ..ObjectFieldSelector::default()
    };
    let from = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    env.push(EnvVar { name: VARIABLE.into(), value_from: Some(from), ..EnvVar::default() });
}
