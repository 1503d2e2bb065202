//! rbac.authorization.k8s.io/v1 ClusterRoleBinding.

use crate::kind::{Column, Kind, NameRule, Names, Scope, Strategy, Validate};
use crate::object::Registered;
use crate::rbac::{check_binding, check_role_ref_stays, default_binding, role_cell, subjects_cell};
use crate::support::{age, column, plain, wide};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use meta::{FieldErrors, GroupVersionKind};

const COLUMNS: &[Column<ClusterRoleBinding>] = &[
    column(
        "Role",
        "RoleRef references the role whose rules this binding grants. If the RoleRef cannot be resolved, the Authorizer must return an error.",
        |b| role_cell(&b.role_ref),
    ),
    age(),
    wide("Users", "Users in the clusterRoleBinding", |b| subjects_cell(b.subjects.as_deref(), "User")),
    wide("Groups", "Groups in the clusterRoleBinding", |b| subjects_cell(b.subjects.as_deref(), "Group")),
    wide("ServiceAccounts", "ServiceAccounts in the clusterRoleBinding", |b| {
        subjects_cell(b.subjects.as_deref(), "ServiceAccount")
    }),
];

pub static CLUSTER_ROLE_BINDING: Registered<ClusterRoleBinding> = Registered::new(Kind {
    gvk: GroupVersionKind::of("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding"),
    names: Names {
        plural: "clusterrolebindings",
        singular: "clusterrolebinding",
        short: &[],
        categories: &[],
    },
    scope: Scope::Cluster,
    definition: "io.k8s.api.rbac.v1.ClusterRoleBinding",
    storage: "clusterrolebindings",
    name_rule: NameRule::PathSegment,
    default: |b| default_binding(&mut b.role_ref, &mut b.subjects),
    validate: Validate {
        create: validate,
        update: |new, old| {
            let mut errors = validate(new);
            errors.extend(check_role_ref_stays(&new.role_ref, &old.role_ref));
            errors
        },
    },
    strategy: Strategy { create_on_update: true, ..plain() },
    subresources: &[],
    selectable: &[],
    columns: COLUMNS,
});

fn validate(binding: &ClusterRoleBinding) -> FieldErrors {
    check_binding(&binding.role_ref, binding.subjects.as_deref(), &["ClusterRole"], false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{lines, object};
    use serde_json::json;

    #[test]
    fn refusals() {
        let check = |value, expect: &[&str]| {
            let mut binding = object(value);
            (CLUSTER_ROLE_BINDING.kind.default)(&mut binding);
            assert_eq!(lines(&validate(&binding)), expect);
        };
        let role = json!({"kind": "ClusterRole", "name": "view"});
        check(json!({"roleRef": role, "subjects": [{"kind": "User", "name": "jane"}]}), &[]);
        check(
            json!({"roleRef": {"kind": "ClusterRole"}, "subjects": [{"kind": "Robot", "name": "r"}]}),
            &[
                "roleRef.name: Required value",
                "subjects[0].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
            ],
        );
        let errors = lines(&validate(&object(
            json!({"roleRef": {"kind": "Pod", "name": "a", "apiGroup": "rbac.authorization.k8s.io"}}),
        )));
        assert!(
            errors[0].starts_with("roleRef.kind: Unsupported value: \"Pod\": supported values: "),
            "{errors:?}"
        );
    }
}
