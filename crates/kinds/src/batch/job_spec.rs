//! What a job's specification must be (upstream's `ValidateJob`).

use super::indexes::{count, parse_indexes};
use super::job::{CONTROLLER_UID_LABEL, JOB_NAME_LABEL, LEGACY_CONTROLLER_UID_LABEL, LEGACY_JOB_NAME_LABEL};
use crate::apps::{labels_match, selector_json};
use crate::pod_spec::validate_pod_template;
use crate::support::{nonnegative, or_zero};
use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
    PodFailurePolicyRule, SuccessPolicyRule,
};
use meta::validation::{is_dns1123_label, is_dns1123_subdomain, is_qualified_name, regex_error};
use meta::{FieldError, FieldErrors, Json, Path, validation as rules};
use std::collections::{BTreeMap, BTreeSet};

/// Bounds the length of the status' lists of indexes.
const MAX_INDEXED_PARALLELISM: i32 = 100_000;
const MAX_FAILED_INDEXES: i32 = 100_000;
const COMPLETIONS_SOFT_LIMIT: i32 = 100_000;
const MAX_PARALLELISM_BEYOND: i32 = 10_000;
const MAX_FAILED_INDEXES_BEYOND: i32 = 10_000;
const MAX_FAILURE_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const MAX_CONDITION_PATTERNS: usize = 20;
const MAX_MANAGED_BY_BYTES: usize = 63;
const MAX_SUCCEEDED_INDEXES_BYTES: usize = 64 * 1024;
const MAX_SUCCESS_RULES: usize = 20;
/// What follows the host in a domain-prefixed path.
const HTTP_PATH: &str = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+";
const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];

/// An Invalid error that does not show the value.
pub(super) fn invalid(path: &Path, why: impl Into<String>) -> FieldError {
    FieldError { value: None, ..FieldError::invalid(path, "", why) }
}

/// `prefixed`: whether the labels with a prefix must be there too, which jobs of old do not have.
pub(super) fn validate(job: &Job, prefixed: bool) -> FieldErrors {
    let Some(spec) = &job.spec else { return Vec::new() };
    let mut errors = Vec::new();
    generated_selector(&mut errors, job, spec, prefixed);
    validate_with_selector(&mut errors, spec);
    let completions = spec.completions.filter(|n| *n > 0);
    if let Some(n) = completions.filter(|_| is_indexed(spec)) {
        let name = job.metadata.name.as_deref().unwrap_or("");
        let last = format!("{name}-{}", n - 1);
        if !is_dns1123_label(&last).is_empty() {
            let why = format!("will not able to create pod with invalid DNS label: {last}");
            errors.push(FieldError::invalid(&Path::new("metadata.name"), name, why));
        }
    }
    errors
}

pub(super) fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

fn labels(spec: &JobSpec) -> BTreeMap<String, String> {
    spec.template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default()
}

fn has_label(errors: &mut FieldErrors, labels: &BTreeMap<String, String>, key: &str, expect: &str) {
    let path = || Path::new("spec.template.metadata.labels").key(key);
    match labels.get(key) {
        None => errors.push(FieldError::required(&path(), format!("must be '{expect}'"))),
        Some(v) if v != expect => {
            errors.push(FieldError::invalid(&path(), Json(labels), format!("must be '{expect}'")));
        }
        Some(_) => {}
    }
}

fn generated_selector(errors: &mut FieldErrors, job: &Job, spec: &JobSpec, prefixed: bool) {
    let Some(selector) = spec.selector.as_ref().filter(|_| spec.manual_selector != Some(true)) else {
        return;
    };
    let (name, uid) = (job.metadata.name.as_deref().unwrap_or(""), job.metadata.uid.as_deref().unwrap_or(""));
    if uid.is_empty() {
        errors.push(FieldError::required(&Path::new("metadata.uid"), ""));
    }
    let given = labels(spec);
    let legacy = [(LEGACY_CONTROLLER_UID_LABEL, uid), (LEGACY_JOB_NAME_LABEL, name)];
    let own = [(CONTROLLER_UID_LABEL, uid), (JOB_NAME_LABEL, name)];
    let all = legacy.into_iter().chain(own.into_iter().filter(|_| prefixed));
    let expected: BTreeMap<String, String> = all.clone().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    for (key, value) in all {
        has_label(errors, &given, key, value);
    }
    if meta::LabelSelector::from_object(selector).is_ok_and(|s| !s.matches(&expected)) {
        let why = "`selector` not auto-generated";
        errors.push(FieldError::invalid(&Path::new("spec.selector"), selector_json(selector), why));
    }
}

/// A specification with its selector.
pub(super) fn validate_with_selector(errors: &mut FieldErrors, spec: &JobSpec) {
    let path = Path::new("spec");
    validate_spec(errors, spec, &path);
    match &spec.selector {
        None => errors.push(FieldError::required(&path.child("selector"), "")),
        Some(selector) => errors.extend(rules::validate_label_selector(selector, &path.child("selector"))),
    }
    let selector = match &spec.selector {
        None => Ok(meta::LabelSelector::nothing()),
        Some(s) => meta::LabelSelector::from_object(s),
    };
    if let Ok(selector) = selector {
        labels_match(errors, &selector, &spec.template, &path.child("template"));
    }
}

/// A specification without its selector: as it also stands in a CronJob.
pub(super) fn validate_spec(errors: &mut FieldErrors, spec: &JobSpec, path: &Path) {
    let numbers = [
        ("parallelism", or_zero(spec.parallelism)),
        ("completions", or_zero(spec.completions)),
        ("activeDeadlineSeconds", spec.active_deadline_seconds.unwrap_or(0)),
        ("backoffLimit", or_zero(spec.backoff_limit)),
        ("ttlSecondsAfterFinished", or_zero(spec.ttl_seconds_after_finished)),
        ("backoffLimitPerIndex", or_zero(spec.backoff_limit_per_index)),
        ("maxFailedIndexes", or_zero(spec.max_failed_indexes)),
    ];
    nonnegative(errors, path, &numbers);
    if spec.max_failed_indexes.is_some() && spec.backoff_limit_per_index.is_none() {
        let why = "when maxFailedIndexes is specified";
        errors.push(FieldError::required(&path.child("backoffLimitPerIndex"), why));
    }
    if let Some(manager) = &spec.managed_by {
        managed_by(errors, manager, &path.child("managedBy"));
    }
    completion_mode(errors, spec, path);
    if let Some(policy) = &spec.pod_failure_policy {
        let at = path.child("podFailurePolicy").child("rules");
        if policy.rules.len() > MAX_FAILURE_RULES {
            errors.push(FieldError::too_many(&at, policy.rules.len(), MAX_FAILURE_RULES));
        }
        for (i, rule) in policy.rules.iter().enumerate() {
            failure_rule(errors, spec, rule, &at.index(i));
        }
    }
    if let Some(policy) = &spec.success_policy {
        let at = path.child("successPolicy");
        if is_indexed(spec) {
            success_rules(errors, spec, &policy.rules, &at.child("rules"));
        } else {
            errors.push(FieldError::invalid(&at, Json(policy), "requires indexed completion mode"));
        }
    }
    if let Some(policy) = spec.pod_replacement_policy.as_deref() {
        let allowed: &[&str] =
            if spec.pod_failure_policy.is_some() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        if !allowed.contains(&policy) {
            errors.push(FieldError::not_supported(&path.child("podReplacementPolicy"), policy, allowed));
        }
    }
    errors.extend(validate_pod_template(&spec.template, &path.child("template")));
    restart_policy(errors, spec, &path.child("template").child("spec").child("restartPolicy"));
}

fn restart_policy(errors: &mut FieldErrors, spec: &JobSpec, path: &Path) {
    let policy = spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("");
    match policy {
        "" | "Always" => {
            errors.push(FieldError::required(path, "valid values: \"OnFailure\", \"Never\""));
        }
        "OnFailure" if spec.pod_failure_policy.is_some() => {
            let why = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(FieldError::invalid(path, policy, why));
        }
        "OnFailure" | "Never" => {}
        other => errors.push(FieldError::not_supported(path, other, &["OnFailure", "Never"])),
    }
}

fn managed_by(errors: &mut FieldErrors, manager: &str, path: &Path) {
    let is_path = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c);
    match manager.split_once('/') {
        _ if manager.is_empty() => errors.push(FieldError::required(path, "")),
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
            errors.extend(is_dns1123_subdomain(host).into_iter().map(|m| FieldError::invalid(path, host, m)));
            if !rest.chars().all(is_path) {
                errors.push(FieldError::invalid(path, rest, regex_error("Invalid path", HTTP_PATH, &[])));
            }
        }
        _ => {
            let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.push(FieldError::invalid(path, manager, why));
        }
    }
    if manager.len() > MAX_MANAGED_BY_BYTES {
        errors.push(FieldError::too_long(path, MAX_MANAGED_BY_BYTES));
    }
}

fn completion_mode(errors: &mut FieldErrors, spec: &JobSpec, path: &Path) {
    let at_most = |errors: &mut FieldErrors, field: &str, value: Option<i32>, most: i32, when: &str| {
        if let Some(value) = value.filter(|v| *v > most) {
            let why = format!("must be less than or equal to {most}{when}");
            errors.push(FieldError::invalid(&path.child(field), value, why));
        }
    };
    let failed = spec.max_failed_indexes;
    match spec.completion_mode.as_deref() {
        None | Some("NonIndexed") => {
            for (field, value) in
                [("backoffLimitPerIndex", spec.backoff_limit_per_index), ("maxFailedIndexes", failed)]
            {
                if let Some(value) = value {
                    let why = "requires indexed completion mode";
                    errors.push(FieldError::invalid(&path.child(field), value, why));
                }
            }
        }
        Some("Indexed") => {
            if spec.completions.is_none() {
                let why = "when completion mode is Indexed";
                errors.push(FieldError::required(&path.child("completions"), why));
            }
            let when = " when completion mode is Indexed";
            at_most(errors, "parallelism", spec.parallelism, MAX_INDEXED_PARALLELISM, when);
            if let (Some(failed), Some(all)) = (failed, spec.completions)
                && failed > all
            {
                let why = "must be less than or equal to completions";
                errors.push(FieldError::invalid(&path.child("maxFailedIndexes"), failed, why));
            }
            at_most(errors, "maxFailedIndexes", failed, MAX_FAILED_INDEXES, "");
            if spec.completions.is_some_and(|n| n > COMPLETIONS_SOFT_LIMIT)
                && spec.backoff_limit_per_index.is_some()
            {
                if failed.is_none() {
                    let why = format!("must be specified when completions is above {COMPLETIONS_SOFT_LIMIT}");
                    errors.push(FieldError::required(&path.child("maxFailedIndexes"), why));
                }
                let when = format!(
                    " when completions are above {COMPLETIONS_SOFT_LIMIT} and used with backoff limit per index"
                );
                at_most(errors, "parallelism", spec.parallelism, MAX_PARALLELISM_BEYOND, &when);
                at_most(errors, "maxFailedIndexes", failed, MAX_FAILED_INDEXES_BEYOND, &when);
            }
        }
        Some(other) => errors.push(FieldError::not_supported(
            &path.child("completionMode"),
            other,
            &["NonIndexed", "Indexed"],
        )),
    }
}

fn failure_rule(errors: &mut FieldErrors, spec: &JobSpec, rule: &PodFailurePolicyRule, path: &Path) {
    let at = path.child("action");
    match rule.action.as_str() {
        "" => errors.push(FieldError::required(
            &at,
            "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]",
        )),
        "FailIndex" if spec.backoff_limit_per_index.is_none() => {
            let why = "requires the backoffLimitPerIndex to be set";
            errors.push(FieldError::invalid(&at, &rule.action, why));
        }
        action if ACTIONS.contains(&action) => {}
        other => errors.push(FieldError::not_supported(&at, other, &ACTIONS)),
    }
    let conditions = rule.on_pod_conditions.as_deref().unwrap_or_default();
    if let Some(codes) = &rule.on_exit_codes {
        exit_codes(errors, spec, codes, &path.child("onExitCodes"));
    }
    pod_conditions(errors, conditions, &path.child("onPodConditions"));
    if rule.on_exit_codes.is_some() && !conditions.is_empty() {
        let why = "specifying both OnExitCodes and OnPodConditions is not supported";
        errors.push(invalid(path, why));
    }
    if rule.on_exit_codes.is_none() && conditions.is_empty() {
        errors.push(invalid(path, "specifying one of OnExitCodes and OnPodConditions is required"));
    }
}

fn pod_conditions(
    errors: &mut FieldErrors,
    patterns: &[PodFailurePolicyOnPodConditionsPattern],
    path: &Path,
) {
    const STATUSES: [&str; 3] = ["False", "True", "Unknown"];
    if patterns.len() > MAX_CONDITION_PATTERNS {
        errors.push(FieldError::too_many(path, patterns.len(), MAX_CONDITION_PATTERNS));
    }
    for (i, pattern) in patterns.iter().enumerate() {
        let at = path.index(i);
        let wrong = is_qualified_name(&pattern.type_).into_iter();
        errors.extend(wrong.map(|m| FieldError::invalid(&at.child("type"), &pattern.type_, m)));
        match pattern.status.as_deref().unwrap_or("") {
            "" => errors.push(FieldError::required(
                &at.child("status"),
                "valid values: [\"False\" \"True\" \"Unknown\"]",
            )),
            status if STATUSES.contains(&status) => {}
            other => errors.push(FieldError::not_supported(&at.child("status"), other, &STATUSES)),
        }
    }
}

fn exit_codes(
    errors: &mut FieldErrors,
    spec: &JobSpec,
    codes: &PodFailurePolicyOnExitCodesRequirement,
    path: &Path,
) {
    match codes.operator.as_str() {
        "" => errors.push(FieldError::required(&path.child("operator"), "valid values: [\"In\" \"NotIn\"]")),
        "In" | "NotIn" => {}
        other => errors.push(FieldError::not_supported(&path.child("operator"), other, &["In", "NotIn"])),
    }
    let pod = spec.template.spec.as_ref();
    let mut names = pod
        .iter()
        .flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()).map(|c| c.name.as_str()));
    if let Some(name) = codes.container_name.as_deref()
        && !names.any(|n| n == name)
    {
        let why = "must be one of the container or initContainer names in the pod template";
        errors.push(FieldError::invalid(&path.child("containerName"), name, why));
    }
    let at = path.child("values");
    if codes.values.is_empty() {
        errors.push(FieldError::invalid(&at, Json(&codes.values), "at least one value is required"));
    } else if codes.values.len() > MAX_EXIT_CODES {
        errors.push(FieldError::too_many(&at, codes.values.len(), MAX_EXIT_CODES));
    }
    let mut seen = BTreeSet::new();
    for (i, code) in codes.values.iter().enumerate() {
        if codes.operator == "In" && *code == 0 {
            errors.push(FieldError::invalid(&at.index(i), *code, "must not be 0 for the In operator"));
        }
        if !seen.insert(code) {
            errors.push(FieldError::duplicate(&at.index(i), *code));
        }
    }
    if !codes.values.is_sorted() {
        errors.push(FieldError::invalid(&at, Json(&codes.values), "must be ordered"));
    }
}

fn success_rules(errors: &mut FieldErrors, spec: &JobSpec, rules: &[SuccessPolicyRule], path: &Path) {
    if rules.is_empty() {
        let why = "at least one rules must be specified when the successPolicy is specified";
        errors.push(FieldError::required(path, why));
    }
    if rules.len() > MAX_SUCCESS_RULES {
        errors.push(FieldError::too_many(path, rules.len(), MAX_SUCCESS_RULES));
    }
    let completions = spec.completions.unwrap_or(0);
    for (i, rule) in rules.iter().enumerate() {
        success_rule(errors, rule, completions, &path.index(i));
    }
}

fn success_rule(errors: &mut FieldErrors, rule: &SuccessPolicyRule, completions: i32, path: &Path) {
    if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
        let why = "at least one of succeededCount or succeededIndexes must be specified";
        errors.push(FieldError::required(path, why));
    }
    let mut indexes = 0;
    if let Some(text) = &rule.succeeded_indexes {
        let at = path.child("succeededIndexes");
        if text.len() > MAX_SUCCEEDED_INDEXES_BYTES {
            errors.push(FieldError::too_long(&at, MAX_SUCCEEDED_INDEXES_BYTES));
        }
        match parse_indexes(text, completions) {
            Ok(found) => indexes = count(&found),
            Err(e) => {
                let why = format!("error parsing succeededIndexes: {e}");
                errors.push(FieldError::invalid(&at, text, why));
            }
        }
    }
    let Some(wanted) = rule.succeeded_count else { return };
    let at = path.child("succeededCount");
    errors.extend(rules::validate_nonnegative(i64::from(wanted), &at));
    if wanted > completions {
        let why =
            format!("must be less than or equal to {completions} (the number of specified completions)");
        errors.push(FieldError::invalid(&at, wanted, why));
    }
    if rule.succeeded_indexes.is_some() && i64::from(wanted) > indexes {
        let why = format!(
            "must be less than or equal to {indexes} (the number of indexes in the specified succeededIndexes field)"
        );
        errors.push(FieldError::invalid(&at, wanted, why));
    }
}
