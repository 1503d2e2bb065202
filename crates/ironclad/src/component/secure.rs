//! The secure port of a component that serves but its health and its metrics: TLS, and the API server's word
//! on who asks and whether they may (upstream's delegated authentication and authorization).

use super::process;
use crate::paths::DataDir;
use anyhow::Context;
use auth::User;
use auth::pki::{Authority, Leaf};
use client::delegated::{Access, ApiReviews, Delegated, Reviews, Ttls};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusDetails;
use kube::api::Api;
use rustls::ServerConfig;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Connections at one time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 256;
/// How long a client may take for its TLS handshake, and for the headers of a request.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after an accept that failed, as it does when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Upstream's `--authentication-token-webhook-cache-ttl` and `--authorization-webhook-cache-{,un}authorized-ttl`.
const TTLS: Ttls = {
    let ttl = Duration::from_secs(10);
    Ttls { token: ttl, bad_token: ttl, allowed: ttl, denied: ttl }
};
const ANONYMOUS: &str = "system:anonymous";

#[derive(Clone, Debug, clap::Args)]
pub struct Port {
    /// Address of the port where health and metrics are served
    #[arg(long, default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// The port where health and metrics are served; 0 serves none [default: the component's own]
    #[arg(long)]
    secure_port: Option<u16>,
    /// Certificate of that port [default: one of its own, signed by itself]
    #[arg(long, requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    #[arg(long, requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// Authority of the certificates that clients bring [default: the cluster's]
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
    /// Paths that anyone may get
    #[arg(long, value_delimiter = ',', default_value = "/healthz,/readyz,/livez")]
    authorization_always_allow_paths: Vec<String>,
}

/// What is served: the text for a path, None for a path that is unknown.
pub type Pages = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Health, and the metrics that `render` gives with those of the process.
fn pages(render: impl Fn() -> String + Send + Sync + 'static) -> Pages {
    Arc::new(move |path| match path {
        "/healthz" | "/livez" | "/readyz" => Some("ok".to_owned()),
        "/metrics" => {
            let mut text = render();
            process::append(&mut text);
            Some(text)
        }
        _ => None,
    })
}

impl Port {
    /// For this machine alone, with nothing given.
    fn local() -> Self {
        Self {
            bind_address: IpAddr::from([127, 0, 0, 1]),
            secure_port: None,
            tls_cert_file: None,
            tls_private_key_file: None,
            client_ca_file: None,
            authorization_always_allow_paths: ["/healthz", "/readyz", "/livez"].map(str::to_owned).to_vec(),
        }
    }

    /// The port of a component within `ironclad server`: for this machine alone. The cluster does without it where it
    /// cannot be had.
    pub async fn open_local(
        component: &str,
        own_port: u16,
        data: &DataDir,
        client: &kube::Client,
    ) -> Option<Secure> {
        match Self::local().open(component, own_port, data, client).await {
            Ok(port) => port,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "{component} serves no metrics");
                None
            }
        }
    }

    /// Binds the port; None where none is wanted. `own_port`: the component's own.
    pub async fn open(
        &self,
        component: &str,
        own_port: u16,
        data: &DataDir,
        client: &kube::Client,
    ) -> anyhow::Result<Option<Secure>> {
        let port = self.secure_port.unwrap_or(own_port);
        if port == 0 {
            return Ok(None);
        }
        let address = SocketAddr::new(self.bind_address, port);
        let listener = TcpListener::bind(address).await.with_context(|| address.to_string())?;
        let read = |p: &PathBuf| std::fs::read_to_string(p).with_context(|| p.display().to_string());
        let (certificate, key) = match (&self.tls_cert_file, &self.tls_private_key_file) {
            (Some(certificate), Some(key)) => (read(certificate)?, read(key)?),
            _ => self_signed(component)?,
        };
        let of_cluster = data.pki().join("ca.crt");
        let client_ca = match &self.client_ca_file {
            Some(file) => read(file)?,
            None if of_cluster.exists() => read(&of_cluster)?,
            None => published_ca(client).await?,
        };
        let tls = kubelet::server::tls_config(&certificate, &key, &client_ca)?;
        let reviews = Arc::new(ApiReviews { client: client.clone() });
        let gate = Gate::new(reviews, self.authorization_always_allow_paths.clone());
        Ok(Some(Secure { listener, tls: Arc::new(tls), gate: Arc::new(gate) }))
    }
}

fn self_signed(component: &str) -> anyhow::Result<(String, String)> {
    let now = client::now();
    let leaf = Leaf::server(component, vec!["localhost".to_owned(), "127.0.0.1".to_owned()]);
    let identity = Authority::generate(component, now)?.issue(&leaf, now)?;
    Ok((identity.certificate_pem, identity.key_pem))
}

/// The authority of clients, as the API server publishes it.
async fn published_ca(client: &kube::Client) -> anyhow::Result<String> {
    const NAME: &str = "extension-apiserver-authentication";
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let map = maps.get(NAME).await.context("the authority of client certificates")?;
    let published = map.data.unwrap_or_default().remove("client-ca-file");
    published.with_context(|| format!("{NAME} has no client-ca-file"))
}

/// The port, open.
pub struct Secure {
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    gate: Arc<Gate>,
}

/// Runs a component, and serves its port meanwhile where there is one: health, and the metrics that `render` gives.
pub async fn beside(
    component: impl Future<Output = ()>,
    port: Option<Secure>,
    render: impl Fn() -> String + Send + Sync + 'static,
    shutdown: CancellationToken,
) {
    let serving = async {
        if let Some(port) = port {
            port.serve(pages(render), shutdown).await;
        }
    };
    tokio::join!(component, serving);
}

impl Secure {
    /// Serves until told to stop.
    pub async fn serve(self, pages: Pages, shutdown: CancellationToken) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = shutdown.cancelled() => return,
            };
            let tcp = match accepted {
                Ok((tcp, _)) => tcp,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let acceptor = TlsAcceptor::from(self.tls.clone());
            let (gate, pages, shutdown) = (self.gate.clone(), pages.clone(), shutdown.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = connection(acceptor, tcp, gate, pages) => {}
                    () = shutdown.cancelled() => {}
                }
                drop(slot);
            });
        }
    }
}

async fn connection(acceptor: TlsAcceptor, tcp: TcpStream, gate: Arc<Gate>, pages: Pages) {
    let Ok(Ok(stream)) = tokio::time::timeout(CLIENT_TIMEOUT, acceptor.accept(tcp)).await else { return };
    let peer = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let user = peer.and_then(|certificate| auth::x509::user(certificate));
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (gate, pages, user) = (gate.clone(), pages.clone(), user.clone());
        async move { Ok::<_, std::convert::Infallible>(answer(&request, user, &gate, &pages).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(CLIENT_TIMEOUT);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection broke");
    }
}

type Answer = Response<Full<Bytes>>;

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn refuse(status: StatusCode, reason: &str, message: &str) -> Answer {
    let refusal = meta::Status {
        status: Some("Failure".to_owned()),
        message: Some(message.to_owned()),
        reason: Some(reason.to_owned()),
        details: Some(StatusDetails::default()),
        code: Some(i32::from(status.as_u16())),
        ..meta::Status::default()
    };
    respond(status, "application/json", meta::status_json(&refusal))
}

async fn answer(
    request: &Request<Incoming>,
    certificate: Option<User>,
    gate: &Gate,
    pages: &Pages,
) -> Answer {
    let bearer = request.headers().get(AUTHORIZATION).and_then(|h| h.to_str().ok());
    let token = bearer.and_then(|h| h.strip_prefix("Bearer ")).map(str::trim);
    let (verb, path) = (request.method().as_str().to_ascii_lowercase(), request.uri().path());
    if let Err(refusal) = gate.admit(certificate, token, &verb, path, Instant::now()).await {
        return match refusal {
            Refusal::Unauthorized => refuse(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized"),
            Refusal::Forbidden(user) => {
                let message = format!("forbidden: User {user:?} cannot {verb} path {path:?}");
                refuse(StatusCode::FORBIDDEN, "Forbidden", &message)
            }
            Refusal::Failed(why) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", &why),
        };
    }
    const TEXT: &str = "text/plain; charset=utf-8";
    match pages(path) {
        Some(body) if path == "/metrics" => {
            respond(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", body)
        }
        Some(body) => respond(StatusCode::OK, TEXT, body),
        None => respond(StatusCode::NOT_FOUND, TEXT, "404 page not found\n".to_owned()),
    }
}

enum Refusal {
    Unauthorized,
    /// With the name of who asked.
    Forbidden(String),
    Failed(String),
}

/// Decides on requests.
struct Gate {
    api: Delegated,
    /// Paths that anyone may get.
    open: Vec<String>,
}

impl Gate {
    fn new(reviews: Arc<dyn Reviews>, open: Vec<String>) -> Self {
        Self { api: Delegated::new(reviews, TTLS), open }
    }

    /// Whether anyone may get the path; a `*` at the end of what was given stands for the rest.
    fn is_open(&self, path: &str) -> bool {
        self.open.iter().any(|p| match p.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => p == path,
        })
    }

    async fn admit(
        &self,
        certificate: Option<User>,
        token: Option<&str>,
        verb: &str,
        path: &str,
        now: Instant,
    ) -> Result<(), Refusal> {
        let user = match (certificate, token) {
            (Some(user), _) => user,
            (None, Some(token)) => self.api.user_of_token(token, now).await.ok_or(Refusal::Unauthorized)?,
            (None, None) => User {
                name: ANONYMOUS.to_owned(),
                groups: vec!["system:unauthenticated".to_owned()],
                ..User::default()
            },
        };
        if self.is_open(path) {
            return Ok(());
        }
        let access = Access::Path { verb: verb.to_owned(), path: path.to_owned() };
        match self.api.may(&user, &access, now).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refusal::Forbidden(user.name)),
            Err(error) => Err(Refusal::Failed(format!("cannot authorize the request: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use client::delegated::AskError;

    struct OnlyMonitoring;

    #[async_trait]
    impl Reviews for OnlyMonitoring {
        async fn user_of_token(&self, token: &str) -> Result<Option<User>, AskError> {
            Ok((token == "good").then(|| User { name: "monitoring".into(), ..User::default() }))
        }
        async fn may(&self, user: &User, access: &Access) -> Result<bool, AskError> {
            let metrics = Access::Path { verb: "get".into(), path: "/metrics".into() };
            Ok(user.name == "monitoring" && *access == metrics)
        }
    }

    #[tokio::test]
    async fn health_is_open_and_metrics_are_for_whom_the_api_server_lets() {
        let gate = Gate::new(Arc::new(OnlyMonitoring), vec!["/healthz".to_owned(), "/live*".to_owned()]);
        let check = async |token: Option<&str>, path: &str, expect: &str| {
            let said = match gate.admit(None, token, "get", path, Instant::now()).await {
                Ok(()) => "served".to_owned(),
                Err(Refusal::Unauthorized) => "unauthorized".to_owned(),
                Err(Refusal::Forbidden(user)) => format!("forbidden to {user}"),
                Err(Refusal::Failed(why)) => why,
            };
            assert_eq!(said, expect, "{token:?} {path}");
        };
        check(None, "/healthz", "served").await;
        check(None, "/livez", "served").await;
        check(None, "/metrics", "forbidden to system:anonymous").await;
        check(Some("bad"), "/healthz", "unauthorized").await;
        check(Some("good"), "/metrics", "served").await;
        check(Some("good"), "/configz", "forbidden to monitoring").await;
    }
}
