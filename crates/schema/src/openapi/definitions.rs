//! Definitions from the tables, with the descriptions of the compressed blob.

use super::CustomDefinitions;
use crate::types::{self, Field, FieldType, ListType, Type};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::io::Read;

/// The two forms of the document; they differ in how they refer and in what they can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V2,
    V3,
}

impl Version {
    pub(super) fn reference(self, definition: &str) -> String {
        match self {
            Self::V2 => format!("#/definitions/{definition}"),
            Self::V3 => format!("#/components/schemas/{definition}"),
        }
    }
}

pub(super) const API_VERSION: &str = "The version of the schema that this object is written in.";
pub(super) const KIND: &str = "The kind of REST resource that this object represents.";
pub(super) const LIST_META: &str = "Metadata of the list.";

/// Definitions that are no structs; sorted, as `build/openapi.rs` writes their descriptions.
const SPECIAL: &[(&str, FieldType)] = &[
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON", FieldType::Json),
    (
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray",
        FieldType::SchemaOrArray,
    ),
    (
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool",
        FieldType::SchemaOrBool,
    ),
    (
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray",
        FieldType::SchemaOrStringArray,
    ),
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", FieldType::Quantity),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", FieldType::FieldsV1),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", FieldType::MicroTime),
    (PATCH, FieldType::RawExtension),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", FieldType::Time),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", FieldType::RawExtension),
    ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", FieldType::IntOrString),
];

pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

static DESCRIPTIONS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/definitions.deflate"));

/// The definitions, for as long as one document is written.
pub(super) struct Definitions<'c> {
    version: Version,
    custom: &'c CustomDefinitions,
    descriptions: String,
}

impl<'c> Definitions<'c> {
    pub(super) fn load(version: Version, custom: &'c CustomDefinitions) -> Self {
        let mut descriptions = String::new();
        // The blob is made by the build; a test reads it whole.
        let _ = flate2::read::DeflateDecoder::new(DESCRIPTIONS).read_to_string(&mut descriptions);
        Self { version, custom, descriptions }
    }

    /// Writes the roots and what they refer to as one JSON object, in the order of their names.
    pub(super) fn write(&self, roots: &BTreeSet<String>, out: &mut Vec<u8>) {
        let records: Vec<&str> = self.descriptions.split('\x1e').collect();
        let mut wanted: BTreeSet<String> = BTreeSet::new();
        let mut open: Vec<String> = roots.iter().cloned().collect();
        while let Some(name) = open.pop() {
            if !wanted.contains(&name) {
                self.references(&name, &mut open);
                wanted.insert(name);
            }
        }
        out.push(b'{');
        let mut first = true;
        for name in &wanted {
            let Some(definition) = self.definition(name, &records) else { continue };
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            serde_json::to_writer(&mut *out, name).expect("writing to memory does not fail");
            out.push(b':');
            let text = definition.to_string();
            match self.version {
                Version::V2 if self.custom.contains_key(name) => {
                    out.extend_from_slice(text.replace("#/components/schemas/", "#/definitions/").as_bytes());
                }
                _ => out.extend_from_slice(text.as_bytes()),
            }
        }
        out.push(b'}');
    }

    fn references(&self, name: &str, open: &mut Vec<String>) {
        if let Some(schema) = self.custom.get(name) {
            references_of_value(schema, open);
        } else if let Some(ty) = types::lookup(name) {
            for field in ty.fields {
                if let Some(name) = referred(&field.ty) {
                    open.push(name.to_owned());
                }
            }
        }
    }

    fn definition(&self, name: &str, records: &[&str]) -> Option<Value> {
        if let Some(schema) = self.custom.get(name) {
            return Some(schema.clone());
        }
        let text = |index: usize| records.get(index).copied().unwrap_or_default();
        if let Ok(index) = types::all().binary_search_by(|ty| ty.name.cmp(name)) {
            return Some(self.structure(types::all()[index], text(index), records));
        }
        let index = SPECIAL.iter().position(|(special, _)| *special == name)?;
        let mut schema = self.special(&SPECIAL[index].1);
        let description = text(types::all().len() + index).trim_end_matches('\x1f');
        if !description.is_empty() {
            schema.insert("description".to_owned(), description.into());
        }
        Some(Value::Object(schema))
    }

    fn structure(&self, ty: &'static Type, record: &str, records: &[&str]) -> Value {
        let mut texts = record.split('\x1f');
        let mut schema = Map::new();
        let description = texts.next().unwrap_or_default();
        let description = match ty.list_item() {
            Some(item) if description.is_empty() => {
                format!("{} is a list of {}.", ty.go_name(), item.go_name())
            }
            _ => description.to_owned(),
        };
        if !description.is_empty() {
            schema.insert("description".to_owned(), description.into());
        }
        let mut properties = Map::new();
        for field in ty.fields {
            let text = texts.next().unwrap_or_default();
            let text = if text.is_empty() { fallback(ty, field.json, records) } else { text };
            let mut property = self.property(field, text);
            if ty.list_item().is_some() && field.json == "items" {
                property.remove("x-kubernetes-list-type");
            }
            properties.insert(field.json.to_owned(), Value::Object(property));
        }
        if !properties.is_empty() {
            schema.insert("properties".to_owned(), Value::Object(properties));
        }
        let required: Vec<&str> = ty.fields.iter().filter(|f| f.required).map(|f| f.json).collect();
        if !required.is_empty() {
            schema.insert("required".to_owned(), json!(required));
        }
        schema.insert("type".to_owned(), "object".into());
        if !ty.gvks.is_empty() {
            let gvks: Vec<Value> = ty
                .gvks
                .iter()
                .map(|gvk| json!({"group": gvk.group, "kind": gvk.kind, "version": gvk.version}))
                .collect();
            schema.insert("x-kubernetes-group-version-kind".to_owned(), gvks.into());
        }
        if ty.atomic {
            schema.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
        }
        Value::Object(schema)
    }

    fn property(&self, field: &'static Field, description: &str) -> Map<String, Value> {
        let mut schema = self.of_type(&field.ty);
        let v3 = self.version == Version::V3;
        if v3 && let Some(default) = field.default.and_then(|d| serde_json::from_str(d).ok()) {
            schema.insert("default".to_owned(), default);
        }
        if !description.is_empty() {
            schema.insert("description".to_owned(), description.into());
        }
        if v3
            && schema.len() > 1
            && let Some(reference) = schema.remove("$ref")
        {
            schema.insert("allOf".to_owned(), json!([{ "$ref": reference }]));
        }
        if !field.enum_values.is_empty() {
            schema.insert("enum".to_owned(), json!(field.enum_values));
        }
        if matches!(field.ty, FieldType::Array(_) | FieldType::StringItems) {
            let list = match field.list {
                ListType::Atomic => "atomic",
                ListType::Set => "set",
                ListType::Map => "map",
            };
            schema.insert("x-kubernetes-list-type".to_owned(), list.into());
        }
        if !field.list_keys.is_empty() {
            schema.insert("x-kubernetes-list-map-keys".to_owned(), json!(field.list_keys));
        }
        if let Some(atomic) = field.atomic_map {
            schema.insert(
                "x-kubernetes-map-type".to_owned(),
                if atomic { "atomic" } else { "granular" }.into(),
            );
        }
        let strategies = [
            (field.patch.merge, "merge"),
            (field.patch.replace, "replace"),
            (field.patch.retain_keys, "retainKeys"),
        ];
        let strategies: Vec<&str> =
            strategies.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
        if !strategies.is_empty() {
            schema.insert("x-kubernetes-patch-strategy".to_owned(), strategies.join(",").into());
        }
        if let Some(key) = field.merge_key {
            schema.insert("x-kubernetes-patch-merge-key".to_owned(), key.into());
        }
        schema
    }

    fn of_type(&self, ty: &FieldType) -> Map<String, Value> {
        let scalar = |kind: &str, format: Option<&str>| {
            let mut schema = Map::new();
            schema.insert("type".to_owned(), kind.into());
            if let Some(format) = format {
                schema.insert("format".to_owned(), format.into());
            }
            schema
        };
        match ty {
            FieldType::String => scalar("string", None),
            FieldType::Int32 => scalar("integer", Some("int32")),
            FieldType::Int64 => scalar("integer", Some("int64")),
            FieldType::Bool => scalar("boolean", None),
            FieldType::Double => scalar("number", Some("double")),
            FieldType::Bytes => scalar("string", Some("byte")),
            FieldType::StringItems => self.of_type(&FieldType::Array(&FieldType::String)),
            FieldType::Array(item) => {
                let mut schema = scalar("array", None);
                schema.insert("items".to_owned(), Value::Object(self.of_type(item)));
                schema
            }
            FieldType::Map(value) => {
                let mut schema = scalar("object", None);
                schema.insert("additionalProperties".to_owned(), Value::Object(self.of_type(value)));
                schema
            }
            other => {
                let mut schema = Map::new();
                schema.insert(
                    "$ref".to_owned(),
                    self.version.reference(referred(other).unwrap_or_default()).into(),
                );
                schema
            }
        }
    }

    fn special(&self, ty: &FieldType) -> Map<String, Value> {
        let v3 = self.version == Version::V3;
        let schema = match ty {
            FieldType::Quantity if v3 => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            FieldType::Quantity => json!({"type": "string"}),
            FieldType::IntOrString if v3 => {
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
            }
            FieldType::IntOrString => json!({"format": "int-or-string", "type": "string"}),
            FieldType::Time | FieldType::MicroTime => json!({"format": "date-time", "type": "string"}),
            FieldType::FieldsV1 | FieldType::RawExtension => json!({"type": "object"}),
            _ => json!({}),
        };
        match schema {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

/// The definition a field refers to, through lists and maps.
fn referred(ty: &FieldType) -> Option<&'static str> {
    match ty {
        FieldType::Ref(ty) => Some(ty.name),
        FieldType::Array(item) | FieldType::Map(item) => referred(item),
        other => SPECIAL
            .iter()
            .find(|(name, special)| {
                *name != PATCH && std::mem::discriminant(special) == std::mem::discriminant(other)
            })
            .map(|(name, _)| *name),
    }
}

/// Descriptions of fields that `k8s-openapi` has no description for: those of lists. Where the item has the same
/// field its description is taken.
fn fallback<'r>(ty: &'static Type, field: &str, records: &[&'r str]) -> &'r str {
    let of_item = || {
        let item = ty.list_item()?;
        let at = types::all().binary_search_by(|t| t.name.cmp(item.name)).ok()?;
        let field = item.fields.iter().position(|f| f.json == field)?;
        records.get(at)?.split('\x1f').nth(field + 1).filter(|text| !text.is_empty())
    };
    match field {
        "apiVersion" if !ty.gvks.is_empty() => of_item().unwrap_or(API_VERSION),
        "kind" if !ty.gvks.is_empty() => of_item().unwrap_or(KIND),
        "metadata" if ty.list_item().is_some() => LIST_META,
        "items" if ty.list_item().is_some() => "The objects of the list.",
        _ => "",
    }
}

fn references_of_value(value: &Value, open: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if key == "$ref" => {
                        open.push(text.rsplit('/').next().unwrap_or_default().to_owned());
                    }
                    other => references_of_value(other, open),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references_of_value(item, open)),
        _ => {}
    }
}
