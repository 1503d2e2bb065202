//! What the strategies of kinds share: who may write what, and when `metadata.generation` grows
//! (upstream's `registry/*/strategy.go`).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::Value;

/// A kind with `spec` and `status`: create clears the status and starts at generation 1; update of the main
/// resource keeps the status and raises the generation where the spec changed.
///
/// Unconditional update is allowed and PUT of an absent name is not; for another choice use
/// `Strategy { create_on_update: true, ..spec_and_status!(T) }`.
macro_rules! spec_and_status {
    ($t:ty) => {
        $crate::kind::Strategy::<$t> {
            prepare_create: |new| {
                new.status = Some(Default::default());
                new.metadata.generation = Some(1);
            },
            prepare_update: |new, old| {
                new.status = old.status.clone();
                let changed = !$crate::strategy::semantic_eq(&new.spec, &old.spec);
                $crate::strategy::carry_generation(&mut new.metadata, &old.metadata, changed);
            },
            create_on_update: false,
            unconditional_update: true,
            graceful_delete: None,
            orphans_by_default: false,
            warnings: $crate::support::no_warnings,
        }
    };
}
pub(crate) use spec_and_status;

/// As [`spec_and_status`], for a kind that has no generation (nodes, namespaces, persistent volumes ...).
macro_rules! spec_and_status_no_generation {
    ($t:ty) => {
        $crate::kind::Strategy::<$t> {
            prepare_create: |new| new.status = Some(Default::default()),
            prepare_update: |new, old| {
                new.status = old.status.clone();
                $crate::strategy::carry_generation(&mut new.metadata, &old.metadata, false);
            },
            create_on_update: false,
            unconditional_update: true,
            graceful_delete: None,
            orphans_by_default: false,
            warnings: $crate::support::no_warnings,
        }
    };
}
pub(crate) use spec_and_status_no_generation;

/// A kind without status: nothing is taken back and the generation stays what it is.
macro_rules! no_status {
    ($t:ty) => {
        $crate::kind::Strategy::<$t> {
            prepare_create: |_| {},
            prepare_update: |_, _| {},
            create_on_update: false,
            unconditional_update: true,
            graceful_delete: None,
            orphans_by_default: false,
            warnings: $crate::support::no_warnings,
        }
    };
}
pub(crate) use no_status;

/// `/status` of a kind: the spec stays; metadata may change but for the generation.
/// The second argument is `fn(&T, &T) -> FieldErrors` over the new object and the stored one.
macro_rules! status_access {
    ($t:ty, $validate:expr) => {
        $crate::kind::StatusAccess::<$t> {
            prepare: |new, old| {
                new.spec = old.spec.clone();
                new.metadata.generation = old.metadata.generation;
            },
            validate: $validate,
        }
    };
}
pub(crate) use status_access;

/// The generation is the server's: the stored one, plus one where the specification changed.
pub fn carry_generation(new: &mut ObjectMeta, old: &ObjectMeta, changed: bool) {
    new.generation = if changed { Some(old.generation.unwrap_or(0) + 1) } else { old.generation };
}

/// Takes back every metadata field that a status write may not touch.
pub fn reset_meta_for_status(new: &mut ObjectMeta, old: &ObjectMeta) {
    new.deletion_timestamp = old.deletion_timestamp.clone();
    new.generation = old.generation;
    new.self_link = old.self_link.clone();
    new.labels = old.labels.clone();
    new.annotations = old.annotations.clone();
    new.finalizers = old.finalizers.clone();
    new.owner_references = old.owner_references.clone();
}

/// Equality as upstream's `Semantic.DeepEqual`: an empty list or map is equal to an absent one.
/// Quantities are canonical once defaults were filled in, so their text decides.
pub fn semantic_eq<T: PartialEq + Serialize>(a: &T, b: &T) -> bool {
    a == b || without_empty(a) == without_empty(b)
}

fn without_empty<T: Serialize>(value: &T) -> Value {
    let mut value = serde_json::to_value(value).unwrap_or(Value::Null);
    strip_empty_lists(&mut value);
    value
}

/// Removes empty lists and nulls; `{}` stays, since for most fields (`emptyDir: {}`) it is a value.
fn strip_empty_lists(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(strip_empty_lists);
            map.retain(|_, v| !v.is_null() && v.as_array().is_none_or(|a| !a.is_empty()));
        }
        Value::Array(items) => items.iter_mut().for_each(strip_empty_lists),
        _ => {}
    }
}
