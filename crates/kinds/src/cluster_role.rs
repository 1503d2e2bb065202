//! rbac.authorization.k8s.io/v1 ClusterRole.

use crate::kind::{Kind, NameRule, Names, Scope, Strategy, Validate};
use crate::object::Registered;
use crate::rbac::{check_rule, role_columns};
use crate::support::{no_change, plain};
use k8s_openapi::api::rbac::v1::ClusterRole;
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, validation as rules};

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
    let path = Path::new("rules");
    let mut errors: FieldErrors = role
        .rules
        .iter()
        .flatten()
        .enumerate()
        .flat_map(|(i, r)| check_rule(r, false, &path.index(i)))
        .collect();
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
            errors.extend(rules::validate_label_selector(selector, &path.index(i)));
        }
    }
    errors
}
