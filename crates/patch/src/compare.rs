//! Which fields differ between two objects, as structured-merge-diff sees it.

use crate::fieldset::{Element, FieldSet};
use crate::shape::{ListShape, MapShape, Node, Shape};
use schema::{Field, FieldType};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// The fields of two objects that differ; no path is in more than one set.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Comparison<'a> {
    pub removed: FieldSet<'a>,
    pub modified: FieldSet<'a>,
    pub added: FieldSet<'a>,
}

impl<'a> Comparison<'a> {
    pub fn is_same(&self) -> bool {
        self.removed.is_empty() && self.modified.is_empty() && self.added.is_empty()
    }

    /// Leaves out the fields a strategy resets, with all below them.
    pub(crate) fn without(self, reset: &FieldSet<'_>) -> Self {
        Self {
            removed: self.removed.recursive_difference(reset),
            modified: self.modified.recursive_difference(reset),
            added: self.added.recursive_difference(reset),
        }
    }
}

/// Compares `old` with `new`, objects of the same shape. `metadata.managedFields` is not looked at.
pub fn compare<'a>(old: &'a Value, new: &'a Value, shape: Shape<'a>) -> Comparison<'a> {
    let diff = diff(Some(old), Some(new), shape, true);
    Comparison { removed: diff.removed.below, modified: diff.modified.below, added: diff.added.below }
}

/// Every field and item an object mentions.
pub fn field_set_of<'a>(value: &'a Value, shape: Shape<'a>) -> FieldSet<'a> {
    set_of(value, shape, true).below
}

/// Whether a place itself is in a set, and what below it is.
#[derive(Debug, Default)]
struct Part<'a> {
    member: bool,
    below: FieldSet<'a>,
}

#[derive(Debug, Default)]
struct Diff<'a> {
    removed: Part<'a>,
    modified: Part<'a>,
    added: Part<'a>,
}

impl<'a> Diff<'a> {
    fn push(&mut self, element: Element<'a>, child: Diff<'a>) {
        let Diff { removed, modified, added } = child;
        for (part, found) in
            [(&mut self.removed, removed), (&mut self.modified, modified), (&mut self.added, added)]
        {
            if found.member || !found.below.is_empty() {
                part.below.push(element.clone(), found.member, found.below);
            }
        }
    }
}

static EMPTY_OBJECT: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
static NULL: Value = Value::Null;

/// What a Go struct has at a field that JSON leaves out: structs that are no pointers are always there, and so are
/// lists without `omitempty`. Upstream compares structs, so its field sets depend on it.
fn implied(field: &Field) -> Option<&'static Value> {
    if field.pointer {
        return None;
    }
    match field.ty {
        FieldType::Ref(_) => Some(&EMPTY_OBJECT),
        FieldType::Array(_) | FieldType::Map(_) if !field.omit_empty => Some(&NULL),
        _ => None,
    }
}

fn diff<'a>(old: Option<&'a Value>, new: Option<&'a Value>, shape: Shape<'a>, root: bool) -> Diff<'a> {
    if let (Shape::Deduced | Shape::Custom(_), Some(a), Some(b)) = (shape, old, new)
        && a.is_object() != b.is_object()
        && !a.is_null()
        && !b.is_null()
    {
        return Diff {
            removed: Part { member: false, below: diff(old, None, shape, root).removed.below },
            modified: Part { member: true, below: FieldSet::default() },
            added: Part { member: false, below: diff(None, new, shape, root).added.below },
        };
    }
    let value = new.filter(|v| !v.is_null()).or(old);
    let found = match shape.resolve(value, root) {
        Node::Leaf => None,
        Node::Map(map) => diff_maps(old, new, map),
        Node::List(list) => diff_lists(old, new, list),
    };
    let mut result = Diff::default();
    match found {
        Some(mut below) => {
            below.added.member |= old.is_none();
            below.removed.member |= new.is_none();
            result = below;
        }
        None => match (old, new) {
            (None, _) => result.added.member = true,
            (_, None) => result.removed.member = true,
            (Some(a), Some(b)) => result.modified.member = a != b,
        },
    }
    result
}

/// `None` if both are empty: then the place is a leaf, which keeps empty and null apart.
fn diff_maps<'a>(old: Option<&'a Value>, new: Option<&'a Value>, map: MapShape<'a>) -> Option<Diff<'a>> {
    let (old, new) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
    let mut result = Diff::default();
    let mut empty = true;
    if let MapShape::Struct(ty) = map {
        for field in ty.fields {
            let side =
                |map: Option<&'a Map<String, Value>>| map.and_then(|m| m.get(field.json).or(implied(field)));
            let (a, b) = (side(old), side(new));
            if a.is_none() && b.is_none() {
                continue;
            }
            empty = false;
            if field.json != MANAGED_FIELDS {
                result
                    .push(Element::Field(Cow::Borrowed(field.json)), diff(a, b, Shape::Field(field), false));
            }
        }
        return (!empty).then_some(result);
    }
    for key in keys_of(old, new) {
        empty = false;
        let (a, b) = (old.and_then(|m| m.get(key)), new.and_then(|m| m.get(key)));
        let (shape, _) = map.child(key).unwrap_or((Shape::Deduced, false));
        result.push(Element::Field(Cow::Borrowed(key)), diff(a, b, shape, false));
    }
    (!empty).then_some(result)
}

const MANAGED_FIELDS: &str = "managedFields";

fn keys_of<'a>(a: Option<&'a Map<String, Value>>, b: Option<&'a Map<String, Value>>) -> Vec<&'a str> {
    let mut keys: Vec<&'a str> = a.into_iter().chain(b).flat_map(|m| m.keys().map(String::as_str)).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn diff_lists<'a>(old: Option<&'a Value>, new: Option<&'a Value>, list: ListShape<'a>) -> Option<Diff<'a>> {
    let items = |value: Option<&'a Value>| value.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let (old, new) = (items(old), items(new));
    if old.is_empty() && new.is_empty() {
        return None;
    }
    let mut old = grouped(old, list).into_iter().peekable();
    let mut new = grouped(new, list).into_iter().peekable();
    let item = list.item();
    let mut result = Diff::default();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return Some(result),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(a), Some(b)) => a.0.order(&b.0),
        };
        let before = if order.is_le() { old.next() } else { None };
        let after = if order.is_ge() { new.next() } else { None };
        let (element, before, after) = match (before, after) {
            (Some((element, before)), after) => (element, before, after.map(|a| a.1).unwrap_or_default()),
            (None, Some((element, after))) => (element, Vec::new(), after),
            (None, None) => return Some(result),
        };
        result.push(element, diff_items(&before, &after, item));
    }
}

/// Items of one key: usually one on each side; duplicates are compared as one unit.
fn diff_items<'a>(before: &[&'a Value], after: &[&'a Value], item: Shape<'a>) -> Diff<'a> {
    match (before, after) {
        ([] | [_], [] | [_]) => diff(before.first().copied(), after.first().copied(), item, false),
        ([_, _, ..], [_, _, ..]) => {
            let modified = Part { member: before != after, below: FieldSet::default() };
            Diff { modified, ..Diff::default() }
        }
        ([_, _, ..], single) => {
            let mut result =
                single.first().map_or_else(Diff::default, |only| diff(None, Some(only), item, false));
            result.removed.member = true;
            result
        }
        (single, _) => {
            let mut result =
                single.first().map_or_else(Diff::default, |only| diff(Some(only), None, item, false));
            result.added.member = true;
            result
        }
    }
}

/// The items by their keys, in the order of the keys. Items without one are left out.
fn grouped<'a>(items: &'a [Value], list: ListShape<'a>) -> Vec<(Element<'a>, Vec<&'a Value>)> {
    let mut keyed: Vec<(Element<'a>, &'a Value)> =
        items.iter().filter_map(|item| Some((element_of(list, item).ok()?, item))).collect();
    keyed.sort_by(|a, b| a.0.order(&b.0));
    let mut out: Vec<(Element<'a>, Vec<&'a Value>)> = Vec::with_capacity(keyed.len());
    for (element, item) in keyed {
        match out.last_mut() {
            Some((last, group)) if last.order(&element).is_eq() => group.push(item),
            _ => out.push((element, vec![item])),
        }
    }
    out
}

impl<'s> ListShape<'s> {
    pub(crate) fn item(self) -> Shape<'s> {
        match self {
            Self::Set => Shape::Atomic,
            Self::Keyed { item, .. } => item,
        }
    }
}

/// What an item of an associative list is called.
///
/// # Errors
/// An item that has no key, in structured-merge-diff's words.
pub(crate) fn element_of<'a>(list: ListShape<'a>, item: &'a Value) -> Result<Element<'a>, String> {
    match list {
        ListShape::Set => match item {
            Value::Object(_) => {
                Err("associative list without keys has an element that's a map type".to_owned())
            }
            Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
            Value::Null => {
                Err("associative list without keys has an element that's an explicit null".to_owned())
            }
            scalar => Ok(Element::Value(Cow::Borrowed(scalar))),
        },
        ListShape::Keyed { keys, item: shape } => {
            let map = match item {
                Value::Object(map) => map,
                Value::Null => {
                    return Err("associative list with keys may not have a null element".to_owned());
                }
                _ => return Err("associative list with keys may not have non-map elements".to_owned()),
            };
            let mut fields = Vec::with_capacity(2);
            for key in keys.iter() {
                let value = map.get(key).map(Cow::Borrowed).or_else(|| shape.key_default(key));
                if let Some(value) = value {
                    fields.push((Cow::Borrowed(key), value));
                }
            }
            if fields.is_empty() {
                let names: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
                return Err(format!(
                    "associative list with keys has an element that omits all key fields [{}] (and doesn't have \
                     default values for any key fields)",
                    names.join(" ")
                ));
            }
            fields.sort_by(|a: &(Cow<'_, str>, _), b| a.0.cmp(&b.0));
            Ok(Element::Key(fields))
        }
    }
}

fn set_of<'a>(value: &'a Value, shape: Shape<'a>, root: bool) -> Part<'a> {
    let mut part = Part::default();
    match shape.resolve(Some(value), root) {
        Node::Leaf => part.member = true,
        Node::Map(map) => {
            for (key, child) in value.as_object().into_iter().flatten() {
                if key == MANAGED_FIELDS && matches!(map, MapShape::Struct(_)) {
                    continue;
                }
                let (shape, declared) = map.child(key).unwrap_or((Shape::Deduced, false));
                let below = set_of(child, shape, false);
                let empty = child.is_null() || child.as_object().is_some_and(Map::is_empty);
                part.below.push(
                    Element::Field(Cow::Borrowed(key)),
                    below.member || empty || !declared,
                    below.below,
                );
            }
        }
        Node::List(list) => {
            let items = value.as_array().map_or(&[][..], Vec::as_slice);
            for (element, items) in grouped(items, list) {
                let below = match items.as_slice() {
                    [only] => set_of(only, list.item(), false).below,
                    _ => FieldSet::default(),
                };
                part.below.push(element, true, below);
            }
        }
    }
    part
}

/// The elements of a list that occur more than once.
pub(crate) fn duplicates<'a>(items: &[Element<'a>]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    items.iter().map(ToString::to_string).filter(|name| !seen.insert(name.clone())).collect()
}
