//! rbac.authorization.k8s.io/v1 ClusterRoleBinding.

use crate::kind::{Kind, NameRule, Names, Scope, Strategy, Validate};
use crate::object::Registered;
use crate::rbac::{binding_columns, check_binding, check_role_ref_stays, default_binding};
use crate::support::plain;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use meta::{FieldErrors, GroupVersionKind};

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
    columns: &binding_columns(
        "Users in the clusterRoleBinding",
        "Groups in the clusterRoleBinding",
        "ServiceAccounts in the clusterRoleBinding",
    ),
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
