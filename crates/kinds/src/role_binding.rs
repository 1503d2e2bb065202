//! rbac.authorization.k8s.io/v1 RoleBinding.

use crate::kind::{Kind, NameRule, Names, Scope, Strategy, Validate};
use crate::object::Registered;
use crate::rbac::{binding_columns, check_binding, check_role_ref_stays, default_binding};
use crate::support::plain;
use k8s_openapi::api::rbac::v1::RoleBinding;
use meta::{FieldErrors, GroupVersionKind};

pub static ROLE_BINDING: Registered<RoleBinding> = Registered::new(Kind {
    gvk: GroupVersionKind::of("rbac.authorization.k8s.io", "v1", "RoleBinding"),
    names: Names { plural: "rolebindings", singular: "rolebinding", short: &[], categories: &[] },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.rbac.v1.RoleBinding",
    storage: "rolebindings",
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
        "Users in the roleBinding",
        "Groups in the roleBinding",
        "ServiceAccounts in the roleBinding",
    ),
});

fn validate(binding: &RoleBinding) -> FieldErrors {
    check_binding(&binding.role_ref, binding.subjects.as_deref(), &["Role", "ClusterRole"], true)
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
            (ROLE_BINDING.kind.default)(&mut binding);
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
