//! node.k8s.io/v1 RuntimeClass.

use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Strategy, Validate};
use crate::object::Registered;
use crate::pod_spec::defaults::canonical_resources;
use crate::pod_spec::{validate_overhead, validate_tolerations};
use crate::strategy::plain;
use crate::support::{FIELD_IMMUTABLE, age, column, json, push_invalid};
use k8s_openapi::api::node::v1::RuntimeClass;
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, validation as rules};

const COLUMNS: &[Column<RuntimeClass>] = &[
    column(
        "Handler",
        "handler specifies the underlying runtime and configuration that the CRI implementation will use to handle pods of this class.",
        |c| Cell::str(c.handler.clone()),
    ),
    age(),
];

pub static RUNTIME_CLASS: Registered<RuntimeClass> = Registered::new(Kind {
    gvk: GroupVersionKind::of("node.k8s.io", "v1", "RuntimeClass"),
    names: Names { plural: "runtimeclasses", singular: "runtimeclass", short: &[], categories: &[] },
    scope: Scope::Cluster,
    definition: "io.k8s.api.node.v1.RuntimeClass",
    storage: "runtimeclasses",
    name_rule: NameRule::DnsSubdomain,
    default: |c| canonical_resources(c.overhead.as_mut().and_then(|o| o.pod_fixed.as_mut())),
    validate: Validate {
        create: validate,
        update: |new, old| {
            if new.handler == old.handler {
                return Vec::new();
            }
            vec![FieldError::invalid(&Path::new("handler"), &new.handler, FIELD_IMMUTABLE)]
        },
    },
    strategy: Strategy {
        warnings: |new, _| crate::warnings::objects::runtime_class(new),
        create_on_update: true,
        unconditional_update: false,
        ..plain()
    },
    subresources: &[],
    selectable: &[],
    columns: COLUMNS,
});

fn validate(class: &RuntimeClass) -> FieldErrors {
    let mut errors = Vec::new();
    let path = Path::new("handler");
    if class.handler.is_empty() {
        errors.push(FieldError::required(&path, ""));
    } else {
        push_invalid(&mut errors, &path, &class.handler, rules::is_dns1123_label(&class.handler));
    }
    if let Some(fixed) = class.overhead.as_ref().and_then(|o| o.pod_fixed.as_ref()) {
        validate_overhead(&mut errors, fixed, &Path::new("overhead"));
    }
    if let Some(scheduling) = &class.scheduling {
        let path = Path::new("scheduling");
        if let Some(selector) = &scheduling.node_selector {
            errors.extend(rules::validate_labels(selector, &path.child("nodeSelector")));
        }
        let path = path.child("tolerations");
        let tolerations = scheduling.tolerations.as_deref().unwrap_or_default();
        validate_tolerations(&mut errors, tolerations, &path);
        for (i, toleration) in tolerations.iter().enumerate() {
            let key = |t: &k8s_openapi::api::core::v1::Toleration| {
                (t.key.clone(), t.operator.clone(), t.value.clone(), t.effect.clone())
            };
            if tolerations[..i].iter().any(|t| key(t) == key(toleration)) {
                errors.push(FieldError::duplicate(&path.index(i), json(toleration)));
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::check;
    use serde_json::json;

    #[test]
    fn what_a_class_gives_its_pods_is_checked_as_a_pods_own() {
        check(validate, json!({"handler": "gvisor"}), &[]);
        check(
            validate,
            json!({"handler": "gvisor", "overhead": {"podFixed": {"hugepages-2Mi": "2Mi"}},
                "scheduling": {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}}),
            &[
                "overhead: Forbidden: HugePages require cpu or memory",
                "scheduling.tolerations[0].operator: Invalid value: \"b\": value must be empty when `operator` is 'Exists'",
            ],
        );
    }
}
