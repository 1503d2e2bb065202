//! policy/v1 PodDisruptionBudget.

use crate::apps::{at_most_100_percent, positive_int_or_percent};
use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Strategy, Subresource, Validate};
use crate::object::Registered;
use crate::strategy::{first_generation, spec_and_status, status_access};
use crate::support::{age, column, json, no_change, nonnegative, or_zero, typed_column};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time as MetaTime};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, Time, validation as rules};

/// The condition that says whether pods may be disrupted.
pub const DISRUPTION_ALLOWED: &str = "DisruptionAllowed";

const COLUMNS: &[Column<PodDisruptionBudget>] = &[
    column("Min Available", "The minimum number of pods that must be available.", |b| {
        shown(b.spec.as_ref().and_then(|s| s.min_available.as_ref()))
    }),
    column("Max Unavailable", "The maximum number of pods that may be unavailable.", |b| {
        shown(b.spec.as_ref().and_then(|s| s.max_unavailable.as_ref()))
    }),
    typed_column(
        "Allowed Disruptions",
        "integer",
        "Calculated number of pods that may be disrupted at this time.",
        |b| Cell::int(b.status.as_ref().and_then(|s| s.disruptions_allowed).unwrap_or(0)),
    ),
    age(),
];

const SUBRESOURCES: &[Subresource<PodDisruptionBudget>] =
    &[Subresource::Status(status_access!(PodDisruptionBudget, validate_status))];

pub static POD_DISRUPTION_BUDGET: Registered<PodDisruptionBudget> = Registered::new(Kind {
    gvk: GroupVersionKind::of("policy", "v1", "PodDisruptionBudget"),
    names: Names {
        plural: "poddisruptionbudgets",
        singular: "poddisruptionbudget",
        short: &["pdb"],
        categories: &[],
    },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.policy.v1.PodDisruptionBudget",
    storage: "poddisruptionbudgets",
    // upstream validates no more of a budget than its spec
    name_rule: NameRule::PathSegment,
    default: no_change,
    validate: Validate { create: validate, update: |new, _| validate(new) },
    strategy: Strategy {
        unconditional_update: false,
        prepare_create: |new| {
            new.status = Some(no_disruptions());
            first_generation(new);
        },
        ..spec_and_status!(PodDisruptionBudget)
    },
    subresources: SUBRESOURCES,
    selectable: &[],
    columns: COLUMNS,
});

/// The status of a budget that nobody has counted yet: upstream says its numbers even where they are 0.
fn no_disruptions() -> PodDisruptionBudgetStatus {
    PodDisruptionBudgetStatus {
        current_healthy: Some(0),
        desired_healthy: Some(0),
        disruptions_allowed: Some(0),
        expected_pods: Some(0),
        ..PodDisruptionBudgetStatus::default()
    }
}

/// Says by the condition whether the status allows disruptions (upstream's `UpdateDisruptionAllowedCondition`).
pub fn set_disruption_allowed(status: &mut PodDisruptionBudgetStatus, now: Time) {
    let allowed = status.disruptions_allowed.unwrap_or(0) > 0;
    let condition = Condition {
        type_: DISRUPTION_ALLOWED.into(),
        status: if allowed { "True" } else { "False" }.into(),
        reason: if allowed { "SufficientPods" } else { "InsufficientPods" }.into(),
        message: String::new(),
        observed_generation: status.observed_generation,
        last_transition_time: MetaTime(now),
    };
    meta::conditions::set(status.conditions.get_or_insert_default(), condition, now);
}

fn shown(value: Option<&IntOrString>) -> Cell {
    Cell::str(match value {
        None => "N/A".to_owned(),
        Some(IntOrString::Int(n)) => n.to_string(),
        Some(IntOrString::String(s)) => s.clone(),
    })
}

fn validate(budget: &PodDisruptionBudget) -> FieldErrors {
    let mut errors = Vec::new();
    let Some(spec) = &budget.spec else { return errors };
    let path = Path::new("spec");
    if spec.min_available.is_some() && spec.max_unavailable.is_some() {
        errors.push(FieldError::invalid(
            &path,
            json(spec),
            "minAvailable and maxUnavailable cannot be both set",
        ));
    }
    for (field, value) in [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)] {
        if let Some(value) = value {
            positive_int_or_percent(&mut errors, value, &path.child(field));
            at_most_100_percent(&mut errors, value, &path.child(field));
        }
    }
    if let Some(selector) = &spec.selector {
        errors.extend(rules::validate_label_selector(selector, &path.child("selector")));
    }
    if let Some(policy) = spec.unhealthy_pod_eviction_policy.as_deref()
        && !matches!(policy, "AlwaysAllow" | "IfHealthyBudget")
    {
        let path = path.child("unhealthyPodEvictionPolicy");
        errors.push(FieldError::not_supported(&path, policy, &["AlwaysAllow", "IfHealthyBudget"]));
    }
    errors
}

fn validate_status(new: &PodDisruptionBudget, _: &PodDisruptionBudget) -> FieldErrors {
    let Some(status) = &new.status else { return Vec::new() };
    let counts = [
        ("disruptionsAllowed", or_zero(status.disruptions_allowed)),
        ("currentHealthy", or_zero(status.current_healthy)),
        ("desiredHealthy", or_zero(status.desired_healthy)),
        ("expectedPods", or_zero(status.expected_pods)),
    ];
    let mut errors = Vec::new();
    nonnegative(&mut errors, &Path::new("status"), &counts);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::check_spec;

    #[test]
    fn refusals() {
        use serde_json::json;
        check_spec(validate, json!({"minAvailable": "50%"}), &[]);
        check_spec(
            validate,
            json!({"minAvailable": "150%"}),
            &["spec.minAvailable: Invalid value: \"150%\": must not be greater than 100%"],
        );
        check_spec(
            validate,
            json!({"maxUnavailable": -1}),
            &["spec.maxUnavailable: Invalid value: -1: must be greater than or equal to 0"],
        );
        check_spec(
            validate,
            json!({"minAvailable": 1, "maxUnavailable": 1}),
            &[
                "spec: Invalid value: {\"maxUnavailable\":1,\"minAvailable\":1}: minAvailable and maxUnavailable cannot be both set",
            ],
        );
    }
}
