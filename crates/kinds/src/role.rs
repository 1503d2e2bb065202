//! rbac.authorization.k8s.io/v1 Role.

use crate::kind::{Kind, NameRule, Names, Scope, Strategy, Validate};
use crate::object::Registered;
use crate::rbac::{check_rules, role_columns};
use crate::strategy::plain;
use crate::support::no_change;
use k8s_openapi::api::rbac::v1::Role;
use meta::{FieldErrors, GroupVersionKind};

pub static ROLE: Registered<Role> = Registered::new(Kind {
    gvk: GroupVersionKind::of("rbac.authorization.k8s.io", "v1", "Role"),
    names: Names { plural: "roles", singular: "role", short: &[], categories: &[] },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.rbac.v1.Role",
    storage: "roles",
    name_rule: NameRule::PathSegment,
    default: no_change,
    validate: Validate { create: validate, update: |new, _| validate(new) },
    strategy: Strategy { create_on_update: true, ..plain() },
    subresources: &[],
    selectable: &[],
    columns: &role_columns(),
});

fn validate(role: &Role) -> FieldErrors {
    check_rules(role.rules.as_deref(), true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{lines, object};
    use serde_json::json;

    #[test]
    fn refusals() {
        let check =
            |value, expect: &[&str]| assert_eq!(lines(&validate(&object(json!({"rules": [value]})))), expect);
        check(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}), &[]);
        check(
            json!({"verbs": []}),
            &[
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[0].resources: Required value: resource rules must supply at least one resource",
            ],
        );
        check(
            json!({"verbs": ["get"], "nonResourceURLs": ["/healthz"]}),
            &[
                "rules[0].nonResourceURLs: Invalid value: [\"/healthz\"]: namespaced rules cannot apply to non-resource URLs",
            ],
        );
    }
}
