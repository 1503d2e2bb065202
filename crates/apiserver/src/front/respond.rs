//! Answers that the front makes itself.

use crate::request::{Body, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full};
use meta::ApiError;
use serde::Serialize;

pub const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

pub fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// `content_type` must be a valid header value.
pub fn bytes(code: StatusCode, content_type: &'static str, content: impl Into<Bytes>) -> Response {
    let mut response = Response::new(body(content));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub fn json(code: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(content) => bytes(code, JSON, content),
        Err(e) => error(&ApiError::internal(e)),
    }
}

pub fn text(code: StatusCode, content: impl Into<Bytes>) -> Response {
    let mut response = bytes(code, TEXT, content);
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A refusal as its `Status`, with `Retry-After` where it says when to come back.
pub fn error(e: &ApiError) -> Response {
    let code = StatusCode::from_u16(e.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut content = meta::status_json(&e.status());
    content.push(b'\n');
    let mut response = bytes(code, JSON, content);
    if let Some(seconds) = e.details.as_ref().and_then(|d| d.retry_after_seconds) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if matches!(e.code(), 401 | 403) {
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    response
}
