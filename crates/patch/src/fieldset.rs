//! Sets of field paths: what a manager owns, and the `fieldsV1` form it is stored in.
//!
//! A set borrows names and values from the objects it was made of.

use serde_json::{Map, Number, Value};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

/// One step of a path.
#[derive(Debug, Clone)]
pub enum Element<'a> {
    /// A field or map key.
    Field(Cow<'a, str>),
    /// An item of a list of type map: its keys, in the order of their names.
    Key(Vec<(Cow<'a, str>, Cow<'a, Value>)>),
    /// An item of a list of type set.
    Value(Cow<'a, Value>),
    Index(i64),
}

impl Element<'_> {
    /// The order of structured-merge-diff: fields, keys, values, indices.
    pub fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Key(a), Self::Key(b)) => {
                for ((name_a, value_a), (name_b, value_b)) in a.iter().zip(b) {
                    let order = name_a.cmp(name_b).then_with(|| order_values(value_a, value_b));
                    if order.is_ne() {
                        return order;
                    }
                }
                a.len().cmp(&b.len())
            }
            (Self::Value(a), Self::Value(b)) => order_values(a, b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            (a, b) => a.rank().cmp(&b.rank()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }

    pub(crate) fn into_owned(self) -> Element<'static> {
        match self {
            Self::Field(name) => Element::Field(Cow::Owned(name.into_owned())),
            Self::Key(fields) => Element::Key(
                fields
                    .into_iter()
                    .map(|(name, value)| (Cow::Owned(name.into_owned()), Cow::Owned(value.into_owned())))
                    .collect(),
            ),
            Self::Value(value) => Element::Value(Cow::Owned(value.into_owned())),
            Self::Index(index) => Element::Index(index),
        }
    }

    fn serialise(&self) -> String {
        match self {
            Self::Field(name) => {
                let mut text = String::with_capacity(name.len() + 2);
                text.push_str("f:");
                text.push_str(name);
                text
            }
            Self::Key(fields) => {
                let mut text = Vec::with_capacity(32);
                text.extend_from_slice(b"k:{");
                for (index, (name, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        text.push(b',');
                    }
                    write_json(&mut text, name.as_ref());
                    text.push(b':');
                    write_json(&mut text, value.as_ref());
                }
                text.push(b'}');
                String::from_utf8(text).unwrap_or_default()
            }
            Self::Value(value) => format!("v:{value}"),
            Self::Index(index) => format!("i:{index}"),
        }
    }
}

fn write_json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("values are written to memory without failing");
}

impl<'a> Element<'a> {
    /// Reads the serialised form; `Ok(None)` for a kind of element this version does not know.
    fn parse(text: &'a str) -> Result<Option<Self>, FieldSetError> {
        let (Some(kind), Some(":")) = (text.get(..1), text.get(1..2)) else {
            return Err(FieldSetError(format!("missing colon: {text}")));
        };
        let rest = &text[2..];
        let bad = |e: serde_json::Error| FieldSetError(format!("parsing key as path element: {e}"));
        Ok(Some(match kind {
            "f" => Self::Field(Cow::Borrowed(rest)),
            "v" => Self::Value(Cow::Owned(serde_json::from_str(rest).map_err(bad)?)),
            "k" => {
                let map: Map<String, Value> = serde_json::from_str(rest).map_err(bad)?;
                let mut fields: Vec<_> =
                    map.into_iter().map(|(k, v)| (Cow::Owned(k), Cow::Owned(v))).collect();
                fields.sort_by(|a: &(Cow<'_, str>, _), b| a.0.cmp(&b.0));
                Self::Key(fields)
            }
            "i" => Self::Index(rest.parse().map_err(|e| FieldSetError(format!("parsing index: {e}")))?),
            _ => return Ok(None),
        }))
    }
}

impl fmt::Display for Element<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(fields) => {
                f.write_str("[")?;
                for (index, (name, value)) in fields.iter().enumerate() {
                    write!(f, "{}{name}={value}", if index > 0 { "," } else { "" })?;
                }
                f.write_str("]")
            }
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// The order of values in sets: numbers, strings, booleans, lists, maps, null.
fn order_values(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => order_numbers(a, b),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => {
            let unequal = a.iter().zip(b).map(|(a, b)| order_values(a, b)).find(|o| o.is_ne());
            unequal.unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (Value::Object(a), Value::Object(b)) => {
            let unequal = a
                .iter()
                .zip(b)
                .map(|((ka, va), (kb, vb))| ka.cmp(kb).then_with(|| order_values(va, vb)))
                .find(|o| o.is_ne());
            unequal.unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (a, b) => value_rank(a).cmp(&value_rank(b)),
    }
}

fn order_numbers(a: &Number, b: &Number) -> Ordering {
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal),
    }
}

fn value_rank(value: &Value) -> u8 {
    match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    }
}

/// A `fieldsV1` that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FieldSetError(String);

/// A set of paths as a tree; sorted, and no entry is without member and children.
#[derive(Debug, Clone, Default)]
pub struct FieldSet<'a> {
    entries: Vec<Entry<'a>>,
}

#[derive(Debug, Clone)]
struct Entry<'a> {
    element: Element<'a>,
    /// The path up to here is in the set itself.
    member: bool,
    children: FieldSet<'a>,
}

impl PartialEq for FieldSet<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.entries.len() == other.entries.len()
            && self.entries.iter().zip(&other.entries).all(|(a, b)| {
                a.element.order(&b.element).is_eq() && a.member == b.member && a.children == b.children
            })
    }
}

impl<'a> FieldSet<'a> {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds what lies at `element`; nothing if it is neither a member nor has children.
    pub(crate) fn push(&mut self, element: Element<'a>, member: bool, children: FieldSet<'a>) {
        if !member && children.is_empty() {
            return;
        }
        let entry = Entry { element, member, children };
        match self.entries.last().map(|last| last.element.order(&entry.element)) {
            None | Some(Ordering::Less) => self.entries.push(entry),
            _ => match self.entries.binary_search_by(|e| e.element.order(&entry.element)) {
                Ok(index) => {
                    let found = &mut self.entries[index];
                    found.member |= entry.member;
                    let both = std::mem::take(&mut found.children).union(entry.children);
                    found.children = both;
                }
                Err(index) => self.entries.insert(index, entry),
            },
        }
    }

    /// Adds a path of field names: `["metadata", "labels"]`.
    pub fn insert_fields(&mut self, path: &[&'a str]) {
        let Some((first, rest)) = path.split_first() else { return };
        let mut children = FieldSet::default();
        children.insert_fields(rest);
        self.push(Element::Field(Cow::Borrowed(first)), rest.is_empty(), children);
    }

    /// A set of paths of field names.
    pub fn of_fields(paths: &[&[&'a str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            set.insert_fields(path);
        }
        set
    }

    fn find(&self, element: &Element<'_>) -> Option<&Entry<'a>> {
        self.entries.binary_search_by(|e| e.element.order(element)).ok().map(|index| &self.entries[index])
    }

    /// Whether the path of this one element is in the set, and what lies below it.
    pub(crate) fn at(&self, element: &Element<'_>) -> (bool, Option<&FieldSet<'a>>) {
        match self.find(element) {
            Some(entry) => (entry.member, (!entry.children.is_empty()).then_some(&entry.children)),
            None => (false, None),
        }
    }

    /// What is in either.
    pub fn union(self, other: Self) -> Self {
        if self.is_empty() {
            return other;
        }
        let mut out = self;
        for entry in other.entries {
            out.push(entry.element, entry.member, entry.children);
        }
        out
    }

    /// What is in both.
    pub fn intersection(&self, other: &FieldSet<'_>) -> Self {
        self.zip(other, |a, b| match b {
            Some(b) => (a.member && b.member, a.children.intersection(&b.children)),
            None => (false, FieldSet::default()),
        })
    }

    /// What is in `self` and not in `other`; removing a parent leaves its children.
    pub fn difference(&self, other: &FieldSet<'_>) -> Self {
        self.zip(other, |a, b| match b {
            Some(b) => (a.member && !b.member, a.children.difference(&b.children)),
            None => (a.member, a.children.clone()),
        })
    }

    /// As [`FieldSet::difference`], but what lies below a member of `other` goes too.
    pub fn recursive_difference(&self, other: &FieldSet<'_>) -> Self {
        self.zip(other, |a, b| match b {
            Some(b) if b.member => (false, FieldSet::default()),
            Some(b) => (a.member, a.children.recursive_difference(&b.children)),
            None => (a.member, a.children.clone()),
        })
    }

    fn zip<'b>(
        &self,
        other: &FieldSet<'b>,
        keep: impl Fn(&Entry<'a>, Option<&Entry<'b>>) -> (bool, FieldSet<'a>),
    ) -> Self {
        let mut entries = Vec::with_capacity(self.entries.len());
        let mut others = other.entries.iter().peekable();
        for entry in &self.entries {
            let mut found = None;
            while let Some(next) = others.peek() {
                match next.element.order(&entry.element) {
                    Ordering::Less => drop(others.next()),
                    Ordering::Equal => {
                        found = others.next();
                        break;
                    }
                    Ordering::Greater => break,
                }
            }
            let (member, children) = keep(entry, found);
            if member || !children.is_empty() {
                entries.push(Entry { element: entry.element.clone(), member, children });
            }
        }
        Self { entries }
    }

    /// Makes each declared field on the way to a member a member too (`EnsureNamedFieldsAreMembers`).
    pub(crate) fn with_named_fields(&self, shape: crate::Shape<'_>, root: bool) -> Self {
        use crate::shape::{ListShape, Node, Shape};
        let node = match shape {
            Shape::Deduced => Node::Map(crate::shape::MapShape::Values(Shape::Deduced)),
            shape => shape.resolve(None, root),
        };
        let entries = self
            .entries
            .iter()
            .map(|entry| {
                let (child, named) = match (&entry.element, node) {
                    (Element::Field(name), Node::Map(map)) => {
                        map.child(name).unwrap_or((Shape::Atomic, false))
                    }
                    (Element::Key(_), Node::List(ListShape::Keyed { item, .. })) => (item, false),
                    _ => (Shape::Atomic, false),
                };
                Entry {
                    element: entry.element.clone(),
                    member: entry.member || named,
                    children: entry.children.with_named_fields(child, false),
                }
            })
            .collect();
        Self { entries }
    }

    /// Every member's path as text (`.spec.containers[name="web"].image`). As structured-merge-diff goes through a set, and
    /// so the texts of conflicts: the members of a level stand before what is below them.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect_paths(&mut String::new(), &mut out);
        out
    }

    fn collect_paths(&self, prefix: &mut String, out: &mut Vec<String>) {
        use fmt::Write;
        for entry in self.entries.iter().filter(|entry| entry.member) {
            out.push(format!("{prefix}{}", entry.element));
        }
        for entry in &self.entries {
            let length = prefix.len();
            let _ = write!(prefix, "{}", entry.element);
            entry.children.collect_paths(prefix, out);
            prefix.truncate(length);
        }
    }

    /// Reads `fieldsV1`.
    ///
    /// # Errors
    /// A key that is no path element.
    pub fn parse(fields: &'a Value) -> Result<Self, FieldSetError> {
        let mut set = Self::default();
        let Value::Object(map) = fields else { return Ok(set) };
        for (key, below) in map {
            if key == "." {
                continue;
            }
            let Some(element) = Element::parse(key)? else { continue };
            let children = Self::parse(below)?;
            let member = children.is_empty() || below.get(".").is_some();
            set.push(element, member, children);
        }
        Ok(set)
    }

    /// Whether a set in its `fieldsV1` form may have a path in common with this one: false is certain, true is not.
    /// Saves reading the sets of managers that a write does not concern.
    pub(crate) fn may_meet(&self, fields: &Value) -> bool {
        let Value::Object(map) = fields else { return false };
        self.entries.iter().any(|entry| match &entry.element {
            Element::Field(name) => {
                let below =
                    map.iter().find(|(key, _)| key.strip_prefix("f:") == Some(name)).map(|(_, below)| below);
                below.is_some_and(|below| entry.member || entry.children.may_meet(below))
            }
            _ => map.keys().any(|key| !key.starts_with("f:") && key != "."),
        })
    }

    /// The `fieldsV1` form.
    pub fn to_value(&self) -> Value {
        self.write(false)
    }

    fn write(&self, with_self: bool) -> Value {
        let mut map = Map::new();
        if with_self && !self.is_empty() {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for entry in &self.entries {
            map.insert(entry.element.serialise(), entry.children.write(entry.member));
        }
        Value::Object(map)
    }

    /// A set that borrows nothing.
    pub fn into_owned(self) -> FieldSet<'static> {
        let entries = self
            .entries
            .into_iter()
            .map(|entry| Entry {
                element: entry.element.into_owned(),
                member: entry.member,
                children: entry.children.into_owned(),
            })
            .collect();
        FieldSet { entries }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn both(a: &Value, b: &Value, op: impl Fn(&FieldSet<'_>, &FieldSet<'_>) -> Value) -> Value {
        op(&FieldSet::parse(a).unwrap(), &FieldSet::parse(b).unwrap())
    }

    #[test]
    fn sets_are_read_and_written() {
        let fields = json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}}}, "f:finalizers": {"v:\"x\"": {}}}});
        let set = FieldSet::parse(&fields).unwrap();
        assert_eq!(set.to_value(), fields);
        assert_eq!(
            set.paths(),
            [
                ".metadata.labels",
                ".metadata.labels.a",
                ".spec.containers[name=\"web\"]",
                ".spec.containers[name=\"web\"].image",
                ".spec.finalizers[=\"x\"]"
            ]
        );
        let deep = json!({"f:spec": {"f:a": {"f:b": {}}, "f:z": {}}});
        assert_eq!(FieldSet::parse(&deep).unwrap().paths(), [".spec.z", ".spec.a.b"]);
        assert_eq!(set.clone().into_owned(), set);
        assert!(FieldSet::parse(&json!({"x": {}})).is_err());
        assert!(FieldSet::parse(&json!({"z:new": {}})).unwrap().is_empty());
    }

    #[test]
    fn sets_combine() {
        let a = json!({"f:a": {".": {}, "f:x": {}}, "f:b": {}});
        let b = json!({"f:a": {"f:x": {}, "f:y": {}}, "f:b": {"f:z": {}}});
        assert_eq!(both(&a, &b, |a, b| a.intersection(b).to_value()), json!({"f:a": {"f:x": {}}}));
        assert_eq!(both(&a, &b, |a, b| a.difference(b).to_value()), json!({"f:a": {}, "f:b": {}}));
        let all = json!({"f:a": {".": {}, "f:x": {}, "f:y": {}}, "f:b": {".": {}, "f:z": {}}});
        assert_eq!(both(&a, &b, |a, b| a.clone().union(b.clone()).to_value()), all);
        let parent = json!({"f:a": {}});
        assert_eq!(both(&a, &parent, |a, b| a.recursive_difference(b).to_value()), json!({"f:b": {}}));
        assert_eq!(
            both(&a, &parent, |a, b| a.difference(b).to_value()),
            json!({"f:a": {"f:x": {}}, "f:b": {}})
        );
    }
}
