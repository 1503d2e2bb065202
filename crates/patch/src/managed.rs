//! Who manages which field, for create, update and patch.

use crate::compare::compare;
use crate::fieldset::FieldSet;
use crate::managers::{Entry, Fields, ManagerId, Managers, Operation};
use crate::shape::Shape;
use meta::Time;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::sync::LazyLock;

/// More managers by update than this are merged, oldest first (upstream's `DefaultMaxUpdateManagers`).
pub const MAX_UPDATE_MANAGERS: usize = 10;

/// Who owns what the merged managers owned.
const ANCIENT_CHANGES: &str = "ancient-changes";

/// Fields that nobody manages: the server sets them, or they name the object.
pub(crate) static STRIPPED: LazyLock<FieldSet<'static>> = LazyLock::new(|| {
    FieldSet::of_fields(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
});

/// One write, as field management sees it.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// From `fieldManager` or the user agent; empty becomes `unknown`.
    pub manager: &'a str,
    /// `apps/v1`: the version the request was made in.
    pub api_version: &'a str,
    /// Empty, `status`, `scale`.
    pub subresource: &'a str,
    pub now: Time,
    /// Fields this resource resets on this write (`status` on the main resource): nobody owns them through it.
    pub reset_fields: Option<&'a FieldSet<'a>>,
}

impl Write<'_> {
    pub(crate) fn time(&self) -> String {
        self.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }
}

/// Sets `new`'s `metadata.managedFields` after a create (`old` is `None`), an update or a patch that was not an apply.
///
/// What the write changed belongs to the manager; nobody else owns it any more. If nothing changed the entries stay
/// as they are, with their times. The entries of `new` count, so that a client can edit them, unless they are
/// absent or not valid: then those of `old` do.
pub fn update(old: Option<&Value>, new: &mut Value, shape: Shape<'_>, write: &Write<'_>) {
    let sent = take_managed_fields(new);
    let encoded = {
        let managers = starting_point(old, sent.as_ref(), write);
        let untracked = managers.is_empty() && old.is_some_and(has_uid);
        if untracked {
            None
        } else {
            let mut managers = record(old.unwrap_or(&EMPTY), new, shape, managers, write);
            cap(&mut managers);
            managers.encode()
        }
    };
    put_managed_fields(new, encoded);
}

/// Whether `metadata.managedFields` can be read; what admission left behind is checked with it.
///
/// # Errors
/// What is wrong, in upstream's words.
pub fn validate(object: &Value) -> Result<(), String> {
    Managers::decode(object.pointer("/metadata/managedFields")).map(drop)
}

/// If only times of entries differ between `old` and `new`, takes the old times, so that the write is none.
pub fn keep_times_if_unchanged(old: &Value, new: &mut Value) {
    let same = {
        let without = |value: &Value| {
            let mut entries = value.pointer("/metadata/managedFields").and_then(Value::as_array).cloned();
            for entry in entries.iter_mut().flatten().filter_map(Value::as_object_mut) {
                entry.remove("time");
            }
            entries
        };
        without(old) == without(new)
    };
    if !same {
        return;
    }
    let times = take_managed_fields(new);
    let mut copy = old.clone();
    let before = take_managed_fields(&mut copy);
    put_managed_fields(new, if copy == *new { before } else { times });
}

static EMPTY: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));

fn has_uid(object: &Value) -> bool {
    object.pointer("/metadata/uid").and_then(Value::as_str).is_some_and(|uid| !uid.is_empty())
}

/// The managers before this write.
fn starting_point<'a>(old: Option<&'a Value>, sent: Option<&'a Value>, write: &Write<'_>) -> Managers<'a> {
    let list = old.and_then(|old| old.pointer("/metadata/managedFields"));
    let stored = || Managers::stored(list).unwrap_or_default();
    if !write.subresource.is_empty() || (list.is_some() && sent == list) {
        return stored();
    }
    match sent.and_then(Value::as_array).map(Vec::as_slice) {
        // An empty list, or a single empty entry, resets.
        Some([]) => Managers::default(),
        Some([Value::Object(only)]) if only.values().all(is_empty) => Managers::default(),
        _ => match Managers::decode(sent) {
            Ok(managers) if !managers.is_empty() => managers,
            _ => stored(),
        },
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// The managers after a write that made `new` of `old`.
pub(crate) fn record<'a>(
    old: &'a Value,
    new: &'a Value,
    shape: Shape<'a>,
    mut managers: Managers<'a>,
    write: &Write<'_>,
) -> Managers<'a> {
    let mut changes = compare(old, new, shape);
    if let Some(reset) = write.reset_fields {
        changes = changes.without(reset);
    }
    if changes.is_same() {
        return managers;
    }
    let taken = changes.modified.union(changes.added);
    for entry in &mut managers.entries {
        entry.fields.subtract(&taken);
        entry.fields.subtract(&changes.removed);
    }
    managers.drop_empty();
    let own = taken.difference(&STRIPPED);
    if !own.is_empty() {
        let id = ManagerId::new(write.manager, Operation::Update, write.api_version, write.subresource);
        let time = Some(Cow::Owned(write.time()));
        match managers.get_mut(&id) {
            Some(entry) => {
                entry.fields.unite(own);
                entry.time = time;
            }
            None => {
                let api_version = write.api_version.to_owned();
                managers.entries.push(Entry { id, api_version, time, fields: Fields::Set(own) });
            }
        }
    }
    managers
}

/// Merges the oldest managers by update, version by version, until there are few enough.
fn cap(managers: &mut Managers<'_>) {
    let mut updaters: Vec<(Option<String>, ManagerId)> = managers
        .entries
        .iter()
        .filter(|entry| entry.id.operation == Operation::Update)
        .map(|entry| (entry.time.as_deref().map(str::to_owned), entry.id.clone()))
        .collect();
    if updaters.len() <= MAX_UPDATE_MANAGERS {
        return;
    }
    updaters.sort();
    let mut count = updaters.len();
    let mut first_of_version: Vec<(String, ManagerId)> = Vec::new();
    for (time, id) in updaters {
        if count <= MAX_UPDATE_MANAGERS {
            break;
        }
        let Some((_, first)) = first_of_version.iter().find(|(version, _)| *version == id.api_version) else {
            first_of_version.push((id.api_version.clone(), id));
            continue;
        };
        let bucket = ManagerId::new(ANCIENT_CHANGES, Operation::Update, &id.api_version, "");
        if managers.get(&bucket).is_none()
            && let Some(entry) = managers.get_mut(first)
        {
            entry.id = bucket.clone();
        }
        let Some(position) = managers.entries.iter().position(|entry| entry.id == id) else { continue };
        let mut merged = managers.entries.remove(position);
        if let Some(entry) = managers.get_mut(&bucket) {
            entry.fields.unite(std::mem::take(merged.fields.set()));
            entry.time = time.map(Cow::Owned);
        }
        count -= 1;
    }
}

pub(crate) fn take_managed_fields(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove("managedFields")
}

pub(crate) fn put_managed_fields(object: &mut Value, fields: Option<Value>) {
    if let Some(fields) = fields
        && let Some(object) = object.as_object_mut()
        && let Some(metadata) =
            object.entry("metadata").or_insert_with(|| Value::Object(Map::new())).as_object_mut()
    {
        metadata.insert("managedFields".to_owned(), fields);
    }
}

#[cfg(test)]
mod tests;
