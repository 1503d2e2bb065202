//! PATCH in its four forms, and who manages which field.

use super::update::UpdateRules;
use super::{Call, body, rules};
use crate::cache::Entry;
use crate::negotiate::unsupported_media_type;
use crate::options::WriteOptions;
use crate::request::{Body, Response};
use ::patch::FieldSet;
use bytes::Bytes;
use http::{HeaderMap, header};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, Time as MetaTime};
use kinds::Object;
use meta::{ApiError, FieldError, GroupVersionKind, Path};
use serde_json::Value;
use std::sync::LazyLock;

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// What a write through the main resource resets, for kinds with a `/status`.
static STATUS: LazyLock<FieldSet<'static>> = LazyLock::new(|| FieldSet::of_fields(&[&["status"]]));
/// What a write of `/status` resets.
static SPEC: LazyLock<FieldSet<'static>> = LazyLock::new(|| FieldSet::of_fields(&[&["spec"]]));

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl PatchType {
    /// # Errors
    /// UnsupportedMediaType.
    pub fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let text = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        match text.split(';').next().unwrap_or("").trim() {
            JSON_PATCH => Ok(Self::Json),
            MERGE_PATCH => Ok(Self::Merge),
            STRATEGIC_PATCH => Ok(Self::Strategic),
            APPLY_PATCH => Ok(Self::Apply),
            _ => Err(unsupported_media_type(&[JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH])),
        }
    }
}

/// Why a patch is no object, in the words of Go's decoder.
fn an_object(patch: &Value) -> Result<(), String> {
    let found = match patch {
        // null decodes into an empty map
        Value::Object(_) | Value::Null => return Ok(()),
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
    };
    Err(format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"))
}

/// The patched tree.
fn patched(kind: PatchType, definition: &str, mut doc: Value, patch: &[u8]) -> Result<Value, ApiError> {
    match kind {
        PatchType::Json => patch::json_patch(&mut doc, patch)?,
        PatchType::Merge => {
            let patch = serde_json::from_slice(patch)
                .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
            an_object(&patch).map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
            patch::merge_patch(&mut doc, &patch);
        }
        PatchType::Strategic | PatchType::Apply => {
            let patch: Value =
                serde_json::from_slice(patch).map_err(|e| ApiError::bad_request(e.to_string()))?;
            an_object(&patch).map_err(ApiError::bad_request)?;
            let ty = schema::lookup(definition)
                .ok_or_else(|| ApiError::internal(format!("{definition} has no schema")))?;
            doc = patch::strategic_merge(&doc, &patch, ty)?;
        }
    }
    Ok(doc)
}

/// The typed form of `managedFields`; the field sets are moved, not read again.
fn managed_entries(entries: Value) -> Vec<ManagedFieldsEntry> {
    let Value::Array(entries) = entries else { return Vec::new() };
    let typed = |entry: Value| {
        let Value::Object(mut entry) = entry else { return ManagedFieldsEntry::default() };
        let mut text = |name: &str| match entry.remove(name) {
            Some(Value::String(s)) => Some(s),
            _ => None,
        };
        ManagedFieldsEntry {
            api_version: text("apiVersion"),
            fields_type: text("fieldsType"),
            manager: text("manager"),
            operation: text("operation"),
            subresource: text("subresource"),
            time: text("time").and_then(|t| t.parse().ok()).map(MetaTime),
            fields_v1: entry.remove("fieldsV1").map(FieldsV1),
        }
    };
    entries.into_iter().map(typed).collect()
}

/// A patch of a type that is not stored (Scale).
///
/// # Errors
/// As of the patch.
pub(super) fn patch_plain(
    kind: PatchType,
    definition: &str,
    doc: Value,
    patch: &Bytes,
) -> Result<Value, ApiError> {
    if kind == PatchType::Apply {
        let json = body::yaml_to_json(patch)?;
        return patched(PatchType::Merge, definition, doc, &json);
    }
    patched(kind, definition, doc, patch)
}

/// What an Invalid refusal shows of a patch: a strategic one as Go prints the map it was decoded into, else the
/// object that the patch leads to.
fn shown(kind: PatchType, patch: &[u8], result: &[u8]) -> String {
    match serde_json::from_slice(patch) {
        Ok(patch) if kind == PatchType::Strategic => {
            let mut text = String::new();
            print_go(&patch, &mut text);
            text
        }
        _ => String::from_utf8_lossy(result).into_owned(),
    }
}

/// A value in Go's `%v`: `map[data:map[k:v] list:[1 2]]`, keys sorted.
fn print_go(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::String(text) => out.push_str(text),
        Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                print_go(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            out.push_str("map[");
            for (index, key) in keys.into_iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                out.push_str(key);
                out.push(':');
                print_go(&map[key], out);
            }
            out.push(']');
        }
    }
}

/// The refusal of a patch whose result does not decode.
fn invalid_patch(value: String, why: impl Into<String>) -> ApiError {
    let error = FieldError::invalid(&Path::new("patch"), value, why);
    ApiError::invalid(&GroupVersionKind::of("", "", ""), "", &[error])
}

impl Call<'_> {
    pub(super) async fn patch(&self, body: Body) -> Result<Response, ApiError> {
        let kind = PatchType::of(&self.parts.headers)?;
        let options = WriteOptions::parse(self.query, "PatchOptions", kind == PatchType::Apply)?;
        let bytes = body::read(body).await?;
        let how = UpdateRules { force_create: kind == PatchType::Apply, ..UpdateRules::of(&options) };
        let changed = if kind == PatchType::Apply {
            let applied = Self::applied(&bytes)?;
            let mut make = |_: Option<&Object>, entry: Option<&Entry>| self.apply(entry, &applied, &options);
            self.change(&mut make, &how).await?
        } else {
            let mut make = |old: Option<&Object>, entry: Option<&Entry>| match (old, entry) {
                (Some(old), Some(entry)) => self.patch_existing(kind, old, entry, &bytes, &options),
                _ => Err(self.not_found()),
            };
            self.change(&mut make, &how).await?
        };
        self.respond(if changed.created { 201 } else { 200 }, &changed.entry)
    }

    fn patch_existing(
        &self,
        kind: PatchType,
        old: &Object,
        entry: &Entry,
        patch: &[u8],
        options: &WriteOptions,
    ) -> Result<Object, ApiError> {
        let doc: Value = serde_json::from_slice(&self.target.json(entry)).map_err(ApiError::internal)?;
        let doc = patched(kind, self.target.info.definition, doc, patch)?;
        let json = serde_json::to_vec(&doc).map_err(ApiError::internal)?;
        let target = self.target.kind;
        let report = super::adapt::inspect(target.info(), &json);
        let mut new = super::adapt::decode(target, &json, &report).map_err(|e| {
            let why = super::adapt::decode_error(target.info(), &json, &e);
            invalid_patch(shown(kind, patch, &json), why)
        })?;
        body::check_strict(&report, options.field_validation, &self.warnings, |why| {
            invalid_patch(shown(kind, patch, &json), why)
        })?;
        target.default(&mut new);
        self.check_patched(&mut new)?;
        self.manage_fields(Some(old), &mut new, options.manager(&self.context.agent));
        Ok(new)
    }

    fn check_patched(&self, object: &mut Object) -> Result<(), ApiError> {
        rules::ensure_namespace(object.meta_mut(), self.target.info.scope, self.namespace)?;
        self.check_name(object)
    }
}

impl Call<'_> {
    fn field_write<'b>(&'b self, manager: &'b str, api_version: &'b str) -> patch::managed::Write<'b> {
        let has_status =
            self.target.info.subresources.iter().any(|s| s.form == kinds::SubresourceForm::Status);
        patch::managed::Write {
            manager,
            api_version,
            subresource: self.subresource,
            now: self.now,
            reset_fields: match self.subresource {
                "status" => Some(&SPEC),
                "" if has_status => Some(&STATUS),
                _ => None,
            },
        }
    }

    fn shape(&self) -> patch::Shape<'static> {
        schema::lookup(self.target.info.definition).map_or(patch::Shape::Deduced, patch::Shape::from)
    }

    /// Brings `metadata.managedFields` up to date after a create, update or patch.
    pub(super) fn manage_fields(&self, old: Option<&Object>, new: &mut Object, manager: &str) {
        let api_version = self.target.info.gvk.api_version();
        let mut tree = new.to_value();
        let before = old.map(|o| o.to_value());
        patch::managed::update(
            before.as_ref(),
            &mut tree,
            self.shape(),
            &self.field_write(manager, &api_version),
        );
        let entries = tree.pointer_mut("/metadata/managedFields").map(Value::take);
        new.meta_mut().managed_fields = entries.map(managed_entries).filter(|e| !e.is_empty());
    }

    /// The configuration of an apply.
    fn applied(yaml: &[u8]) -> Result<Value, ApiError> {
        let json = body::yaml_to_json(yaml)?;
        serde_json::from_slice(&json).map_err(|e| ApiError::bad_request(format!("error decoding YAML: {e}")))
    }

    fn apply(
        &self,
        entry: Option<&Entry>,
        config: &Value,
        options: &WriteOptions,
    ) -> Result<Object, ApiError> {
        let live = entry.map(|e| serde_json::from_slice::<Value>(&self.target.json(e))).transpose();
        let live = live.map_err(ApiError::internal)?;
        let api_version = self.target.info.gvk.api_version();
        let request = patch::apply::Apply {
            write: self.field_write(&options.field_manager, &api_version),
            kind: &self.target.info.gvk.kind,
            force: options.force.unwrap_or(false),
        };
        let applied = patch::apply::apply(live.as_ref(), config, self.shape(), &request)?;
        let json = serde_json::to_vec(&applied.object).map_err(ApiError::internal)?;
        let target = self.target.kind;
        let report = super::adapt::inspect(target.info(), &json);
        let mut new = super::adapt::decode(target, &json, &report)
            .map_err(|e| ApiError::bad_request(super::adapt::decode_error(target.info(), &json, &e)))?;
        target.default(&mut new);
        self.check_patched(&mut new)?;
        Ok(new)
    }
}
