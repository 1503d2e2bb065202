//! JSON to protobuf, in one pass over the JSON text.

use super::Error;
use super::decode::json_schema_props;
use super::wire::{self, FIXED64, LEN, push_len_field, push_tag, push_varint_field};
use crate::time;
use crate::types::{FieldType, Type};
use base64::Engine;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// A JSON object as a message of the type, appended to `out`. Unknown fields, apiVersion and kind are left out.
///
/// # Errors
/// JSON that does not parse, or a value that does not fit its field.
pub fn message_from_json(ty: &'static Type, json: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    Message { ty, out }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(())
}

/// The fields of a message, without its length.
struct Message<'o> {
    ty: &'static Type,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Message<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Message<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object of type {}", self.ty.go_name())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(index) = map.next_key_seed(Key(self.ty))? {
            let Some(field) = index.map(|i| &self.ty.fields[i]).filter(|f| f.number != [0]) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let Some((number, inline)) = field.number.split_last() else { continue };
            let base = self.out.len();
            let mut starts = [0usize; MAX_INLINE];
            for (start, outer) in starts.iter_mut().zip(inline) {
                push_tag(self.out, *outer, LEN);
                *start = wire::open(self.out);
            }
            let before = self.out.len();
            map.next_value_seed(FieldValue { ty: &field.ty, number: *number, out: self.out })?;
            if self.out.len() == before {
                self.out.truncate(base);
                continue;
            }
            for start in starts[..inline.len()].iter().rev() {
                wire::close(self.out, *start);
            }
        }
        Ok(())
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Go embeds structs at most this deep (`NamedRuleWithOperations`); a test counts.
pub(super) const MAX_INLINE: usize = 3;

/// Finds the field of a key without keeping the key.
struct Key(&'static Type);

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Option<usize>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key {
    type Value = Option<usize>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }
    fn visit_str<E: de::Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.field_index(key))
    }
}

/// A field: its tag and value, as often as the list has items; nothing for null.
struct FieldValue<'o> {
    ty: &'static FieldType,
    number: u32,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for FieldValue<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.ty {
            FieldType::RawExtension | FieldType::FieldsV1 | FieldType::Json => {
                let raw: &RawValue = de::Deserialize::deserialize(deserializer)?;
                if raw.get() != "null" || matches!(self.ty, FieldType::Json) {
                    push_tag(self.out, self.number, LEN);
                    wire::nested(self.out, |out| push_len_field(out, 1, raw.get().as_bytes()));
                }
                Ok(())
            }
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl FieldValue<'_> {
    fn wrong<E: de::Error>(&self, found: de::Unexpected<'_>) -> E {
        E::invalid_type(found, self)
    }

    fn schema_number(&self) -> Option<u32> {
        match self.ty {
            FieldType::SchemaOrArray | FieldType::SchemaOrStringArray => Some(1),
            FieldType::SchemaOrBool => Some(2),
            _ => None,
        }
    }
}

impl<'de> Visitor<'de> for FieldValue<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", crate::strict::go_type(self.ty))
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        match self.ty {
            FieldType::Bool => push_varint_field(self.out, self.number, u64::from(value)),
            FieldType::SchemaOrBool => {
                push_tag(self.out, self.number, LEN);
                wire::nested(self.out, |out| push_varint_field(out, 1, u64::from(value)));
            }
            _ => return Err(self.wrong(de::Unexpected::Bool(value))),
        }
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        let fits_i32 = i32::try_from(value).is_ok();
        match self.ty {
            FieldType::Int64 => push_varint_field(self.out, self.number, value as u64),
            FieldType::Int32 if fits_i32 => push_varint_field(self.out, self.number, value as u64),
            FieldType::IntOrString if fits_i32 => {
                push_tag(self.out, self.number, LEN);
                wire::nested(self.out, |out| {
                    push_varint_field(out, 1, 0);
                    push_varint_field(out, 2, value as u64);
                    push_len_field(out, 3, b"");
                });
            }
            FieldType::Quantity => return self.visit_str(&value.to_string()),
            FieldType::Double => return self.visit_f64(value as f64),
            _ => return Err(self.wrong(de::Unexpected::Signed(value))),
        }
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => Err(self.wrong(de::Unexpected::Unsigned(value))),
        }
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        match self.ty {
            FieldType::Double => {
                push_tag(self.out, self.number, FIXED64);
                self.out.extend_from_slice(&value.to_bits().to_le_bytes());
                Ok(())
            }
            FieldType::Quantity => self.visit_str(&value.to_string()),
            _ => Err(self.wrong(de::Unexpected::Float(value))),
        }
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        match self.ty {
            FieldType::String => push_len_field(self.out, self.number, value.as_bytes()),
            FieldType::Quantity => {
                push_tag(self.out, self.number, LEN);
                wire::nested(self.out, |out| push_len_field(out, 1, value.as_bytes()));
            }
            FieldType::IntOrString => {
                push_tag(self.out, self.number, LEN);
                wire::nested(self.out, |out| {
                    push_varint_field(out, 1, 1);
                    push_varint_field(out, 2, 0);
                    push_len_field(out, 3, value.as_bytes());
                });
            }
            FieldType::Time | FieldType::MicroTime => {
                let (seconds, nanos) = time::parse(value)
                    .ok_or_else(|| E::custom(format_args!("{value:?} is no RFC 3339 time")))?;
                let nanos = if matches!(self.ty, FieldType::MicroTime) { nanos / 1000 * 1000 } else { 0 };
                push_tag(self.out, self.number, LEN);
                wire::nested(self.out, |out| {
                    push_varint_field(out, 1, seconds as u64);
                    push_varint_field(out, 2, nanos as u64);
                });
            }
            FieldType::Bytes => {
                let decoded = base64::engine::general_purpose::STANDARD
                    .decode(value)
                    .map_err(|e| E::custom(format_args!("illegal base64 data: {e}")))?;
                push_len_field(self.out, self.number, &decoded);
            }
            _ => return Err(self.wrong(de::Unexpected::Str(value))),
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        match self.ty {
            FieldType::Array(item) => {
                while seq
                    .next_element_seed(FieldValue { ty: item, number: self.number, out: self.out })?
                    .is_some()
                {}
            }
            FieldType::StringItems => {
                push_tag(self.out, self.number, LEN);
                let start = wire::open(self.out);
                while let Some(text) = seq.next_element::<Cow<'de, str>>()? {
                    push_len_field(self.out, 1, text.as_bytes());
                }
                wire::close(self.out, start);
            }
            FieldType::SchemaOrArray | FieldType::SchemaOrStringArray => {
                push_tag(self.out, self.number, LEN);
                let start = wire::open(self.out);
                if matches!(self.ty, FieldType::SchemaOrArray) {
                    let item = schema_item();
                    while seq.next_element_seed(FieldValue { ty: item, number: 2, out: self.out })?.is_some()
                    {
                    }
                } else {
                    while let Some(text) = seq.next_element::<Cow<'de, str>>()? {
                        push_len_field(self.out, 2, text.as_bytes());
                    }
                }
                wire::close(self.out, start);
            }
            _ => return Err(self.wrong(de::Unexpected::Seq)),
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let map_access = |map| de::value::MapAccessDeserializer::new(map);
        match self.ty {
            FieldType::Ref(ty) => {
                push_tag(self.out, self.number, LEN);
                let start = wire::open(self.out);
                Message { ty, out: self.out }.deserialize(map_access(map))?;
                wire::close(self.out, start);
            }
            FieldType::Map(item) => {
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    push_tag(self.out, self.number, LEN);
                    let start = wire::open(self.out);
                    push_len_field(self.out, 1, key.as_bytes());
                    map.next_value_seed(FieldValue { ty: item, number: 2, out: self.out })?;
                    wire::close(self.out, start);
                }
            }
            _ => match self.schema_number() {
                Some(number) => {
                    push_tag(self.out, self.number, LEN);
                    let outer = wire::open(self.out);
                    if number == 2 {
                        push_varint_field(self.out, 1, 1);
                    }
                    push_tag(self.out, number, LEN);
                    let inner = wire::open(self.out);
                    Message { ty: json_schema_props(), out: self.out }.deserialize(map_access(map))?;
                    wire::close(self.out, inner);
                    wire::close(self.out, outer);
                }
                None => return Err(self.wrong(de::Unexpected::Map)),
            },
        }
        Ok(())
    }
}

/// The field type of a JSON schema, found in the table itself so that it lives as long as the table.
fn schema_item() -> &'static FieldType {
    match json_schema_props().field("allOf").map(|field| &field.ty) {
        Some(FieldType::Array(item)) => item,
        _ => unreachable!("allOf is a list of schemas"),
    }
}
