//! What of a job may change (upstream's `ValidateJobUpdate`).

use super::has;
use super::job::{CONTROLLER_UID_LABEL, JOB_NAME_LABEL};
use super::job_spec::{self, is_indexed, validate_with_selector};
use crate::apps::selector_json;
use crate::strategy::semantic_eq;
use crate::support::FIELD_IMMUTABLE;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Affinity, Container, PodSpec, PodTemplateSpec};
use meta::{FieldError, FieldErrors, Json, Path};
use serde::Serialize;

pub(super) fn validate(new: &Job, old: &Job) -> FieldErrors {
    let (Some(spec), Some(old_spec)) = (&new.spec, &old.spec) else { return Vec::new() };
    let labels = old_spec.template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    let had = |key: &str| labels.is_some_and(|l| l.contains_key(key));
    let mut errors = job_spec::validate(new, had(JOB_NAME_LABEL) && had(CONTROLLER_UID_LABEL));
    // upstream checks the specification again as part of the change, and tells everything twice
    validate_with_selector(&mut errors, spec);
    let path = Path::new("spec");
    completions(&mut errors, spec, old_spec, &path.child("completions"));
    if !semantic_eq(&spec.selector, &old_spec.selector) {
        let shown = selector_json(&spec.selector.clone().unwrap_or_default());
        errors.push(FieldError::invalid(&path.child("selector"), shown, FIELD_IMMUTABLE));
    }
    template(&mut errors, spec, old, old_spec, &path.child("template"));
    kept(&mut errors, &spec.completion_mode, &old_spec.completion_mode, &path.child("completionMode"));
    kept(
        &mut errors,
        &spec.pod_failure_policy,
        &old_spec.pod_failure_policy,
        &path.child("podFailurePolicy"),
    );
    let limit = path.child("backoffLimitPerIndex");
    kept(&mut errors, &spec.backoff_limit_per_index, &old_spec.backoff_limit_per_index, &limit);
    kept(&mut errors, &spec.managed_by, &old_spec.managed_by, &path.child("managedBy"));
    kept(&mut errors, &spec.success_policy, &old_spec.success_policy, &path.child("successPolicy"));
    errors
}

fn kept<T: PartialEq + Serialize>(errors: &mut FieldErrors, new: &T, old: &T, path: &Path) {
    if !semantic_eq(new, old) {
        errors.push(FieldError::invalid(path, Json(new), FIELD_IMMUTABLE));
    }
}

/// An indexed job may grow and shrink together with its parallelism.
fn completions(errors: &mut FieldErrors, new: &JobSpec, old: &JobSpec, path: &Path) {
    if !is_indexed(new) {
        return kept(errors, &new.completions, &old.completions, path);
    }
    let Some(wanted) = new.completions.filter(|_| new.completions != old.completions) else { return };
    if Some(wanted) != new.parallelism {
        let why = "can only be modified in tandem with spec.parallelism";
        errors.push(FieldError::invalid(path, wanted, why));
    }
}

/// Of a suspended job that has no pods yet, or none any more, may change where its pods run and what they request.
fn template(errors: &mut FieldErrors, new: &JobSpec, old: &Job, old_spec: &JobSpec, path: &Path) {
    let status = old.status.as_ref();
    let suspended = old_spec.suspend == Some(true);
    let rests = status.is_none_or(|s| s.start_time.is_none()) || has(old, "Suspended");
    let idle = status.and_then(|s| s.active).unwrap_or(0) == 0;
    let mutable = suspended && rests && idle;
    let mut expected = old_spec.template.clone();
    if !mutable {
        return kept(errors, &new.template, &expected, path);
    }
    take_placement(&mut expected, &new.template);
    let empty = PodSpec::default();
    let new_spec = new.template.spec.as_ref().unwrap_or(&empty);
    let mut expected_spec = expected.spec.unwrap_or_default();
    take_resources(&mut expected_spec.containers, &new_spec.containers);
    if let (Some(to), Some(from)) = (&mut expected_spec.init_containers, &new_spec.init_containers) {
        take_resources(to, from);
    }
    kept(errors, new_spec, &expected_spec, &path.child("spec"));
}

fn take_placement(to: &mut PodTemplateSpec, from: &PodTemplateSpec) {
    let from_meta = from.metadata.clone().unwrap_or_default();
    let meta = to.metadata.get_or_insert_default();
    meta.labels = from_meta.labels;
    meta.annotations = from_meta.annotations;
    let empty = PodSpec::default();
    let (to, from) = (to.spec.get_or_insert_default(), from.spec.as_ref().unwrap_or(&empty));
    match (&mut to.affinity, &from.affinity) {
        (Some(old), None) => {
            old.node_affinity = None;
            if *old == Affinity::default() {
                to.affinity = None;
            }
        }
        (None, Some(new)) => {
            to.affinity = Some(Affinity { node_affinity: new.node_affinity.clone(), ..Affinity::default() });
        }
        (Some(old), Some(new)) => old.node_affinity.clone_from(&new.node_affinity),
        (None, None) => {}
    }
    to.node_selector.clone_from(&from.node_selector);
    to.tolerations.clone_from(&from.tolerations);
    to.scheduling_gates.clone_from(&from.scheduling_gates);
}

fn take_resources(to: &mut [Container], from: &[Container]) {
    if to.len() == from.len() {
        for (to, from) in to.iter_mut().zip(from).filter(|(a, b)| a.name == b.name) {
            to.resources.clone_from(&from.resources);
        }
    }
}
