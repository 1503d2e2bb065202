//! kube-proxy's own two ports: `/healthz` and `/livez` (10256, for load balancers) and `/metrics` (10249,
//! loopback).

use crate::metrics::Metrics;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Whether the kernel holds the rules of what was last seen.
#[derive(Default)]
pub struct Health(AtomicBool);

impl Health {
    pub fn set(&self, healthy: bool) {
        self.0.store(healthy, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Serves until shutdown. A port that is taken costs the endpoint, not the proxy.
pub async fn serve(
    address: SocketAddr,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            return tracing::warn!(%address, %error, "kube-proxy's health or metrics port is taken; serving without it");
        }
    };
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted { Ok((stream, _)) => stream, Err(_) => continue },
            () = shutdown.cancelled() => return,
        };
        let (health, metrics, shutdown) = (health.clone(), metrics.clone(), shutdown.clone());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let answer = answer(request.uri().path(), &health, &metrics);
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            tokio::select! {
                _ = builder.serve_connection(TokioIo::new(stream), service) => {}
                () = shutdown.cancelled() => {}
            }
        });
    }
}

fn answer(path: &str, health: &Health, metrics: &Metrics) -> Response<Full<Bytes>> {
    let (status, body) = match path {
        "/healthz" | "/livez" if health.get() => (StatusCode::OK, "ok".to_owned()),
        "/healthz" | "/livez" => {
            (StatusCode::SERVICE_UNAVAILABLE, "the rules are not in the kernel yet".to_owned())
        }
        "/metrics" => (StatusCode::OK, metrics.render()),
        "/proxyMode" => (StatusCode::OK, "nftables".to_owned()),
        _ => (StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}
