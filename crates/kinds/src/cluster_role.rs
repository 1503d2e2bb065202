//! rbac.authorization.k8s.io/v1 ClusterRole.

use crate::apps::readable;
use crate::kind::{Kind, NameRule, Names, Scope, Strategy, Validate};
use crate::object::Registered;
use crate::rbac::{check_rules, role_columns};
use crate::strategy::plain;
use crate::support::no_change;
use k8s_openapi::api::rbac::v1::ClusterRole;
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, validation as rules};
use serde_json::Value;

pub static CLUSTER_ROLE: Registered<ClusterRole> = Registered::new(Kind {
    gvk: GroupVersionKind::of("rbac.authorization.k8s.io", "v1", "ClusterRole"),
    names: Names { plural: "clusterroles", singular: "clusterrole", short: &[], categories: &[] },
    scope: Scope::Cluster,
    definition: "io.k8s.api.rbac.v1.ClusterRole",
    storage: "clusterroles",
    name_rule: NameRule::PathSegment,
    default: no_change,
    validate: Validate { create: validate, update: |new, _| validate(new) },
    strategy: Strategy { create_on_update: true, ..plain() },
    subresources: &[],
    selectable: &[],
    columns: &role_columns(),
});

fn validate(role: &ClusterRole) -> FieldErrors {
    let mut errors = check_rules(role.rules.as_deref(), false);
    if let Some(aggregation) = &role.aggregation_rule {
        let path = Path::new("aggregationRule").child("clusterRoleSelectors");
        let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
        if selectors.is_empty() {
            errors.push(FieldError::required(
                &path,
                "at least one clusterRoleSelector required if aggregationRule is non-nil",
            ));
        }
        for (i, selector) in selectors.iter().enumerate() {
            let path = path.index(i);
            errors.extend(rules::validate_label_selector(selector, &path));
            // upstream shows what it made of the selector, which is nothing
            if readable(selector).is_none() {
                errors.push(FieldError::invalid(&path, Value::Null, "invalid label selector."));
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{lines, object};
    use serde_json::json;

    #[test]
    fn aggregated_roles_are_selected_readably() {
        let check = |selectors: Value, expect: &[&str]| {
            let role = object(json!({"aggregationRule": {"clusterRoleSelectors": selectors}}));
            assert_eq!(lines(&validate(&role)), expect);
        };
        check(json!([{"matchLabels": {"to": "view"}}]), &[]);
        check(
            json!([]),
            &[
                "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil",
            ],
        );
        check(
            json!([{}, {"matchExpressions": [{"key": "to", "operator": "Like"}]}]),
            &[
                "aggregationRule.clusterRoleSelectors[1].matchExpressions[0].operator: Invalid value: \"Like\": not a valid selector operator",
                "aggregationRule.clusterRoleSelectors[1]: Invalid value: null: invalid label selector.",
            ],
        );
    }
}
