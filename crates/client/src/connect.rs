//! Making a client: from a kubeconfig over TLS, or over an API server in the same process.

use http::{HeaderValue, Request, Response, header::USER_AGENT};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tower::{BoxError, Service, ServiceBuilder};

/// Bound of opening a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection whose peer is silent is probed this often, as client-go's HTTP/2 health check.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// Connections not used for this long are closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("kubeconfig {path}: {source}", path = path.display())]
    Kubeconfig { path: PathBuf, source: KubeconfigError },
    #[error("client configuration: {0}")]
    Config(#[from] kube::Error),
    #[error("user agent {0:?} is not a header value")]
    UserAgent(String),
}

/// A client as the current context of this kubeconfig says. Nothing is sent yet; there is no rate limit.
pub async fn connect(kubeconfig: &Path, user_agent: &str) -> Result<Client, ConnectError> {
    let failed = |source| ConnectError::Kubeconfig { path: kubeconfig.to_owned(), source };
    let file = Kubeconfig::read_from(kubeconfig).map_err(failed)?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(failed)?;
    from_config(config, user_agent)
}

/// A client over TLS, speaking HTTP/2 where the server does: all watches share one connection.
pub fn from_config(config: Config, user_agent: &str) -> Result<Client, ConnectError> {
    let agent = agent(user_agent)?;
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let tls = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(config.rustls_client_config()?)
        .https_or_http()
        .enable_http1()
        .enable_http2()
        .wrap_connector(tcp);
    let transport = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_adaptive_window(true)
        .build(tls);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .map_request(move |mut r: Request<Body>| {
            r.headers_mut().insert(USER_AGENT, agent.clone());
            r
        })
        .map_err(BoxError::from)
        .service(transport);
    Ok(Client::new(service, config.default_namespace))
}

/// A client over a service in this process. Who it is for the server is the service's to say.
pub fn in_memory<S, B>(service: S, user_agent: &str) -> Result<Client, ConnectError>
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let agent = agent(user_agent)?;
    let service = ServiceBuilder::new()
        .map_request(move |mut r: Request<Body>| {
            r.headers_mut().insert(USER_AGENT, agent.clone());
            r
        })
        .service(service);
    Ok(Client::new(service, "default"))
}

fn agent(user_agent: &str) -> Result<HeaderValue, ConnectError> {
    HeaderValue::from_str(user_agent).map_err(|_| ConnectError::UserAgent(user_agent.to_owned()))
}
