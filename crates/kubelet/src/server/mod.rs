//! The kubelet's own API, on port 10250: pods, logs, exec, attach, port-forward, figures.
//!
//! [`Server::handle`] answers one request; [`listen`] is the shell around it with TLS. Whoever asks is
//! known by a client certificate or a token and is let in by what the API says they may do ([`auth`]).

pub mod auth;
pub mod container_log;
mod files;
pub mod listen;
mod pods;
mod reply;
mod route;
pub mod stats;
mod streams;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use cri::RuntimeApi;
use cri::v1 as pb;
use http::header::AUTHORIZATION;
use http::{Request, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::mpsc;

pub use listen::{serve, tls_config};
pub use pods::PodSource;
pub use reply::Body;

use crate::container_config::labels;
use auth::{Gate, Refusal};
use pods::{container_tty, log_container};
use reply::{Response, channel, error, json_reply, status_only, text};
use route::{Route, route};
use stats::Collector;

/// Pieces of a log that wait for a slow client.
const LOG_QUEUE_PIECES: usize = 4;
/// The content type of Prometheus' text form.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the server answers from.
pub struct Server {
    pub pods: Arc<dyn PodSource>,
    pub runtime: Arc<dyn RuntimeApi>,
    pub gate: Gate,
    /// Without cgroups there are no figures.
    pub collector: Option<Arc<Collector>>,
    /// The kubelet's own figures.
    pub metrics: Arc<Registry>,
    /// The node's logs, `/var/log`.
    pub log_dir: PathBuf,
    /// The kubelet's configuration, as `/configz` shows it.
    pub configuration: Value,
}

impl Server {
    /// Answers a request of a client with this certificate (DER, verified by TLS), if it has one.
    pub async fn handle<B>(&self, request: Request<B>, certificate: Option<&[u8]>) -> Response {
        let bearer = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = bearer.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
        let path = request.uri().path().to_owned();
        let admitted = self.gate.admit(certificate, token, request.method(), &path, Instant::now()).await;
        match admitted {
            Ok(_) => {}
            Err(Refusal::Unauthorized) => return text(StatusCode::UNAUTHORIZED, "Unauthorized"),
            Err(Refusal::Forbidden(message)) => return text(StatusCode::FORBIDDEN, &message),
            Err(Refusal::Failed(message)) => return text(StatusCode::INTERNAL_SERVER_ERROR, &message),
        }
        let query = route::query(request.uri().query().unwrap_or_default());
        match route(request.method(), &path) {
            Route::Healthz => text(StatusCode::OK, "ok"),
            Route::Pods => json_reply(&pod_list(&self.pods.pods())),
            Route::RunningPods => self.running_pods().await,
            Route::ContainerLogs { namespace, pod, container } => {
                self.container_logs(&namespace, &pod, &container, &query).await
            }
            Route::Exec(target) => self.exec(request, &target, &query).await,
            Route::Attach(target) => self.attach(request, &target, &query).await,
            Route::Run(target) => self.run(&target, &query).await,
            Route::PortForward(target) => self.port_forward(request, &target, &query).await,
            Route::StatsSummary => match self.summary().await {
                Some(summary) => json_reply(&summary),
                None => text(StatusCode::SERVICE_UNAVAILABLE, "no cgroups on this node\n"),
            },
            Route::Metrics => self.own_metrics(),
            Route::MetricsResource => match self.summary().await {
                Some(summary) => reply::typed(METRICS_TYPE, stats::resource(&summary)),
                None => reply::typed(METRICS_TYPE, "resource_scrape_error 1\n".to_owned()),
            },
            Route::MetricsCadvisor => self.cadvisor().await,
            // probes are counted with everything else
            Route::MetricsProbes => reply::typed(METRICS_TYPE, String::new()),
            Route::Logs { path } => files::serve(&self.log_dir, &path).await,
            Route::Configz => json_reply(&json!({ "kubeletconfig": self.configuration })),
            Route::MethodNotAllowed => text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed"),
            Route::NotFound => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    async fn container_logs(
        &self,
        namespace: &str,
        pod_name: &str,
        container: &str,
        query: &[(String, String)],
    ) -> Response {
        let options = match container_log::Options::from_query(query, client::now()) {
            Ok(options) => options,
            Err(container_log::OptionsError::Undecodable) => {
                return text(StatusCode::BAD_REQUEST, r#"{"message": "Unable to decode query."}"#);
            }
            Err(container_log::OptionsError::Invalid) => {
                return text(StatusCode::UNPROCESSABLE_ENTITY, r#"{"message": "Invalid request."}"#);
            }
        };
        let Some(pod) = self.pods.pod(namespace, pod_name) else {
            return text(StatusCode::NOT_FOUND, &format!("pod {pod_name:?} does not exist"));
        };
        if container_tty(&pod, container).is_none() {
            return text(
                StatusCode::NOT_FOUND,
                &format!("container {container:?} not found in pod {pod_name:?}"),
            );
        }
        let id = match log_container(&pod, container, options.previous) {
            Ok(id) => id,
            Err(message) => return text(StatusCode::BAD_REQUEST, &message),
        };
        let path = match self.runtime.container_status(&id).await {
            Ok(status) => PathBuf::from(status.log_path),
            Err(error) => {
                tracing::error!(container = id, %error, "cannot tell where a log is");
                return text(
                    StatusCode::BAD_REQUEST,
                    &format!("unable to retrieve container logs for containerd://{id}"),
                );
            }
        };
        let log = match container_log::ContainerLog::open(&path, options).await {
            Ok(log) => log,
            Err(error) => {
                let path = path.display();
                return text(
                    StatusCode::BAD_REQUEST,
                    &format!("failed to try resolving symlinks in path {path:?}: {error}"),
                );
            }
        };
        let (sender, receiver) = mpsc::channel(LOG_QUEUE_PIECES);
        let runtime = self.runtime.clone();
        tokio::spawn(async move {
            let running = || async {
                match runtime.container_status(&id).await {
                    Ok(status) => status.state() == pb::ContainerState::ContainerRunning,
                    // a runtime that does not answer does not end its containers
                    Err(error) => error.is_unavailable(),
                }
            };
            if let Err(error) = log.copy(running, sender).await {
                tracing::warn!(path = %path.display(), %error, "reading a container's log failed");
            }
        });
        channel("text/plain", receiver)
    }

    async fn running_pods(&self) -> Response {
        let running = pb::ContainerStateValue { state: pb::ContainerState::ContainerRunning.into() };
        let filter = pb::ContainerFilter { state: Some(running), ..Default::default() };
        match self.runtime.list_containers(Some(filter)).await {
            Ok(containers) => json_reply(&running_pod_list(&containers)),
            Err(failure) => error(&failure),
        }
    }

    fn own_metrics(&self) -> Response {
        let mut out = String::new();
        // writing into a String cannot fail
        let _ = prometheus_client::encoding::text::encode(&mut out, &self.metrics);
        reply::typed("application/openmetrics-text; version=1.0.0; charset=utf-8", out)
    }

    async fn summary(&self) -> Option<stats::Summary> {
        let collector = self.collector.as_ref()?;
        Some(collector.summary(&self.pods.pods(), client::now()).await)
    }

    async fn cadvisor(&self) -> Response {
        let Some(summary) = self.summary().await else { return reply::typed(METRICS_TYPE, String::new()) };
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        let memory = summary.node.memory.as_ref();
        let memory = memory.map_or(0, |m| m.available_bytes.unwrap_or(0) + m.working_set_bytes);
        reply::typed(METRICS_TYPE, stats::cadvisor(&summary, cores, memory))
    }
}

/// A `PodList` whose items, as in every list, do not repeat their kind.
fn pod_list(pods: &[Arc<Pod>]) -> Value {
    let items = pods.iter().map(|pod| {
        let mut value = serde_json::to_value(pod.as_ref()).unwrap_or_default();
        if let Some(object) = value.as_object_mut() {
            object.remove("kind");
            object.remove("apiVersion");
        }
        value
    });
    json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items.collect::<Vec<_>>() })
}

/// The pods that the runtime runs, as far as it knows them.
fn running_pod_list(containers: &[pb::Container]) -> Value {
    let mut pods: std::collections::BTreeMap<String, (Value, Vec<Value>)> = std::collections::BTreeMap::new();
    for container in containers {
        let label = |name: &str| container.labels.get(name).cloned().unwrap_or_default();
        let uid = label(labels::POD_UID);
        let metadata = json!({
            "name": label(labels::POD_NAME),
            "namespace": label(labels::POD_NAMESPACE),
            "uid": uid,
        });
        let image = container.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
        let (_, list) = pods.entry(uid).or_insert_with(|| (metadata, Vec::new()));
        list.push(json!({ "name": label(labels::CONTAINER_NAME), "image": image, "resources": {} }));
    }
    let items = pods.into_values().map(|(metadata, containers)| {
        json!({ "metadata": metadata, "spec": { "containers": containers }, "status": {} })
    });
    json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items.collect::<Vec<_>>() })
}

/// For the answers of tests and of streams that failed before they began.
pub(crate) fn not_found(message: &str) -> Response {
    if message.is_empty() { status_only(StatusCode::NOT_FOUND) } else { text(StatusCode::NOT_FOUND, message) }
}

#[cfg(test)]
mod tests;
