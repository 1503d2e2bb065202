//! What probes and hooks are aimed at: a program that speaks HTTP, HTTPS and the gRPC health protocol, and remembers
//! who asked for what.

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub const HTTP_PORT: u16 = 8080;
pub const HTTPS_PORT: u16 = 8443;
/// HTTP/2 without TLS, for gRPC.
pub const GRPC_PORT: u16 = 9090;
/// While this file is there, `/flip` and the service `flip` are not well.
pub const DOWN: &str = "/tmp/down";

type Body = UnsyncBoxBody<Bytes, Infallible>;
type Seen = Arc<Mutex<Vec<String>>>;

/// Serves until the process ends.
///
/// # Panics
/// If a port is taken.
pub fn serve() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let seen = Seen::default();
        let tls = TlsAcceptor::from(Arc::new(tls_config()));
        tokio::join!(
            listen(HTTP_PORT, "http", None, seen.clone()),
            listen(HTTPS_PORT, "https", Some(tls), seen.clone()),
            listen(GRPC_PORT, "grpc", None, seen),
        );
    });
}

/// A certificate that nobody knows.
fn tls_config() -> rustls::ServerConfig {
    let own = rcgen::generate_simple_self_signed(vec!["target".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider's versions")
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .expect("the certificate's key")
}

async fn listen(port: u16, scheme: &'static str, tls: Option<TlsAcceptor>, seen: Seen) {
    let listener = TcpListener::bind(("::", port)).await.expect("a free port");
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, seen) = (tls.clone(), seen.clone());
        tokio::spawn(async move {
            match tls {
                None => connection(stream, scheme, seen).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        connection(stream, scheme, seen).await;
                    }
                }
            }
        });
    }
}

async fn connection<S>(stream: S, scheme: &'static str, seen: Seen)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| answer(request, scheme, seen.clone()));
    // a client that goes away is no concern of ours
    drop(Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
}

async fn answer(request: Request<Incoming>, scheme: &str, seen: Seen) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    if path == "/grpc.health.v1.Health/Check" {
        return Ok(health(request).await);
    }
    let header =
        |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("-").to_owned();
    let line = format!(
        "{scheme} {} host={} agent={} accept={} x={}",
        request.uri(),
        header("host"),
        header("user-agent"),
        header("accept"),
        header("x-test")
    );
    let plain = |status: u16, text: String| {
        let body = Full::new(Bytes::from(text)).boxed_unsync();
        Response::builder().status(status).body(body).expect("a status and a body")
    };
    let location = |to: &str| {
        let mut answer = plain(302, "elsewhere".to_owned());
        answer.headers_mut().insert("location", HeaderValue::from_str(to).expect("a location"));
        answer
    };
    if path == "/seen" {
        return Ok(plain(200, seen.lock().expect("no panic").join("\n") + "\n"));
    }
    seen.lock().expect("no panic").push(line);
    Ok(match path.as_str() {
        "/fail" => plain(500, "broken".to_owned()),
        "/flip" if Path::new(DOWN).exists() => plain(503, "down".to_owned()),
        "/here" => location("/landed"),
        "/away" => location("http://198.51.100.1/"),
        "/slow" => std::future::pending().await,
        _ => plain(200, "well\n".to_owned()),
    })
}

/// The gRPC health protocol: a message of one string asks, one of an enum answers.
async fn health(request: Request<Incoming>) -> Response<Body> {
    let body = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    // five bytes of framing; then field 1, a string, if it is not empty
    let service = body.get(7..).map(|b| String::from_utf8_lossy(b).into_owned()).unwrap_or_default();
    let status = match service.as_str() {
        "" | "well" => 1,
        "flip" if !Path::new(DOWN).exists() => 1,
        "down" | "flip" => 2,
        _ => 0,
    };
    let mut trailers = HeaderMap::new();
    let mut frames = Vec::new();
    if status == 0 {
        trailers.insert("grpc-status", HeaderValue::from_static("5"));
        trailers.insert("grpc-message", HeaderValue::from_static("unknown service"));
    } else {
        frames.push(Ok(Frame::data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]))));
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
    }
    frames.push(Ok(Frame::trailers(trailers)));
    let body = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
    let answer = Response::builder().header("content-type", "application/grpc").body(body);
    answer.expect("a status and a body")
}
