//! Metrics under upstream's names (kubeproxy_*).

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

pub struct Metrics {
    registry: Mutex<Registry>,
    /// Seconds from a change to the kernel having it.
    pub network_programming: Histogram,
    /// Seconds one application of rules takes.
    pub sync: Histogram,
    pub failures: Counter,
    pub services: Gauge,
    pub last_sync: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let buckets = || exponential_buckets(0.001, 2.0, 15);
        let metrics = Self {
            registry: Mutex::new(Registry::default()),
            network_programming: Histogram::new(buckets()),
            sync: Histogram::new(buckets()),
            failures: Counter::default(),
            services: Gauge::default(),
            last_sync: Gauge::default(),
        };
        let mut r = metrics.registry.lock();
        let name = |n: &str| format!("kubeproxy_{n}");
        r.register(
            name("network_programming_duration_seconds"),
            "Time from a change of a service or its endpoints to the rules in the kernel",
            metrics.network_programming.clone(),
        );
        r.register(
            name("sync_proxy_rules_duration_seconds"),
            "Time to apply a change of rules",
            metrics.sync.clone(),
        );
        r.register(
            name("sync_proxy_rules_nftables_sync_failures"),
            "Failed applications of rules",
            metrics.failures.clone(),
        );
        r.register(name("sync_proxy_rules_services"), "Service ports in the rules", metrics.services.clone());
        r.register(
            name("sync_proxy_rules_last_timestamp_seconds"),
            "When rules were last applied",
            metrics.last_sync.clone(),
        );
        drop(r);
        metrics
    }
}

impl Metrics {
    pub fn render(&self) -> String {
        let mut out = String::new();
        // writing into a String cannot fail
        let _ = prometheus_client::encoding::text::encode(&mut out, &self.registry.lock());
        out
    }
}
