//! networking.k8s.io/v1 IngressClass.

use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Validate};
use crate::object::Registered;
use crate::strategy::spec_only;
use crate::support::{FIELD_IMMUTABLE, age, column, push_invalid, text};
use k8s_openapi::api::networking::v1::{IngressClass, IngressClassParametersReference};
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, validation as rules};

const DEFAULT_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";
/// Bytes.
const MAX_CONTROLLER: usize = 250;
const HTTP_PATH: &str = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+";

const COLUMNS: &[Column<IngressClass>] = &[
    Column {
        format: "name",
        ..column(
            "Name",
            "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically.",
            |c| {
                let mark = if is_default(c) { " (default)" } else { "" };
                Cell::str(format!("{}{mark}", text(c.metadata.name.as_ref())))
            },
        )
    },
    column("Controller", "Controller that is responsible for handling this class", |c| {
        Cell::str(text(c.spec.as_ref().and_then(|s| s.controller.as_ref())))
    }),
    column("Parameters", "A reference to a resource with additional parameters", |c| {
        Cell::str(c.spec.as_ref().and_then(|s| s.parameters.as_ref()).map_or_else(
            || "<none>".to_owned(),
            |p| {
                let group = p.api_group.as_ref().map(|g| format!(".{g}")).unwrap_or_default();
                format!("{}{group}/{}", p.kind, p.name)
            },
        ))
    }),
    age(),
];

pub static INGRESS_CLASS: Registered<IngressClass> = Registered::new(Kind {
    gvk: GroupVersionKind::of("networking.k8s.io", "v1", "IngressClass"),
    names: Names { plural: "ingressclasses", singular: "ingressclass", short: &[], categories: &[] },
    scope: Scope::Cluster,
    definition: "io.k8s.api.networking.v1.IngressClass",
    storage: "ingressclasses",
    name_rule: NameRule::DnsSubdomain,
    default: |c| {
        if let Some(parameters) = c.spec.get_or_insert_default().parameters.as_mut() {
            parameters.scope.get_or_insert_with(|| "Cluster".to_owned());
        }
    },
    validate: Validate {
        create: validate,
        update: |new, old| {
            let controller =
                |c: &IngressClass| c.spec.as_ref().and_then(|s| s.controller.clone()).unwrap_or_default();
            let mut errors = Vec::new();
            if controller(new) != controller(old) {
                let path = Path::new("spec").child("controller");
                errors.push(FieldError::invalid(&path, controller(new), FIELD_IMMUTABLE));
            }
            errors.extend(validate(new));
            errors
        },
    },
    strategy: spec_only!(IngressClass),
    subresources: &[],
    selectable: &[],
    columns: COLUMNS,
});

/// Whether ingresses that name no class get this one.
pub fn is_default(class: &IngressClass) -> bool {
    class.metadata.annotations.as_ref().and_then(|a| a.get(DEFAULT_ANNOTATION)).is_some_and(|v| v == "true")
}

/// Errors of a name like `acme.io/foo`.
fn domain_prefixed_path(value: &str, path: &Path) -> FieldErrors {
    if value.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let Some((host, rest)) = value.split_once('/').filter(|(h, r)| !h.is_empty() && !r.is_empty()) else {
        return vec![FieldError::invalid(
            path,
            value,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        )];
    };
    let mut errors = Vec::new();
    push_invalid(&mut errors, path, host, rules::is_dns1123_subdomain(host));
    if !rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
        errors.push(FieldError::invalid(path, rest, rules::regex_error("Invalid path", HTTP_PATH, &[])));
    }
    errors
}

fn validate(class: &IngressClass) -> FieldErrors {
    let path = Path::new("spec");
    let spec = class.spec.clone().unwrap_or_default();
    let controller = text(spec.controller.as_ref());
    let mut errors = Vec::new();
    if controller.len() > MAX_CONTROLLER {
        errors.push(FieldError::too_long(&path.child("controller"), MAX_CONTROLLER));
    }
    errors.extend(domain_prefixed_path(controller, &path.child("controller")));
    if let Some(parameters) = &spec.parameters {
        errors.extend(reference(parameters, &path.child("parameters")));
    }
    errors
}

fn reference(parameters: &IngressClassParametersReference, path: &Path) -> FieldErrors {
    let mut errors =
        object_reference(parameters.api_group.as_deref(), &parameters.kind, &parameters.name, path);
    let namespace_path = path.child("namespace");
    match (parameters.scope.as_deref(), parameters.namespace.as_deref()) {
        (None, _) => errors.push(FieldError::required(&path.child("scope"), "")),
        (Some("Namespace"), None) => {
            errors.push(FieldError::required(&namespace_path, "`parameters.scope` is set to 'Namespace'"));
        }
        (Some("Namespace"), Some(namespace)) => {
            push_invalid(&mut errors, &namespace_path, namespace, rules::is_dns1123_label(namespace));
        }
        (Some("Cluster"), None) => {}
        (Some("Cluster"), Some(_)) => {
            errors.push(FieldError::forbidden(&namespace_path, "`parameters.scope` is set to 'Cluster'"));
        }
        (Some(other), _) => {
            errors.push(FieldError::not_supported(&path.child("scope"), other, &["Cluster", "Namespace"]));
        }
    }
    errors
}

/// Errors of a reference to an object of any kind in the same namespace.
pub(crate) fn object_reference(group: Option<&str>, kind: &str, name: &str, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    if let Some(group) = group {
        push_invalid(&mut errors, &path.child("apiGroup"), group, rules::is_dns1123_subdomain(group));
    }
    for (field, value) in [("kind", kind), ("name", name)] {
        if value.is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
        } else {
            push_invalid(&mut errors, &path.child(field), value, rules::is_path_segment_name(value));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::check_spec;
    use serde_json::json;

    #[test]
    fn refusals() {
        check_spec(validate, json!({"controller": "example.com/ingress"}), &[]);
        check_spec(validate, json!({}), &["spec.controller: Required value"]);
        check_spec(
            validate,
            json!({"controller": "ingress"}),
            &[
                "spec.controller: Invalid value: \"ingress\": must be a domain-prefixed path (such as \"acme.io/foo\")",
            ],
        );
        check_spec(
            validate,
            json!({"controller": "a.io/b", "parameters": {"kind": "K", "scope": "Namespace"}}),
            &[
                "spec.parameters.name: Required value",
                "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'",
            ],
        );
    }
}
