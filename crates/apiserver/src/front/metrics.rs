//! `/metrics`: what the server counts of itself, under upstream's names.

use super::respond;
use crate::request::{RequestInfo, Response};
use http::StatusCode;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Seconds, as upstream's `apiserver_request_duration_seconds`.
const BUCKETS: [f64; 22] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InFlightLabels {
    request_kind: &'static str,
}

pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram>,
    in_flight: Family<InFlightLabels, Gauge>,
    pub rejected: Counter,
    pub panics: Counter,
    cpu_seconds: Gauge<f64, AtomicU64>,
    memory_bytes: Gauge,
    threads: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Family::<RequestLabels, Counter>::default();
        let durations = Family::<DurationLabels, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        let in_flight = Family::<InFlightLabels, Gauge>::default();
        let (rejected, panics) = (Counter::default(), Counter::default());
        let (cpu_seconds, memory_bytes, threads) = (Gauge::default(), Gauge::default(), Gauge::default());
        registry.register("apiserver_request", "Counter of apiserver requests", requests.clone());
        registry.register(
            "apiserver_request_duration_seconds",
            "Response latency in seconds",
            durations.clone(),
        );
        registry.register("apiserver_current_inflight_requests", "Requests being served", in_flight.clone());
        registry.register(
            "apiserver_dropped_requests",
            "Requests refused because too many are served",
            rejected.clone(),
        );
        registry.register("apiserver_request_panics", "Requests whose handler panicked", panics.clone());
        registry.register(
            "process_cpu_seconds_total",
            "CPU time of the process in seconds",
            cpu_seconds.clone(),
        );
        registry.register(
            "process_resident_memory_bytes",
            "Resident memory of the process",
            memory_bytes.clone(),
        );
        registry.register("process_threads", "Threads of the process", threads.clone());
        Self {
            registry,
            requests,
            durations,
            in_flight,
            rejected,
            panics,
            cpu_seconds,
            memory_bytes,
            threads,
        }
    }
}

impl Metrics {
    /// Counts one answered request.
    pub fn observe(&self, info: &RequestInfo, code: u16, took: Duration) {
        let scope = match (info.is_resource, info.name.is_empty(), info.namespace.is_empty()) {
            (false, ..) => "",
            (true, false, _) => "resource",
            (true, true, false) => "namespace",
            (true, true, true) => "cluster",
        };
        let verb = if info.is_resource { info.verb.to_uppercase() } else { "GET".to_owned() };
        let long_running = info.is_long_running();
        let labels = DurationLabels {
            verb,
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            scope,
            component: "apiserver",
        };
        // How long a watch lasts says nothing of the server.
        if !long_running && info.is_resource && code < 400 {
            self.durations.get_or_create(&labels).observe(took.as_secs_f64());
        }
        let DurationLabels { verb, group, version, resource, subresource, scope, component } = labels;
        // What does not exist must not make series.
        let known = code != 404 || !info.is_resource;
        let (resource, subresource) = if known { (resource, subresource) } else { Default::default() };
        let labels = RequestLabels { verb, group, version, resource, subresource, scope, component, code };
        self.requests.get_or_create(&labels).inc();
    }

    pub fn in_flight(&self, mutating: bool, by: i64) {
        let request_kind = if mutating { "mutating" } else { "readOnly" };
        self.in_flight.get_or_create(&InFlightLabels { request_kind }).inc_by(by);
    }

    pub fn answer(&self) -> Response {
        self.sample_process();
        let mut out = String::new();
        if text::encode(&mut out, &self.registry).is_err() {
            return respond::text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be encoded");
        }
        respond::bytes(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", out)
    }

    /// Reads /proc (proc_pid_stat(5)): absent elsewhere, and then the gauges stay.
    fn sample_process(&self) {
        const PAGE_BYTES: i64 = 4096;
        const TICKS_PER_SECOND: f64 = 100.0;
        let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return };
        // The command may contain spaces; what follows it does not.
        let Some((_, rest)) = stat.rsplit_once(')') else { return };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |i: usize| fields.get(i).and_then(|f| f.parse::<i64>().ok()).unwrap_or(0);
        self.cpu_seconds.set((number(11) + number(12)) as f64 / TICKS_PER_SECOND);
        self.threads.set(number(17));
        self.memory_bytes.set(number(21) * PAGE_BYTES);
    }
}
