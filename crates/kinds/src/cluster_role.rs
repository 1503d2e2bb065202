//! rbac.authorization.k8s.io/v1 ClusterRole.

use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Strategy, Validate};
use crate::object::Registered;
use crate::rbac::check_rule;
use crate::support::{CREATION_TIMESTAMP, instant, no_change, plain, typed_column};
use k8s_openapi::api::rbac::v1::ClusterRole;
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, validation as rules};

/// Roles have no table of their own upstream; the generic one has this column.
const COLUMNS: &[Column<ClusterRole>] = &[typed_column("Created At", "date", CREATION_TIMESTAMP, |r| {
    Cell::str(instant(r.metadata.creation_timestamp.as_ref()).map(|t| t.to_string()).unwrap_or_default())
})];

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
    columns: COLUMNS,
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
