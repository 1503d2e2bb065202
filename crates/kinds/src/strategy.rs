//! What the strategies of kinds share: who may write what, and when `metadata.generation` grows
//! (upstream's `registry/*/strategy.go`).

use crate::kind::Strategy;
use crate::object::Typed;
use crate::support::{no_change, no_change_from, no_warnings};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::Value;

/// A kind without status and generation: a client's write stands as it is.
///
/// Unconditional update is allowed and PUT of an absent name is not; another choice is written before the rest:
/// `Strategy { create_on_update: true, ..plain() }`. So it is for all strategies here.
pub const fn plain<T>() -> Strategy<T> {
    Strategy {
        prepare_create: no_change,
        prepare_update: no_change_from,
        stamp: None,
        create_on_update: false,
        unconditional_update: true,
        graceful_delete: None,
        orphans_by_default: false,
        warnings: no_warnings,
    }
}

/// A kind with a `spec` and no status: its generation counts changes of the spec.
macro_rules! spec_only {
    ($t:ty) => {
        $crate::kind::Strategy::<$t> {
            prepare_create: $crate::strategy::first_generation,
            prepare_update: |new, old| {
                let changed = !$crate::strategy::semantic_eq(&new.spec, &old.spec);
                $crate::strategy::next_generation(new, old, changed);
            },
            ..$crate::strategy::plain()
        }
    };
}
pub(crate) use spec_only;

/// A kind with `spec` and `status`: create clears the status and starts at generation 1; update of the main
/// resource keeps the status and raises the generation where the spec changed.
macro_rules! spec_and_status {
    ($t:ty) => {
        $crate::kind::Strategy::<$t> {
            prepare_create: |new| {
                new.status = Some(Default::default());
                $crate::strategy::first_generation(new);
            },
            prepare_update: |new, old| {
                new.status.clone_from(&old.status);
                let changed = !$crate::strategy::semantic_eq(&new.spec, &old.spec);
                $crate::strategy::next_generation(new, old, changed);
            },
            ..$crate::strategy::plain()
        }
    };
}
pub(crate) use spec_and_status;

/// As [`spec_and_status`], for a kind that has no generation (quotas, persistent volumes ...).
macro_rules! spec_and_status_no_generation {
    ($t:ty) => {
        $crate::kind::Strategy::<$t> {
            prepare_create: |new| new.status = Some(Default::default()),
            prepare_update: |new, old| new.status.clone_from(&old.status),
            ..$crate::strategy::plain()
        }
    };
}
pub(crate) use spec_and_status_no_generation;

/// `/status` of a kind: the spec stays, metadata may change.
/// The second argument is `fn(&T, &T) -> FieldErrors` over the new object and the stored one.
macro_rules! status_access {
    ($t:ty, $validate:expr) => {
        $crate::kind::StatusAccess::<$t> {
            prepare: |new, old| new.spec.clone_from(&old.spec),
            validate: $validate,
        }
    };
}
pub(crate) use status_access;

/// Sets the first generation of a kind that counts them.
pub fn first_generation<T: Typed>(object: &mut T) {
    object.metadata_mut().generation = Some(1);
}

/// The generation is the server's: the stored one, plus one where `changed` says that the specification did.
pub fn next_generation<T: Typed>(new: &mut T, old: &T, changed: bool) {
    let stored = old.metadata().generation;
    new.metadata_mut().generation = if changed { Some(stored.unwrap_or(0) + 1) } else { stored };
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
