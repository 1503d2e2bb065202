//! Affinity to nodes and to other pods.

use super::refuse_each;
use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm,
    WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use meta::validation::{
    is_dns1123_subdomain, is_valid_label_value, name_is_dns_label, validate_label_name,
    validate_label_selector,
};
use meta::{FieldError, FieldErrors, Path};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const WEIGHT: &str = "must be in the range 1-100";
const NOT_AN_OPERATOR: &str = "not a valid selector operator";

pub(super) fn validate_affinity(errors: &mut FieldErrors, affinity: &Affinity, path: &Path) {
    if let Some(node) = &affinity.node_affinity {
        validate_node_affinity(errors, node, &path.child("nodeAffinity"));
    }
    validate_terms(errors, &PodTerms::near(affinity), &path.child("podAffinity"));
    validate_terms(errors, &PodTerms::apart(affinity), &path.child("podAntiAffinity"));
}

/// The terms of pod affinity or anti-affinity, which have a type each.
#[derive(Default)]
pub(crate) struct PodTerms<'a> {
    pub required: &'a [PodAffinityTerm],
    pub preferred: &'a [WeightedPodAffinityTerm],
}

impl<'a> PodTerms<'a> {
    /// Of affinity.
    pub fn near(affinity: &'a Affinity) -> Self {
        let Some(a) = &affinity.pod_affinity else { return Self::default() };
        Self {
            required: a.required_during_scheduling_ignored_during_execution.as_deref().unwrap_or_default(),
            preferred: a.preferred_during_scheduling_ignored_during_execution.as_deref().unwrap_or_default(),
        }
    }

    /// Of anti-affinity.
    pub fn apart(affinity: &'a Affinity) -> Self {
        let Some(a) = &affinity.pod_anti_affinity else { return Self::default() };
        Self {
            required: a.required_during_scheduling_ignored_during_execution.as_deref().unwrap_or_default(),
            preferred: a.preferred_during_scheduling_ignored_during_execution.as_deref().unwrap_or_default(),
        }
    }

    /// Those of both strengths, without weights.
    pub fn all(&self) -> impl Iterator<Item = &'a PodAffinityTerm> + use<'a> {
        self.required.iter().chain(self.preferred.iter().map(|w| &w.pod_affinity_term))
    }
}

fn validate_node_affinity(errors: &mut FieldErrors, affinity: &NodeAffinity, path: &Path) {
    if let Some(selector) = &affinity.required_during_scheduling_ignored_during_execution {
        validate_node_selector(errors, selector, &path.child(REQUIRED));
    }
    for (i, term) in
        affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten().enumerate()
    {
        let path = path.child(PREFERRED).index(i);
        if !(1..=100).contains(&term.weight) {
            errors.push(FieldError::invalid(&path.child("weight"), term.weight, WEIGHT));
        }
        // a preference that no node can meet does no harm
        validate_node_term(errors, &term.preference, false, &path.child("preference"));
    }
}

/// What a pod or a volume requires of its node.
pub(crate) fn validate_node_selector(errors: &mut FieldErrors, selector: &NodeSelector, path: &Path) {
    let path = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        errors.push(FieldError::required(&path, "must have at least one node selector term"));
    }
    for (i, term) in selector.node_selector_terms.iter().enumerate() {
        validate_node_term(errors, term, true, &path.index(i));
    }
}

fn validate_node_term(errors: &mut FieldErrors, term: &NodeSelectorTerm, check_values: bool, path: &Path) {
    for (i, requirement) in term.match_expressions.iter().flatten().enumerate() {
        validate_expression(errors, requirement, check_values, &path.child("matchExpressions").index(i));
    }
    for (i, requirement) in term.match_fields.iter().flatten().enumerate() {
        validate_field(errors, requirement, &path.child("matchFields").index(i));
    }
}

fn validate_expression(
    errors: &mut FieldErrors,
    r: &NodeSelectorRequirement,
    check_values: bool,
    path: &Path,
) {
    let values = r.values.as_deref().unwrap_or_default();
    let at = || path.child("values");
    match r.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            errors.push(FieldError::required(&at(), "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(&at(), why));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.push(FieldError::required(&at(), why));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.push(FieldError::invalid(&path.child("operator"), other, NOT_AN_OPERATOR)),
    }
    errors.extend(validate_label_name(&r.key, &path.child("key")));
    if check_values {
        for (i, value) in values.iter().enumerate() {
            refuse_each(errors, || at().index(i), value, is_valid_label_value(value));
        }
    }
}

fn validate_field(errors: &mut FieldErrors, r: &NodeSelectorRequirement, path: &Path) {
    let values = r.values.as_deref().unwrap_or_default();
    match r.operator.as_str() {
        "In" | "NotIn" => {
            if values.len() != 1 {
                let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.push(FieldError::required(&path.child("values"), why));
            }
        }
        other => errors.push(FieldError::invalid(&path.child("operator"), other, NOT_AN_OPERATOR)),
    }
    if r.key == "metadata.name" {
        for (i, value) in values.iter().enumerate() {
            refuse_each(errors, || path.child("values").index(i), value, is_dns1123_subdomain(value));
        }
    } else {
        errors.push(FieldError::invalid(&path.child("key"), &r.key, "not a valid field selector key"));
    }
}

fn validate_terms(errors: &mut FieldErrors, terms: &PodTerms<'_>, path: &Path) {
    for (i, term) in terms.required.iter().enumerate() {
        validate_term(errors, term, &path.child(REQUIRED).index(i));
    }
    for (i, weighted) in terms.preferred.iter().enumerate() {
        let path = path.child(PREFERRED).index(i);
        if !(1..=100).contains(&weighted.weight) {
            errors.push(FieldError::invalid(&path.child("weight"), weighted.weight, WEIGHT));
        }
        validate_term(errors, &weighted.pod_affinity_term, &path.child("podAffinityTerm"));
    }
}

fn validate_term(errors: &mut FieldErrors, term: &PodAffinityTerm, path: &Path) {
    for (field, selector) in
        [("labelSelector", &term.label_selector), ("namespaceSelector", &term.namespace_selector)]
    {
        if let Some(selector) = selector {
            errors.extend(validate_label_selector(selector, &path.child(field)));
        }
    }
    for name in term.namespaces.iter().flatten() {
        refuse_each(errors, || path.child("namespace"), name, name_is_dns_label(name, false));
    }
    let keys = term.match_label_keys.as_deref().unwrap_or_default();
    let mismatch = term.mismatch_label_keys.as_deref().unwrap_or_default();
    validate_label_keys(errors, keys, mismatch, term.label_selector.as_ref(), path);
    let at = || path.child("topologyKey");
    if term.topology_key.is_empty() {
        errors.push(FieldError::required(&at(), "can not be empty"));
    }
    errors.extend(validate_label_name(&term.topology_key, &at()));
}

/// `matchLabelKeys` and `mismatchLabelKeys`: label names that the selector does not fix already (KEP-3633).
pub(super) fn validate_label_keys(
    errors: &mut FieldErrors,
    keys: &[String],
    mismatch: &[String],
    selector: Option<&LabelSelector>,
    path: &Path,
) {
    for (field, list) in [("matchLabelKeys", keys), ("mismatchLabelKeys", mismatch)] {
        if list.is_empty() {
            continue;
        }
        if selector.is_none() {
            let why = "must not be specified when labelSelector is not set";
            errors.push(FieldError::forbidden(&path.child(field), why));
            continue;
        }
        for (i, key) in list.iter().enumerate() {
            errors.extend(validate_label_name(key, &path.child(field).index(i)));
        }
    }
    if let Some(selector) = selector.filter(|_| !keys.is_empty()) {
        let mut seen: Vec<&str> = selector.match_labels.iter().flatten().map(|(k, _)| k.as_str()).collect();
        for expression in selector.match_expressions.iter().flatten() {
            let key = expression.key.as_str();
            let at = keys.iter().rposition(|k| k == key);
            if let Some(i) = at.filter(|_| seen.contains(&key)) {
                let why = "exists in both matchLabelKeys and labelSelector";
                errors.push(FieldError::invalid(&path.index(i), key, why));
            }
            seen.push(key);
        }
    }
    for (i, key) in keys.iter().enumerate().filter(|(_, k)| mismatch.contains(k)) {
        let why = "exists in both matchLabelKeys and mismatchLabelKeys";
        errors.push(FieldError::invalid(&path.child("matchLabelKeys").index(i), key, why));
    }
}

/// Refuses an absent topology key.
pub(super) fn topology_key(errors: &mut FieldErrors, key: &str, at: impl Fn() -> Path) {
    if key.is_empty() {
        errors.push(FieldError::required(&at(), "can not be empty"));
    }
}
