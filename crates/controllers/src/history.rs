//! Revisions of a workload's pod template, kept as ControllerRevisions: `kubectl rollout history` shows them and `undo`
//! applies one as a patch.

use crate::plan::{ALREADY_EXISTS, Mode, Op, Step};
use crate::refs::controller_ref;
use crate::template;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::Resource;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;

/// On pods: the revision they are of.
pub(crate) const HASH_LABEL: &str = "controller-revision-hash";
/// Longest part of an owner's name in the name of a revision, in bytes.
const MAX_PREFIX_BYTES: usize = 223;

/// The patch that brings a template back, in the bytes upstream writes: either implementation knows the other's
/// revisions as its own.
pub(crate) fn data_of(template: &PodTemplateSpec) -> Value {
    let mut value = template::encoded(template);
    template::as_upstream(&mut value);
    value["$patch"] = json!("replace");
    // As Go writes maps.
    value.sort_all_objects();
    json!({"spec": {"template": value}})
}

/// The template that a revision keeps; None where it keeps none.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut value = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    value.as_object_mut()?.remove("$patch");
    serde_json::from_value(value).ok()
}

/// Whether a revision keeps this template.
pub(crate) fn keeps(revision: &ControllerRevision, template: &PodTemplateSpec) -> bool {
    template_of(revision).is_some_and(|kept| template::Normal::of(template).same(&kept))
}

/// Oldest first; of the same number the older object, then by name.
pub(crate) fn sort(revisions: &mut [Arc<ControllerRevision>]) {
    revisions.sort_by(|a, b| {
        let key = |r: &ControllerRevision| {
            (r.revision, r.metadata.creation_timestamp.as_ref().map(|t| t.0), r.metadata.name.clone())
        };
        key(a).cmp(&key(b))
    });
}

/// A revision of an owner: the template's labels and `label`, the owner's annotations.
pub(crate) fn new<O: Resource<DynamicType = ()>>(
    owner: &O,
    template: &PodTemplateSpec,
    hash: &str,
    label: &str,
    number: i64,
) -> ControllerRevision {
    let meta = owner.meta();
    let mut prefix = meta.name.clone().unwrap_or_default();
    prefix.truncate(MAX_PREFIX_BYTES);
    let mut labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    labels.insert(label.into(), hash.into());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{prefix}-{hash}")),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: meta.annotations.clone(),
            owner_references: Some(vec![controller_ref(owner)]),
            ..Default::default()
        },
        data: Some(RawExtension(data_of(template))),
        revision: number,
    }
}

/// Creates a revision. `collision` is what to do if its name is taken: ours would have been in the cache, so another
/// template has this hash, or somebody took the name.
pub(crate) fn creation(revision: &ControllerRevision, collision: Op) -> Step {
    Step {
        ops: vec![Op::create(revision)],
        mode: Mode::InOrder,
        on_failure: Some(Box::new(move |f| {
            (f.reason == ALREADY_EXISTS).then_some(collision).into_iter().collect()
        })),
    }
}

/// Deletes the oldest of the sorted revisions beyond the limit, but none that `live` has.
pub(crate) fn truncate(
    old: &[Arc<ControllerRevision>],
    excess: usize,
    live: impl Fn(&ControllerRevision) -> bool,
) -> Vec<Op> {
    old.iter().filter(|r| !live(r)).take(excess).map(|r| Op::delete(&**r)).collect()
}

/// A label's values among objects.
pub(crate) fn labelled<'a, K: Resource + 'a>(
    objects: impl IntoIterator<Item = &'a Arc<K>>,
    label: &str,
) -> HashSet<&'a str> {
    let values = objects.into_iter().filter_map(|o| o.meta().labels.as_ref()?.get(label));
    values.map(String::as_str).collect()
}

pub(crate) fn label<'a>(meta: &'a ObjectMeta, label: &str) -> &'a str {
    meta.labels.as_ref().and_then(|l| l.get(label)).map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_the_patch_that_brings_its_template_back() {
        let template: PodTemplateSpec = serde_json::from_value(json!({
            "metadata": {"labels": {"a": "b"}},
            "spec": {
                "containers": [{"name": "c", "env": [{"name": "E", "valueFrom": {"resourceFieldRef": {"resource": "cpu"}}}]}],
                "volumes": [{"name": "v", "emptyDir": {}}],
            },
        }))
        .unwrap();
        let expect = concat!(
            r#"{"spec":{"template":{"$patch":"replace","metadata":{"labels":{"a":"b"}},"spec":{"containers":"#,
            r#"[{"env":[{"name":"E","valueFrom":{"resourceFieldRef":{"divisor":"0","resource":"cpu"}}}],"#,
            r#""name":"c","resources":{}}],"volumes":[{"emptyDir":{},"name":"v"}]}}}}"#
        );
        assert_eq!(data_of(&template).to_string(), expect);
        let revision = ControllerRevision {
            data: Some(RawExtension(data_of(&template))),
            ..ControllerRevision::default()
        };
        assert!(keeps(&revision, &template));
        let mut other = template.clone();
        other.spec.as_mut().unwrap().host_network = Some(true);
        assert!(!keeps(&revision, &other));
    }
}
