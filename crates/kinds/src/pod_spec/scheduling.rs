//! Tolerations and topology spread.

use super::affinity::{topology_key, validate_label_keys};
use crate::support::text;
use k8s_openapi::api::core::v1::{Toleration, TopologySpreadConstraint};
use meta::validation::{is_valid_label_value, validate_label_name, validate_label_selector};
use meta::{FieldError, FieldErrors, Path};

pub(crate) fn validate_tolerations(errors: &mut FieldErrors, tolerations: &[Toleration], path: &Path) {
    for (i, toleration) in tolerations.iter().enumerate() {
        let at = |field: &str| path.index(i).child(field);
        let key = text(toleration.key.as_ref());
        let operator = text(toleration.operator.as_ref());
        let value = text(toleration.value.as_ref());
        let effect = text(toleration.effect.as_ref());
        if !key.is_empty() {
            errors.extend(validate_label_name(key, &at("key")));
        } else if operator != "Exists" {
            let why =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(&at("operator"), operator, why));
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(&at("effect"), effect, why));
        }
        match operator {
            "" | "Equal" => {
                let messages = is_valid_label_value(value);
                if !messages.is_empty() {
                    errors.push(FieldError::invalid(&at("operator"), value, messages.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                let why = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(&at("operator"), value, why));
            }
            "Exists" => {}
            "Lt" | "Gt" => {
                // behind an alpha gate in v1.36, which is off
                let operators = ["Equal", "Exists", "Lt", "Gt"];
                errors.push(FieldError::not_supported(&at("operator"), operator, &operators));
            }
            other => errors.push(FieldError::not_supported(&at("operator"), other, &["Equal", "Exists"])),
        }
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if !effect.is_empty() && !effects.contains(&effect) {
            errors.push(FieldError::not_supported(&at("effect"), effect, &effects));
        }
    }
}

pub(super) fn validate_spread_constraints(
    errors: &mut FieldErrors,
    constraints: &[TopologySpreadConstraint],
    path: &Path,
) {
    for (i, constraint) in constraints.iter().enumerate() {
        let path = path.index(i);
        let action = constraint.when_unsatisfiable.as_str();
        positive(errors, constraint.max_skew, || path.child("maxSkew"));
        topology_key(errors, &constraint.topology_key, || path.child("topologyKey"));
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        if !actions.contains(&action) {
            errors.push(FieldError::not_supported(&path.child("whenUnsatisfiable"), action, &actions));
        }
        let same = |c: &TopologySpreadConstraint| {
            c.topology_key == constraint.topology_key && c.when_unsatisfiable == constraint.when_unsatisfiable
        };
        if constraints[i + 1..].iter().any(same) {
            let at = path.child("{topologyKey, whenUnsatisfiable}");
            errors.push(FieldError::duplicate(&at, format!("{{{}, {action}}}", constraint.topology_key)));
        }
        if let Some(domains) = constraint.min_domains {
            let at = || path.child("minDomains");
            positive(errors, domains, at);
            if action != "DoNotSchedule" {
                let why = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.push(FieldError::invalid(&at(), domains, why));
            }
        }
        let policies = [
            ("nodeAffinityPolicy", constraint.node_affinity_policy.as_deref()),
            ("nodeTaintsPolicy", constraint.node_taints_policy.as_deref()),
        ];
        for (field, policy) in policies {
            if let Some(policy) = policy.filter(|p| !matches!(*p, "Honor" | "Ignore")) {
                errors.push(FieldError::not_supported(&path.child(field), policy, &["Honor", "Ignore"]));
            }
        }
        let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
        validate_label_keys(errors, keys, &[], constraint.label_selector.as_ref(), &path);
        if let Some(selector) = &constraint.label_selector {
            errors.extend(validate_label_selector(selector, &path.child("labelSelector")));
        }
    }
}

fn positive(errors: &mut FieldErrors, value: i32, at: impl Fn() -> Path) {
    if value <= 0 {
        errors.push(FieldError::invalid(&at(), value, "must be greater than zero"));
    }
}
