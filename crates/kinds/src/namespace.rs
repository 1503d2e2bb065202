//! v1 Namespace: deleted in two steps, through `spec.finalizers` and its own `/finalize`.

use crate::kind::{
    Cell, Column, Kind, NameRule, Names, PartAccess, Scope, Selectable, Strategy, Subresource, Validate,
};
use crate::object::Registered;
use crate::strategy::{plain, status_access};
use crate::support::{age, column, push_invalid, text};
use k8s_openapi::api::core::v1::{Namespace, NamespaceStatus};
use meta::{FieldError, FieldErrors, GroupVersionKind, Path, validation as rules};

/// The finalizer that the namespace controller removes when nothing is left inside.
pub const FINALIZER_KUBERNETES: &str = "kubernetes";
const LABEL_NAME: &str = "kubernetes.io/metadata.name";
/// Names of finalizers that need no prefix.
const STANDARD_FINALIZERS: &[&str] = &[FINALIZER_KUBERNETES, "orphan", "foregroundDeletion"];

const COLUMNS: &[Column<Namespace>] =
    &[column("Status", "The status of the namespace", |n| Cell::str(phase(n))), age()];

const SELECTABLE: &[Selectable<Namespace>] =
    &[Selectable { path: "status.phase", value: |n| phase(n).to_owned() }];

const SUBRESOURCES: &[Subresource<Namespace>] = &[
    Subresource::Part(PartAccess {
        name: "finalize",
        prepare: |new, old| new.status = old.status.clone(),
        validate: validate_finalize,
        verbs: &["update"],
    }),
    Subresource::Status(status_access!(Namespace, validate_status)),
];

pub static NAMESPACE: Registered<Namespace> = Registered::new(Kind {
    gvk: GroupVersionKind::of("", "v1", "Namespace"),
    names: Names { plural: "namespaces", singular: "namespace", short: &["ns"], categories: &[] },
    scope: Scope::Cluster,
    definition: "io.k8s.api.core.v1.Namespace",
    storage: "namespaces",
    name_rule: NameRule::DnsLabel,
    default,
    validate: Validate { create: validate, update: |new, _| validate(new) },
    strategy: Strategy {
        prepare_create,
        prepare_update: |new, old| {
            new.spec.get_or_insert_default().finalizers =
                old.spec.as_ref().and_then(|s| s.finalizers.clone());
            new.status = old.status.clone();
            label(new);
        },
        ..plain()
    },
    subresources: SUBRESOURCES,
    selectable: SELECTABLE,
    columns: COLUMNS,
});

fn phase(namespace: &Namespace) -> &str {
    text(namespace.status.as_ref().and_then(|s| s.phase.as_ref()))
}

fn default(namespace: &mut Namespace) {
    label(namespace);
    namespace.spec.get_or_insert_default();
    namespace.status.get_or_insert_default().phase.get_or_insert_with(|| "Active".to_owned());
}

/// The label by which namespace selectors find a namespace by name. A generated name is not known before
/// [`prepare_create`], which is why this runs there too.
fn label(namespace: &mut Namespace) {
    if let Some(name) = namespace.metadata.name.clone().filter(|n| !n.is_empty()) {
        namespace.metadata.labels.get_or_insert_default().insert(LABEL_NAME.to_owned(), name);
    }
}

fn prepare_create(namespace: &mut Namespace) {
    namespace.status = Some(NamespaceStatus { phase: Some("Active".to_owned()), ..Default::default() });
    let finalizers = namespace.spec.get_or_insert_default().finalizers.get_or_insert_default();
    if !finalizers.iter().any(|f| f == FINALIZER_KUBERNETES) {
        finalizers.push(FINALIZER_KUBERNETES.to_owned());
    }
    label(namespace);
}

fn finalizers(namespace: &Namespace) -> &[String] {
    namespace.spec.as_ref().and_then(|s| s.finalizers.as_deref()).unwrap_or_default()
}

fn validate(namespace: &Namespace) -> FieldErrors {
    let path = Path::new("spec").child("finalizers");
    finalizers(namespace).iter().flat_map(|f| check_finalizer(&path, f)).collect()
}

fn validate_finalize(new: &Namespace, _: &Namespace) -> FieldErrors {
    let path = Path::new("spec").child("finalizers");
    finalizers(new).iter().enumerate().flat_map(|(i, f)| check_finalizer(&path.index(i), f)).collect()
}

fn check_finalizer(path: &Path, name: &str) -> FieldErrors {
    let mut errors = Vec::new();
    push_invalid(&mut errors, path, name, rules::is_qualified_name(name));
    if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
        errors.push(FieldError::invalid(
            path,
            name,
            "name is neither a standard finalizer name nor is it fully qualified",
        ));
    }
    errors
}

fn validate_status(new: &Namespace, _: &Namespace) -> FieldErrors {
    let path = Path::new("status").child("Phase");
    let refuse = |why: &str| vec![FieldError::invalid(&path, phase(new), why)];
    match (&new.metadata.deletion_timestamp, phase(new)) {
        (None, "Active") | (Some(_), "Terminating") => Vec::new(),
        (None, _) => refuse("may only be 'Active' if `deletionTimestamp` is empty"),
        (Some(_), _) => refuse("may only be 'Terminating' if `deletionTimestamp` is not empty"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{lines, object};
    use serde_json::json;

    #[test]
    fn a_new_namespace_is_active_labelled_and_held_by_kubernetes() {
        let mut namespace: Namespace =
            object(json!({"metadata": {"name": "demo"}, "status": {"phase": "Terminating"}}));
        default(&mut namespace);
        prepare_create(&mut namespace);
        assert_eq!(
            serde_json::to_value(&namespace).unwrap(),
            json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": "demo", "labels": {"kubernetes.io/metadata.name": "demo"}},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
        );
    }

    #[test]
    fn the_phase_follows_deletion() {
        let old = Namespace::default();
        let check =
            |value, expect: &[&str]| assert_eq!(lines(&validate_status(&object(value), &old)), expect);
        check(json!({"status": {"phase": "Active"}}), &[]);
        check(
            json!({"status": {"phase": "Terminating"}}),
            &[
                "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty",
            ],
        );
        check(
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Terminating"}}),
            &[],
        );
    }

    #[test]
    fn a_finalizer_is_standard_or_qualified() {
        let namespace = object(json!({"spec": {"finalizers": ["kubernetes", "mine", "example.com/mine"]}}));
        assert_eq!(
            lines(&validate(&namespace)),
            [
                "spec.finalizers: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified"
            ]
        );
    }
}
