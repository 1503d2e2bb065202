//! apps/v1 ControllerRevision: an immutable snapshot of a workload's template.

use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Validate};
use crate::object::Registered;
use crate::strategy::plain;
use crate::support::{age, column, no_change};
use k8s_openapi::api::apps::v1::ControllerRevision;
use meta::{FieldError, FieldErrors, GroupVersion, GroupVersionKind, Json, Path};

const COLUMNS: &[Column<ControllerRevision>] = &[
    column("Controller", "Controller of the object", |r| Cell::str(controller(r))),
    column("Revision", "Revision indicates the revision of the state represented by Data.", |r| {
        Cell::int(r.revision)
    }),
    age(),
];

pub static CONTROLLER_REVISION: Registered<ControllerRevision> = Registered::new(Kind {
    gvk: GroupVersionKind::of("apps", "v1", "ControllerRevision"),
    names: Names {
        plural: "controllerrevisions",
        singular: "controllerrevision",
        short: &[],
        categories: &[],
    },
    scope: Scope::Namespaced,
    definition: "io.k8s.api.apps.v1.ControllerRevision",
    storage: "controllerrevisions",
    name_rule: NameRule::DnsSubdomain,
    default: no_change,
    validate: Validate { create: validate, update: validate_update },
    strategy: plain(),
    subresources: &[],
    selectable: &[],
    columns: COLUMNS,
});

/// `statefulset.apps/web`
fn controller(r: &ControllerRevision) -> String {
    let owner = r.metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true));
    let Some(owner) = owner else { return "<none>".to_owned() };
    let kind = owner.kind.to_lowercase();
    match GroupVersion::parse(&owner.api_version).filter(|gv| !gv.group.is_empty()) {
        Some(gv) => format!("{kind}.{}/{}", gv.group, owner.name),
        None => format!("{kind}/{}", owner.name),
    }
}

fn validate_revision(r: &ControllerRevision) -> FieldErrors {
    meta::validation::validate_nonnegative(r.revision, &Path::new("revision"))
}

fn validate(r: &ControllerRevision) -> FieldErrors {
    let mut errors = validate_revision(r);
    let path = Path::new("data");
    match &r.data {
        None => errors.push(FieldError::required(&path, "data is mandatory")),
        Some(data) if data.0.is_null() => errors.push(FieldError::required(&path, "data is mandatory")),
        Some(data) if !data.0.is_object() => {
            errors.push(FieldError::required(&path, "data must be a valid JSON object"));
        }
        Some(_) => {}
    }
    errors
}

fn validate_update(new: &ControllerRevision, old: &ControllerRevision) -> FieldErrors {
    let mut errors = validate_revision(new);
    if new.data != old.data {
        errors.push(FieldError::invalid(&Path::new("data"), Json(&new.data), "field is immutable"));
    }
    errors
}
