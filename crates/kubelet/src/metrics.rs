//! The kubelet's figures, under upstream's names.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::sync::ContainerKind;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabel {
    container_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabel {
    container_state: &'static str,
}

/// What is counted. Cloning shares it.
#[derive(Clone)]
pub struct Metrics {
    pub running_pods: Gauge,
    pub running_containers: Family<StateLabel, Gauge>,
    pub pod_start_duration: Histogram,
    pub pod_worker_duration: Histogram,
    pub run_podsandbox_duration: Histogram,
    pub started_pods: Counter,
    pub started_containers: Family<KindLabel, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.005, 2.0, 14));
        Self {
            running_pods: Gauge::default(),
            running_containers: Family::default(),
            pod_start_duration: Histogram::new(exponential_buckets(0.25, 2.0, 12)),
            pod_worker_duration: seconds(),
            run_podsandbox_duration: seconds(),
            started_pods: Counter::default(),
            started_containers: Family::default(),
        }
    }
}

impl Metrics {
    /// Puts everything into a registry.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("kubelet");
        r.register(
            "running_pods",
            "Number of pods that have a running pod sandbox",
            self.running_pods.clone(),
        );
        r.register(
            "running_containers",
            "Number of containers currently running",
            self.running_containers.clone(),
        );
        r.register(
            "pod_start_duration_seconds",
            "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
            self.pod_start_duration.clone(),
        );
        r.register(
            "pod_worker_duration_seconds",
            "Duration in seconds to sync a single pod",
            self.pod_worker_duration.clone(),
        );
        r.register(
            "run_podsandbox_duration_seconds",
            "Duration in seconds of the run_podsandbox operations",
            self.run_podsandbox_duration.clone(),
        );
        r.register("started_pods", "Cumulative number of pods started", self.started_pods.clone());
        r.register(
            "started_containers",
            "Cumulative number of containers started",
            self.started_containers.clone(),
        );
    }

    pub fn sandbox_started(&self, took: Duration) {
        self.started_pods.inc();
        self.run_podsandbox_duration.observe(took.as_secs_f64());
    }

    pub fn container_started(&self, kind: ContainerKind) {
        let container_type = match kind {
            ContainerKind::Init => "init_container",
            ContainerKind::Regular => "container",
            ContainerKind::Ephemeral => "ephemeral_container",
        };
        self.started_containers.get_or_create(&KindLabel { container_type }).inc();
    }

    pub fn set_running(&self, pods: i64, containers: i64) {
        self.running_pods.set(pods);
        self.running_containers.get_or_create(&StateLabel { container_state: "running" }).set(containers);
    }
}
