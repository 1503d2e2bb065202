//! Strict decoding: what `fieldValidation=Strict` and `Warn` report, in upstream's words.
//!
//! One streaming pass over the JSON text; nothing is built but the issues. The rules are those of
//! `sigs.k8s.io/json`: names are case-sensitive, a key is a duplicate from its second occurrence on, what decodes
//! itself (quantities, times, raw extensions) is not looked into.

use crate::time;
use crate::types::{FieldType, Type};
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::{self, Write};

/// At most this many issues are kept of one body, as upstream keeps.
pub const MAX_ISSUES: usize = 100;

/// A field that strict decoding refuses.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Issue {
    #[error("unknown field {0:?}")]
    UnknownField(String),
    #[error("duplicate field {0:?}")]
    DuplicateField(String),
}

impl Issue {
    /// The path of the field, for example `spec.template.spec.containers[0].foo`.
    pub fn path(&self) -> &str {
        match self {
            Self::UnknownField(path) | Self::DuplicateField(path) => path,
        }
    }
}

/// What one pass over a body finds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub issues: Vec<Issue>,
    /// The first value that does not fit its field, as Go's decoder words it.
    pub type_error: Option<String>,
    /// A field holds a zero value that Go's `omitempty` leaves out: see [`crate::canonical::prune`].
    pub superfluous: bool,
}

/// Unknown and duplicate fields of a body. JSON that does not parse yields what was found before the mistake:
/// decoding reports the mistake itself.
pub fn check(ty: &'static Type, json: &[u8]) -> Vec<Issue> {
    inspect(ty, json).issues
}

/// The error a typed decoder gives for this body, if a value does not fit its field
/// (`json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`).
pub fn type_error(ty: &'static Type, json: &[u8]) -> Option<String> {
    inspect(ty, json).type_error
}

/// Both in one pass.
pub fn inspect(ty: &'static Type, json: &[u8]) -> Report {
    let mut walk =
        Walk { path: String::new(), names: Vec::new(), report: Report::default(), seen: HashSet::new() };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let context = Context { owner: None, ty: &FieldType::Ref(ty), omits_zero: false };
    // A syntax error ends the walk early; the decoder of the body reports it.
    let _ = Node { walk: &mut walk, context }.deserialize(&mut deserializer);
    walk.report
}

/// Duplicate keys of JSON that has no type here: a custom resource, a merge patch, a JSON patch.
pub fn duplicates(json: &[u8]) -> Vec<Issue> {
    let mut walk = Walk::default();
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    // A syntax error ends the walk early; the decoder of the body reports it.
    let _ = Untyped { walk: &mut walk }.deserialize(&mut deserializer);
    walk.report.issues
}

/// The message of a refused body: `strict decoding error: unknown field "spec.foo", ...`.
pub fn message(issues: &[Issue]) -> String {
    let mut text = String::from("strict decoding error: ");
    for (index, issue) in issues.iter().enumerate() {
        let _ = write!(text, "{}{issue}", if index > 0 { ", " } else { "" });
    }
    text
}

/// What create, update and patch answer when a body does not decode.
pub fn cannot_be_handled(version: &str, kind: &str, error: &str) -> String {
    format!("{kind} in version {version:?} cannot be handled as a {kind}: {error}")
}

/// The Go name of a field's type, as decode errors show it.
pub fn go_type(ty: &FieldType) -> Cow<'static, str> {
    match ty {
        FieldType::String => "string".into(),
        FieldType::Int32 => "int32".into(),
        FieldType::Int64 => "int64".into(),
        FieldType::Bool => "bool".into(),
        FieldType::Double => "float64".into(),
        FieldType::Bytes => "[]uint8".into(),
        FieldType::Quantity => "resource.Quantity".into(),
        FieldType::Time => "v1.Time".into(),
        FieldType::MicroTime => "v1.MicroTime".into(),
        FieldType::IntOrString => "intstr.IntOrString".into(),
        FieldType::RawExtension => "runtime.RawExtension".into(),
        FieldType::FieldsV1 => "v1.FieldsV1".into(),
        FieldType::Json => "v1.JSON".into(),
        FieldType::SchemaOrArray => "v1.JSONSchemaPropsOrArray".into(),
        FieldType::SchemaOrBool => "v1.JSONSchemaPropsOrBool".into(),
        FieldType::SchemaOrStringArray => "v1.JSONSchemaPropsOrStringArray".into(),
        FieldType::StringItems => "[]string".into(),
        FieldType::Ref(ty) => {
            let mut parts = ty.name.rsplit('.');
            let (name, package) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            format!("{package}.{name}").into()
        }
        FieldType::Array(item) => format!("[]{}", go_type(item)).into(),
        FieldType::Map(item) => format!("map[string]{}", go_type(item)).into(),
    }
}

#[derive(Default)]
struct Walk {
    /// The path so far, as issues show it.
    path: String,
    /// The Go fields entered, as type errors show them.
    names: Vec<&'static str>,
    report: Report,
    seen: HashSet<Issue>,
}

impl Walk {
    fn issue(&mut self, make: fn(String) -> Issue, key: &str) {
        if self.report.issues.len() >= MAX_ISSUES {
            return;
        }
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        let issue = make(path);
        if self.seen.insert(issue.clone()) {
            self.report.issues.push(issue);
        }
    }

    fn enter(&mut self, key: &str) -> usize {
        let before = self.path.len();
        if before > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        before
    }

    fn wrong(&mut self, context: &Context, value: &str) {
        let text = match context.owner {
            Some((owner, go_name)) => {
                let wanted = if go_name.is_empty() { go_type(context.ty) } else { named(owner, go_name) };
                let (owner, names) = (owner.go_name(), self.names.join("."));
                format!(
                    "json: cannot unmarshal {value} into Go struct field {owner}.{names} of type {wanted}"
                )
            }
            None => format!("json: cannot unmarshal {value} into Go value of type {}", go_type(context.ty)),
        };
        self.error(text);
    }

    fn error(&mut self, text: String) {
        self.report.type_error.get_or_insert(text);
    }
}

fn named(owner: &Type, go_name: &str) -> Cow<'static, str> {
    let package = owner.name.rsplit('.').nth(1).unwrap_or_default();
    format!("{package}.{go_name}").into()
}

/// What is expected at a place of the document.
#[derive(Clone, Copy)]
struct Context<'t> {
    /// The innermost struct and the Go name of its field's string type.
    owner: Option<(&'static Type, &'static str)>,
    ty: &'t FieldType,
    /// The zero value says no more than absence.
    omits_zero: bool,
}

struct Node<'w, 't> {
    walk: &'w mut Walk,
    context: Context<'t>,
}

impl<'de> DeserializeSeed<'de> for Node<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.context.ty {
            FieldType::RawExtension | FieldType::FieldsV1 | FieldType::Json => {
                deserializer.deserialize_ignored_any(IgnoredAny).map(drop)
            }
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Node<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.walk.report.superfluous |= self.context.omits_zero && !value;
        match self.context.ty {
            FieldType::Bool | FieldType::SchemaOrBool => {}
            FieldType::IntOrString => {
                self.walk.error("json: cannot unmarshal bool into Go value of type int32".to_owned());
            }
            FieldType::Time | FieldType::MicroTime => {
                self.walk.error("json: cannot unmarshal bool into Go value of type string".to_owned());
            }
            FieldType::Quantity => self.walk.error(QUANTITY_FORMAT.to_owned()),
            _ => self.walk.wrong(&self.context, "bool"),
        }
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.walk.report.superfluous |= self.context.omits_zero && value == 0;
        match self.context.ty {
            FieldType::Int64 | FieldType::Double | FieldType::Quantity => {}
            FieldType::Int32 if i32::try_from(value).is_ok() => {}
            FieldType::IntOrString if i32::try_from(value).is_ok() => {}
            FieldType::Int32 => self.walk.wrong(&self.context, &format!("number {value}")),
            FieldType::IntOrString => {
                self.walk.error(format!("json: cannot unmarshal number {value} into Go value of type int32"));
            }
            FieldType::Time | FieldType::MicroTime => {
                self.walk.error("json: cannot unmarshal number into Go value of type string".to_owned());
            }
            _ => self.walk.wrong(&self.context, "number"),
        }
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => self.visit_f64(value as f64),
        }
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        match self.context.ty {
            FieldType::Double | FieldType::Quantity => {}
            FieldType::Int32 | FieldType::Int64 => self.walk.wrong(&self.context, &format!("number {value}")),
            FieldType::IntOrString => {
                self.walk.error(format!("json: cannot unmarshal number {value} into Go value of type int32"));
            }
            _ => self.walk.wrong(&self.context, "number"),
        }
        Ok(())
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        self.walk.report.superfluous |= self.context.omits_zero && value.is_empty();
        match self.context.ty {
            FieldType::String | FieldType::Quantity | FieldType::IntOrString | FieldType::Bytes => {}
            FieldType::Time | FieldType::MicroTime => {
                if time::parse(value).is_none() {
                    let layout = match self.context.ty {
                        FieldType::Time => "2006-01-02T15:04:05Z07:00",
                        _ => "2006-01-02T15:04:05.000000Z07:00",
                    };
                    let text =
                        format!("parsing time {value:?} as {layout:?}: cannot parse {value:?} as \"2006\"");
                    self.walk.error(text);
                }
            }
            _ => self.walk.wrong(&self.context, "string"),
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let schema;
        let item = match self.context.ty {
            FieldType::Array(item) => *item,
            FieldType::StringItems | FieldType::SchemaOrStringArray => &FieldType::String,
            FieldType::SchemaOrArray => {
                schema = FieldType::Ref(crate::proto::json_schema_props());
                &schema
            }
            _ => {
                self.walk.wrong(&self.context, "array");
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(());
            }
        };
        let before = self.walk.path.len();
        let mut index = 0usize;
        loop {
            let _ = write!(self.walk.path, "[{index}]");
            let context = Context { owner: self.context.owner, ty: item, omits_zero: false };
            let more = seq.next_element_seed(Node { walk: self.walk, context })?;
            self.walk.path.truncate(before);
            if more.is_none() {
                self.walk.report.superfluous |= self.context.omits_zero && index == 0;
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        match self.context.ty {
            FieldType::Ref(ty) => visit_struct(self.walk, ty, map),
            FieldType::SchemaOrArray | FieldType::SchemaOrBool | FieldType::SchemaOrStringArray => {
                visit_struct(self.walk, crate::proto::json_schema_props(), map)
            }
            FieldType::Map(item) => {
                let mut keys: HashSet<Cow<'de, str>> = HashSet::new();
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    if keys.contains(&key) {
                        self.walk.issue(Issue::DuplicateField, &key);
                    }
                    let before = self.walk.enter(&key);
                    let context = Context { owner: self.context.owner, ty: item, omits_zero: false };
                    map.next_value_seed(Node { walk: self.walk, context })?;
                    self.walk.path.truncate(before);
                    keys.insert(key);
                }
                self.walk.report.superfluous |= self.context.omits_zero && keys.is_empty();
                Ok(())
            }
            other => {
                match other {
                    FieldType::Quantity => self.walk.error(QUANTITY_FORMAT.to_owned()),
                    _ => self.walk.wrong(&self.context, "object"),
                }
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(())
            }
        }
    }
}

const QUANTITY_FORMAT: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

fn visit_struct<'de, A: MapAccess<'de>>(
    walk: &mut Walk,
    ty: &'static Type,
    mut map: A,
) -> Result<(), A::Error> {
    let mut seen = [0u64; MAX_FIELDS / 64];
    while let Some(index) = map.next_key_seed(Key { walk, ty })? {
        let Some(index) = index else {
            map.next_value::<IgnoredAny>()?;
            continue;
        };
        let field = &ty.fields[index];
        let bit = 1u64 << (index % 64);
        if seen[index / 64] & bit != 0 {
            walk.issue(Issue::DuplicateField, field.json);
        }
        seen[index / 64] |= bit;
        let before = walk.enter(field.json);
        walk.names.push(field.json);
        let context = Context {
            owner: Some((ty, field.go_type)),
            ty: &field.ty,
            omits_zero: field.omit_empty && !field.pointer,
        };
        map.next_value_seed(Node { walk, context })?;
        walk.names.pop();
        walk.path.truncate(before);
    }
    Ok(())
}

/// A value of which nothing is known: only its keys are looked at.
struct Untyped<'w> {
    walk: &'w mut Walk,
}

impl<'de> DeserializeSeed<'de> for Untyped<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Untyped<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let before = self.walk.path.len();
        let mut index = 0usize;
        loop {
            let _ = write!(self.walk.path, "[{index}]");
            let more = seq.next_element_seed(Untyped { walk: self.walk })?;
            self.walk.path.truncate(before);
            if more.is_none() {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys: HashSet<Cow<'de, str>> = HashSet::new();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if keys.contains(&key) {
                self.walk.issue(Issue::DuplicateField, &key);
            }
            let before = self.walk.enter(&key);
            map.next_value_seed(Untyped { walk: self.walk })?;
            self.walk.path.truncate(before);
            keys.insert(key);
        }
        Ok(())
    }
}

/// No type has more fields; a test counts.
const MAX_FIELDS: usize = 128;

struct Key<'w> {
    walk: &'w mut Walk,
    ty: &'static Type,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<usize>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }
    fn visit_str<E: de::Error>(self, key: &str) -> Result<Self::Value, E> {
        let index = self.ty.field_index(key);
        if index.is_none() {
            self.walk.issue(Issue::UnknownField, key);
        }
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_body(definition: &str, json: &str, issues: &[&str], type_error: Option<&str>) {
        let report = inspect(crate::lookup(definition).unwrap(), json.as_bytes());
        let found: Vec<String> = report.issues.iter().map(Issue::to_string).collect();
        assert_eq!(found, issues, "{json}");
        assert_eq!(report.type_error.as_deref(), type_error, "{json}");
    }

    #[test]
    fn issues_read_as_kubectl_shows_them() {
        const DEPLOYMENT: &str = "io.k8s.api.apps.v1.Deployment";
        for (json, issues, type_error) in [
            (r#"{"apiVersion":"apps/v1","kind":"Deployment","spec":{"replicas":1}}"#, &[][..], None),
            (
                r#"{"spec":{"foo":1,"replicas":1,"replicas":2}}"#,
                &[r#"unknown field "spec.foo""#, r#"duplicate field "spec.replicas""#],
                None,
            ),
            (
                r#"{"spec":{"template":{"spec":{"containers":[{"name":"a"},{"nam":"b"}]}}}}"#,
                &[r#"unknown field "spec.template.spec.containers[1].nam""#],
                None,
            ),
            (
                r#"{"metadata":{"labels":{"a":"1","a":"2"}},"Kind":"x"}"#,
                &[r#"duplicate field "metadata.labels.a""#, r#"unknown field "Kind""#],
                None,
            ),
            (
                r#"{"spec":{"replicas":"3"}}"#,
                &[],
                Some(
                    "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
                ),
            ),
            (
                r#"{"spec":{"replicas":3.5}}"#,
                &[],
                Some(
                    "json: cannot unmarshal number 3.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
                ),
            ),
            (
                r#"{"spec":{"template":{"spec":{"containers":{"name":"a"}}}}}"#,
                &[],
                Some(
                    "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
                ),
            ),
            (
                r#"{"spec":{"template":{"spec":{"restartPolicy":1}}}}"#,
                &[],
                Some(
                    "json: cannot unmarshal number into Go struct field PodSpec.spec.template.spec.restartPolicy of type v1.RestartPolicy",
                ),
            ),
            (
                r#"{"metadata":{"labels":{"a":1}}}"#,
                &[],
                Some(
                    "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
                ),
            ),
            (r#"[]"#, &[], Some("json: cannot unmarshal array into Go value of type v1.Deployment")),
        ] {
            check_body(DEPLOYMENT, json, issues, type_error);
        }
    }

    #[test]
    fn untyped_bodies_are_checked_for_duplicates() {
        let found = duplicates(br#"{"spec":{"a":1,"a":2,"l":[{"x":null,"x":"y"}]}}"#);
        let found: Vec<String> = found.iter().map(Issue::to_string).collect();
        assert_eq!(found, [r#"duplicate field "spec.a""#, r#"duplicate field "spec.l[0].x""#]);
    }

    #[test]
    fn what_decodes_itself_is_not_looked_into() {
        check_body("io.k8s.api.apps.v1.ControllerRevision", r#"{"data":{"a":1,"a":2}}"#, &[], None);
    }

    #[test]
    fn the_bit_set_has_room_for_every_type() {
        assert!(crate::all().iter().all(|ty| ty.fields.len() <= MAX_FIELDS));
    }

    #[test]
    fn issues_are_bounded() {
        let fields: Vec<String> = (0..500).map(|i| format!("\"x{i}\":1")).collect();
        let json = format!("{{{}}}", fields.join(","));
        assert_eq!(
            check(crate::lookup("io.k8s.api.core.v1.Pod").unwrap(), json.as_bytes()).len(),
            MAX_ISSUES
        );
    }
}
