//! Answers.

use std::convert::Infallible;

use bytes::Bytes;
use cri::Error as CriError;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use serde::Serialize;
use tokio::sync::mpsc;

/// A body: whole, or as it comes.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;
pub(super) type Response = http::Response<Body>;

fn with(status: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut response = http::Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(super) fn text(status: StatusCode, message: &str) -> Response {
    with(status, "text/plain; charset=utf-8", Full::from(message.to_owned()).boxed_unsync())
}

pub(super) fn status_only(status: StatusCode) -> Response {
    let mut response = http::Response::new(Full::default().boxed_unsync());
    *response.status_mut() = status;
    response
}

pub(super) fn typed(content_type: &'static str, body: String) -> Response {
    with(StatusCode::OK, content_type, Full::from(body).boxed_unsync())
}

pub(super) fn html(body: String) -> Response {
    typed("text/html; charset=utf-8", body)
}

pub(super) fn json_reply(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => with(StatusCode::OK, "application/json", Full::from(bytes).boxed_unsync()),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// The runtime's refusal: upstream passes on "not found" and calls all else its own failure.
pub(super) fn error(error: &CriError) -> Response {
    let status = if error.is_not_found() { StatusCode::NOT_FOUND } else { StatusCode::INTERNAL_SERVER_ERROR };
    text(status, &error.to_string())
}

/// A body that goes on until its sender is dropped.
pub(super) fn channel(content_type: &'static str, receiver: mpsc::Receiver<Bytes>) -> Response {
    let frames = futures::stream::unfold(receiver, |mut receiver| async move {
        let bytes = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), receiver))
    });
    with(StatusCode::OK, content_type, StreamBody::new(frames).boxed_unsync())
}
