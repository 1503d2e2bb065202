//! What may change in a pod through each of its paths (upstream's `ValidatePod*Update`).

use crate::diff::unified_diff;
use crate::pod_spec::validate::{
    validate_pod_annotations, validate_pod_only, validate_pod_spec_of, validate_profiles_match,
};
use crate::strategy::semantic_eq;
use crate::support::text;
use k8s_openapi::api::core::v1::{Container, NodeAffinity, NodeSelectorTerm, Pod, PodSpec, Toleration};

use meta::{FieldError, FieldErrors, Json, Path};
use std::collections::BTreeMap;

const MIRROR_POD: &str = "kubernetes.io/config.mirror";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const CHANGEABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn spec_of(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

pub(super) fn init_of(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

fn annotations(pod: &Pod) -> impl Iterator<Item = (&String, &String)> {
    pod.metadata.annotations.iter().flatten()
}

/// A pod's spec and annotations, whoever wrote them and when.
pub(super) fn validate_pod(pod: &Pod) -> FieldErrors {
    let spec = spec_of(pod);
    let path = Path::new("spec");
    let mut errors = Vec::new();
    if let Some(map) = &pod.metadata.annotations {
        validate_pod_annotations(&mut errors, map, spec, &Path::new("metadata.annotations"));
    }
    validate_pod_spec_of(&mut errors, spec, Some(&pod.metadata), &path);
    validate_pod_only(&mut errors, spec, &path);
    errors
}

pub(super) fn validate_pod_create(pod: &Pod) -> FieldErrors {
    let mut errors = validate_pod(pod);
    let spec = spec_of(pod);
    let path = Path::new("spec");
    if spec.ephemeral_containers.as_ref().is_some_and(|c| !c.is_empty()) {
        errors.push(FieldError::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
    }
    let gated = spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty());
    if gated && !text(spec.node_name.as_ref()).is_empty() {
        let why = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden(&path.child("nodeName"), why));
    }
    validate_profiles_match(&mut errors, &pod.metadata, spec, &path);
    errors
}

pub(super) fn validate_annotation_changes(errors: &mut FieldErrors, new: &Pod, old: &Pod) {
    let path = Path::new("metadata.annotations");
    let special = |key: &str| key.starts_with(APP_ARMOR) || key == MIRROR_POD;
    let what = |key: &str| if key == MIRROR_POD { "mirror pod annotation" } else { "AppArmor annotations" };
    let empty = BTreeMap::new();
    let after = new.metadata.annotations.as_ref().unwrap_or(&empty);
    let before = old.metadata.annotations.as_ref().unwrap_or(&empty);
    for (key, _) in annotations(old).filter(|(k, v)| special(k) && after.get(*k) != Some(*v)) {
        errors.push(FieldError::forbidden(&path.key(key), format!("may not remove or update {}", what(key))));
    }
    for (key, _) in annotations(new).filter(|(k, _)| special(k) && !before.contains_key(*k)) {
        errors.push(FieldError::forbidden(&path.key(key), format!("may not add {}", what(key))));
    }
}

/// A change through the pod itself.
pub(super) fn validate_update(new: &Pod, old: &Pod) -> FieldErrors {
    let mut errors = validate_pod(new);
    validate_annotation_changes(&mut errors, new, old);
    let (after, before) = (spec_of(new), spec_of(old));
    let path = Path::new("spec");
    let lists = [
        ("containers", after.containers.as_slice(), before.containers.as_slice()),
        ("initContainers", init_of(after), init_of(before)),
    ];
    for (name, after, before) in lists {
        if after.len() != before.len() {
            errors.push(FieldError::forbidden(
                &path.child(name),
                "pod updates may not add or remove containers",
            ));
            return errors;
        }
        for (i, container) in after.iter().enumerate() {
            let image = text(container.image.as_ref());
            let at = || path.child(name).index(i).child("image");
            if image.is_empty() {
                errors.push(FieldError::required(&at(), ""));
            }
            if image.trim().len() != image.len() {
                errors.push(FieldError::invalid(
                    &at(),
                    image,
                    "must not have leading or trailing whitespace",
                ));
            }
        }
    }
    let deadline = path.child("activeDeadlineSeconds");
    match (after.active_deadline_seconds, before.active_deadline_seconds) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            let why = meta::validation::inclusive_range_error(0, i64::from(i32::MAX));
            errors.push(FieldError::invalid(&deadline, new, why));
            return errors;
        }
        (Some(new), Some(old)) if old < new => {
            errors.push(FieldError::invalid(&deadline, new, "must be less than or equal to previous value"));
            return errors;
        }
        (None, Some(_)) => {
            let why = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(&deadline, None::<i64>, why));
        }
        _ => {}
    }
    validate_tolerations_kept(&mut errors, after, before, &path.child("tolerations"));
    validate_gates_only_removed(&mut errors, after, before, &path.child("schedulingGates"));
    if semantic_eq(after, before) {
        return errors;
    }
    let masked = with_changeable_taken_back(&mut errors, after, before, &path);
    if !semantic_eq(&masked, before) {
        let diff = unified_diff(before, &masked);
        let why = format!("pod updates may not change fields other than {CHANGEABLE}\n{diff}");
        errors.push(FieldError::forbidden(&path, why));
    }
    errors
}

fn validate_tolerations_kept(errors: &mut FieldErrors, after: &PodSpec, before: &PodSpec, path: &Path) {
    let without_seconds = |t: &Toleration| Toleration { toleration_seconds: None, ..t.clone() };
    let new: Vec<Toleration> = after.tolerations.iter().flatten().map(without_seconds).collect();
    if before.tolerations.iter().flatten().any(|old| !new.contains(&without_seconds(old))) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden(path, why));
    }
}

fn validate_gates_only_removed(errors: &mut FieldErrors, after: &PodSpec, before: &PodSpec, path: &Path) {
    for (i, gate) in after.scheduling_gates.iter().flatten().enumerate() {
        if !before.scheduling_gates.iter().flatten().any(|g| g.name == gate.name) {
            let why = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
            errors.push(FieldError::forbidden(&path.index(i).child("name"), why));
        }
    }
}

/// The new spec with every field that may change as it was before.
fn with_changeable_taken_back(
    errors: &mut FieldErrors,
    after: &PodSpec,
    before: &PodSpec,
    path: &Path,
) -> PodSpec {
    let mut masked = after.clone();
    for (new, old) in masked.containers.iter_mut().zip(&before.containers) {
        new.image.clone_from(&old.image);
    }
    for (new, old) in masked.init_containers.iter_mut().flatten().zip(before.init_containers.iter().flatten())
    {
        new.image.clone_from(&old.image);
    }
    masked.active_deadline_seconds = before.active_deadline_seconds;
    masked.scheduling_gates.clone_from(&before.scheduling_gates);
    masked.tolerations.clone_from(&before.tolerations);
    if before.termination_grace_period_seconds.is_some_and(|s| s < 0)
        && masked.termination_grace_period_seconds == Some(1)
    {
        masked.termination_grace_period_seconds = before.termination_grace_period_seconds;
    }
    if before.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty()) {
        take_back_gated(errors, &mut masked, before, path);
    }
    masked
}

/// A pod that no scheduler has seen yet may be narrowed down: node selector and node affinity may grow.
fn take_back_gated(errors: &mut FieldErrors, masked: &mut PodSpec, before: &PodSpec, path: &Path) {
    let empty = BTreeMap::new();
    let new = masked.node_selector.as_ref().unwrap_or(&empty);
    if before.node_selector.iter().flatten().any(|(k, v)| new.get(k) != Some(v)) {
        let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(FieldError::invalid(&path.child("nodeSelector"), Json(new), why));
    }
    masked.node_selector.clone_from(&before.node_selector);
    let old = before.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let new = masked.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    if old == new {
        return;
    }
    validate_node_affinity_grows(errors, new, old, &path.child("affinity").child("nodeAffinity"));
    let old = old.cloned();
    match &mut masked.affinity {
        None => {
            masked.affinity =
                Some(k8s_openapi::api::core::v1::Affinity { node_affinity: old, ..Default::default() })
        }
        Some(a) if before.affinity.is_none() && a.pod_affinity.is_none() && a.pod_anti_affinity.is_none() => {
            masked.affinity = None;
        }
        Some(a) => a.node_affinity = old,
    }
}

fn validate_node_affinity_grows(
    errors: &mut FieldErrors,
    new: Option<&NodeAffinity>,
    old: Option<&NodeAffinity>,
    path: &Path,
) {
    let terms = |a: Option<&NodeAffinity>| -> Vec<NodeSelectorTerm> {
        let required = a.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        required.map(|r| r.node_selector_terms.clone()).unwrap_or_default()
    };
    let (old, new) = (terms(old), terms(new));
    let path = path.child("requiredDuringSchedulingIgnoredDuringExecution").child("nodeSelectorTerms");
    if !old.is_empty() && old.len() != new.len() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.push(FieldError::invalid(&path, Json(&new), why));
        return;
    }
    for (i, (old, new)) in old.iter().zip(&new).enumerate() {
        let grows = |old: &Option<Vec<_>>, new: &Option<Vec<_>>| {
            let old: &[k8s_openapi::api::core::v1::NodeSelectorRequirement] =
                old.as_deref().unwrap_or_default();
            new.as_deref().unwrap_or_default().starts_with(old)
        };
        let is_empty = |t: &NodeSelectorTerm| {
            t.match_expressions.as_ref().is_none_or(Vec::is_empty)
                && t.match_fields.as_ref().is_none_or(Vec::is_empty)
        };
        let ok = grows(&old.match_expressions, &new.match_expressions)
            && grows(&old.match_fields, &new.match_fields)
            && (!is_empty(old) || is_empty(new));
        if !ok {
            let why = "only additions are allowed (no mutations or deletions)";
            errors.push(FieldError::invalid(&path.index(i), Json(new), why));
        }
    }
}

pub(super) fn is_static(pod: &Pod) -> bool {
    annotations(pod).any(|(k, _)| k == MIRROR_POD)
}

pub(super) fn validate_ephemeral_containers_update(new: &Pod, old: &Pod) -> FieldErrors {
    if is_static(old) {
        return vec![FieldError::forbidden(
            &Path::new(""),
            "static pods do not support ephemeral containers",
        )];
    }
    let mut errors = validate_pod(new);
    validate_annotation_changes(&mut errors, new, old);
    let path = Path::new("spec.ephemeralContainers");
    let after = spec_of(new).ephemeral_containers.as_deref().unwrap_or_default();
    for before in spec_of(old).ephemeral_containers.iter().flatten() {
        match after.iter().rev().find(|c| c.name == before.name) {
            None => {
                let why = format!("existing ephemeral containers {:?} may not be removed\n", before.name);
                errors.push(FieldError::forbidden(&path, why));
            }
            Some(after) if !semantic_eq(after, before) => {
                let diff = unified_diff(before, after);
                let why =
                    format!("existing ephemeral containers {:?} may not be changed\n{diff}", before.name);
                errors.push(FieldError::forbidden(&path, why));
            }
            Some(_) => {}
        }
    }
    errors
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::pod_spec::default_pod;
    use crate::support::testing::{lines, object};
    use serde_json::{Value, json};

    /// A pod with one container on a node.
    pub(in crate::core) fn pod(change: impl FnOnce(&mut Value)) -> Pod {
        let mut value = json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "nginx:1", "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"qosClass": "Burstable"},
        });
        change(&mut value);
        let mut pod = object(value);
        default_pod(&mut pod);
        pod
    }

    #[test]
    fn images_deadlines_and_tolerations_may_change() {
        let old = pod(|_| ());
        let check = |change: fn(&mut Value), expect: &[&str]| {
            assert_eq!(lines(&validate_update(&pod(change), &old)), expect);
        };
        check(|p| p["spec"]["containers"][0]["image"] = json!("nginx:2"), &[]);
        check(|p| p["spec"]["activeDeadlineSeconds"] = json!(60), &[]);
        check(|p| p["spec"]["tolerations"] = json!([{"operator": "Exists"}]), &[]);
        check(
            |p| p["spec"]["containers"] = json!([]),
            &[
                "spec.containers: Required value",
                "spec.containers: Forbidden: pod updates may not add or remove containers",
            ],
        );
    }

    #[test]
    fn the_refusal_shows_the_difference() {
        let old = pod(|_| ());
        let got = lines(&validate_update(&pod(|p| p["spec"]["nodeName"] = json!("m")), &old));
        let [one] = got.as_slice() else { panic!("one error: {got:?}") };
        assert!(one.starts_with(&format!(
            "spec: Forbidden: pod updates may not change fields other than {CHANGEABLE}\n@@ "
        )));
        assert!(one.contains("\n- \"nodeName\": \"n\",\n+ \"nodeName\": \"m\",\n"), "{one}");
    }
}
