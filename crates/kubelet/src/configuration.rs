//! `KubeletConfiguration` (`kubelet.config.k8s.io/v1beta1`): upstream's configuration file, as far as it concerns what
//! this kubelet does.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use serde::Deserialize;
use serde_json::Value;

use crate::config::Config;
use crate::eviction::threshold;
use crate::pulled::Verification;
use crate::quantity::{millis, value};

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
const KIND: &str = "KubeletConfiguration";

/// A file that is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    #[error("{0}")]
    Syntax(String),
    #[error("expected kind {KIND} of {API_VERSION}, found {kind:?} of {api_version:?}")]
    Kind { kind: String, api_version: String },
    #[error("{field}: {why}")]
    Field { field: &'static str, why: String },
}

/// The fields that are heeded; all others are named by [`apply`].
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    static_pod_path: Option<PathBuf>,
    pod_logs_dir: Option<PathBuf>,
    #[serde(rename = "clusterDNS")]
    cluster_dns: Option<Vec<String>>,
    cluster_domain: Option<String>,
    resolv_conf: Option<PathBuf>,
    max_pods: Option<u32>,
    pod_pids_limit: Option<i64>,
    port: Option<u16>,
    healthz_port: Option<u16>,
    #[serde(rename = "providerID")]
    provider_id: Option<String>,
    register_with_taints: Option<Vec<Taint>>,
    allowed_unsafe_sysctls: Option<Vec<String>>,
    node_status_report_frequency: Option<String>,
    node_lease_duration_seconds: Option<u64>,
    #[serde(rename = "imageGCHighThresholdPercent")]
    image_gc_high_threshold_percent: Option<u8>,
    #[serde(rename = "imageGCLowThresholdPercent")]
    image_gc_low_threshold_percent: Option<u8>,
    #[serde(rename = "imageMinimumGCAge")]
    image_minimum_gc_age: Option<String>,
    #[serde(rename = "imageMaximumGCAge")]
    image_maximum_gc_age: Option<String>,
    image_pull_credentials_verification_policy: Option<String>,
    serialize_image_pulls: Option<bool>,
    max_parallel_image_pulls: Option<usize>,
    container_log_max_size: Option<String>,
    container_log_max_files: Option<usize>,
    container_log_monitor_interval: Option<String>,
    eviction_hard: Option<BTreeMap<String, String>>,
    eviction_soft: BTreeMap<String, String>,
    eviction_soft_grace_period: BTreeMap<String, String>,
    eviction_minimum_reclaim: BTreeMap<String, String>,
    eviction_pressure_transition_period: Option<String>,
    eviction_max_pod_grace_period: Option<i64>,
    merge_default_eviction_settings: bool,
    crash_loop_back_off: CrashLoop,
    system_reserved: BTreeMap<String, String>,
    kube_reserved: BTreeMap<String, String>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct CrashLoop {
    max_container_restart_period: Option<String>,
}

/// Puts the file's settings over those of `config`; the names of fields that have no effect are returned.
///
/// # Errors
/// A file that is no such configuration, or a value that cannot be.
pub fn apply(config: &mut Config, text: &str) -> Result<Vec<String>, ConfigurationError> {
    let file: File = serde_saphyr::from_str(text).map_err(|e| ConfigurationError::Syntax(e.to_string()))?;
    let mut others = file.others;
    let mut own =
        |name: &str| others.remove(name).and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
    let (kind, api_version) = (own("kind"), own("apiVersion"));
    if kind != KIND || api_version != API_VERSION {
        return Err(ConfigurationError::Kind { kind, api_version });
    }
    set(&mut config.pod_logs_dir, file.pod_logs_dir);
    set(&mut config.cluster_dns, file.cluster_dns);
    set(&mut config.cluster_domain, file.cluster_domain);
    set(&mut config.resolv_conf, file.resolv_conf);
    set(&mut config.max_pods, file.max_pods);
    set(&mut config.port, file.port);
    set(&mut config.healthz_port, file.healthz_port);
    set(&mut config.register_with_taints, file.register_with_taints);
    set(&mut config.allowed_unsafe_sysctls, file.allowed_unsafe_sysctls);
    config.manifests_dir = file.static_pod_path.or(config.manifests_dir.take());
    config.provider_id = file.provider_id.or(config.provider_id.take());
    config.pod_pids_limit = file.pod_pids_limit.filter(|limit| *limit > 0).or(config.pod_pids_limit);
    set(
        &mut config.node_status_report_frequency,
        duration("nodeStatusReportFrequency", file.node_status_report_frequency)?,
    );
    set(&mut config.lease_duration, file.node_lease_duration_seconds.map(Duration::from_secs));
    set(&mut config.image_gc_high_percent, file.image_gc_high_threshold_percent);
    set(&mut config.image_gc_low_percent, file.image_gc_low_threshold_percent);
    if config.image_gc_low_percent > config.image_gc_high_percent || config.image_gc_high_percent > 100 {
        let why = format!("must not be above imageGCHighThresholdPercent ({})", config.image_gc_high_percent);
        return Err(ConfigurationError::Field { field: "imageGCLowThresholdPercent", why });
    }
    set(&mut config.image_minimum_gc_age, duration("imageMinimumGCAge", file.image_minimum_gc_age)?);
    let oldest = duration("imageMaximumGCAge", file.image_maximum_gc_age)?;
    config.image_maximum_gc_age = oldest.filter(|d| !d.is_zero()).or(config.image_maximum_gc_age);
    if let Some(name) = file.image_pull_credentials_verification_policy {
        config.image_verification = Verification::parse(&name).ok_or_else(|| ConfigurationError::Field {
            field: "imagePullCredentialsVerificationPolicy",
            why: format!("{name:?} is none of NeverVerify, NeverVerifyPreloadedImages, AlwaysVerify"),
        })?;
    }
    match (file.serialize_image_pulls, file.max_parallel_image_pulls) {
        (Some(true), Some(many)) if many > 1 => {
            let why = "cannot be larger than 1 unless serializeImagePulls is false".to_owned();
            return Err(ConfigurationError::Field { field: "maxParallelImagePulls", why });
        }
        (_, Some(0)) => {
            let why = "must be a positive number".to_owned();
            return Err(ConfigurationError::Field { field: "maxParallelImagePulls", why });
        }
        (_, Some(many)) => config.parallel_image_pulls = Some(many),
        (Some(false), None) => config.parallel_image_pulls = None,
        (Some(true), None) => config.parallel_image_pulls = Some(1),
        (None, None) => {}
    }
    if let Some(size) = file.container_log_max_size {
        let bytes = value(&size).and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0);
        let why = || format!("{size:?} is no amount of bytes");
        config.container_log_max_bytes =
            bytes.ok_or_else(|| ConfigurationError::Field { field: "containerLogMaxSize", why: why() })?;
    }
    if let Some(files) = file.container_log_max_files {
        if files < 2 {
            let why = "must be at least 2".to_owned();
            return Err(ConfigurationError::Field { field: "containerLogMaxFiles", why });
        }
        config.container_log_max_files = files;
    }
    let interval = duration("containerLogMonitorInterval", file.container_log_monitor_interval)?;
    set(&mut config.container_log_monitor_interval, interval.filter(|d| !d.is_zero()));
    set(
        &mut config.eviction_transition,
        duration("evictionPressureTransitionPeriod", file.eviction_pressure_transition_period)?,
    );
    set(&mut config.eviction_max_grace_seconds, file.eviction_max_pod_grace_period);
    let longest = duration(
        "crashLoopBackOff.maxContainerRestartPeriod",
        file.crash_loop_back_off.max_container_restart_period,
    )?;
    if let Some(longest) = longest {
        let seconds = i64::try_from(longest.as_secs()).unwrap_or(i64::MAX);
        if !(1..=300).contains(&seconds) {
            let why = "must be between 1s and 300s".to_owned();
            return Err(ConfigurationError::Field {
                field: "crashLoopBackOff.maxContainerRestartPeriod",
                why,
            });
        }
        config.max_container_restart_seconds = seconds;
    }
    for reserved in [&file.system_reserved, &file.kube_reserved] {
        let read = |name: &str, of: fn(&str) -> Option<i64>| {
            let amount = reserved.get(name).and_then(|text| of(text)).unwrap_or(0);
            u64::try_from(amount).unwrap_or(0)
        };
        config.reserved_cpu_millis += read("cpu", millis);
        config.reserved_memory_bytes += read("memory", value);
    }
    let hard = match file.eviction_hard {
        Some(hard) if file.merge_default_eviction_settings => {
            threshold::defaults().into_iter().chain(hard).collect()
        }
        // what is given replaces the defaults, all of them
        Some(hard) => hard,
        None => threshold::defaults(),
    };
    let mut grace = BTreeMap::new();
    for (name, text) in file.eviction_soft_grace_period {
        let period = duration("evictionSoftGracePeriod", Some(text))?.unwrap_or_default();
        grace.insert(name, i64::try_from(period.as_secs()).unwrap_or(i64::MAX));
    }
    config.eviction = threshold::parse(&hard, &file.eviction_soft, &grace, &file.eviction_minimum_reclaim)
        .map_err(|why| ConfigurationError::Field { field: "eviction", why })?;
    Ok(others.into_keys().collect())
}

fn set<T>(to: &mut T, from: Option<T>) {
    if let Some(from) = from {
        *to = from;
    }
}

/// A duration in Go's form: `1h30m`, `10s`, `500ms`, `0`.
fn duration(field: &'static str, text: Option<String>) -> Result<Option<Duration>, ConfigurationError> {
    let Some(text) = text else { return Ok(None) };
    parse_duration(&text)
        .map(Some)
        .ok_or_else(|| ConfigurationError::Field { field, why: format!("{text:?} is no duration") })
}

fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |i| digits + i);
        let seconds = match &rest[digits..unit_end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += Duration::try_from_secs_f64(number * seconds).ok()?;
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::threshold::{Amount, Signal};

    const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

    #[test]
    fn durations_are_gos() {
        for (text, expect) in [
            ("1h30m", Some(5400.0)),
            ("10s", Some(10.0)),
            ("1.5s", Some(1.5)),
            ("500ms", Some(0.5)),
            ("0", Some(0.0)),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(parse_duration(text).map(|d| d.as_secs_f64()), expect, "{text}");
        }
    }

    #[test]
    fn a_file_is_taken_or_refused() {
        let mut config = Config::default();
        let text = format!(
            "{HEAD}maxPods: 7\ncontainerLogMaxSize: 16Ki\nevictionHard: {{memory.available: 1Gi}}\n\
             serializeImagePulls: false\nfeatureGates: {{Some: true}}\n"
        );
        assert_eq!(apply(&mut config, &text).unwrap(), ["featureGates"]);
        assert_eq!(
            (config.max_pods, config.container_log_max_bytes, config.parallel_image_pulls),
            (7, 16384, None)
        );
        assert_eq!(config.eviction.len(), 1, "what is given replaces the defaults");
        assert_eq!(
            (config.eviction[0].signal, config.eviction[0].value),
            (Signal::MemoryAvailable, Amount::Absolute(1 << 30))
        );

        #[track_caller]
        fn check(text: &str, expect: &str) {
            let error = apply(&mut Config::default(), text).unwrap_err().to_string();
            assert_eq!(error, expect);
        }
        check(
            "kind: Pod\napiVersion: v1\n",
            "expected kind KubeletConfiguration of kubelet.config.k8s.io/v1beta1, found \"Pod\" of \"v1\"",
        );
        check(&format!("{HEAD}containerLogMaxFiles: 1\n"), "containerLogMaxFiles: must be at least 2");
        check(&format!("{HEAD}imageMinimumGCAge: soon\n"), "imageMinimumGCAge: \"soon\" is no duration");
    }
}
