//! What a kubelet is told.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use cri::image::Importer;

use crate::eviction::threshold::{self, Threshold};
use crate::pulled::Verification;

/// How the kubelet runs. `Default` has upstream's defaults and Ironclad's addresses.
#[derive(Clone, Debug)]
pub struct Config {
    pub node_name: String,
    /// Addresses of the node; the first is the one others use.
    pub node_ips: Vec<String>,
    /// Everything of this kubelet is below: `<data_dir>/pods/<uid>`, `<data_dir>/seccomp`.
    pub data_dir: PathBuf,
    /// Static pods; none if the directory is not there.
    pub manifests_dir: Option<PathBuf>,
    /// `/var/log/pods`: the place where log collectors look.
    pub pod_logs_dir: PathBuf,
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    pub resolv_conf: PathBuf,
    /// Labels and taints of a node that registers itself.
    pub node_labels: Vec<(String, String)>,
    pub register_with_taints: Vec<k8s_openapi::api::core::v1::Taint>,
    pub provider_id: Option<String>,
    pub max_pods: u32,
    /// Kernel parameters that pods may set beside the safe ones, names or beginnings with `*`.
    pub allowed_unsafe_sysctls: Vec<String>,
    pub port: u16,
    /// Upstream's `nodeStatusReportFrequency`: the status is written at the latest after this time.
    pub node_status_report_frequency: Duration,
    pub lease_duration: Duration,
    /// Disk use in percent at which images are removed, and down to which.
    pub image_gc_high_percent: u8,
    pub image_gc_low_percent: u8,
    /// An unused image is kept this long, and removed after the longer one even if there is room (`None`: never).
    pub image_minimum_gc_age: Duration,
    pub image_maximum_gc_age: Option<Duration>,
    /// When an image that is there must be shown to be accessible to a pod.
    pub image_verification: Verification,
    /// Pulls at the same time; without bound if `None`.
    pub parallel_image_pulls: Option<usize>,
    /// A container's log is rotated at this size, and this many files of it are kept.
    pub container_log_max_bytes: u64,
    pub container_log_max_files: usize,
    pub container_log_monitor_interval: Duration,
    /// When pods are evicted.
    pub eviction: Vec<Threshold>,
    /// How long a condition of pressure stays after the pressure.
    pub eviction_transition: Duration,
    /// The longest time a pod has to end when a soft threshold is met, in seconds.
    pub eviction_max_grace_seconds: i64,
    /// The longest pause between two starts of a container that fails, in seconds.
    pub max_container_restart_seconds: i64,
    /// Kept from pods for the system and for Kubernetes' own processes.
    pub reserved_cpu_millis: u64,
    pub reserved_memory_bytes: u64,
    /// Processes a pod may have; without bound if `None`.
    pub pod_pids_limit: Option<i64>,
    /// What mounts images as volumes, where the runtime is containerd.
    pub image_mounts: Option<Importer>,
    /// The version the node shows: `v1.36.0`.
    pub version: String,
    /// The port of healthz on the loopback address; 0 is none.
    pub healthz_port: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            node_ips: Vec::new(),
            data_dir: "/var/lib/ironclad/kubelet".into(),
            manifests_dir: None,
            pod_logs_dir: "/var/log/pods".into(),
            cluster_dns: vec!["10.96.0.10".into()],
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            node_labels: Vec::new(),
            register_with_taints: Vec::new(),
            provider_id: None,
            max_pods: 110,
            allowed_unsafe_sysctls: Vec::new(),
            port: 10250,
            node_status_report_frequency: Duration::from_secs(300),
            lease_duration: Duration::from_secs(40),
            image_gc_high_percent: 85,
            image_gc_low_percent: 80,
            image_minimum_gc_age: Duration::from_secs(120),
            image_maximum_gc_age: None,
            image_verification: Verification::default(),
            parallel_image_pulls: Some(1),
            container_log_max_bytes: 10 << 20,
            container_log_max_files: 5,
            container_log_monitor_interval: Duration::from_secs(10),
            eviction: default_eviction(),
            eviction_transition: Duration::from_secs(300),
            eviction_max_grace_seconds: 0,
            max_container_restart_seconds: 300,
            reserved_cpu_millis: 0,
            reserved_memory_bytes: 0,
            pod_pids_limit: None,
            image_mounts: None,
            version: "v1.36.0".into(),
            healthz_port: 0,
        }
    }
}

fn default_eviction() -> Vec<Threshold> {
    let none = BTreeMap::new();
    threshold::parse(&threshold::defaults(), &none, &BTreeMap::new(), &none)
        .expect("the defaults are well-formed")
}

impl Config {
    /// The directory of one pod.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.data_dir.join("pods").join(uid)
    }
}
