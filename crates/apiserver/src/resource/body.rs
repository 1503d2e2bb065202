//! Reading a request's body and decoding it into an object of the kind the path names.

use super::adapt;
use super::admission_hook::Warnings;
use crate::negotiate::Encoding;
use crate::options::FieldValidation;
use crate::request::{Body, MAX_BODY_BYTES};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;
use kinds::{AnyKind, Object};
use meta::{ApiError, GroupVersion, GroupVersionKind, Reason};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::borrow::Cow;

/// # Errors
/// RequestEntityTooLarge, or BadRequest where the client broke off.
pub async fn read(mut body: Body) -> Result<Bytes, ApiError> {
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| ApiError::bad_request(format!("unable to read the body: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let length = first.as_ref().map_or(0, Bytes::len).max(rest.len()) + data.len();
        if length > MAX_BODY_BYTES {
            let message = format!("Request entity too large: limit is {MAX_BODY_BYTES}");
            return Err(ApiError::new(Reason::RequestEntityTooLarge, message));
        }
        match &first {
            None => first = Some(data),
            Some(one) => {
                if rest.is_empty() {
                    rest.extend_from_slice(one);
                }
                rest.extend_from_slice(&data);
            }
        }
    }
    Ok(if rest.is_empty() { first.unwrap_or_default() } else { rest.freeze() })
}

/// A YAML document as JSON bytes.
///
/// # Errors
/// BadRequest.
pub fn yaml_to_json(text: &[u8]) -> Result<Vec<u8>, ApiError> {
    let text =
        std::str::from_utf8(text).map_err(|e| ApiError::bad_request(format!("error decoding YAML: {e}")))?;
    let value: serde_json::Value = serde_saphyr::from_str(text)
        .map_err(|e| ApiError::bad_request(format!("error decoding YAML: {e}")))?;
    serde_json::to_vec(&value).map_err(ApiError::internal)
}

/// A body as JSON, whatever it came in.
///
/// # Errors
/// BadRequest.
pub fn to_json(encoding: Encoding, body: Bytes) -> Result<Bytes, ApiError> {
    Ok(match encoding {
        Encoding::Json => body,
        Encoding::Yaml => yaml_to_json(&body)?.into(),
        Encoding::Protobuf => adapt::proto_body_to_json(&body)?.into(),
    })
}

#[derive(Deserialize, Default)]
struct TypeMeta<'a> {
    #[serde(default, borrow, rename = "apiVersion")]
    api_version: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    kind: Option<Cow<'a, str>>,
}

fn summary(body: &[u8]) -> String {
    const MAX: usize = 30;
    if body.is_empty() {
        return "<empty>".into();
    }
    let cut = &body[..body.len().min(MAX)];
    let text = if body[0] == b'{' {
        String::from_utf8_lossy(cut).into_owned()
    } else {
        cut.iter().map(|b| format!("{b:02x}")).collect()
    };
    if body.len() > MAX { format!("{text} ...") } else { text }
}

/// Checks that a body is of the kind the path names.
fn check_type(gvk: &GroupVersionKind, body: &[u8]) -> Result<(), ApiError> {
    let kind = &gvk.kind;
    let unrecognized = |why: &dyn std::fmt::Display| {
        let text = summary(body);
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): {why} ({text})"
        ))
    };
    let given: TypeMeta<'_> = serde_json::from_slice(body)
        .map_err(|e| unrecognized(&format!("couldn't get version/kind; json parse error: {e}")))?;
    let api_version = given.api_version.as_deref().unwrap_or("");
    let given_kind = given.kind.as_deref().unwrap_or("");
    if !given_kind.is_empty() && given_kind != kind {
        let version = api_version.rsplit('/').next().unwrap_or("");
        let known = schema::for_api_version(api_version, given_kind).is_some();
        if !known {
            return Err(ApiError::bad_request(format!(
                "{given_kind} in version {version:?} cannot be handled as a {kind}: no kind {given_kind:?} is registered for version {api_version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
            )));
        }
    }
    let expected = gvk.group_version();
    if !api_version.is_empty() && GroupVersion::parse(api_version).as_ref() != Some(&expected) {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({expected})"
        )));
    }
    if !given_kind.is_empty() && given_kind != kind {
        let version = &gvk.version;
        return Err(ApiError::bad_request(format!(
            "{given_kind} in version {version:?} cannot be handled as a {kind}: converting ({version}.{given_kind}) to ({version}.{kind}): unknown conversion"
        )));
    }
    Ok(())
}

/// A body as an object of the kind, defaults not filled in.
///
/// # Errors
/// BadRequest in upstream's words; with strict validation also for fields the schema does not know.
pub fn object(
    kind: &dyn AnyKind,
    json: &[u8],
    validation: FieldValidation,
    warnings: &Warnings,
) -> Result<Object, ApiError> {
    let info = kind.info();
    check_type(&info.gvk, json)?;
    let report = adapt::inspect(info, json);
    let object = adapt::decode(kind, json, &report).map_err(|e| {
        let why = adapt::decode_error(info, json, &e);
        ApiError::bad_request(schema::strict::cannot_be_handled(&info.gvk.version, &info.gvk.kind, &why))
    })?;
    check_strict(&report, validation, warnings, |why| {
        ApiError::bad_request(schema::strict::cannot_be_handled(&info.gvk.version, &info.gvk.kind, &why))
    })?;
    Ok(object)
}

/// Reports fields that decoding dropped, as the client asked.
///
/// # Errors
/// What `refuse` makes of the message, with strict validation.
pub fn check_strict(
    report: &schema::strict::Report,
    validation: FieldValidation,
    warnings: &Warnings,
    refuse: impl FnOnce(String) -> ApiError,
) -> Result<(), ApiError> {
    if validation == FieldValidation::Ignore || report.issues.is_empty() {
        return Ok(());
    }
    if validation == FieldValidation::Strict {
        return Err(refuse(schema::strict::message(&report.issues)));
    }
    for issue in &report.issues {
        warnings.add(issue.to_string());
    }
    Ok(())
}

/// A body of a type that is not stored (Binding, Eviction, Scale).
///
/// # Errors
/// BadRequest.
pub fn plain<T: DeserializeOwned>(gvk: &GroupVersionKind, json: &[u8]) -> Result<T, ApiError> {
    check_type(gvk, json)?;
    serde_json::from_slice(json).map_err(|e| {
        ApiError::bad_request(schema::strict::cannot_be_handled(&gvk.version, &gvk.kind, &e.to_string()))
    })
}

/// `DeleteOptions` of a body; older clients name them in the group of the object.
///
/// # Errors
/// BadRequest.
pub fn delete_options(encoding: Encoding, body: Bytes) -> Result<Option<DeleteOptions>, ApiError> {
    if body.is_empty() {
        return Ok(None);
    }
    let json = to_json(encoding, body)?;
    serde_json::from_slice(&json).map(Some).map_err(|e| ApiError::bad_request(e.to_string()))
}
