//! Serving an exec, attach or port-forward request from a backend that speaks SPDY.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use rustls::ClientConfig;

use crate::translate::{self, ExecOptions, STREAM_PROTOCOLS};
use crate::tunnel;
use crate::upgrade::{self, STREAM_PROTOCOL_VERSION, UpgradeError, spdy_headers, upgrade_client};
use crate::websocket::{self, Protocol, TUNNEL_PREFIX};

/// Where the command or the port is.
#[derive(Debug, Clone)]
pub struct Backend {
    pub uri: Uri,
    /// Added to the request: who asks, for a backend that wants to know.
    pub headers: HeaderMap,
    /// TLS, if the backend speaks it.
    pub tls: Option<Arc<ClientConfig>>,
}

impl Backend {
    /// A plain backend, as a container runtime's stream server on the loopback.
    pub fn plain(uri: Uri) -> Self {
        Self { uri, headers: HeaderMap::new(), tls: None }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Exec or attach, with these streams.
    Command(ExecOptions),
    PortForward,
}

/// Headers of the client that concern the upgrade and so the backend.
const REQUEST_HEADERS: [&str; 7] = [
    "upgrade",
    STREAM_PROTOCOL_VERSION,
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
    "user-agent",
];
/// Headers of the backend's 101 that concern the client.
const RESPONSE_HEADERS: [HeaderName; 3] = [UPGRADE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL];

/// Answers an upgrade request and, once answered, carries the streams in a task of its own: commands
/// of WebSocket clients are translated, port-forwards of WebSocket clients are tunnelled if they ask
/// for it, and all else goes through as it is.
pub async fn serve<B>(request: Request<B>, backend: Backend, target: Target) -> Response<Full<Bytes>> {
    if !websocket::asks_to_upgrade(request.headers()) {
        // upstream's words
        return text(StatusCode::BAD_REQUEST, "Upgrade request required");
    }
    if !websocket::is_request(request.headers()) {
        return raw(request, backend).await;
    }
    match target {
        Target::Command(options) => command(request, backend, options),
        Target::PortForward if !websocket::tunnelled_protocols(request.headers()).is_empty() => {
            port_forward(request, backend).await
        }
        Target::PortForward => raw(request, backend).await,
    }
}

/// Both ends speak the same: bytes are carried.
async fn raw<B>(request: Request<B>, backend: Backend) -> Response<Full<Bytes>> {
    let mut headers = backend.headers;
    for name in REQUEST_HEADERS {
        for value in request.headers().get_all(name) {
            headers.append(HeaderName::from_static(name), value.clone());
        }
    }
    let upgraded = match upgrade_client(request.method().clone(), &backend.uri, headers, backend.tls).await {
        Ok(upgraded) => upgraded,
        Err(error) => return refusal(error),
    };
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    for name in RESPONSE_HEADERS.into_iter().chain([HeaderName::from_static(STREAM_PROTOCOL_VERSION)]) {
        if let Some(value) = upgraded.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    upgrade::on_upgrade(request, |client| upgrade::join(client, upgraded.io));
    response
}

/// A WebSocket client and a SPDY backend.
fn command<B>(request: Request<B>, backend: Backend, options: ExecOptions) -> Response<Full<Bytes>> {
    let Some(protocol) = Protocol::choose(request.headers()) else {
        return text(StatusCode::FORBIDDEN, "");
    };
    let response = match websocket::accept(request.headers(), protocol.name()) {
        Ok(response) => response.map(|()| Full::default()),
        Err((status, message)) => return text(status, message),
    };
    upgrade::on_upgrade(request, move |client| async move {
        let mut headers = spdy_headers(&STREAM_PROTOCOLS);
        headers.extend(backend.headers);
        let connect = upgrade_client(Method::POST, &backend.uri, headers, backend.tls);
        translate::exec(client, protocol, options, connect).await;
    });
    response
}

/// A WebSocket client that tunnels SPDY.
async fn port_forward<B>(request: Request<B>, backend: Backend) -> Response<Full<Bytes>> {
    let offered = websocket::tunnelled_protocols(request.headers());
    let offered: Vec<&str> = offered.iter().map(String::as_str).collect();
    let mut headers = spdy_headers(&offered);
    headers.extend(backend.headers);
    let upgraded = match upgrade_client(Method::POST, &backend.uri, headers, backend.tls).await {
        Ok(upgraded) => upgraded,
        Err(error) => return refusal(error),
    };
    let chosen = upgraded.headers.get(STREAM_PROTOCOL_VERSION).and_then(|value| value.to_str().ok());
    let protocol = chosen.map(|name| format!("{TUNNEL_PREFIX}{name}")).unwrap_or_default();
    let response = match websocket::accept(request.headers(), &protocol) {
        Ok(response) => response.map(|()| Full::default()),
        Err((status, message)) => return text(status, message),
    };
    upgrade::on_upgrade(request, |client| tunnel::join(client, upgraded.io));
    response
}

/// A backend's own answer, or ours where it did not answer.
fn refusal(error: UpgradeError) -> Response<Full<Bytes>> {
    match error {
        UpgradeError::Refused { status, headers, body } => {
            let mut response = Response::new(Full::new(body));
            *response.status_mut() = status;
            if let Some(value) = headers.get(CONTENT_TYPE) {
                response.headers_mut().insert(CONTENT_TYPE, value.clone());
            }
            response
        }
        error => text(StatusCode::BAD_GATEWAY, &error.to_string()),
    }
}

pub(crate) fn text(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(message.to_owned())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
