//! The OpenAPI v2 document in protobuf, the only form in which clients read it: `openapi.v2.Document` of
//! github.com/google/gnostic-models, with its field numbers.

use serde_json::{Map, Value};

/// How a JSON member becomes a field.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Texts,
    Flag,
    Number,
    Count,
    /// Any value, as YAML text: JSON is YAML.
    Any,
    Anys,
    Message(&'static [Field]),
    /// Of an object: name (1) and value (2) of each member, in a list (1) of its own.
    Named(&'static [Field]),
    /// Of an object, as [`Form::Named`] without a message around the list.
    Members(&'static [Field]),
    /// As [`Form::Named`], of schemas: a schema's own.
    Properties,
    /// One schema or several.
    Items,
    TypeName,
    AdditionalProperties,
    Parameters,
    Responses,
}

struct Field {
    json: &'static str,
    number: u32,
    form: Form,
}

const fn field(json: &'static str, number: u32, form: Form) -> Field {
    Field { json, number, form }
}

/// Members named `x-...` go into a list of their own, at this number; JSON has no member of this name.
const EXTENSIONS: &str = "x-*";

static DOCUMENT: &[Field] = &[
    field("swagger", 1, Form::Text),
    field("info", 2, Form::Message(INFO)),
    field("paths", 8, Form::Members(PATH_ITEM)),
    field("definitions", 9, Form::Named(SCHEMA)),
    field(EXTENSIONS, 16, Form::Any),
];
static INFO: &[Field] = &[field("title", 1, Form::Text), field("version", 2, Form::Text)];
static PATH_ITEM: &[Field] = &[
    field("get", 2, Form::Message(OPERATION)),
    field("put", 3, Form::Message(OPERATION)),
    field("post", 4, Form::Message(OPERATION)),
    field("delete", 5, Form::Message(OPERATION)),
    field("options", 6, Form::Message(OPERATION)),
    field("head", 7, Form::Message(OPERATION)),
    field("patch", 8, Form::Message(OPERATION)),
    field("parameters", 9, Form::Parameters),
    field(EXTENSIONS, 10, Form::Any),
];
static OPERATION: &[Field] = &[
    field("tags", 1, Form::Texts),
    field("summary", 2, Form::Text),
    field("description", 3, Form::Text),
    field("operationId", 5, Form::Text),
    field("produces", 6, Form::Texts),
    field("consumes", 7, Form::Texts),
    field("parameters", 8, Form::Parameters),
    field("responses", 9, Form::Responses),
    field("schemes", 10, Form::Texts),
    field("deprecated", 11, Form::Flag),
    field(EXTENSIONS, 13, Form::Any),
];
static BODY_PARAMETER: &[Field] = &[
    field("description", 1, Form::Text),
    field("name", 2, Form::Text),
    field("in", 3, Form::Text),
    field("required", 4, Form::Flag),
    field("schema", 5, Form::Message(SCHEMA)),
    field(EXTENSIONS, 6, Form::Any),
];
static QUERY_PARAMETER: &[Field] = &[
    field("required", 1, Form::Flag),
    field("in", 2, Form::Text),
    field("description", 3, Form::Text),
    field("name", 4, Form::Text),
    field("type", 6, Form::Text),
    field("format", 7, Form::Text),
    field("default", 10, Form::Any),
    field("uniqueItems", 20, Form::Flag),
    field("enum", 21, Form::Anys),
    field(EXTENSIONS, 23, Form::Any),
];
static PATH_PARAMETER: &[Field] = &[
    field("required", 1, Form::Flag),
    field("in", 2, Form::Text),
    field("description", 3, Form::Text),
    field("name", 4, Form::Text),
    field("type", 5, Form::Text),
    field("format", 6, Form::Text),
    field("default", 9, Form::Any),
    field("uniqueItems", 19, Form::Flag),
    field("enum", 20, Form::Anys),
    field(EXTENSIONS, 22, Form::Any),
];
static REFERENCE: &[Field] = &[field("$ref", 1, Form::Text), field("description", 2, Form::Text)];
static RESPONSE: &[Field] = &[
    field("description", 1, Form::Text),
    field("schema", 2, Form::Message(SCHEMA_ITEM)),
    field(EXTENSIONS, 5, Form::Any),
];
/// A choice of which we use the first: the schema itself. See [`message`].
static SCHEMA_ITEM: &[Field] = &[];
static SCHEMA: &[Field] = &[
    field("$ref", 1, Form::Text),
    field("format", 2, Form::Text),
    field("title", 3, Form::Text),
    field("description", 4, Form::Text),
    field("default", 5, Form::Any),
    field("maximum", 7, Form::Number),
    field("exclusiveMaximum", 8, Form::Flag),
    field("minimum", 9, Form::Number),
    field("exclusiveMinimum", 10, Form::Flag),
    field("maxLength", 11, Form::Count),
    field("minLength", 12, Form::Count),
    field("pattern", 13, Form::Text),
    field("maxItems", 14, Form::Count),
    field("minItems", 15, Form::Count),
    field("uniqueItems", 16, Form::Flag),
    field("maxProperties", 17, Form::Count),
    field("minProperties", 18, Form::Count),
    field("required", 19, Form::Texts),
    field("enum", 20, Form::Anys),
    field("additionalProperties", 21, Form::AdditionalProperties),
    field("type", 22, Form::TypeName),
    field("items", 23, Form::Items),
    field("properties", 25, Form::Properties),
    field("readOnly", 27, Form::Flag),
    field(EXTENSIONS, 31, Form::Any),
];

/// The document's JSON in protobuf; None where it is no object.
pub fn encode(json: &[u8]) -> Option<Vec<u8>> {
    let document: Map<String, Value> = serde_json::from_slice(json).ok()?;
    let mut out = Vec::with_capacity(json.len());
    message(DOCUMENT, &document, &mut out);
    Some(out)
}

fn varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn tag(number: u32, wire_type: u64, out: &mut Vec<u8>) {
    varint(u64::from(number) << 3 | wire_type, out);
}

fn bytes(number: u32, content: &[u8], out: &mut Vec<u8>) {
    tag(number, 2, out);
    varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

/// A message that `write` fills.
fn nested(number: u32, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    bytes(number, &inner, out);
}

fn any(number: u32, value: &Value, out: &mut Vec<u8>) {
    nested(number, out, |inner| bytes(2, value.to_string().as_bytes(), inner));
}

fn named(number: u32, name: &str, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    nested(number, out, |inner| {
        bytes(1, name.as_bytes(), inner);
        nested(2, inner, write);
    });
}

fn message(fields: &'static [Field], object: &Map<String, Value>, out: &mut Vec<u8>) {
    if fields.is_empty() {
        return nested(1, out, |inner| message(SCHEMA, object, inner));
    }
    for f in fields {
        if f.json == EXTENSIONS {
            for (name, value) in object.iter().filter(|(k, _)| k.starts_with("x-")) {
                nested(f.number, out, |inner| {
                    bytes(1, name.as_bytes(), inner);
                    any(2, value, inner);
                });
            }
        } else if let Some(value) = object.get(f.json) {
            put(f, value, out);
        }
    }
}

fn put(f: &Field, value: &Value, out: &mut Vec<u8>) {
    let list = || value.as_array().into_iter().flatten();
    match f.form {
        Form::Text => bytes(f.number, value.as_str().unwrap_or_default().as_bytes(), out),
        Form::Texts => list().filter_map(Value::as_str).for_each(|t| bytes(f.number, t.as_bytes(), out)),
        Form::Flag => {
            tag(f.number, 0, out);
            varint(u64::from(value.as_bool().unwrap_or_default()), out);
        }
        Form::Count => {
            tag(f.number, 0, out);
            varint(value.as_u64().unwrap_or_default(), out);
        }
        Form::Number => {
            tag(f.number, 1, out);
            out.extend_from_slice(&value.as_f64().unwrap_or_default().to_le_bytes());
        }
        Form::Any => any(f.number, value, out),
        Form::Anys => list().for_each(|v| any(f.number, v, out)),
        Form::Message(fields) => {
            if let Some(object) = value.as_object() {
                nested(f.number, out, |inner| message(fields, object, inner));
            }
        }
        Form::Named(fields) => nested(f.number, out, |inner| members(1, fields, value, inner)),
        Form::Properties => nested(f.number, out, |inner| members(1, SCHEMA, value, inner)),
        // `Paths` has its extensions at 1 and its members at 2.
        Form::Members(fields) => nested(f.number, out, |inner| members(2, fields, value, inner)),
        Form::Items => nested(f.number, out, |inner| {
            let several = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
            for one in several.iter().filter_map(Value::as_object) {
                nested(1, inner, |schema| message(SCHEMA, one, schema));
            }
        }),
        Form::TypeName => nested(f.number, out, |inner| {
            let several = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
            several.iter().filter_map(Value::as_str).for_each(|t| bytes(1, t.as_bytes(), inner));
        }),
        Form::AdditionalProperties => nested(f.number, out, |inner| match value {
            Value::Object(schema) => nested(1, inner, |s| message(SCHEMA, schema, s)),
            other => {
                tag(2, 0, inner);
                varint(u64::from(other.as_bool().unwrap_or_default()), inner);
            }
        }),
        Form::Parameters => {
            list()
                .filter_map(Value::as_object)
                .for_each(|p| nested(f.number, out, |inner| parameter(p, inner)));
        }
        Form::Responses => nested(f.number, out, |inner| {
            for (code, response) in value.as_object().into_iter().flatten() {
                let Some(response) = response.as_object() else { continue };
                named(1, code, inner, |v| nested(1, v, |r| message(RESPONSE, response, r)));
            }
        }),
    }
}

fn members(number: u32, fields: &'static [Field], value: &Value, out: &mut Vec<u8>) {
    for (name, member) in value.as_object().into_iter().flatten() {
        if let Some(object) = member.as_object() {
            named(number, name, out, |inner| message(fields, object, inner));
        }
    }
}

fn parameter(p: &Map<String, Value>, out: &mut Vec<u8>) {
    if p.contains_key("$ref") {
        return nested(2, out, |r| message(REFERENCE, p, r));
    }
    nested(1, out, |inner| match p.get("in").and_then(Value::as_str) {
        Some("body") => nested(1, inner, |b| message(BODY_PARAMETER, p, b)),
        Some("path") => nested(2, inner, |n| nested(4, n, |s| message(PATH_PARAMETER, p, s))),
        _ => nested(2, inner, |n| nested(3, n, |s| message(QUERY_PARAMETER, p, s))),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_in_protobuf() {
        let json = br##"{"swagger":"2.0","definitions":{"A":{"type":"object","required":["b"],"properties":{"b":{"$ref":"#/x"}},"x-k":["v"]}}}"##;
        let mut schema = Vec::new();
        bytes(19, b"b", &mut schema);
        nested(22, &mut schema, |t| bytes(1, b"object", t));
        nested(25, &mut schema, |p| named(1, "b", p, |s| bytes(1, b"#/x", s)));
        nested(31, &mut schema, |e| {
            bytes(1, b"x-k", e);
            nested(2, e, |a| bytes(2, br#"["v"]"#, a));
        });
        let mut expect = b"\x0a\x032.0".to_vec();
        nested(9, &mut expect, |d| named(1, "A", d, |s| s.extend_from_slice(&schema)));
        assert_eq!(encode(json).unwrap(), expect);
    }
}
