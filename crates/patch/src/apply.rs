//! Server-side apply.

use crate::compare::{compare, field_set_of};
use crate::error::{Conflict, Conflicts, Error};
use crate::fieldset::FieldSet;
use crate::managed::{STRIPPED, Write, put_managed_fields, record, take_managed_fields};
use crate::managers::{Entry, Fields, ManagerId, Managers, Operation};
use crate::merge::{merge, remove};
use crate::shape::Shape;
use crate::validate::{message, validate};
use serde_json::{Map, Value, json};
use std::borrow::Cow;

pub use crate::managers::{ManagerId as Manager, Operation as ManagerOperation};

/// Where `kubectl apply` keeps the configuration it applied last.
pub const LAST_APPLIED_ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Who owns the fields of an object that nobody managed before its first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// The manager whose conflicts with client-side apply's own fields are none.
const KUBECTL: &str = "kubectl";

/// One apply request.
#[derive(Debug, Clone, Copy)]
pub struct Apply<'a> {
    pub write: Write<'a>,
    /// The kind the URL names; the configuration must be of it.
    pub kind: &'a str,
    /// Takes fields from other managers.
    pub force: bool,
}

/// What became of an apply.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The object with its new `managedFields`.
    pub object: Value,
    /// Whether anything but `managedFields` changed.
    pub changed: bool,
}

/// Applies `config` to `live`, or makes a new object if there is none.
///
/// # Errors
/// [`Error::BadPatch`] for a configuration of another kind or version or with `managedFields`; [`Error::Typed`] if it
/// does not fit its type; [`Error::Conflicts`] if it changes what others own and `force` is not set.
pub fn apply(
    live: Option<&Value>,
    config: &Value,
    shape: Shape<'_>,
    request: &Apply<'_>,
) -> Result<Applied, Error> {
    check_config(config, shape, request)?;
    let mut bare = live.cloned().unwrap_or_else(|| Value::Object(Map::new()));
    let stored = take_managed_fields(&mut bare);
    let managers = Managers::decode(stored.as_ref())
        .map_err(|e| Error::Typed(format!("failed to decode managed fields: {e}")))?;
    let empty = Value::Object(Map::new());
    let managers = if managers.is_empty() {
        let write = Write { manager: BEFORE_FIRST_APPLY, ..request.write };
        record(&empty, &bare, shape, managers, &write)
    } else {
        managers
    };
    let attempt = |force: bool| merge_config(&bare, config, shape, managers.clone(), request, force);
    let (object, managers) = match attempt(request.force) {
        Err(Error::Conflicts(conflicts)) if request.write.manager == KUBECTL => {
            match allowed_by_last_applied(&bare, shape, request) {
                None => return Err(Error::Conflicts(conflicts)),
                Some(allowed) => {
                    let left: Vec<Conflict> =
                        conflicts.0.into_iter().filter(|c| !allowed.contains(&c.path)).collect();
                    if !left.is_empty() {
                        return Err(Error::Conflicts(Conflicts(left)));
                    }
                    attempt(true)?
                }
            }
        }
        other => other?,
    };
    let changed = object.is_some();
    let encoded = managers.encode();
    let mut object = object.unwrap_or_else(|| bare.clone());
    if request.write.manager == KUBECTL {
        renew_last_applied(&mut object, config);
    }
    put_managed_fields(&mut object, encoded);
    Ok(Applied { object, changed })
}

fn check_config(config: &Value, shape: Shape<'_>, request: &Apply<'_>) -> Result<(), Error> {
    let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("/apiVersion"), text("/kind"));
    let shown = match api_version.contains('/') {
        true => format!("{api_version}, Kind={kind}"),
        false => format!("/{api_version}, Kind={kind}"),
    };
    if kind != request.kind {
        return Err(Error::BadPatch(format!("invalid object type: {shown}")));
    }
    if api_version != request.write.api_version {
        return Err(Error::BadPatch(format!(
            "Incorrect version specified in apply patch. Specified patch version: {api_version}, expected: {}",
            request.write.api_version
        )));
    }
    if config.pointer("/metadata/managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(Error::BadPatch("metadata.managedFields must be nil".to_owned()));
    }
    let errors = validate(config, shape);
    if !errors.is_empty() {
        let name = format!("{}/{}; {shown}", text("/metadata/namespace"), text("/metadata/name"));
        return Err(Error::Typed(format!(
            "failed to create typed patch object ({name}): {}",
            message(&errors)
        )));
    }
    Ok(())
}

/// The merged object, `None` if it is the live one, and the managers after it.
fn merge_config<'a>(
    live: &'a Value,
    config: &'a Value,
    shape: Shape<'a>,
    mut managers: Managers<'a>,
    request: &Apply<'_>,
    force: bool,
) -> Result<(Option<Value>, Managers<'static>), Error> {
    let write = &request.write;
    let id = ManagerId::new(write.manager, Operation::Apply, write.api_version, write.subresource);
    let last = managers.get_mut(&id).map(|entry| entry.fields.set().clone());
    let mut set = field_set_of(config, shape);
    if let Some(reset) = write.reset_fields {
        set = set.recursive_difference(reset);
    }
    let time = managers.get(&id).and_then(|entry| entry.time.clone());
    let api_version = write.api_version.to_owned();
    managers.set(Entry { id: id.clone(), api_version, time, fields: Fields::Set(set) });
    let merged = merge(live, config, shape);
    let merged = match last.filter(|last| !last.is_empty()) {
        Some(last) => prune(&merged, &last, &mut managers, shape),
        None => merged,
    };
    let mut managers = own(managers);
    take_over(live, &merged, shape, &mut managers, &id, write.reset_fields, force)?;
    if let Some(entry) = managers.get_mut(&id) {
        entry.fields.subtract(&STRIPPED);
    }
    managers.drop_empty();
    if merged == *live {
        return Ok((None, managers));
    }
    if let Some(entry) = managers.get_mut(&id) {
        entry.time = Some(Cow::Owned(write.time()));
    }
    Ok((Some(merged), managers))
}

fn own(managers: Managers<'_>) -> Managers<'static> {
    let entries = managers
        .entries
        .into_iter()
        .map(|mut entry| Entry {
            id: entry.id,
            api_version: entry.api_version,
            time: entry.time.map(|time| Cow::Owned(time.into_owned())),
            fields: Fields::Set(std::mem::take(entry.fields.set()).into_owned()),
        })
        .collect();
    Managers { entries }
}

/// Takes what changed from its other managers, or says who is in conflict.
fn take_over(
    live: &Value,
    merged: &Value,
    shape: Shape<'_>,
    managers: &mut Managers<'_>,
    id: &ManagerId,
    reset_fields: Option<&FieldSet<'_>>,
    force: bool,
) -> Result<(), Error> {
    let mut changes = compare(live, merged, shape);
    if let Some(reset) = reset_fields {
        changes = changes.without(reset);
    }
    let removed = changes.removed;
    let taken = changes.modified.union(changes.added);
    let mut conflicts = Vec::new();
    managers.entries.sort_by(|a, b| a.id.cmp(&b.id));
    for entry in managers.entries.iter_mut().filter(|entry| entry.id != *id) {
        for path in entry.fields.set().intersection(&taken).paths() {
            conflicts.push(Conflict { manager: entry.id.clone(), path });
        }
    }
    if !force && !conflicts.is_empty() {
        return Err(Error::Conflicts(Conflicts(conflicts)));
    }
    for entry in managers.entries.iter_mut().filter(|entry| entry.id != *id) {
        entry.fields.subtract(&taken);
        entry.fields.subtract(&removed);
    }
    Ok(())
}

/// Removes what the manager applied last time and does not apply now, unless someone else owns it.
fn prune(merged: &Value, last: &FieldSet<'_>, managers: &mut Managers<'_>, shape: Shape<'_>) -> Value {
    let named = |set: &FieldSet<'_>| set.with_named_fields(shape, true).into_owned();
    let named_last = named(last);
    let pruned = remove(merged, &named_last, shape);
    let owned = managers
        .entries
        .iter_mut()
        .fold(FieldSet::default(), |all: FieldSet<'_>, entry| all.union(entry.fields.set().clone()));
    let everything = named(&field_set_of(merged, shape));
    let kept = named(&field_set_of(&pruned, shape)).union(named(&owned));
    let pruned = remove(merged, &everything.difference(&kept), shape);
    let left = named(&field_set_of(&pruned, shape));
    remove(merged, &everything.difference(&left).intersection(&named_last), shape)
}

/// The paths that client-side apply wrote and nobody changed since: `kubectl` may take them without force.
fn allowed_by_last_applied(live: &Value, shape: Shape<'_>, request: &Apply<'_>) -> Option<Vec<String>> {
    let text = last_applied(live)?;
    let applied: Value = serde_json::from_str(text).ok()?;
    if applied.get("apiVersion").and_then(Value::as_str) != Some(request.write.api_version) {
        return None;
    }
    let changes = compare(&applied, live, shape);
    let set = field_set_of(&applied, shape);
    let set = set.difference(&changes.modified).difference(&changes.added).difference(&changes.removed);
    Some(set.paths())
}

fn last_applied(object: &Value) -> Option<&str> {
    let annotations = object.get("metadata")?.get("annotations")?;
    annotations.get(LAST_APPLIED_ANNOTATION)?.as_str().filter(|text| !text.is_empty())
}

/// Keeps client-side apply's annotation true where it exists, so that both ways of applying can follow each other.
fn renew_last_applied(object: &mut Value, config: &Value) {
    if last_applied(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(metadata) = config.get_mut("metadata").and_then(Value::as_object_mut) {
        let mut none_left = false;
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(LAST_APPLIED_ANNOTATION);
            none_left = annotations.is_empty();
        }
        if none_left {
            metadata.remove("annotations");
        }
    }
    if let Some(annotations) = object.pointer_mut("/metadata/annotations") {
        annotations[LAST_APPLIED_ANNOTATION] = json!(format!("{config}\n"));
    }
}

#[cfg(test)]
mod tests;
