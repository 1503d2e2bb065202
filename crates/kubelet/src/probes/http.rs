//! HTTP GET for probes and hooks: whatever certificate the container shows is taken, redirects are
//! followed as long as they stay with the host.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};

use super::check::{dial, join};

/// Bytes of a response that are looked at.
const MAX_BODY_BYTES: usize = 10 << 10;
const MAX_REDIRECTS: usize = 10;
/// Who asks, as servers see it.
pub const PROBE_AGENT: &str = "kube-probe/1.36";
pub const HOOK_AGENT: &str = "kube-lifecycle/1.36";
/// The error of a server that does not speak TLS, in Go's words.
pub const NO_TLS: &str = "http: server gave HTTP response to HTTPS client";

/// A request that a probe or a hook makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpGet {
    pub tls: bool,
    pub host: String,
    pub port: u16,
    /// Path and query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub agent: &'static str,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpResult {
    Status {
        code: u16,
        body: String,
    },
    /// There was no answer; the text is in Go's words.
    Failed(String),
}

/// A port by number or by the name the container gives it.
///
/// # Errors
/// A name that the container does not have, or a number out of range; in upstream's words.
pub fn resolve_port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            match container.ports.iter().flatten().find(|p| p.name.as_ref() == Some(name)) {
                Some(port) => port.container_port,
                None => name.parse().map_err(|_| format!("port {name:?} not found"))?,
            }
        }
    };
    u16::try_from(number).ok().filter(|p| *p > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

impl HttpGet {
    /// The request of an action of a container of a pod with this address.
    ///
    /// # Errors
    /// See [`resolve_port`].
    pub fn from_action(
        action: &HTTPGetAction,
        container: &Container,
        pod_ip: &str,
        agent: &'static str,
    ) -> Result<Self, String> {
        let port = resolve_port(&action.port, container)?;
        let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod_ip).to_owned();
        let path = action.path.clone().unwrap_or_default();
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        let headers =
            action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
        Ok(Self { tls: action.scheme.as_deref() == Some("HTTPS"), host, port, path, headers, agent })
    }

    /// Host and port.
    pub fn authority(&self) -> String {
        join(&self.host, self.port)
    }

    fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", join(&self.host, self.port), self.path)
    }
}

/// Makes the request, bounded by `timeout` in all.
pub async fn get(request: &HttpGet, timeout: Duration) -> HttpResult {
    let url = request.url();
    let late =
        format!("Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)");
    match tokio::time::timeout(timeout, follow(request.clone(), timeout)).await {
        Ok(Ok((code, body))) => HttpResult::Status { code, body },
        Ok(Err(e)) if e.ends_with("i/o timeout") => HttpResult::Failed(late),
        Ok(Err(e)) => HttpResult::Failed(format!("Get {url:?}: {e}")),
        Err(_) => HttpResult::Failed(late),
    }
}

async fn follow(mut request: HttpGet, timeout: Duration) -> Result<(u16, String), String> {
    for _ in 0..=MAX_REDIRECTS {
        let (code, location, body) = once(&request, timeout).await?;
        let Some(next) = location.filter(|_| (300..400).contains(&code)).and_then(|l| redirect(&request, &l))
        else {
            return Ok((code, body));
        };
        request = next;
    }
    Err(format!("stopped after {MAX_REDIRECTS} redirects"))
}

/// Where a redirect leads, if it stays with the host.
fn redirect(from: &HttpGet, location: &str) -> Option<HttpGet> {
    let uri: Uri = location.parse().ok()?;
    let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    let Some(host) = uri.host() else {
        return Some(HttpGet { path, ..from.clone() });
    };
    let tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    (host == from.host).then(|| HttpGet { tls, port, path, ..from.clone() })
}

async fn once(request: &HttpGet, timeout: Duration) -> Result<(u16, Option<String>, String), String> {
    let stream = dial(&request.host, request.port, timeout).await?;
    if !request.tls {
        return exchange(request, stream).await;
    }
    let name = ServerName::try_from(request.host.clone()).map_err(|e| e.to_string())?;
    let config = trusting_config().map_err(|e| e.to_string())?;
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await;
    let stream = stream.map_err(|e| match e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => NO_TLS.to_owned(),
        _ => e.to_string(),
    })?;
    exchange(request, stream).await
}

async fn exchange<S>(request: &HttpGet, stream: S) -> Result<(u16, Option<String>, String), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let text = |e: hyper::Error| if e.is_incomplete_message() { "EOF".to_owned() } else { e.to_string() };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let driver = tokio::spawn(connection);
    let answer = sender.send_request(build(request)?).await.map_err(text)?;
    let code = answer.status().as_u16();
    let location =
        answer.headers().get(http::header::LOCATION).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let body = Limited::new(answer.into_body(), MAX_BODY_BYTES).collect().await;
    let body = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
    driver.abort();
    Ok((code, location, body))
}

fn build(request: &HttpGet) -> Result<Request<Empty<Bytes>>, String> {
    let mut built = Request::get(&request.path).body(Empty::new()).map_err(|e| e.to_string())?;
    let headers = built.headers_mut();
    let mut host = join(&request.host, request.port);
    for (name, value) in &request.headers {
        if name.eq_ignore_ascii_case("host") {
            host.clone_from(value);
            continue;
        }
        let name: HeaderName = name.parse().map_err(|_| format!("invalid header name {name:?}"))?;
        headers.append(name, HeaderValue::from_str(value).map_err(|e| e.to_string())?);
    }
    headers.insert(http::header::HOST, HeaderValue::from_str(&host).map_err(|e| e.to_string())?);
    let mut default = |name: HeaderName, value: &'static str| {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    };
    default(http::header::USER_AGENT, request.agent);
    default(http::header::ACCEPT, "*/*");
    default(http::header::CONNECTION, "close");
    // one that was given empty is none
    if headers.get(http::header::ACCEPT).is_some_and(HeaderValue::is_empty) {
        headers.remove(http::header::ACCEPT);
    }
    Ok(built)
}

/// Probes ask whether something answers, not who it is.
fn trusting_config() -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
    static CONFIG: OnceLock<Result<Arc<rustls::ClientConfig>, rustls::Error>> = OnceLock::new();
    CONFIG.get_or_init(streaming::unverified::client_config).clone()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers each connection with the next of the given responses.
    async fn server(answers: &'static [&'static str]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        port
    }

    async fn run(port: u16) -> HttpResult {
        let request = HttpGet {
            tls: false,
            host: "127.0.0.1".into(),
            port,
            path: "/x".into(),
            headers: Vec::new(),
            agent: PROBE_AGENT,
        };
        get(&request, Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn answers_redirects_and_refusals() {
        let ok = server(&[
            "HTTP/1.1 302 Found\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        ])
        .await;
        assert_eq!(run(ok).await, HttpResult::Status { code: 200, body: "hi".into() });
        let away =
            server(&["HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n"]).await;
        assert_eq!(run(away).await, HttpResult::Status { code: 302, body: String::new() });
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap().port()
        };
        let expect = format!(
            "Get \"http://127.0.0.1:{closed}/x\": dial tcp 127.0.0.1:{closed}: connect: connection refused"
        );
        assert_eq!(run(closed).await, HttpResult::Failed(expect));
    }
}
