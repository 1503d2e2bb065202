//! Merging a configuration into an object, and taking fields out of one.

use crate::compare::element_of;
use crate::fieldset::{Element, FieldSet};
use crate::shape::{ListShape, MapShape, Node, Shape};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::VecDeque;

/// `live` with everything `config` says; nothing is removed.
pub(crate) fn merge(live: &Value, config: &Value, shape: Shape<'_>) -> Value {
    merge_values(Some(live), Some(config), shape, true).unwrap_or(Value::Null)
}

fn merge_values(live: Option<&Value>, config: Option<&Value>, shape: Shape<'_>, root: bool) -> Option<Value> {
    let leaf = || config.or(live).cloned();
    match shape.resolve(config.filter(|v| !v.is_null()).or(live), root) {
        Node::Leaf => leaf(),
        Node::Map(map) => {
            let (a, b) = (live.and_then(Value::as_object), config.and_then(Value::as_object));
            if a.is_none_or(Map::is_empty) && b.is_none_or(Map::is_empty) {
                return leaf();
            }
            let mut out = Map::new();
            for key in a.into_iter().flat_map(Map::keys) {
                merge_key(&mut out, key, a, b, map);
            }
            for key in b.into_iter().flat_map(Map::keys) {
                if a.is_none_or(|a| !a.contains_key(key)) {
                    merge_key(&mut out, key, a, b, map);
                }
            }
            (!out.is_empty()).then_some(Value::Object(out))
        }
        Node::List(list) => {
            let items =
                |v: Option<&'_ Value>| v.and_then(Value::as_array).filter(|l| !l.is_empty()).is_some();
            if !items(live) && !items(config) {
                return leaf();
            }
            let empty = Vec::new();
            let a = live.and_then(Value::as_array).unwrap_or(&empty);
            let b = config.and_then(Value::as_array).unwrap_or(&empty);
            let out = merge_lists(a, b, list);
            (!out.is_empty()).then_some(Value::Array(out))
        }
    }
}

fn merge_key(
    out: &mut Map<String, Value>,
    key: &str,
    live: Option<&Map<String, Value>>,
    config: Option<&Map<String, Value>>,
    map: MapShape<'_>,
) {
    let (shape, _) = map.child(key).unwrap_or((Shape::Deduced, false));
    let (a, b) = (live.and_then(|m| m.get(key)), config.and_then(|m| m.get(key)));
    if let Some(value) = merge_values(a, b, shape, false) {
        out.insert(key.to_owned(), value);
    }
}

/// The order is the live one where the configuration says nothing, and the configuration's for what it names.
fn merge_lists(live: &[Value], config: &[Value], list: ListShape<'_>) -> Vec<Value> {
    let index = |items: &[Value]| -> Vec<(Element<'static>, usize)> {
        let keyed = items.iter().enumerate();
        keyed.filter_map(|(i, item)| Some((element_of(list, item).ok()?.into_owned(), i))).collect()
    };
    let (live_items, config_items) = (index(live), index(config));
    let position = |items: &[(Element<'static>, usize)], element: &Element<'_>| {
        items.iter().find(|(e, _)| e.order(element).is_eq()).map(|(_, i)| *i)
    };
    // Of duplicates in the live list none is merged with: they are replaced.
    let live_match = |element: &Element<'_>| {
        let mut found = live_items.iter().filter(|(e, _)| e.order(element).is_eq());
        match (found.next(), found.next()) {
            (Some((_, i)), None) => Some(&live[*i]),
            (Some(_), Some(_)) => Some(&Value::Null),
            _ => None,
        }
    };
    let mut shared: VecDeque<&Element<'_>> =
        config_items.iter().map(|(e, _)| e).filter(|e| position(&live_items, e).is_some()).collect();
    let mut next_shared = shared.pop_front();
    let mut merged: Vec<&Element<'_>> = Vec::with_capacity(config_items.len());
    let mut out = Vec::with_capacity(live.len().max(config.len()));
    let (mut l, mut r) = (0, 0);
    let mut take = |a: Option<&Value>, b: Option<&Value>| {
        let a = a.filter(|a| b.is_none() || !a.is_null());
        out.extend(merge_values(a, b, list.item(), false));
    };
    while l < live_items.len() || r < config_items.len() {
        if l < live_items.len() && r < config_items.len() {
            let element = &live_items[l].0;
            if element.order(&config_items[r].0).is_eq() {
                merged.push(element);
                take(live_match(element), Some(&config[config_items[r].1]));
                l += 1;
                r += 1;
                next_shared = shared.pop_front();
                continue;
            }
            if position(&config_items, element).is_some()
                && next_shared.is_some_and(|next| next.order(element).is_ne())
            {
                l += 1;
                continue;
            }
        }
        if l < live_items.len() {
            let element = &live_items[l].0;
            if position(&config_items, element).is_none() {
                take(Some(&live[live_items[l].1]), None);
                l += 1;
                continue;
            }
            if merged.iter().any(|m| m.order(element).is_eq()) {
                l += 1;
            }
        }
        if r < config_items.len() {
            let (element, at) = &config_items[r];
            merged.push(element);
            take(live_match(element), Some(&config[*at]));
            r += 1;
            if next_shared.is_some_and(|next| next.order(element).is_eq()) {
                next_shared = shared.pop_front();
            }
        }
    }
    out
}

/// `value` without the items of the set; containers that lose something stay, even empty.
pub(crate) fn remove(value: &Value, set: &FieldSet<'_>, shape: Shape<'_>) -> Value {
    remove_from(value, set, shape, true).unwrap_or(Value::Null)
}

fn remove_from(value: &Value, set: &FieldSet<'_>, shape: Shape<'_>, root: bool) -> Option<Value> {
    match (shape.resolve(Some(value), root), value) {
        (Node::Map(map), Value::Object(fields)) => {
            let mut out = Map::new();
            let mut touched = false;
            for (key, child) in fields {
                match set.at(&Element::Field(Cow::Borrowed(key))) {
                    (true, _) => {}
                    (false, None) => drop(out.insert(key.clone(), child.clone())),
                    (false, Some(below)) => {
                        touched = true;
                        let (shape, _) = map.child(key).unwrap_or((Shape::Deduced, false));
                        let rest = remove_from(child, below, shape, false).unwrap_or_else(|| emptied(child));
                        out.insert(key.clone(), rest);
                    }
                }
            }
            (!out.is_empty() || touched).then_some(Value::Object(out))
        }
        (Node::List(list), Value::Array(items)) => {
            let mut out = Vec::with_capacity(items.len());
            let mut touched = false;
            for item in items {
                let found = element_of(list, item).map(|element| set.at(&element)).unwrap_or((false, None));
                match found {
                    (true, _) => {}
                    (false, None) => out.push(item.clone()),
                    (false, Some(below)) => {
                        touched = true;
                        out.push(
                            remove_from(item, below, list.item(), false).unwrap_or_else(|| emptied(item)),
                        );
                    }
                }
            }
            (!out.is_empty() || touched).then_some(Value::Array(out))
        }
        (Node::Leaf, Value::Array(_) | Value::Object(_)) => None,
        (Node::Map(_) | Node::List(_), _) => None,
        (Node::Leaf, scalar) => Some(scalar.clone()),
    }
}

fn emptied(value: &Value) -> Value {
    match value {
        Value::Object(_) => Value::Object(Map::new()),
        Value::Array(_) => Value::Array(Vec::new()),
        _ => Value::Null,
    }
}
