//! What the workloads' declarations share.

use crate::pod_spec::validate_pod_template;
use crate::support::{nonnegative, or_zero};
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meta::validation::{is_valid_percent, validate_label_selector, validate_nonnegative};
use meta::{FieldError, FieldErrors, Json, Path, Verbatim};
use std::collections::BTreeMap;

pub(crate) const NAMES_OF_CONTAINERS: &str = "Names of each container in the template.";
pub(crate) const IMAGES_OF_CONTAINERS: &str = "Images referenced by each container in the template.";
const LABELS_DO_NOT_MATCH: &str = "`selector` does not match template `labels`";

fn joined<'a>(containers: &'a [Container], of: impl Fn(&'a Container) -> &'a str) -> String {
    containers.iter().map(of).collect::<Vec<_>>().join(",")
}

/// The CONTAINERS cell of a wide table.
pub(crate) fn container_names(spec: Option<&PodSpec>) -> String {
    joined(spec.map_or(&[], |s| &s.containers), |c| &c.name)
}

/// The IMAGES cell of a wide table.
pub(crate) fn container_images(spec: Option<&PodSpec>) -> String {
    joined(spec.map_or(&[], |s| &s.containers), |c| c.image.as_deref().unwrap_or_default())
}

/// The selector in query-string form, as `/scale` and tables show it.
pub(crate) fn selector_text(selector: &LabelSelector) -> String {
    meta::LabelSelector::from_object(selector).map_or_else(|_| "<invalid>".to_owned(), |s| s.to_string())
}

/// A selector in messages: JSON with the fields in the order of the Go type.
pub(crate) fn selector_json(selector: &LabelSelector) -> Verbatim {
    let mut fields = Vec::new();
    if let Some(labels) = selector.match_labels.as_ref().filter(|l| !l.is_empty()) {
        fields.push(format!("\"matchLabels\":{}", serde_json::to_string(labels).unwrap_or_default()));
    }
    if let Some(expressions) = selector.match_expressions.as_ref().filter(|e| !e.is_empty()) {
        fields
            .push(format!("\"matchExpressions\":{}", serde_json::to_string(expressions).unwrap_or_default()));
    }
    Verbatim(format!("{{{}}}", fields.join(",")))
}

pub(crate) fn is_empty_selector(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// Refuses counts of a status above its `replicas`.
pub(crate) fn counts_within(errors: &mut FieldErrors, replicas: i64, counts: &[(&str, i64)]) {
    for (name, value) in counts.iter().filter(|(_, v)| *v > replicas) {
        let path = Path::new("status").child(name);
        errors.push(FieldError::invalid(&path, *value, "cannot be greater than status.replicas"));
    }
}

/// What the status of a ReplicaSet or a ReplicationController counts.
pub(crate) struct ReplicaCounts {
    pub replicas: i32,
    pub fully_labeled: Option<i32>,
    pub ready: Option<i32>,
    pub available: Option<i32>,
    pub terminating: Option<i32>,
    pub observed_generation: Option<i64>,
}

impl ReplicaCounts {
    pub fn validate(&self) -> FieldErrors {
        let path = Path::new("status");
        let (replicas, ready, available) =
            (or_zero(self.replicas), or_zero(self.ready), or_zero(self.available));
        let counts = [
            ("fullyLabeledReplicas", or_zero(self.fully_labeled)),
            ("readyReplicas", ready),
            ("availableReplicas", available),
        ];
        let others = [
            ("observedGeneration", self.observed_generation.unwrap_or(0)),
            ("terminatingReplicas", or_zero(self.terminating)),
        ];
        let mut errors = Vec::new();
        nonnegative(&mut errors, &path, &[("replicas", replicas)]);
        nonnegative(&mut errors, &path, &counts);
        nonnegative(&mut errors, &path, &others);
        counts_within(&mut errors, replicas, &counts);
        available_are_ready(&mut errors, available, ready, "readyReplicas");
        errors
    }
}

/// Refuses a status with more available than ready pods; `ready_field` is how upstream's message calls the latter.
pub(crate) fn available_are_ready(errors: &mut FieldErrors, available: i64, ready: i64, ready_field: &str) {
    if available > ready {
        let why = format!("cannot be greater than {ready_field}");
        errors.push(FieldError::invalid(&Path::new("status.availableReplicas"), available, why));
    }
}

pub(crate) fn collision_count_kept(errors: &mut FieldErrors, new: Option<i32>, old: Option<i32>) {
    let decremented = match (new, old) {
        (None, Some(_)) => true,
        (Some(new), Some(old)) => new < old,
        _ => false,
    };
    if decremented {
        errors.push(FieldError::invalid(
            &Path::new("status.collisionCount"),
            new.unwrap_or(0),
            "cannot be decremented",
        ));
    }
}

/// Whether the selector was left out. The type cannot tell that from `{}`, which nobody writes.
fn is_absent(selector: &LabelSelector) -> bool {
    selector.match_labels.is_none() && selector.match_expressions.is_none()
}

/// The selector of a workload. `kind` names the workload where the selector is empty.
pub(crate) fn validate_selector(errors: &mut FieldErrors, selector: &LabelSelector, kind: &str) {
    let path = Path::new("spec.selector");
    if is_absent(selector) {
        errors.push(FieldError::required(&path, ""));
        return;
    }
    errors.extend(validate_label_selector(selector, &path));
    if is_empty_selector(selector) {
        let why = format!("empty selector is invalid for {kind}");
        errors.push(FieldError::invalid(&path, selector_json(selector), why));
    }
}

/// The selector as one that matches; None where it cannot be read. An absent one matches nothing.
pub(crate) fn readable(selector: &LabelSelector) -> Option<meta::LabelSelector> {
    if is_absent(selector) {
        return Some(meta::LabelSelector::nothing());
    }
    let parsed = meta::LabelSelector::from_object(selector).ok()?;
    parsed.requirements.iter().all(|r| r.clone().checked().is_ok()).then_some(parsed)
}

fn labels_of(template: &PodTemplateSpec) -> &BTreeMap<String, String> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    template.metadata.as_ref().and_then(|m| m.labels.as_ref()).unwrap_or(&NONE)
}

pub(crate) fn labels_match(
    errors: &mut FieldErrors,
    selector: &meta::LabelSelector,
    template: &PodTemplateSpec,
    path: &Path,
) {
    let labels = labels_of(template);
    if !selector.matches(labels) {
        let path = path.child("metadata").child("labels");
        errors.push(FieldError::invalid(&path, Json(labels), LABELS_DO_NOT_MATCH));
    }
}

/// What every workload that keeps pods running asks of its template. `kind` is the Kubernetes kind.
pub(crate) fn runs_forever(errors: &mut FieldErrors, template: &PodTemplateSpec, path: &Path, kind: &str) {
    let Some(spec) = &template.spec else { return };
    let policy = spec.restart_policy.as_deref().unwrap_or_default();
    if policy != "Always" {
        errors.push(FieldError::not_supported(
            &path.child("spec").child("restartPolicy"),
            policy,
            &["Always"],
        ));
    }
    if spec.active_deadline_seconds.is_some() {
        errors.push(FieldError::forbidden(
            &path.child("spec").child("activeDeadlineSeconds"),
            format!("activeDeadlineSeconds in {kind} is not Supported"),
        ));
    }
}

/// Selector and template of a Deployment or ReplicaSet.
pub(crate) fn validate_replicated(
    errors: &mut FieldErrors,
    selector: &LabelSelector,
    template: Option<&PodTemplateSpec>,
) {
    let path = Path::new("spec.template");
    // upstream names the deployment in both kinds' messages
    validate_selector(errors, selector, "deployment");
    let Some(parsed) = readable(selector) else {
        errors.push(FieldError::invalid(
            &Path::new("spec.selector"),
            selector_json(selector),
            "invalid label selector",
        ));
        return;
    };
    let empty = PodTemplateSpec::default();
    let template = template.unwrap_or(&empty);
    labels_match(errors, &parsed, template, &path);
    errors.extend(validate_pod_template(template, &path));
    runs_forever(errors, template, &path, "ReplicaSet");
}

/// An absolute number or a percentage.
pub(crate) fn positive_int_or_percent(errors: &mut FieldErrors, value: &IntOrString, path: &Path) {
    match value {
        IntOrString::Int(n) => errors.extend(validate_nonnegative(i64::from(*n), path)),
        IntOrString::String(s) => {
            errors.extend(is_valid_percent(s).into_iter().map(|m| FieldError::invalid(path, s, m)));
        }
    }
}

fn percent(value: &IntOrString) -> Option<i64> {
    match value {
        IntOrString::String(s) => {
            s.strip_suffix('%').and_then(|n| n.parse().ok()).filter(|_| is_valid_percent(s).is_empty())
        }
        IntOrString::Int(_) => None,
    }
}

/// The number, or the percentage without its sign.
pub(crate) fn amount(value: &IntOrString) -> i64 {
    percent(value).unwrap_or(match value {
        IntOrString::Int(n) => i64::from(*n),
        IntOrString::String(s) => s.parse().unwrap_or(0),
    })
}

pub(crate) fn at_most_100_percent(errors: &mut FieldErrors, value: &IntOrString, path: &Path) {
    if percent(value).is_some_and(|p| p > 100) {
        errors.push(FieldError::invalid(path, Json(value), "must not be greater than 100%"));
    }
}

/// The refusal of a changed selector.
pub(crate) fn selector_kept(errors: &mut FieldErrors, new: &LabelSelector, old: &LabelSelector) {
    if !crate::strategy::semantic_eq(new, old) {
        errors.push(FieldError::invalid(
            &Path::new("spec.selector"),
            selector_json(new),
            "field is immutable",
        ));
    }
}

/// An update strategy as upstream's errors show it; `rolling` is maxUnavailable and maxSurge.
pub(crate) fn shown_strategy(
    kind: &str,
    rolling: Option<(&Option<IntOrString>, &Option<IntOrString>)>,
) -> Verbatim {
    let json = |v: &Option<IntOrString>| serde_json::to_string(v).unwrap_or_default();
    let rolling = rolling.map_or("null".to_owned(), |(unavailable, surge)| {
        format!("{{\"MaxUnavailable\":{},\"MaxSurge\":{}}}", json(unavailable), json(surge))
    });
    Verbatim(format!("{{\"Type\":{kind:?},\"RollingUpdate\":{rolling}}}"))
}
