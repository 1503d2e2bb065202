//! `metadata.managedFields`, read and written.

use crate::fieldset::FieldSet;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::fmt;

/// How a manager writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// Who manages: entries with the same identity are one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManagerId {
    pub manager: String,
    pub operation: Operation,
    /// Empty for appliers: they stay the same when they change versions.
    pub api_version: String,
    pub subresource: String,
}

impl ManagerId {
    pub(crate) fn new(manager: &str, operation: Operation, api_version: &str, subresource: &str) -> Self {
        Self {
            manager: if manager.is_empty() { "unknown".to_owned() } else { manager.to_owned() },
            operation,
            api_version: if operation == Operation::Apply { String::new() } else { api_version.to_owned() },
            subresource: subresource.to_owned(),
        }
    }
}

/// As conflicts name a manager: `"kubectl" with subresource "status" using apps/v1`.
impl fmt::Display for ManagerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.manager)?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {:?}", self.subresource)?;
        }
        if self.operation == Operation::Update {
            write!(f, " using {}", self.api_version)?;
        }
        Ok(())
    }
}

/// What one manager owns.
#[derive(Debug, Clone)]
pub(crate) struct Entry<'a> {
    pub(crate) id: ManagerId,
    /// The version the fields are of.
    pub(crate) api_version: String,
    /// RFC 3339 in UTC, as stored.
    pub(crate) time: Option<Cow<'a, str>>,
    pub(crate) fields: Fields<'a>,
}

/// A manager's fields, read when they are needed.
#[derive(Debug, Clone)]
pub(crate) enum Fields<'a> {
    /// As stored.
    Stored(&'a Value),
    Set(FieldSet<'a>),
}

impl<'a> Fields<'a> {
    /// The fields to look at and to change.
    pub(crate) fn set(&mut self) -> &mut FieldSet<'a> {
        if let Self::Stored(stored) = self {
            // What is stored was checked when it was written.
            *self = Self::Set(FieldSet::parse(stored).unwrap_or_default());
        }
        match self {
            Self::Set(set) => set,
            Self::Stored(_) => unreachable!("it was read above"),
        }
    }

    /// Removes a set; what it cannot concern is not even read.
    pub(crate) fn subtract(&mut self, other: &FieldSet<'_>) {
        let concerned = match self {
            Self::Stored(stored) => other.may_meet(stored),
            Self::Set(_) => !other.is_empty(),
        };
        if concerned {
            let set = self.set();
            *set = set.difference(other);
        }
    }

    pub(crate) fn unite(&mut self, other: FieldSet<'a>) {
        let set = self.set();
        *set = std::mem::take(set).union(other);
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Stored(stored) => stored.as_object().is_none_or(Map::is_empty),
            Self::Set(set) => set.is_empty(),
        }
    }
}

/// All managers of an object.
#[derive(Debug, Clone, Default)]
pub(crate) struct Managers<'a> {
    pub(crate) entries: Vec<Entry<'a>>,
}

impl<'a> Managers<'a> {
    /// Reads `metadata.managedFields` that a client sent.
    ///
    /// # Errors
    /// An entry that is not valid, in upstream's words.
    pub(crate) fn decode(list: Option<&'a Value>) -> Result<Self, String> {
        Self::read(list, true)
    }

    /// Reads stored `metadata.managedFields`; the fields themselves are read when they are needed.
    ///
    /// # Errors
    /// As [`Managers::decode`], but for the fields.
    pub(crate) fn stored(list: Option<&'a Value>) -> Result<Self, String> {
        Self::read(list, false)
    }

    fn read(list: Option<&'a Value>, fields_too: bool) -> Result<Self, String> {
        let mut managers = Self::default();
        let list = list.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        for (index, entry) in list.iter().enumerate() {
            let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
            let operation = match text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return Err("operation must be `Apply` or `Update`".to_owned()),
            };
            let api_version = text("apiVersion");
            if api_version.is_empty() {
                return Err("apiVersion must not be empty".to_owned());
            }
            match text("fieldsType") {
                "FieldsV1" => {}
                "" => return Err(format!("missing fieldsType in managed fields entry {index}")),
                other => return Err(format!("invalid fieldsType {other:?} in managed fields entry {index}")),
            }
            let fields = match entry.get("fieldsV1") {
                Some(stored) if !fields_too => Fields::Stored(stored),
                Some(fields) => {
                    Fields::Set(FieldSet::parse(fields).map_err(|e| format!("error decoding set: {e}"))?)
                }
                None => Fields::Set(FieldSet::default()),
            };
            let id = ManagerId {
                manager: text("manager").to_owned(),
                operation,
                api_version: if operation == Operation::Apply {
                    String::new()
                } else {
                    api_version.to_owned()
                },
                subresource: text("subresource").to_owned(),
            };
            let time = entry.get("time").and_then(Value::as_str).map(Cow::Borrowed);
            managers.set(Entry { id, api_version: api_version.to_owned(), time, fields });
        }
        Ok(managers)
    }

    /// The stored form, in upstream's order; `None` if nothing is managed.
    pub(crate) fn encode(mut self) -> Option<Value> {
        if self.entries.is_empty() {
            return None;
        }
        self.entries.sort_by(|a, b| {
            let key = |e: &Entry<'a>| (e.id.operation, e.time.clone(), e.id.manager.clone());
            let rest = |e: &Entry<'a>| (e.api_version.clone(), e.id.subresource.clone());
            key(a).cmp(&key(b)).then_with(|| rest(a).cmp(&rest(b)))
        });
        Some(self.entries.into_iter().map(encode_entry).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn get(&self, id: &ManagerId) -> Option<&Entry<'a>> {
        self.entries.iter().find(|entry| entry.id == *id)
    }

    pub(crate) fn get_mut(&mut self, id: &ManagerId) -> Option<&mut Entry<'a>> {
        self.entries.iter_mut().find(|entry| entry.id == *id)
    }

    pub(crate) fn set(&mut self, entry: Entry<'a>) {
        match self.get_mut(&entry.id) {
            Some(found) => *found = entry,
            None => self.entries.push(entry),
        }
    }

    pub(crate) fn drop_empty(&mut self) {
        self.entries.retain(|entry| !entry.fields.is_empty());
    }
}

fn encode_entry(entry: Entry<'_>) -> Value {
    let mut map = Map::new();
    map.insert("apiVersion".to_owned(), entry.api_version.into());
    map.insert("fieldsType".to_owned(), "FieldsV1".into());
    let fields = match entry.fields {
        Fields::Stored(stored) => stored.clone(),
        Fields::Set(set) => set.to_value(),
    };
    map.insert("fieldsV1".to_owned(), fields);
    if !entry.id.manager.is_empty() {
        map.insert("manager".to_owned(), entry.id.manager.into());
    }
    map.insert("operation".to_owned(), entry.id.operation.as_str().into());
    if !entry.id.subresource.is_empty() {
        map.insert("subresource".to_owned(), entry.id.subresource.into());
    }
    if let Some(time) = entry.time {
        map.insert("time".to_owned(), json!(time));
    }
    Value::Object(map)
}
