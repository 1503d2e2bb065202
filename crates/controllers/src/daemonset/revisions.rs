//! The revisions of a daemon set's template.

use super::Daemons;
use crate::history::{self, HASH_LABEL};
use crate::plan::{Op, Plan};
use crate::template;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use std::sync::Arc;

impl Daemons<'_> {
    /// Makes the current template's revision the newest, once, and takes its hash; the others, oldest first.
    pub(super) fn revisions(
        &mut self,
        mut all: Vec<Arc<ControllerRevision>>,
        pods: &[Arc<Pod>],
        plan: &mut Plan,
    ) -> Vec<Arc<ControllerRevision>> {
        history::sort(&mut all);
        for revision in all.iter_mut().filter(|r| history::label(&r.metadata, HASH_LABEL).is_empty()) {
            let revision = Arc::make_mut(revision);
            let name = revision.metadata.name.clone().unwrap_or_default();
            revision.metadata.labels.get_or_insert_default().insert(HASH_LABEL.into(), name.clone());
            let patch = json!({"metadata": {"uid": revision.metadata.uid, "labels": {HASH_LABEL: name}}});
            plan.op(Op::merge_patch(&*revision, &patch));
        }
        let keeps = |r: &Arc<ControllerRevision>| history::keeps(r, &self.spec.template);
        let (mut current, old): (Vec<_>, Vec<_>) = all.into_iter().partition(keeps);
        let next = old.iter().map(|r| r.revision).max().unwrap_or(0).max(0) + 1;
        match current.pop() {
            None => self.hash = self.create_revision(next, plan),
            Some(newest) => {
                self.hash = history::label(&newest.metadata, HASH_LABEL).to_owned();
                self.remove_duplicates(&current, pods, plan);
                if newest.revision < next {
                    plan.op(Op::replace(&ControllerRevision { revision: next, ..(*newest).clone() }));
                }
            }
        }
        old
    }

    fn create_revision(&self, number: i64, plan: &mut Plan) -> String {
        let status = self.set.status.clone().unwrap_or_default();
        let collisions = status.collision_count.unwrap_or(0);
        let hash = template::hash(&self.spec.template, collisions);
        let revision = history::new(self.set, &self.spec.template, &hash, HASH_LABEL, number);
        let bumped = DaemonSetStatus { collision_count: Some(collisions + 1), ..status };
        let bumped = DaemonSet { status: Some(bumped), ..self.set.clone() };
        plan.step(history::creation(&revision, Op::replace_status(&bumped)));
        hash
    }

    /// The same template twice: its pods become the one revision's, and the others go.
    fn remove_duplicates(&self, extra: &[Arc<ControllerRevision>], pods: &[Arc<Pod>], plan: &mut Plan) {
        if extra.is_empty() {
            return;
        }
        let hashes = history::labelled(extra, HASH_LABEL);
        for pod in pods.iter().filter(|p| hashes.contains(history::label(&p.metadata, HASH_LABEL))) {
            let patch = json!({"metadata": {"uid": pod.metadata.uid, "labels": {HASH_LABEL: self.hash}}});
            plan.op(Op::merge_patch(&**pod, &patch));
        }
        for revision in extra {
            plan.op(Op::delete(&**revision));
        }
    }

    /// Deletes the oldest revisions beyond the limit that no pod is of.
    pub(super) fn clean_up(&self, old: &[Arc<ControllerRevision>], pods: &[Arc<Pod>], plan: &mut Plan) {
        let limit = usize::try_from(self.spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
        let live = history::labelled(pods, HASH_LABEL);
        let is_live = |r: &ControllerRevision| live.contains(history::label(&r.metadata, HASH_LABEL));
        for op in history::truncate(old, old.len().saturating_sub(limit), is_live) {
            plan.op(op);
        }
    }
}
