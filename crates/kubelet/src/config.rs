//! What a kubelet is told.

use std::path::PathBuf;
use std::time::Duration;

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
    pub port: u16,
    /// Upstream's `nodeStatusReportFrequency`: the status is written at the latest after this time.
    pub node_status_report_frequency: Duration,
    pub lease_duration: Duration,
    /// Disk use in percent at which images are removed, and down to which.
    pub image_gc_high_percent: u8,
    pub image_gc_low_percent: u8,
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
            port: 10250,
            node_status_report_frequency: Duration::from_secs(300),
            lease_duration: Duration::from_secs(40),
            image_gc_high_percent: 85,
            image_gc_low_percent: 80,
            version: "v1.36.0".into(),
            healthz_port: 0,
        }
    }
}

impl Config {
    /// The directory of one pod.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.data_dir.join("pods").join(uid)
    }
}
