//! Protobuf to JSON.

use super::wire::{Reader, Value};
use super::{Error, MAX_DEPTH};
use crate::time;
use crate::types::{Field, FieldType, Type, Wire, WireTarget};
use base64::Engine;
use std::io::Write;

/// One occurrence of a field in a message.
type Entry<'a> = (usize, Value<'a>);

struct Decoder<'a> {
    /// The fields of the messages being written, innermost last.
    entries: Vec<Entry<'a>>,
    depth: usize,
}

/// A message of the type as a JSON object, appended to `out`; without apiVersion and kind.
///
/// # Errors
/// Bytes that are no message, or hold a value that does not fit its field.
pub fn message_to_json(ty: &'static Type, message: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    Decoder { entries: Vec::new(), depth: 0 }.object(ty, message, out, b"{")
}

pub(super) fn object_to_json(
    ty: &'static Type,
    api_version: &str,
    kind: &str,
    message: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let mut head = Vec::with_capacity(64);
    head.extend_from_slice(b"{\"apiVersion\":");
    json_string(&mut head, api_version);
    head.extend_from_slice(b",\"kind\":");
    json_string(&mut head, kind);
    Decoder { entries: Vec::new(), depth: 0 }.object(ty, message, out, &head)
}

impl<'a> Decoder<'a> {
    /// Writes an object whose beginning is `head`: a brace, or a brace and the first fields.
    fn object(
        &mut self,
        ty: &'static Type,
        message: &'a [u8],
        out: &mut Vec<u8>,
        head: &[u8],
    ) -> Result<(), Error> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Error::Wire("message nests too deep"));
        }
        let base = self.entries.len();
        self.collect(ty.wire, message)?;
        self.entries[base..].sort_by_key(|(index, _)| *index);
        out.extend_from_slice(head);
        let mut first = head.len() == 1;
        let mut position = base;
        while position < self.entries.len() {
            let index = self.entries[position].0;
            let mut end = position + 1;
            while end < self.entries.len() && self.entries[end].0 == index {
                end += 1;
            }
            let before = out.len();
            if !first {
                out.push(b',');
            }
            out.push(b'"');
            out.extend_from_slice(ty.fields[index].json.as_bytes());
            out.extend_from_slice(b"\":");
            if self
                .field(&ty.fields[index], position..end, out)
                .map_err(|e| locate(e, ty, &ty.fields[index]))?
            {
                first = false;
            } else {
                out.truncate(before);
            }
            position = end;
        }
        out.push(b'}');
        self.entries.truncate(base);
        self.depth -= 1;
        Ok(())
    }

    fn collect(&mut self, wires: &'static [Wire], message: &'a [u8]) -> Result<(), Error> {
        let mut reader = Reader::new(message);
        while let Some((number, value)) = reader.next()? {
            let Ok(found) = wires.binary_search_by_key(&number, |wire| wire.number) else { continue };
            match wires[found].target {
                WireTarget::Field(index) => self.entries.push((index, value)),
                WireTarget::Inline(inner) => self.collect(inner, value.bytes()?)?,
            }
        }
        Ok(())
    }

    /// Writes a field's value; false if the field is to be left out.
    fn field(
        &mut self,
        field: &'static Field,
        range: std::ops::Range<usize>,
        out: &mut Vec<u8>,
    ) -> Result<bool, Error> {
        match field.ty {
            FieldType::Array(item) => {
                out.push(b'[');
                for (count, position) in range.enumerate() {
                    if count > 0 {
                        out.push(b',');
                    }
                    let value = self.entries[position].1;
                    match (value, item) {
                        (Value::Bytes(packed), FieldType::Int32 | FieldType::Int64 | FieldType::Bool) => {
                            let mut reader = Reader::new(packed);
                            let mut first = true;
                            while !reader.is_empty() {
                                if !std::mem::take(&mut first) {
                                    out.push(b',');
                                }
                                self.value(item, Value::Varint(reader.varint()?), out)?;
                            }
                        }
                        _ => self.value(item, value, out)?,
                    }
                }
                out.push(b']');
                Ok(true)
            }
            FieldType::Map(item) => {
                out.push(b'{');
                for (count, position) in range.enumerate() {
                    if count > 0 {
                        out.push(b',');
                    }
                    self.map_entry(item, self.entries[position].1.bytes()?, out)?;
                }
                out.push(b'}');
                Ok(true)
            }
            FieldType::Ref(ty) if range.len() > 1 => {
                // Occurrences of one message merge, which is what their concatenation means.
                let mut joined = Vec::new();
                for position in range {
                    joined.extend_from_slice(self.entries[position].1.bytes()?);
                }
                let mut inner = Decoder { entries: Vec::new(), depth: self.depth };
                inner.object(ty, &joined, out, b"{")?;
                Ok(true)
            }
            _ => {
                let value = self.entries[range.end - 1].1;
                if is_zero(&field.ty, value) && !field.pointer && (field.omit_empty || is_time(&field.ty)) {
                    return Ok(false);
                }
                if is_time(&field.ty) && matches!(value, Value::Bytes(b"")) {
                    return Ok(false);
                }
                self.value(&field.ty, value, out)?;
                Ok(true)
            }
        }
    }

    fn map_entry(
        &mut self,
        item: &'static FieldType,
        entry: &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let (mut key, mut value) = ("", None);
        let mut reader = Reader::new(entry);
        while let Some((number, found)) = reader.next()? {
            match number {
                1 => key = found.text()?,
                2 => value = Some(found),
                _ => {}
            }
        }
        json_string(out, key);
        out.push(b':');
        match (value, item) {
            (Some(value), _) => self.value(item, value, out),
            (None, FieldType::Int32 | FieldType::Int64 | FieldType::Bool) => {
                self.value(item, Value::Varint(0), out)
            }
            (None, FieldType::Double) => self.value(item, Value::Fixed64(0), out),
            (None, _) => self.value(item, Value::Bytes(b""), out),
        }
    }

    fn value(&mut self, ty: &'static FieldType, value: Value<'a>, out: &mut Vec<u8>) -> Result<(), Error> {
        match ty {
            FieldType::String => json_string(out, value.text()?),
            FieldType::Int32 => push_display(out, value.varint()? as i32),
            FieldType::Int64 => push_display(out, value.varint()? as i64),
            FieldType::Bool => push_display(out, value.varint()? != 0),
            FieldType::Double => match value {
                Value::Fixed64(bits) => serde_json::to_writer(&mut *out, &f64::from_bits(bits))?,
                _ => return Err(Error::Wire("wrong wireType for a double")),
            },
            FieldType::Bytes => {
                out.push(b'"');
                let mut text = String::new();
                base64::engine::general_purpose::STANDARD.encode_string(value.bytes()?, &mut text);
                out.extend_from_slice(text.as_bytes());
                out.push(b'"');
            }
            FieldType::Quantity => {
                let text = single(value.bytes()?, 1)?.map_or(Ok("0"), Value::text)?;
                json_string(out, if text.is_empty() { "0" } else { text });
            }
            FieldType::Time => write_time(value.bytes()?, out, false)?,
            FieldType::MicroTime => write_time(value.bytes()?, out, true)?,
            FieldType::IntOrString => {
                let bytes = value.bytes()?;
                if single(bytes, 1)?.map_or(Ok(0), Value::varint)? == 1 {
                    json_string(out, single(bytes, 3)?.map_or(Ok(""), Value::text)?);
                } else {
                    push_display(out, single(bytes, 2)?.map_or(Ok(0), Value::varint)? as i32);
                }
            }
            FieldType::RawExtension | FieldType::FieldsV1 | FieldType::Json => {
                let raw = single(value.bytes()?, 1)?.map_or(Ok(&[][..]), Value::bytes)?;
                write_raw(raw, out)?;
            }
            FieldType::StringItems => {
                let mut reader = Reader::new(value.bytes()?);
                out.push(b'[');
                while let Some((number, item)) = reader.next()? {
                    if number == 1 {
                        if out.last() != Some(&b'[') {
                            out.push(b',');
                        }
                        json_string(out, item.text()?);
                    }
                }
                out.push(b']');
            }
            FieldType::SchemaOrArray | FieldType::SchemaOrBool | FieldType::SchemaOrStringArray => {
                self.schema_or(ty, value.bytes()?, out)?;
            }
            FieldType::Ref(inner) => self.object(inner, value.bytes()?, out, b"{")?,
            FieldType::Array(_) | FieldType::Map(_) => return Err(Error::Wire("lists do not nest")),
        }
        Ok(())
    }

    /// The three unions of JSON schema: a schema, or an array, a bool or strings.
    fn schema_or(&mut self, ty: &FieldType, message: &'a [u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let schema = json_schema_props();
        let mut reader = Reader::new(message);
        let (mut one, mut many, mut allows) = (None, Vec::new(), false);
        while let Some((number, value)) = reader.next()? {
            match (ty, number) {
                (FieldType::SchemaOrBool, 1) => allows = value.varint()? != 0,
                (FieldType::SchemaOrBool, 2) => one = Some(value.bytes()?),
                (_, 1) => one = Some(value.bytes()?),
                (_, 2) => many.push(value),
                _ => {}
            }
        }
        if let Some(one) = one {
            return self.object(schema, one, out, b"{");
        }
        if matches!(ty, FieldType::SchemaOrBool) {
            push_display(out, allows);
            return Ok(());
        }
        out.push(b'[');
        for (count, value) in many.into_iter().enumerate() {
            if count > 0 {
                out.push(b',');
            }
            match ty {
                FieldType::SchemaOrArray => self.object(schema, value.bytes()?, out, b"{")?,
                _ => json_string(out, value.text()?),
            }
        }
        out.push(b']');
        Ok(())
    }
}

pub(crate) fn json_schema_props() -> &'static Type {
    crate::lookup("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")
        .expect("the data file has the schema of schemas")
}

fn locate(error: Error, ty: &'static Type, field: &'static Field) -> Error {
    match error {
        Error::Wire(problem) => Error::Field { definition: ty.name, field: field.json, problem },
        other => other,
    }
}

fn is_time(ty: &FieldType) -> bool {
    matches!(ty, FieldType::Time | FieldType::MicroTime)
}

/// Whether Go's `omitempty` leaves the value out: never a struct.
fn is_zero(ty: &FieldType, value: Value<'_>) -> bool {
    match (ty, value) {
        (FieldType::Ref(_) | FieldType::Quantity | FieldType::IntOrString, _) => false,
        (FieldType::SchemaOrArray | FieldType::SchemaOrBool | FieldType::SchemaOrStringArray, _) => false,
        (_, Value::Varint(value) | Value::Fixed64(value)) => value == 0,
        (_, Value::Fixed32(value)) => value == 0,
        (_, Value::Bytes(bytes)) => bytes.is_empty(),
    }
}

/// The last occurrence of a field of a small message.
fn single(message: &[u8], wanted: u32) -> Result<Option<Value<'_>>, Error> {
    let mut reader = Reader::new(message);
    let mut last = None;
    while let Some((number, value)) = reader.next()? {
        if number == wanted {
            last = Some(value);
        }
    }
    Ok(last)
}

fn write_time(message: &[u8], out: &mut Vec<u8>, micro: bool) -> Result<(), Error> {
    if message.is_empty() {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    let seconds = single(message, 1)?.map_or(Ok(0), Value::varint)? as i64;
    let nanos = single(message, 2)?.map_or(Ok(0), Value::varint)? as i32;
    if time::write(out, seconds, nanos, micro) { Ok(()) } else { Err(Error::Wire("time out of range")) }
}

/// JSON bytes that travel in protobuf; an object in an envelope of its own becomes JSON.
fn write_raw(raw: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    if raw.is_empty() {
        out.extend_from_slice(b"null");
    } else if super::Envelope::is(raw) {
        out.extend_from_slice(&super::to_json(raw)?.2);
    } else {
        serde_json::from_slice::<serde::de::IgnoredAny>(raw)?;
        out.extend_from_slice(raw);
    }
    Ok(())
}

fn push_display(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    write!(out, "{value}").expect("writing to memory does not fail");
}

fn json_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing a string to memory does not fail");
}
