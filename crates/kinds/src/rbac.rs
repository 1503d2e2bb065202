//! Rules and subjects, which the four kinds of rbac.authorization.k8s.io/v1 share.

use crate::kind::{Cell, Column};
use crate::object::Typed;
use crate::support::{CREATION_TIMESTAMP, age, column, instant, text, typed_column, wide};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, PolicyRule, RoleBinding, RoleRef, Subject};
use meta::{FieldError, FieldErrors, Path, validation as rules};

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
    fn role_ref(&self) -> &RoleRef;
    fn subjects(&self) -> Option<&[Subject]>;
}

impl Binding for RoleBinding {
    fn role_ref(&self) -> &RoleRef {
        &self.role_ref
    }

    fn subjects(&self) -> Option<&[Subject]> {
        self.subjects.as_deref()
    }
}

impl Binding for ClusterRoleBinding {
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

/// Errors of a role's rule. `namespaced`: of a Role, where non-resource URLs mean nothing.
pub fn check_rule(rule: &PolicyRule, namespaced: bool, path: &Path) -> FieldErrors {
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

/// Errors of a binding. `kinds`: what it may refer to. `namespaced`: of a RoleBinding.
pub fn check_binding(
    role: &RoleRef,
    subjects: Option<&[Subject]>,
    kinds: &[&str],
    namespaced: bool,
) -> FieldErrors {
    let mut errors = Vec::new();
    let path = Path::new("roleRef");
    let group = text(role.api_group.as_ref());
    if group != GROUP {
        errors.push(FieldError::not_supported(&path.child("apiGroup"), group, &[GROUP]));
    }
    if !kinds.contains(&role.kind.as_str()) {
        errors.push(FieldError::not_supported(&path.child("kind"), &role.kind, kinds));
    }
    if role.name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        let messages = rules::is_path_segment_name(&role.name);
        crate::support::push_invalid(&mut errors, &path.child("name"), &role.name, messages);
    }
    for (i, subject) in subjects.unwrap_or_default().iter().enumerate() {
        errors.extend(check_subject(subject, namespaced, &Path::new("subjects").index(i)));
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

/// A binding's role may not change: who may bind it was checked for the first one.
pub fn check_role_ref_stays(new: &RoleRef, old: &RoleRef) -> Option<FieldError> {
    (new != old).then(|| {
        // upstream prints its internal type, whose fields have no JSON names
        let value = serde_json::json!({
            "APIGroup": text(new.api_group.as_ref()), "Kind": new.kind, "Name": new.name
        });
        FieldError::invalid(&Path::new("roleRef"), value, "cannot change roleRef")
    })
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
