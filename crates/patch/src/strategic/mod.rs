//! Strategic merge patch: merge patch that knows the merge keys of lists.
//!
//! Directives: `$patch: replace|delete|merge` in objects and list items, `$retainKeys`, `$setElementOrder/<list>`,
//! `$deleteFromPrimitiveList/<list>`. Null deletes.

mod order;

use crate::Error;
use order::{contains_directive, find_by_key, normalise, partition, validate_order};
use schema::{Field, FieldType, Type};
use serde_json::{Map, Value};
use std::fmt;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList";
const SET_ELEMENT_ORDER: &str = "$setElementOrder";

/// Merges a strategic merge patch into an object of the type.
///
/// # Errors
/// [`Error::BadPatch`] for malformed directives, [`Error::DoesNotApply`] for lists of lists, [`Error::Typed`] for
/// what does not fit the type.
pub fn strategic_merge(doc: &Value, patch: &Value, ty: &'static Type) -> Result<Value, Error> {
    match (doc, patch) {
        (Value::Object(doc), Value::Object(patch)) => {
            merge_map(doc.clone(), patch.clone(), Meta::Struct(ty)).map(Value::Object)
        }
        _ => Err(Error::BadPatch("invalid JSON document".to_owned())),
    }
}

/// What is known of the values below a key.
#[derive(Clone, Copy)]
enum Meta {
    Struct(&'static Type),
    /// Values of a map, or items of a list.
    Of(&'static FieldType),
}

/// How a field merges.
#[derive(Clone, Copy, Default)]
struct Strategy {
    merge: bool,
    replace: bool,
    merge_key: Option<&'static str>,
}

impl Meta {
    fn lookup(self, key: &str) -> Result<(Meta, Strategy), Error> {
        let ty = match self {
            Self::Struct(ty) => ty,
            Self::Of(FieldType::Ref(ty)) => *ty,
            Self::Of(FieldType::Map(value)) => return Ok((Self::Of(value), Strategy::default())),
            Self::Of(other) => {
                let name = schema::strict::go_type(other);
                return Err(Error::Typed(format!(
                    "merging an object in json but data type is not struct, instead is: {name}"
                )));
            }
        };
        let field: &'static Field = ty.field(key).ok_or_else(|| {
            let name = ty.go_name();
            Error::Typed(format!("unable to find api field in struct {name} for the json field {key:?}"))
        })?;
        let strategy =
            Strategy { merge: field.patch.merge, replace: field.patch.replace, merge_key: field.merge_key };
        let below = match &field.ty {
            FieldType::Array(item) => item,
            other => other,
        };
        Ok((Self::Of(below), strategy))
    }
}

/// A value as Go prints one with `%v`: upstream's messages have them so.
struct Go<'a>(&'a Value);

impl fmt::Display for Go<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Null => f.write_str("<nil>"),
            Value::String(text) => f.write_str(text),
            Value::Bool(value) => value.fmt(f),
            Value::Number(number) => number.fmt(f),
            Value::Array(items) => {
                let items: Vec<String> = items.iter().map(|i| Go(i).to_string()).collect();
                write!(f, "[{}]", items.join(" "))
            }
            Value::Object(map) => {
                let mut fields: Vec<(&String, &Value)> = map.iter().collect();
                fields.sort_by_key(|(name, _)| *name);
                let fields: Vec<String> = fields.into_iter().map(|(n, v)| format!("{n}:{}", Go(v))).collect();
                write!(f, "map[{}]", fields.join(" "))
            }
        }
    }
}

fn bad_type(directive: &Value, map: &Map<String, Value>) -> Error {
    let map = Value::Object(map.clone());
    Error::Typed(format!("unknown patch type: {} in map: {}", Go(directive), Go(&map)))
}

fn no_merge_key(item: &Value, key: &str) -> Error {
    Error::Typed(format!("map: {} does not contain declared merge key: {key}", Go(item)))
}

fn bad_format(what: &str) -> Error {
    Error::BadPatch(format!("invalid patch format of {what}"))
}

fn merge_map(
    mut original: Map<String, Value>,
    mut patch: Map<String, Value>,
    meta: Meta,
) -> Result<Map<String, Value>, Error> {
    if let Some(directive) = patch.remove(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Map::new()),
            _ => {
                patch.insert(DIRECTIVE.to_owned(), directive.clone());
                Err(bad_type(&directive, &patch))
            }
        };
    }
    retain_keys(&mut original, &mut patch)?;
    element_orders(&mut original, &mut patch, meta)?;
    for (key, value) in patch {
        let (key, is_delete_list) = match key.split_once('/') {
            Some((DELETE_FROM_LIST, name)) => (name.to_owned(), true),
            _ if key.starts_with(DELETE_FROM_LIST) => return Err(bad_format("primitive list")),
            _ => (key, false),
        };
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        match (original.remove(&key), value) {
            (Some(Value::Object(before)), Value::Object(change)) => {
                let (below, strategy) = meta.lookup(&key)?;
                let merged = if strategy.replace { change } else { merge_map(before, change, below)? };
                original.insert(key, Value::Object(merged));
            }
            (Some(Value::Array(before)), Value::Array(change)) => {
                let (below, strategy) = meta.lookup(&key)?;
                let merged = merge_field_lists(before, change, below, strategy, is_delete_list)?;
                original.insert(key, Value::Array(merged));
            }
            (before, _) if is_delete_list => {
                if let Some(before) = before {
                    original.insert(key, before);
                }
            }
            (_, mut value) => {
                discard_nulls(&mut value);
                if let Some(value) = without_directives(value) {
                    original.insert(key, value);
                }
            }
        }
    }
    Ok(original)
}

/// `$retainKeys`: keys of the original that the list does not name go; the patch may only set keys it names.
fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), Error> {
    let Some(retain) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(retain) = retain else { return Err(bad_format("retainKeys")) };
    let named = |key: &str| retain.iter().any(|kept| kept.as_str() == Some(key));
    let stray = patch.iter().any(|(key, value)| {
        !value.is_null()
            && !key.starts_with(DELETE_FROM_LIST)
            && !key.starts_with(SET_ELEMENT_ORDER)
            && !named(key)
    });
    if stray {
        return Err(bad_format("retainKeys"));
    }
    original.retain(|key, _| named(key));
    Ok(())
}

/// `$setElementOrder/<list>`: merges the list at once and puts it into the order given.
fn element_orders(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    meta: Meta,
) -> Result<(), Error> {
    let directives: Vec<String> =
        patch.keys().filter(|key| key.starts_with(SET_ELEMENT_ORDER)).cloned().collect();
    for directive in directives {
        let format = || bad_format("setElementOrder list");
        let Some(Value::Array(order)) = patch.remove(&directive) else { return Err(format()) };
        let key = match directive.split_once('/') {
            Some((SET_ELEMENT_ORDER, key)) => key.to_owned(),
            _ => return Err(format()),
        };
        let list = |map: &mut Map<String, Value>| match map.get_mut(&key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(items)) => Ok(Some(std::mem::take(items))),
            Some(_) => Err(format()),
        };
        if patch.get(&key).is_some_and(Value::is_null) {
            continue;
        }
        let (before, change) = (list(original)?, list(patch)?);
        patch.remove(&key);
        let (below, strategy) = meta.lookup(&key)?;
        let merge_key = strategy.merge_key.unwrap_or_default();
        validate_order(change.as_deref().unwrap_or_default(), &order, merge_key)?;
        let server_order = server_order(before.as_deref().unwrap_or_default(), change.as_deref(), merge_key);
        let nothing = [&before, &change].iter().all(|list| list.as_ref().is_none_or(Vec::is_empty));
        let merged = match (before, change) {
            (Some(before), None) => before,
            (None, Some(change)) => change.into_iter().filter_map(without_directives).collect(),
            (Some(before), Some(change)) => merge_field_lists(before, change, below, strategy, false)?,
            (None, None) => continue,
        };
        let (named, server_only) = partition(merged, &order, merge_key)?;
        if nothing {
            return Err(Error::Typed("no elements in any of the given slices".to_owned()));
        }
        let merged = normalise(named, server_only, &order, &server_order, merge_key)?;
        original.insert(key, Value::Array(merged));
    }
    Ok(())
}

/// The live order that server-only items are placed by.
///
/// Upstream merges in place, so that the list it reads the order from already has lost the deleted items and has new
/// ones in the places that became free; where items stand in the result follows from that.
fn server_order(before: &[Value], change: Option<&[Value]>, merge_key: &str) -> Vec<Value> {
    let mut order = before.to_vec();
    let change = change.unwrap_or_default();
    let directive = |item: &Value| item.get(DIRECTIVE).and_then(Value::as_str).map(str::to_owned);
    if merge_key.is_empty() || change.iter().any(|item| directive(item).as_deref() == Some("replace")) {
        return order;
    }
    let mut length = order.len();
    for key in change.iter().filter(|item| directive(item).is_some()).filter_map(|item| item.get(merge_key)) {
        while let Some(index) = find_by_key(&order[..length], merge_key, key) {
            for place in index..length - 1 {
                order[place] = order[place + 1].clone();
            }
            length -= 1;
        }
    }
    for item in change.iter().filter(|item| directive(item).is_none()) {
        let Some(key) = item.get(merge_key) else { continue };
        if length < order.len() && find_by_key(&order[..length], merge_key, key).is_none() {
            order[length] = item.clone();
            length += 1;
        }
    }
    order
}

fn merge_field_lists(
    original: Vec<Value>,
    patch: Vec<Value>,
    meta: Meta,
    strategy: Strategy,
    is_delete_list: bool,
) -> Result<Vec<Value>, Error> {
    if strategy.merge || is_delete_list {
        merge_lists(original, patch, meta, strategy.merge_key.unwrap_or_default(), is_delete_list)
    } else {
        Ok(patch)
    }
}

fn merge_lists(
    original: Vec<Value>,
    patch: Vec<Value>,
    meta: Meta,
    merge_key: &str,
    is_delete_list: bool,
) -> Result<Vec<Value>, Error> {
    let Some(first) = original.first().or(patch.first()) else { return Ok(original) };
    if first.is_array() {
        return Err(Error::DoesNotApply("lists of lists are not supported".to_owned()));
    }
    let kind = std::mem::discriminant(first);
    if original.iter().chain(&patch).any(|item| std::mem::discriminant(item) != kind) {
        let lists = Value::Array(vec![Value::Array(original), Value::Array(patch)]);
        return Err(Error::Typed(format!("list element types are not identical: {}", Go(&lists))));
    }
    let server_order;
    let named_order;
    let merged = if first.is_object() {
        if merge_key.is_empty() {
            let name = match meta {
                Meta::Struct(ty) => ty.go_name(),
                Meta::Of(FieldType::Ref(ty)) => ty.go_name(),
                Meta::Of(_) => "",
            };
            return Err(Error::Typed(format!("cannot merge lists without merge key for {name}")));
        }
        let (original, patch) = special_items(original, patch, merge_key)?;
        server_order = original.clone();
        named_order = patch.clone();
        merge_items(original, patch, meta, merge_key)?
    } else {
        if is_delete_list {
            return Ok(original.into_iter().filter(|item| !patch.contains(item)).collect());
        }
        server_order = original.clone();
        named_order = patch.clone();
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for item in original.into_iter().chain(patch) {
            if !merged.contains(&item) {
                merged.push(item);
            }
        }
        merged
    };
    let (named, server_only) = partition(merged, &named_order, merge_key)?;
    normalise(named, server_only, &named_order, &server_order, merge_key)
}

/// Items with a directive: they delete others or replace the list.
fn special_items(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    merge_key: &str,
) -> Result<(Vec<Value>, Vec<Value>), Error> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        let Some(directive) = item.get(DIRECTIVE) else {
            plain.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                let key = item.get(merge_key).ok_or_else(|| no_merge_key(&item, merge_key))?;
                original.retain(|other| other.get(merge_key) != Some(key));
            }
            Some("replace") => replace = true,
            Some("merge") => {
                return Err(Error::Typed("merging lists cannot yet be specified in the patch".to_owned()));
            }
            _ => return Err(bad_type(directive, item.as_object().unwrap_or(&Map::new()))),
        }
    }
    Ok(if replace { (plain, Vec::new()) } else { (original, plain) })
}

fn merge_items(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    meta: Meta,
    merge_key: &str,
) -> Result<Vec<Value>, Error> {
    for item in patch {
        let key = item.get(merge_key).ok_or_else(|| no_merge_key(&item, merge_key))?;
        match (find_by_key(&original, merge_key, key), item) {
            (Some(index), Value::Object(change)) => {
                if let Value::Object(before) = std::mem::take(&mut original[index]) {
                    original[index] = Value::Object(merge_map(before, change, meta)?);
                }
            }
            (_, item) => original.push(item),
        }
    }
    Ok(original)
}

fn discard_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(discard_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(discard_nulls),
        _ => {}
    }
}

/// The value without objects that are directives; `None` if it is one itself.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(_) if contains_directive(&value) => None,
        Value::Object(map) => {
            Some(map.into_iter().filter_map(|(key, value)| Some((key, without_directives(value)?))).collect())
        }
        Value::Array(items) => Some(items.into_iter().filter_map(without_directives).collect()),
        other => Some(other),
    }
}

#[cfg(test)]
mod tests;
