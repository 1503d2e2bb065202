//! The revisions of a set's template: the one its members are of, and the one they are to become.

use crate::history;
use crate::plan::{Op, Plan};
use crate::template::safe_letters;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use std::collections::HashSet;
use std::sync::Arc;

/// On revisions of stateful sets.
const REVISION_HASH_LABEL: &str = "controller.kubernetes.io/hash";

pub(super) struct Revision {
    pub name: String,
    pub template: PodTemplateSpec,
}

impl Revision {
    fn of(revision: &ControllerRevision, otherwise: &PodTemplateSpec) -> Self {
        Self {
            name: revision.metadata.name.clone().unwrap_or_default(),
            template: history::template_of(revision).unwrap_or_else(|| otherwise.clone()),
        }
    }
}

/// The current revision and the one to update to, which is made the newest. `all`: sorted.
pub(super) fn choose(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    all: &[Arc<ControllerRevision>],
    plan: &mut Plan,
) -> (Revision, Revision) {
    let same = all.iter().rposition(|r| history::keeps(r, &spec.template));
    let next = all.last().map_or(1, |r| r.revision + 1);
    let update = match same {
        Some(i) => {
            if i + 1 < all.len() {
                plan.op(Op::replace(&ControllerRevision { revision: next, ..(*all[i]).clone() }));
            }
            Revision::of(&all[i], &spec.template)
        }
        None => Revision { name: create(set, spec, next, plan), template: spec.template.clone() },
    };
    let current = set.status.as_ref().and_then(|s| s.current_revision.as_ref());
    let current = all.iter().find(|r| current.is_some() && r.metadata.name.as_ref() == current);
    let current = match current {
        Some(r) => Revision::of(r, &spec.template),
        None => Revision { name: update.name.clone(), template: update.template.clone() },
    };
    (current, update)
}

fn create(set: &StatefulSet, spec: &StatefulSetSpec, number: i64, plan: &mut Plan) -> String {
    let status = set.status.clone().unwrap_or_default();
    let collisions = status.collision_count.unwrap_or(0);
    let hash = hash(&spec.template, collisions);
    let revision = history::new(set, &spec.template, &hash, REVISION_HASH_LABEL, number);
    let name = revision.metadata.name.clone().unwrap_or_default();
    let bumped = StatefulSetStatus { collision_count: Some(collisions + 1), ..status };
    let bumped = StatefulSet { status: Some(bumped), ..set.clone() };
    plan.step(history::creation(&revision, Op::replace_status(&bumped)));
    name
}

/// FNV-32 over the revision's data and the collision count, as upstream's.
fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let mut h: u32 = 0x811c_9dc5;
    for b in history::data_of(template).to_string().bytes().chain(collisions.to_string().bytes()) {
        h = h.wrapping_mul(0x0100_0193) ^ u32::from(b);
    }
    safe_letters(h)
}

/// Deletes the oldest revisions beyond the limit that nothing is of.
pub(super) fn clean_up(
    spec: &StatefulSetSpec,
    all: &[Arc<ControllerRevision>],
    live: &HashSet<&str>,
    plan: &mut Plan,
) {
    let Ok(limit) = usize::try_from(spec.revision_history_limit.unwrap_or(10)) else { return };
    let is_live = |r: &ControllerRevision| r.metadata.name.as_deref().is_some_and(|n| live.contains(n));
    let history = all.iter().filter(|r| !is_live(r)).count();
    for op in history::truncate(all, history.saturating_sub(limit), is_live) {
        plan.op(op);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_revision_is_named_as_upstream_names_it() {
        let template: PodTemplateSpec = serde_json::from_value(json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        }))
        .unwrap();
        assert_eq!(hash(&template, 0).len(), hash(&template, 0).trim().len());
        assert_ne!(hash(&template, 0), hash(&template, 1));
    }
}
