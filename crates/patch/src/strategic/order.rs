//! The order of merged lists: what the patch names as the patch says, the rest as it was, interleaved by the live order.

use super::{DIRECTIVE, Go, bad_format, no_merge_key};
use crate::Error;
use serde_json::Value;

pub(super) fn contains_directive(item: &Value) -> bool {
    item.get(DIRECTIVE).is_some()
}

pub(super) fn find_by_key(items: &[Value], merge_key: &str, key: &Value) -> Option<usize> {
    items.iter().position(|item| item.get(merge_key) == Some(key))
}

/// The place of an item in a list: by merge key for objects, by value for scalars.
fn index_of(list: &[Value], item: &Value, merge_key: &str) -> Option<usize> {
    if item.is_object() {
        list.iter().position(|other| other.get(merge_key) == item.get(merge_key))
    } else {
        list.iter().position(|other| other == item)
    }
}

/// What `by` names, and the rest.
pub(super) fn partition(
    items: Vec<Value>,
    by: &[Value],
    merge_key: &str,
) -> Result<(Vec<Value>, Vec<Value>), Error> {
    let (mut named, mut rest) = (Vec::with_capacity(items.len()), Vec::new());
    for item in items {
        if item.is_object() && item.get(merge_key).is_none() {
            return Err(no_merge_key(&item, merge_key));
        }
        if index_of(by, &item, merge_key).is_some() { named.push(item) } else { rest.push(item) }
    }
    Ok((named, rest))
}

/// One list of both, in order.
pub(super) fn normalise(
    mut named: Vec<Value>,
    mut server_only: Vec<Value>,
    named_order: &[Value],
    server_order: &[Value],
    merge_key: &str,
) -> Result<Vec<Value>, Error> {
    sort_by(&mut named, named_order, merge_key);
    sort_by(&mut server_only, server_order, merge_key);
    let mut out = Vec::with_capacity(named.len() + server_only.len());
    let mut named = named.into_iter().peekable();
    let mut server_only = server_only.into_iter().peekable();
    loop {
        let server_first = match (server_only.peek(), named.peek()) {
            (None, None) => return Ok(out),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(left), Some(right)) => {
                match (index_of(server_order, left, merge_key), index_of(server_order, right, merge_key)) {
                    (Some(left), Some(right)) => left < right,
                    _ => false,
                }
            }
        };
        out.extend(if server_first { server_only.next() } else { named.next() });
    }
}

/// Sorts by the place in `order`; items marked for deletion go last.
fn sort_by(items: &mut [Value], order: &[Value], merge_key: &str) {
    items.sort_by_key(|item| {
        let deleted = item.get(DIRECTIVE).and_then(Value::as_str) == Some("delete");
        (deleted, index_of(order, item, merge_key).unwrap_or(0))
    });
}

/// Whether two items of a list are the same one.
fn same(item: &Value, other: &Value, merge_key: &str) -> Result<bool, Error> {
    if merge_key.is_empty() {
        return Ok(item == other);
    }
    if !item.is_object() || !other.is_object() {
        return Err(bad_format("setElementOrder list"));
    }
    let key = |v: &Value| v.get(merge_key).cloned().ok_or_else(|| no_merge_key(v, merge_key));
    Ok(key(item)? == key(other)?)
}

/// The items of a patch must stand in the order list, in its order.
pub(super) fn validate_order(patch: &[Value], order: &[Value], merge_key: &str) -> Result<(), Error> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let deletes = |item: &&Value| item.get(DIRECTIVE).and_then(Value::as_str) == Some("delete");
    let items: Vec<&Value> = patch.iter().filter(|item| merge_key.is_empty() || !deletes(item)).collect();
    let (mut at, mut place) = (0, 0);
    // A directive after the last item that is ordered is refused like an item out of order, as upstream does.
    while at < items.len() && place < order.len() {
        if contains_directive(items[at]) {
            at += 1;
            continue;
        }
        if same(items[at], &order[place], merge_key)? {
            at += 1;
        }
        place += 1;
    }
    if at < items.len() && place >= order.len() {
        let (patch, order) = (Value::Array(patch.to_vec()), Value::Array(order.to_vec()));
        return Err(Error::Typed(format!(
            "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
            Go(&patch),
            Go(&order)
        )));
    }
    Ok(())
}
