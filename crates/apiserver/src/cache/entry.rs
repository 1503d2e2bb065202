//! One stored object as it is handed out: encoded bytes with the resource version in them, and what selectors ask.

use bytes::{BufMut, Bytes, BytesMut};
use kinds::{AnyKind, Cell, Object};
use meta::{ApiError, LabelSelector};
use serde_json::Value;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use store::{Key, KeyValue, Revision};

/// What a watch event reports (meta.k8s.io/v1 WatchEvent).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

impl EventType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
            Self::Bookmark => "BOOKMARK",
            Self::Error => "ERROR",
        }
    }

    /// The bytes of a JSON watch frame before the object.
    pub fn frame_head(self) -> &'static [u8] {
        match self {
            Self::Added => br#"{"type":"ADDED","object":"#,
            Self::Modified => br#"{"type":"MODIFIED","object":"#,
            Self::Deleted => br#"{"type":"DELETED","object":"#,
            Self::Bookmark => br#"{"type":"BOOKMARK","object":"#,
            Self::Error => br#"{"type":"ERROR","object":"#,
        }
    }
}

/// The bytes of a JSON watch frame after the object.
pub const FRAME_TAIL: &[u8] = b"}\n";

/// What selectors ask of an object.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Attrs {
    /// Sorted by key.
    labels: Box<[(Box<str>, Box<str>)]>,
    /// In the order of the kind's `Info::selectable`.
    fields: Box<[Box<str>]>,
}

impl Attrs {
    pub fn of(kind: &dyn AnyKind, object: &Object) -> Self {
        let labels = object.meta().labels.iter().flatten();
        Self {
            labels: labels.map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect(),
            fields: kind.fields(object).into_iter().map(String::into_boxed_str).collect(),
        }
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.binary_search_by(|(k, _)| (**k).cmp(key)).ok().map(|i| &*self.labels[i].1)
    }

    /// Empty where the kind has no such field.
    pub fn field(&self, index: usize) -> &str {
        self.fields.get(index).map_or("", |f| f)
    }

    pub fn match_labels(&self, selector: &LabelSelector) -> bool {
        selector.is_everything() || selector.matches_by(|k| self.label(k))
    }
}

/// An object of the cache. The JSON lies inside a ready watch frame of the event that made it, so that the
/// frame costs nothing and is shared by all watchers.
pub struct Entry {
    pub key: Key,
    pub revision: Revision,
    pub create_revision: Revision,
    pub attrs: Arc<Attrs>,
    pub kind: &'static dyn AnyKind,
    /// The type of event that `frame` reports.
    pub made_by: EventType,
    frame: Bytes,
    name_at: u16,
    namespace_at: u16,
    body_at: u16,
    metadata_at: u32,
    resource_version_bytes: u8,
    metadata: OnceLock<Range<u32>>,
    cells: OnceLock<Box<[Cell]>>,
    proto: OnceLock<Option<Bytes>>,
    other_view: OnceLock<Bytes>,
}

const METADATA: &[u8] = br#""metadata":{"#;

/// Where things lie in an object's JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    /// What follows `{` and the type, as the items of a list have it.
    body_at: usize,
    /// `"metadata":{`.
    metadata_at: usize,
}

/// Length of the JSON string at the start of `json`, quotes included.
fn string_len(json: &[u8]) -> Option<usize> {
    let mut i = 1;
    while i < json.len() {
        match json[i] {
            b'\\' => i += 2,
            b'"' => return Some(i + 1),
            _ => i += 1,
        }
    }
    None
}

/// Length of the JSON value at the start of `json`.
fn value_len(json: &[u8]) -> Option<usize> {
    let (mut depth, mut i) = (0usize, 0);
    loop {
        match json.get(i)? {
            b'"' => i += string_len(&json[i..])?,
            b'{' | b'[' => {
                depth += 1;
                i += 1;
                continue;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                i += 1;
            }
            _ => i += 1,
        }
        if depth == 0 && matches!(json.get(i), None | Some(b',' | b'}' | b']')) {
            return Some(i);
        }
    }
}

/// Finds type and metadata among the top fields; None where this is not compact JSON of an object with metadata.
fn layout(json: &[u8]) -> Option<Layout> {
    if json.first() != Some(&b'{') {
        return None;
    }
    let (mut at, mut body_at) = (1, 1);
    loop {
        if json.get(at) != Some(&b'"') {
            return None;
        }
        if json[at..].starts_with(METADATA) {
            return Some(Layout { body_at, metadata_at: at });
        }
        let key = string_len(&json[at..])?;
        if json.get(at + key) != Some(&b':') {
            return None;
        }
        let value_at = at + key + 1;
        let is_type = matches!(&json[at..at + key], br#""apiVersion""# | br#""kind""#);
        let end = value_at + value_len(&json[value_at..])?;
        if json.get(end) != Some(&b',') {
            return None;
        }
        if is_type && body_at == at {
            body_at = end + 1;
        }
        at = end + 1;
    }
}

/// A stored value as JSON that [`splice`] takes: values of upstream may be protobuf, or have another field order.
fn normalised(kind: &'static dyn AnyKind, value: &Bytes) -> Result<Bytes, ApiError> {
    if layout(value).is_some() {
        return Ok(value.clone());
    }
    let object = if value.starts_with(crate::resource::adapt::PROTOBUF_MAGIC) {
        let json = crate::resource::adapt::proto_to_json(kind.info(), value)?;
        kind.from_value(json).map_err(ApiError::internal)?
    } else {
        kind.decode(value).map_err(ApiError::internal)?
    };
    Ok(object.encode().into())
}

/// `value` with the resource version in its metadata, in a watch frame of type `made_by`.
/// Gives the frame, the layout of the JSON and the length of what was inserted; nothing is for revision 0, what a
/// dry run would have created.
fn splice(value: &[u8], revision: Revision, made_by: EventType) -> Option<(Bytes, Layout, u8)> {
    let layout = layout(value)?;
    let open = layout.metadata_at + METADATA.len();
    if revision.0 == 0 {
        return Some(([made_by.frame_head(), value, FRAME_TAIL].concat().into(), layout, 0));
    }
    let head = made_by.frame_head();
    let mut number = itoa(revision.0);
    let digits = number.as_str();
    let empty = value.get(open) == Some(&b'}');
    let inserted = br#""resourceVersion":"",""#.len() - 1 + digits.len() - usize::from(empty);
    let mut out = BytesMut::with_capacity(head.len() + value.len() + inserted + FRAME_TAIL.len());
    out.put_slice(head);
    out.put_slice(&value[..open]);
    out.put_slice(br#""resourceVersion":""#);
    out.put_slice(digits.as_bytes());
    out.put_slice(if empty { b"\"" } else { b"\"," });
    out.put_slice(&value[open..]);
    out.put_slice(FRAME_TAIL);
    Some((out.freeze(), layout, u8::try_from(inserted).ok()?))
}

/// A number's digits without a heap allocation.
struct Digits {
    bytes: [u8; 20],
    from: usize,
}

fn itoa(mut n: u64) -> Digits {
    let mut d = Digits { bytes: [b'0'; 20], from: 20 };
    loop {
        d.from -= 1;
        d.bytes[d.from] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            return d;
        }
    }
}

impl Digits {
    fn as_str(&mut self) -> &str {
        std::str::from_utf8(&self.bytes[self.from..]).expect("digits are ASCII")
    }
}

/// JSON of a stored value with its resource version, for the answer to a write.
pub fn with_resource_version(value: &[u8], revision: Revision) -> Option<Bytes> {
    let (frame, _, _) = splice(value, revision, EventType::Added)?;
    let head = EventType::Added.frame_head().len();
    Some(frame.slice(head..frame.len() - FRAME_TAIL.len()))
}

impl Entry {
    /// `prefix_bytes`: length of `/registry/<storage>/` in the key. `attrs`: what the writer handed over, else
    /// the value is decoded.
    ///
    /// # Errors
    /// The value is not an object of the kind.
    pub fn new(
        kind: &'static dyn AnyKind,
        prefix_bytes: usize,
        kv: &KeyValue,
        made_by: EventType,
        attrs: Option<Arc<Attrs>>,
    ) -> Result<Self, ApiError> {
        let value = normalised(kind, &kv.value)?;
        let attrs = match attrs {
            Some(attrs) => attrs,
            None => Arc::new(Attrs::of(kind, &kind.decode(&value).map_err(ApiError::internal)?)),
        };
        Self::assemble(
            kind,
            prefix_bytes,
            kv.key.clone(),
            kv.create_revision,
            kv.mod_revision,
            &value,
            made_by,
            attrs,
        )
    }

    #[allow(clippy::too_many_arguments)]
    fn assemble(
        kind: &'static dyn AnyKind,
        prefix_bytes: usize,
        key: Key,
        create_revision: Revision,
        revision: Revision,
        value: &[u8],
        made_by: EventType,
        attrs: Arc<Attrs>,
    ) -> Result<Self, ApiError> {
        let (frame, layout, resource_version_bytes) = splice(value, revision, made_by)
            .ok_or_else(|| ApiError::internal(format!("{key} has no metadata")))?;
        let metadata_at = u32::try_from(layout.metadata_at).map_err(ApiError::internal)?;
        let name_at = key[prefix_bytes..].rfind('/').map_or(prefix_bytes, |i| prefix_bytes + i + 1);
        let offset =
            |n: usize| u16::try_from(n).map_err(|_| ApiError::internal(format!("{key} is too long")));
        Ok(Self {
            name_at: offset(name_at)?,
            namespace_at: offset(prefix_bytes)?,
            revision,
            create_revision,
            attrs,
            kind,
            made_by,
            frame,
            body_at: offset(layout.body_at)?,
            key,
            metadata_at,
            resource_version_bytes,
            metadata: OnceLock::new(),
            cells: OnceLock::new(),
            proto: OnceLock::new(),
            other_view: OnceLock::new(),
        })
    }

    /// The same object as a later event reports it: deleted, or gone out of a watcher's selection.
    pub fn at(&self, revision: Revision, made_by: EventType) -> Result<Self, ApiError> {
        Self::assemble(
            self.kind,
            usize::from(self.namespace_at),
            self.key.clone(),
            self.create_revision,
            revision,
            &self.stored(),
            made_by,
            self.attrs.clone(),
        )
    }

    pub fn name(&self) -> &str {
        &self.key[usize::from(self.name_at)..]
    }

    /// Empty for cluster scope.
    pub fn namespace(&self) -> &str {
        if self.name_at == self.namespace_at {
            return "";
        }
        &self.key[usize::from(self.namespace_at)..usize::from(self.name_at) - 1]
    }

    fn json_range(&self) -> Range<usize> {
        self.made_by.frame_head().len()..self.frame.len() - FRAME_TAIL.len()
    }

    /// The object with type and resource version.
    pub fn json(&self) -> &[u8] {
        &self.frame[self.json_range()]
    }

    /// As [`json`](Self::json), sharing the memory.
    pub fn json_bytes(&self) -> Bytes {
        self.frame.slice(self.json_range())
    }

    /// What follows `{` and the type, as the items of a list have it.
    pub fn json_item_tail(&self) -> &[u8] {
        &self.json()[usize::from(self.body_at)..]
    }

    /// The whole watch frame, where `ty` is what made this entry; without a copy.
    pub fn frame(&self, ty: EventType) -> Bytes {
        if ty == self.made_by {
            return self.frame.clone();
        }
        let mut out = BytesMut::with_capacity(self.json().len() + 40);
        self.put_frame(ty, &mut out);
        out.freeze()
    }

    pub fn put_frame(&self, ty: EventType, out: &mut BytesMut) {
        out.put_slice(ty.frame_head());
        out.put_slice(self.json());
        out.put_slice(FRAME_TAIL);
    }

    fn resource_version_range(&self) -> Range<usize> {
        let from = self.metadata_at as usize + METADATA.len();
        from..from + usize::from(self.resource_version_bytes)
    }

    /// The value as it is stored: without the resource version.
    pub fn stored(&self) -> Vec<u8> {
        let (json, r) = (self.json(), self.resource_version_range());
        [&json[..r.start], &json[r.end..]].concat()
    }

    /// Whether this is what is stored already.
    pub fn is_stored(&self, value: &[u8]) -> bool {
        let (json, r) = (self.json(), self.resource_version_range());
        value.len() == json.len() - r.len()
            && value[..r.start] == json[..r.start]
            && value[r.start..] == json[r.end..]
    }

    /// `{...}` of `metadata`.
    pub fn metadata_json(&self) -> &[u8] {
        let range = self.metadata.get_or_init(|| {
            let json = self.json();
            let from = self.metadata_at as usize + METADATA.len() - 1;
            let end = from + value_len(&json[from..]).unwrap_or(0);
            from as u32..end as u32
        });
        &self.json()[range.start as usize..range.end as usize]
    }

    /// # Errors
    /// The stored bytes are not of the kind (damage from outside).
    pub fn object(&self) -> Result<Object, ApiError> {
        self.kind.decode(self.json()).map_err(ApiError::internal)
    }

    pub fn value(&self) -> Result<Value, ApiError> {
        serde_json::from_slice(self.json()).map_err(ApiError::internal)
    }

    /// Cells after NAME, made on first demand.
    pub fn cells(&self) -> &[Cell] {
        self.cells.get_or_init(|| self.object().map(|o| self.kind.cells(&o).into()).unwrap_or_default())
    }

    /// The protobuf message without envelope, made on first demand. None where the schema has no numbers.
    pub fn proto(&self) -> Option<&Bytes> {
        let make = || crate::resource::adapt::json_to_proto(self.kind.info(), self.json()).ok();
        self.proto.get_or_init(make).as_ref()
    }

    /// JSON in the other kind that is served from the same storage (events.k8s.io for events), made on first
    /// demand.
    pub fn other_view(&self, make: impl FnOnce(&Entry) -> Bytes) -> &Bytes {
        self.other_view.get_or_init(|| make(self))
    }

    /// Memory that an event of this entry holds on to, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.frame.len() + size_of::<Self>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_version_is_spliced_after_the_opening_of_the_metadata() {
        let check = |value: &str, expect: &str| {
            assert_eq!(
                with_resource_version(value.as_bytes(), Revision(7)).as_deref(),
                Some(expect.as_bytes())
            );
        };
        check(
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{}}"#,
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"resourceVersion":"7","name":"a"},"spec":{}}"#,
        );
        check(r#"{"metadata":{}}"#, r#"{"metadata":{"resourceVersion":"7"}}"#);
        check(
            r#"{"kind":"ConfigMap","apiVersion":"v1","data":{"metadata":"\\\"{"},"metadata":{"name":"a"}}"#,
            r#"{"kind":"ConfigMap","apiVersion":"v1","data":{"metadata":"\\\"{"},"metadata":{"resourceVersion":"7","name":"a"}}"#,
        );
        assert_eq!(with_resource_version(br#"{"data":{"metadata":{}}}"#, Revision(7)), None);
    }

    #[test]
    fn a_value_ends_where_its_brace_closes_outside_of_strings() {
        let json = br#"{"name":"a","annotations":{"x":"}\"}"}},"spec":{}}"#;
        assert_eq!(
            value_len(json).map(|n| &json[..n]),
            Some(&br#"{"name":"a","annotations":{"x":"}\"}"}}"#[..])
        );
        assert_eq!(value_len(b"12.5,"), Some(4));
        assert_eq!(value_len(br#"{"a":[1,"#), None);
    }
}
