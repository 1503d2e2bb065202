//! scheduling.k8s.io/v1 PriorityClass.

use crate::kind::{Cell, Column, Kind, NameRule, Names, Scope, Strategy, Validate};
use crate::object::Registered;
use crate::strategy::{first_generation, next_generation, plain};
use crate::support::{FIELD_IMMUTABLE, age, text, typed_column, wide};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use meta::{FieldError, FieldErrors, GroupVersionKind, Path};

/// Names that the system keeps for itself.
const SYSTEM_PREFIX: &str = "system-";
const HIGHEST_USER_DEFINABLE_PRIORITY: i32 = 1_000_000_000;
/// The classes of the system itself and their values.
pub const SYSTEM_CLASSES: &[(&str, i32)] =
    &[("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

const COLUMNS: &[Column<PriorityClass>] = &[
    typed_column(
        "Value",
        "integer",
        "value represents the integer value of this priority class. This is the actual priority that pods receive when they have the name of this class in their pod spec.",
        |p| Cell::int(p.value.unwrap_or(0)),
    ),
    typed_column(
        "Global-Default",
        "boolean",
        "globalDefault specifies whether this PriorityClass should be considered as the default priority for pods that do not have any priority class. Only one PriorityClass can be marked as `globalDefault`. However, if more than one PriorityClasses exists with their `globalDefault` field set to true, the smallest value of such global default PriorityClasses will be used as the default priority.",
        |p| Cell::Value(p.global_default.unwrap_or(false).into()),
    ),
    age(),
    wide(
        "PreemptionPolicy",
        "preemptionPolicy is the Policy for preempting pods with lower priority. One of Never, PreemptLowerPriority. Defaults to PreemptLowerPriority if unset.",
        |p| Cell::str(text(p.preemption_policy.as_ref())),
    ),
];

pub static PRIORITY_CLASS: Registered<PriorityClass> = Registered::new(Kind {
    gvk: GroupVersionKind::of("scheduling.k8s.io", "v1", "PriorityClass"),
    names: Names { plural: "priorityclasses", singular: "priorityclass", short: &["pc"], categories: &[] },
    scope: Scope::Cluster,
    definition: "io.k8s.api.scheduling.v1.PriorityClass",
    storage: "priorityclasses",
    name_rule: NameRule::DnsSubdomain,
    default: |p| {
        p.preemption_policy.get_or_insert_with(|| "PreemptLowerPriority".to_owned());
    },
    validate: Validate { create: validate, update: validate_update },
    strategy: Strategy {
        prepare_create: first_generation,
        prepare_update: |new, old| next_generation(new, old, false),
        ..plain()
    },
    subresources: &[],
    selectable: &[],
    columns: COLUMNS,
});

fn validate(class: &PriorityClass) -> FieldErrors {
    let mut errors = Vec::new();
    let name = text(class.metadata.name.as_ref());
    let value = class.value.unwrap_or(0);
    if name.starts_with(SYSTEM_PREFIX) {
        let why = match SYSTEM_CLASSES.iter().find(|(n, _)| *n == name) {
            None => Some(format!("{name} is not a known system priority class")),
            Some((_, known)) if *known != value => {
                Some(format!("value of {name} PriorityClass must be {known}"))
            }
            Some(_) if class.global_default == Some(true) => {
                Some(format!("globalDefault of {name} PriorityClass must be false"))
            }
            Some(_) => None,
        };
        errors.extend(why.map(|w| {
            let why = format!("priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {w}");
            FieldError::forbidden(&Path::new("metadata").child("name"), why)
        }));
    } else if value > HIGHEST_USER_DEFINABLE_PRIORITY {
        let why =
            format!("maximum allowed value of a user defined priority is {HIGHEST_USER_DEFINABLE_PRIORITY}");
        errors.push(FieldError::forbidden(&Path::new("value"), why));
    }
    let path = Path::new("preemptionPolicy");
    match class.preemption_policy.as_deref() {
        None | Some("Never" | "PreemptLowerPriority") => {}
        Some("") => errors.push(FieldError::required(&path, "")),
        Some(other) => {
            errors.push(FieldError::not_supported(&path, other, &["PreemptLowerPriority", "Never"]))
        }
    }
    errors
}

fn validate_update(new: &PriorityClass, old: &PriorityClass) -> FieldErrors {
    let mut errors = Vec::new();
    if new.value.unwrap_or(0) != old.value.unwrap_or(0) {
        errors.push(FieldError::forbidden(&Path::new("value"), "may not be changed in an update."));
    }
    if new.preemption_policy != old.preemption_policy {
        let policy = new.preemption_policy.clone();
        errors.push(FieldError::invalid(&Path::new("preemptionPolicy"), policy, FIELD_IMMUTABLE));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{lines, object};
    use serde_json::json;

    #[test]
    fn refusals() {
        let check = |name: &str, value: i32, expect: &[&str]| {
            let class = object(json!({"metadata": {"name": name}, "value": value}));
            assert_eq!(lines(&validate(&class)), expect);
        };
        check("high", 1000, &[]);
        check("system-node-critical", 2_000_001_000, &[]);
        check(
            "high",
            2_000_000_000,
            &["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"],
        );
        check(
            "system-mine",
            1,
            &[
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-mine is not a known system priority class",
            ],
        );
    }
}
