//! Rules and subjects, which the four kinds of rbac.authorization.k8s.io/v1 share.

use crate::kind::{Cell, Column};
use crate::object::Typed;
use crate::support::{CREATION_TIMESTAMP, age, column, instant, text, typed_column, wide};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, PolicyRule, RoleBinding, RoleRef, Subject};
use meta::{FieldError, FieldErrors, Path, validation as rules};

/// The API group of roles and bindings, which users and groups as subjects have too.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// Roles have no table of their own upstream; the generic one has this column.
pub const fn role_columns<T: Typed>() -> [Column<T>; 1] {
    [typed_column("Created At", "date", CREATION_TIMESTAMP, created::<T>)]
}

fn created<T: Typed>(role: &T) -> Cell {
    let at = instant(role.metadata().creation_timestamp.as_ref());
    Cell::str(at.map(|t| t.to_string()).unwrap_or_default())
}

/// A binding of either scope.
pub trait Binding: Typed {
    /// Kinds of role that it may refer to.
    const ROLE_KINDS: &'static [&'static str];
    /// Whether a service account among its subjects may leave out its namespace.
    const NAMESPACED: bool;
    fn role_ref(&self) -> &RoleRef;
    fn subjects(&self) -> Option<&[Subject]>;
}

impl Binding for RoleBinding {
    const ROLE_KINDS: &'static [&'static str] = &["Role", "ClusterRole"];
    const NAMESPACED: bool = true;

    fn role_ref(&self) -> &RoleRef {
        &self.role_ref
    }

    fn subjects(&self) -> Option<&[Subject]> {
        self.subjects.as_deref()
    }
}

impl Binding for ClusterRoleBinding {
    const ROLE_KINDS: &'static [&'static str] = &["ClusterRole"];
    const NAMESPACED: bool = false;

    fn role_ref(&self) -> &RoleRef {
        &self.role_ref
    }

    fn subjects(&self) -> Option<&[Subject]> {
        self.subjects.as_deref()
    }
}

/// The table of a binding; the descriptions of the columns of users, groups and service accounts name the kind.
pub const fn binding_columns<T: Binding>(
    users: &'static str,
    groups: &'static str,
    accounts: &'static str,
) -> [Column<T>; 5] {
    [
        column(
            "Role",
            "RoleRef references the role whose rules this binding grants. If the RoleRef cannot be resolved, the Authorizer must return an error.",
            |b| role_cell(b.role_ref()),
        ),
        age(),
        wide("Users", users, |b| subjects_cell(b.subjects(), "User")),
        wide("Groups", groups, |b| subjects_cell(b.subjects(), "Group")),
        wide("ServiceAccounts", accounts, |b| subjects_cell(b.subjects(), "ServiceAccount")),
    ]
}

/// Errors of a role's rules. `namespaced`: of a Role, where non-resource URLs mean nothing.
pub fn check_rules(rules: Option<&[PolicyRule]>, namespaced: bool) -> FieldErrors {
    let path = Path::new("rules");
    let rules = rules.unwrap_or_default().iter().enumerate();
    rules.flat_map(|(i, rule)| check_rule(rule, namespaced, &path.index(i))).collect()
}

fn check_rule(rule: &PolicyRule, namespaced: bool, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let given = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|l| !l.is_empty());
    if rule.verbs.is_empty() {
        errors.push(FieldError::required(&path.child("verbs"), "verbs must contain at least one value"));
    }
    if given(&rule.non_resource_urls) {
        let path = path.child("nonResourceURLs");
        let urls = crate::support::json(&rule.non_resource_urls);
        if namespaced {
            errors.push(FieldError::invalid(
                &path,
                &urls,
                "namespaced rules cannot apply to non-resource URLs",
            ));
        }
        if given(&rule.api_groups) || given(&rule.resources) || given(&rule.resource_names) {
            errors.push(FieldError::invalid(
                &path,
                &urls,
                "rules cannot apply to both regular resources and non-resource URLs",
            ));
        }
        return errors;
    }
    if !given(&rule.api_groups) {
        let path = path.child("apiGroups");
        errors.push(FieldError::required(&path, "resource rules must supply at least one api group"));
    }
    if !given(&rule.resources) {
        let path = path.child("resources");
        errors.push(FieldError::required(&path, "resource rules must supply at least one resource"));
    }
    errors
}

/// Fills the group of users and groups, and of the role, where the client left it out.
pub fn default_binding(role: &mut RoleRef, subjects: &mut Option<Vec<Subject>>) {
    if text(role.api_group.as_ref()).is_empty() {
        role.api_group = Some(GROUP.to_owned());
    }
    for subject in subjects.iter_mut().flatten() {
        if text(subject.api_group.as_ref()).is_empty() && matches!(subject.kind.as_str(), "User" | "Group") {
            subject.api_group = Some(GROUP.to_owned());
        }
    }
}

/// Errors of a new binding.
pub fn check_binding<B: Binding>(binding: &B) -> FieldErrors {
    let mut errors = Vec::new();
    let (role, path) = (binding.role_ref(), Path::new("roleRef"));
    let group = text(role.api_group.as_ref());
    if group != GROUP {
        errors.push(FieldError::not_supported(&path.child("apiGroup"), group, &[GROUP]));
    }
    if !B::ROLE_KINDS.contains(&role.kind.as_str()) {
        errors.push(FieldError::not_supported(&path.child("kind"), &role.kind, B::ROLE_KINDS));
    }
    if role.name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        let messages = rules::is_path_segment_name(&role.name);
        crate::support::push_invalid(&mut errors, &path.child("name"), &role.name, messages);
    }
    for (i, subject) in binding.subjects().unwrap_or_default().iter().enumerate() {
        errors.extend(check_subject(subject, B::NAMESPACED, &Path::new("subjects").index(i)));
    }
    errors
}

fn check_subject(subject: &Subject, namespaced: bool, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let group = text(subject.api_group.as_ref());
    if subject.name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    match subject.kind.as_str() {
        "ServiceAccount" => {
            if !subject.name.is_empty() {
                let messages = rules::is_dns1123_subdomain(&subject.name);
                crate::support::push_invalid(&mut errors, &path.child("name"), &subject.name, messages);
            }
            if !group.is_empty() {
                errors.push(FieldError::not_supported(&path.child("apiGroup"), group, &[""]));
            }
            if !namespaced && text(subject.namespace.as_ref()).is_empty() {
                errors.push(FieldError::required(&path.child("namespace"), ""));
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.push(FieldError::not_supported(&path.child("apiGroup"), group, &[GROUP]));
            }
        }
        other => {
            let path = path.child("kind");
            errors.push(FieldError::not_supported(&path, other, &["ServiceAccount", "User", "Group"]));
        }
    }
    errors
}

/// Errors of a change of a binding. Its role may not change: who may bind it was checked for the first one.
pub fn check_binding_update<B: Binding>(new: &B, old: &B) -> FieldErrors {
    let mut errors = check_binding(new);
    let role = new.role_ref();
    if role != old.role_ref() {
        // upstream prints its internal type, whose fields have no JSON names
        let value = serde_json::json!({
            "APIGroup": text(role.api_group.as_ref()), "Kind": role.kind, "Name": role.name
        });
        errors.push(FieldError::invalid(&Path::new("roleRef"), value, "cannot change roleRef"));
    }
    errors
}

/// `ClusterRole/view`.
fn role_cell(role: &RoleRef) -> Cell {
    Cell::str(format!("{}/{}", role.kind, role.name))
}

/// Names of the subjects of one kind; service accounts with their namespace.
fn subjects_cell(subjects: Option<&[Subject]>, kind: &str) -> Cell {
    let names: Vec<String> = subjects
        .unwrap_or_default()
        .iter()
        .filter(|s| s.kind == kind)
        .map(|s| {
            if kind == "ServiceAccount" {
                format!("{}/{}", text(s.namespace.as_ref()), s.name)
            } else {
                s.name.clone()
            }
        })
        .collect();
    Cell::str(names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{lines, object};
    use serde_json::{Value, json};

    /// The errors of a binding once its defaults are filled in.
    fn refusals<B: Binding>(kind: &crate::object::Registered<B>, binding: Value) -> Vec<String> {
        let mut binding = object(binding);
        (kind.kind.default)(&mut binding);
        lines(&(kind.kind.validate.create)(&binding))
    }

    #[test]
    fn bindings_name_a_role_and_subjects_of_known_kinds() {
        let check = |binding: Value, of_namespace: &[&str], of_cluster: &[&str]| {
            assert_eq!(refusals(&crate::role_binding::ROLE_BINDING, binding.clone()), of_namespace);
            assert_eq!(refusals(&crate::cluster_role_binding::CLUSTER_ROLE_BINDING, binding), of_cluster);
        };
        let view = json!({"kind": "ClusterRole", "name": "view"});
        check(json!({"roleRef": view, "subjects": [{"kind": "User", "name": "jane"}]}), &[], &[]);
        let errors = &[
            "roleRef.name: Required value",
            "subjects[0].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
        ];
        check(
            json!({"roleRef": {"kind": "ClusterRole"}, "subjects": [{"kind": "Robot", "name": "r"}]}),
            errors,
            errors,
        );
        check(
            json!({"roleRef": {"kind": "Role", "name": "a"}}),
            &[],
            &["roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\""],
        );
        check(
            json!({"roleRef": {"kind": "Pod", "name": "a"}}),
            &["roleRef.kind: Unsupported value: \"Pod\": supported values: \"Role\", \"ClusterRole\""],
            &["roleRef.kind: Unsupported value: \"Pod\": supported values: \"ClusterRole\""],
        );
        check(
            json!({"roleRef": view, "subjects": [{"kind": "ServiceAccount", "name": "builder"}]}),
            &[],
            &["subjects[0].namespace: Required value"],
        );
    }

    #[test]
    fn a_binding_keeps_its_role() {
        let to = |role: &str| -> RoleBinding {
            object(json!({"roleRef": {"apiGroup": GROUP, "kind": "Role", "name": role}}))
        };
        assert_eq!(lines(&check_binding_update(&to("a"), &to("a"))), [""; 0]);
        assert_eq!(
            lines(&check_binding_update(&to("b"), &to("a"))),
            [
                "roleRef: Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"Role\",\"Name\":\"b\"}: cannot change roleRef"
            ]
        );
    }
}
