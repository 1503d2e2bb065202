//! The request path without TLS and HTTP framing, over the in-memory store: create, get, list, watch fan-out.
//!
//! The figures are CPU time of the whole process, the store's threads included: they hold on a busy machine too.

use apiserver::request::{Context, RequestInfo};
use apiserver::resource::{AdmitAll, Config, Resources, full};
use auth::User;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http_body_util::BodyExt;
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

const PODS_IN_LIST: usize = 3500;
const WATCHERS: usize = 500;
/// Requests under way at once, as the load generator's clients.
const CLIENTS: usize = 64;

/// CPU time of the process so far.
fn cpu_time() -> Duration {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
}

/// CPU time of `rounds` runs.
fn timed<T>(rounds: u64, mut run: impl FnMut() -> T) -> Duration {
    let begin = cpu_time();
    for _ in 0..rounds {
        std::hint::black_box(run());
    }
    cpu_time() - begin
}

struct Server {
    runtime: Runtime,
    resources: Arc<Resources>,
    user: Arc<User>,
}

fn pod(name: &str) -> Bytes {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "bench", "labels": {"app": "a1", "tier": "web"}, "annotations": {"note": "typical"}},
        "spec": {
            "containers": [{
                "name": "main", "image": "registry.example/demo:1", "ports": [{"containerPort": 8080, "name": "http"}],
                "env": [{"name": "A", "value": "1"}, {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}},
                "volumeMounts": [{"name": "config", "mountPath": "/etc/demo"}]
            }],
            "volumes": [{"name": "config", "configMap": {"name": "demo"}}]
        }
    })
    .to_string()
    .into()
}

impl Server {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let start = async {
            Resources::start(store::memory::open(), kinds::ALL, Arc::new(AdmitAll), Config::default()).await
        };
        let resources = runtime.block_on(start).expect("an empty store");
        Self { runtime, resources, user: Arc::new(User::component("bench", &[])) }
    }

    async fn ask(&self, verb: &str, name: &str, query: &str, body: Bytes) -> apiserver::request::Response {
        let method = if verb == "create" { "POST" } else { "GET" };
        let info = RequestInfo {
            is_resource: true,
            verb: verb.into(),
            version: "v1".into(),
            namespace: "bench".into(),
            resource: "pods".into(),
            name: name.into(),
            ..RequestInfo::default()
        };
        let request = http::Request::builder()
            .method(method)
            .uri(format!("/api/v1/namespaces/bench/pods/{name}{query}"))
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .body(full(body))
            .expect("a request");
        let context = Context { info: Arc::new(info), user: self.user.clone(), agent: "bench".into() };
        self.resources.handle(context, request).await
    }

    async fn create(&self, n: usize) {
        let name = format!("p{n}");
        let body = pod(&name);
        let response = self.ask("create", "", "", body).await;
        assert_eq!(response.status(), 201);
        response.into_body().collect().await.expect("a body");
    }

    async fn create_many(&self, from: usize, count: usize) {
        let mut under_way = FuturesUnordered::new();
        let mut next = from;
        while next < from + count || !under_way.is_empty() {
            while under_way.len() < CLIENTS && next < from + count {
                under_way.push(self.create(next));
                next += 1;
            }
            under_way.next().await;
        }
    }
}

fn writes(c: &mut Criterion) {
    let server = Server::new();
    let mut made = 0;
    c.bench_function("create", |b| {
        b.iter_custom(|rounds| {
            let count = usize::try_from(rounds).expect("few rounds");
            let begin = cpu_time();
            server.runtime.block_on(server.create_many(made, count));
            made += count;
            cpu_time() - begin
        });
    });
}

fn reads(c: &mut Criterion) {
    let server = Server::new();
    server.runtime.block_on(server.create_many(0, PODS_IN_LIST));
    let get = async || {
        let response = server.ask("get", "p77", "", Bytes::new()).await;
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.expect("a body").to_bytes()
    };
    c.bench_function("get", |b| b.iter_custom(|n| timed(n, || server.runtime.block_on(get()))));
    let list = async || {
        let mut body = server.ask("list", "", "", Bytes::new()).await.into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame.expect("a frame").into_data().map_or(0, |d| d.len());
        }
        bytes
    };
    let bytes = server.runtime.block_on(list());
    let mut group = c.benchmark_group("list");
    group.throughput(Throughput::Bytes(bytes as u64));
    group.bench_function(format!("{PODS_IN_LIST} pods"), |b| {
        b.iter_custom(|n| timed(n, || server.runtime.block_on(list())));
    });
    group.finish();
}

fn watches(c: &mut Criterion) {
    let server = Server::new();
    let mut made = 0;
    let mut group = c.benchmark_group("watch");
    group.throughput(Throughput::Elements(WATCHERS as u64));
    group.sample_size(20).measurement_time(Duration::from_secs(8));
    group.bench_function(format!("one event to {WATCHERS} watchers, with its create"), |b| {
        b.iter_custom(|rounds| {
            let count = usize::try_from(rounds).expect("few rounds");
            server.runtime.block_on(async {
                let from = server.resources.cache().revision();
                let query = format!("?watch=1&resourceVersion={from}");
                let mut bodies = Vec::with_capacity(WATCHERS);
                for _ in 0..WATCHERS {
                    bodies.push(server.ask("watch", "", &query, Bytes::new()).await.into_body());
                }
                let begin = cpu_time();
                let tasks: Vec<_> = bodies
                    .into_iter()
                    .map(|mut body| {
                        tokio::spawn(async move {
                            let mut seen = 0;
                            while seen < count {
                                let frame = body.frame().await.expect("an event").expect("a frame");
                                let data = frame.into_data().unwrap_or_default();
                                seen += data.iter().filter(|b| **b == b'\n').count();
                            }
                        })
                    })
                    .collect();
                for _ in 0..count {
                    server.create(made).await;
                    made += 1;
                }
                for task in tasks {
                    task.await.expect("a watcher");
                }
                cpu_time() - begin
            })
        });
    });
    group.finish();
}

criterion_group!(request_path, writes, reads, watches);
criterion_main!(request_path);
