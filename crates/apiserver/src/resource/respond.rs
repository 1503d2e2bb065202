//! Answers: an object or a `Status` in the form the client accepts.

use crate::cache::Entry;
use crate::negotiate::{Accepted, Encoding, JSON, Shape};
use crate::request::{Body, BoxError, Response};
use crate::resource::adapt;
use crate::table::{IncludeObject, columns, put_partial, put_row};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Full};
use kinds::Info;
use meta::{ApiError, GroupVersionKind, Status, Time};
use serde::Serialize;
use std::fmt::Write;

/// Bodies at least this long are compressed where the client accepts it (upstream's threshold).
pub const GZIP_MIN_BYTES: usize = 128 * 1024;
/// Bytes of all warning headers of an answer.
const WARNINGS_MAX_BYTES: usize = 4 * 1024;

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|e| -> BoxError { match e {} }).boxed_unsync()
}

pub fn response(code: u16, content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Encodes JSON as the client wants it.
///
/// # Errors
/// NotAcceptable, where the object has no protobuf form.
pub fn encode(accepted: &Accepted, json: Bytes) -> Result<Bytes, ApiError> {
    Ok(match accepted.encoding {
        Encoding::Json if accepted.pretty => pretty(&json),
        Encoding::Json => json,
        Encoding::Yaml => {
            let value: serde_json::Value = serde_json::from_slice(&json).map_err(ApiError::internal)?;
            serde_saphyr::to_string(&value).map_err(ApiError::internal)?.into()
        }
        Encoding::Protobuf => adapt::envelope(&json)?.into(),
    })
}

/// Compact JSON with line breaks and two spaces a level; the order of fields stays.
fn pretty(json: &[u8]) -> Bytes {
    let mut out: Vec<u8> = Vec::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    fn line(out: &mut Vec<u8>, depth: usize) {
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
    }
    for (i, b) in json.iter().copied().enumerate() {
        if in_string {
            out.push(b);
            in_string = escaped || b != b'"';
            escaped = !escaped && b == b'\\';
            continue;
        }
        let closes = |next: Option<&u8>| matches!(next, Some(b'}' | b']'));
        match b {
            b'{' | b'[' => {
                out.push(b);
                if !closes(json.get(i + 1)) {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            b'}' | b']' => {
                if !matches!(i.checked_sub(1).and_then(|p| json.get(p)), Some(b'{' | b'[')) {
                    depth = depth.saturating_sub(1);
                    line(&mut out, depth);
                }
                out.push(b);
            }
            b',' => {
                out.push(b);
                line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            b'\n' => {}
            _ => {
                in_string = b == b'"';
                out.push(b);
            }
        }
    }
    out.push(b'\n');
    out.into()
}

/// JSON of any API object that is not in the cache (a Scale, a Status).
///
/// # Errors
/// NotAcceptable.
pub fn any(accepted: &Accepted, code: u16, object: &impl Serialize) -> Result<Response, ApiError> {
    let json: Bytes = serde_json::to_vec(object).map_err(ApiError::internal)?.into();
    Ok(response(code, accepted.encoding.media_type(), full(encode(accepted, json)?)))
}

/// A refusal. Always JSON unless the client asked for protobuf or YAML.
pub fn failure(accepted: &Accepted, error: &ApiError) -> Response {
    status(accepted, &error.status(), error.code())
}

pub fn status(accepted: &Accepted, status: &Status, code: u16) -> Response {
    let mut json = meta::status_json(status);
    json.push(b'\n');
    let json = Bytes::from(json);
    let (body, content_type) = match encode(accepted, json.clone()) {
        Ok(body) => (body, accepted.encoding.media_type()),
        Err(_) => (json, JSON),
    };
    let mut response = response(code, content_type, full(body));
    if let Some(seconds) = status.details.as_ref().and_then(|d| d.retry_after_seconds)
        && let Ok(value) = HeaderValue::from_str(&seconds.to_string())
    {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

/// What a subresource answers that makes no object of its own.
pub fn created(accepted: &Accepted) -> Response {
    status(accepted, &Status { status: Some("Success".into()), code: Some(201), ..Status::default() }, 201)
}

/// What a single object is turned into.
pub struct Form<'a> {
    pub accepted: &'a Accepted,
    pub include: IncludeObject,
    pub info: &'a Info,
    pub now: Time,
}

impl Form<'_> {
    /// One stored object.
    ///
    /// # Errors
    /// NotAcceptable.
    pub fn object(&self, code: u16, entry: &Entry, json: Bytes) -> Result<Response, ApiError> {
        let content_type = self.accepted.encoding.media_type();
        let body = match self.accepted.shape {
            Shape::Whole
                if self.accepted.encoding == Encoding::Protobuf && json.as_ptr() == entry.json().as_ptr() =>
            {
                let message = entry.proto().ok_or_else(|| ApiError::internal("no protobuf form"))?;
                schema::proto::wrap(&self.info.gvk.api_version(), &self.info.gvk.kind, message).into()
            }
            Shape::Whole => encode(self.accepted, json)?,
            Shape::Table => {
                let table =
                    self.table(std::iter::once(entry), &list_meta(entry.revision.0, None, None), true);
                encode(self.accepted, table.into())?
            }
            Shape::Partial => {
                let mut out = String::new();
                put_partial(entry, self.accepted.shape_version, &mut out);
                encode(self.accepted, out.into())?
            }
        };
        Ok(response(code, content_type, full(body)))
    }

    /// A table as JSON. `head`: with the column definitions.
    pub fn table<'e>(&self, entries: impl Iterator<Item = &'e Entry>, list_meta: &str, head: bool) -> String {
        let mut out = String::with_capacity(4096);
        let version = self.accepted.shape_version;
        let _ =
            write!(out, r#"{{"kind":"Table","apiVersion":"meta.k8s.io/{version}","metadata":{list_meta}"#);
        out.push_str(r#","columnDefinitions":"#);
        if head {
            let _ = write!(out, "{}", columns(self.info));
        } else {
            out.push_str("null");
        }
        out.push_str(r#","rows":["#);
        for (i, entry) in entries.enumerate() {
            if i > 0 {
                out.push(',');
            }
            put_row(entry, self.info, self.include, version, self.now, &mut out);
        }
        out.push_str("]}");
        out
    }
}

/// `ListMeta` as JSON.
pub fn list_meta(revision: u64, continue_token: Option<&str>, remaining: Option<usize>) -> String {
    let mut out = format!(r#"{{"resourceVersion":"{revision}""#);
    if let Some(token) = continue_token {
        let _ = write!(out, r#","continue":"{token}""#);
    }
    if let Some(remaining) = remaining {
        let _ = write!(out, r#","remainingItemCount":{remaining}"#);
    }
    out.push('}');
    out
}

/// Kinds that are served but given up: since which minor release of v1, and for what, if anything.
static DEPRECATED: [(GroupVersionKind, u32, Option<GroupVersionKind>); 2] = [
    (GroupVersionKind::of("", "v1", "ComponentStatus"), 19, None),
    (
        GroupVersionKind::of("", "v1", "Endpoints"),
        33,
        Some(GroupVersionKind::of("discovery.k8s.io", "v1", "EndpointSlice")),
    ),
];

/// What every answer about a deprecated kind warns of.
pub fn deprecation(gvk: &GroupVersionKind) -> Option<String> {
    let (_, minor, instead) = DEPRECATED.iter().find(|(kind, ..)| kind == gvk)?;
    let instead =
        instead.as_ref().map(|i| format!("; use {} {}", i.api_version(), i.kind)).unwrap_or_default();
    Some(format!("{} {} is deprecated in v1.{minor}+{instead}", gvk.api_version(), gvk.kind))
}

/// Adds `Warning` headers (RFC 7234, code 299), up to upstream's bound.
pub fn add_warnings(response: &mut Response, warnings: Vec<String>) {
    let mut bytes = 0;
    for warning in warnings {
        let mut text = String::with_capacity(warning.len() + 10);
        text.push_str("299 - \"");
        for c in warning.chars() {
            match c {
                '"' | '\\' => text.extend(['\\', c]),
                c if c.is_control() => {}
                c => text.push(c),
            }
        }
        text.push('"');
        bytes += text.len();
        if bytes > WARNINGS_MAX_BYTES {
            return;
        }
        if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pretty_json_keeps_the_order_and_what_is_in_strings() {
        let got = pretty(br#"{"b":[1,{"x":"a,{\\\""}],"a":{},"c":[]}"#);
        let expect = "{\n  \"b\": [\n    1,\n    {\n      \"x\": \"a,{\\\\\\\"\"\n    }\n  ],\n  \"a\": {},\n  \"c\": []\n}\n";
        assert_eq!(got, expect);
    }
}
