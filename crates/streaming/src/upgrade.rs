//! Upgrading a connection to a backend, and joining two upgraded connections.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// How long connecting to a backend and its answer to the upgrade may take.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest body that is read of a backend that refuses.
const MAX_REFUSAL_BYTES: usize = 64 << 10;
/// The upgrade token of SPDY, upstream's `HeaderSpdy31`.
pub const SPDY_3_1: &str = "SPDY/3.1";
/// The header by which SPDY clients offer protocols and servers choose one.
pub const STREAM_PROTOCOL_VERSION: &str = "x-stream-protocol-version";

/// A connection after its 101 answer.
#[derive(Debug)]
pub struct Upgraded {
    /// What was `Upgrade`d.
    pub io: TokioIo<hyper::upgrade::Upgraded>,
    /// The headers of the answer.
    pub headers: HeaderMap,
}

/// Why a backend's connection is not upgraded.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    #[error("invalid backend address {0}")]
    Address(String),
    #[error("error dialing backend: {0}")]
    Connect(#[source] io::Error),
    #[error("error dialing backend: no answer within {}s", UPGRADE_TIMEOUT.as_secs())]
    Timeout,
    #[error("error sending request to backend: {0}")]
    Http(#[from] hyper::Error),
    /// The backend answered something else than 101; its answer is the client's.
    #[error("unable to upgrade connection: {}", String::from_utf8_lossy(.body).trim())]
    Refused { status: StatusCode, headers: Box<HeaderMap>, body: Bytes },
}

/// Asks a backend to upgrade. `headers` holds at least `Upgrade`; with `tls`, the connection is
/// TLS whatever the scheme says, and without it plain.
///
/// # Errors
/// See [`UpgradeError`].
pub async fn upgrade_client(
    method: Method,
    uri: &Uri,
    headers: HeaderMap,
    tls: Option<Arc<ClientConfig>>,
) -> Result<Upgraded, UpgradeError> {
    tokio::time::timeout(UPGRADE_TIMEOUT, upgrade(method, uri, headers, tls))
        .await
        .map_err(|_| UpgradeError::Timeout)?
}

async fn upgrade(
    method: Method,
    uri: &Uri,
    headers: HeaderMap,
    tls: Option<Arc<ClientConfig>>,
) -> Result<Upgraded, UpgradeError> {
    let bad = || UpgradeError::Address(uri.to_string());
    let authority = uri.authority().ok_or_else(bad)?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let port = authority.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
    let tcp = TcpStream::connect((host, port)).await.map_err(UpgradeError::Connect)?;
    // interactive: a key pressed is a packet
    tcp.set_nodelay(true).map_err(UpgradeError::Connect)?;
    match tls {
        Some(config) => {
            let name = ServerName::try_from(host.to_owned()).map_err(|_| bad())?;
            let stream = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await;
            request(stream.map_err(UpgradeError::Connect)?, method, uri, authority.as_str(), headers).await
        }
        None => request(tcp, method, uri, authority.as_str(), headers).await,
    }
}

async fn request<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    io: I,
    method: Method,
    uri: &Uri,
    authority: &str,
    headers: HeaderMap,
) -> Result<Upgraded, UpgradeError> {
    let bad = || UpgradeError::Address(uri.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    tokio::spawn(connection.with_upgrades());
    let target = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method;
    *request.uri_mut() = target.parse().map_err(|_| bad())?;
    *request.headers_mut() = headers;
    request.headers_mut().insert(HOST, HeaderValue::from_str(authority).map_err(|_| bad())?);
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let response = sender.send_request(request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let headers = response.headers().clone();
        let io = TokioIo::new(hyper::upgrade::on(response).await?);
        return Ok(Upgraded { io, headers });
    }
    let (parts, body) = response.into_parts();
    let body =
        Limited::new(body, MAX_REFUSAL_BYTES).collect().await.map(|all| all.to_bytes()).unwrap_or_default();
    Err(UpgradeError::Refused { status: parts.status, headers: Box::new(parts.headers), body })
}

/// The headers that ask for SPDY with one of these stream protocols.
pub fn spdy_headers(protocols: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(UPGRADE, HeaderValue::from_static(SPDY_3_1));
    for protocol in protocols {
        if let Ok(value) = HeaderValue::from_str(protocol) {
            headers.append(STREAM_PROTOCOL_VERSION, value);
        }
    }
    headers
}

/// Carries on with the client's connection, in a task of its own, once the answer to the request has upgraded it.
pub(crate) fn on_upgrade<B, F>(
    request: Request<B>,
    carry_on: impl FnOnce(TokioIo<hyper::upgrade::Upgraded>) -> F + Send + 'static,
) where
    F: Future<Output = ()> + Send,
{
    let client = hyper::upgrade::on(request);
    tokio::spawn(async move {
        match client.await {
            Ok(client) => carry_on(TokioIo::new(client)).await,
            Err(error) => tracing::debug!(%error, "the client did not upgrade"),
        }
    });
}

/// Joins two connections until both directions have ended or one breaks.
pub async fn join<A, B>(mut a: A, mut b: B)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    if let Err(error) = tokio::io::copy_bidirectional(&mut a, &mut b).await {
        tracing::debug!(%error, "a streaming connection broke");
    }
}
