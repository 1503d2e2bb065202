//! What the runtime is told about sandboxes and containers.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use cri::v1;
use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod};

use crate::dns::{NodeDns, kernel_hostname, pod_dns};
use crate::env::expand;
use crate::qos::{amount, memory_bytes, oom_score_adj};
use crate::security::{ImageUser, container_security, sandbox_security};
use crate::sync::{container_hash, containers};

/// Labels by which the kubelet finds its sandboxes and containers again.
pub mod labels {
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    pub const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
    pub const PORTS: &str = "io.kubernetes.container.ports";
    pub const POD_DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
    pub const POD_TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
}

/// The CFS period, in microseconds.
const QUOTA_PERIOD_US: i64 = 100_000;
/// The least CFS quota, in microseconds.
const MIN_QUOTA_US: i64 = 1000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;

/// A configuration that cannot be made from the pod: the container waits with
/// `CreateContainerConfigError` and this message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// What the node contributes to the configuration of every container.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub memory_bytes: i64,
    /// The unified cgroup hierarchy.
    pub cgroup_v2: bool,
    /// Whether the kernel accounts for swap by cgroup.
    pub swap_accounted: bool,
    /// Page sizes in the kernel's words (`2MB`).
    pub hugepage_sizes: Vec<String>,
    /// Paths that are masked beside the usual ones.
    pub extra_masked_paths: Vec<String>,
    /// The running kernel's: `6.1.0-13-amd64`.
    pub kernel_version: String,
    pub seccomp_root: PathBuf,
    pub pod_logs_dir: PathBuf,
    pub dns: NodeDns,
}

fn text(value: &Option<String>) -> String {
    value.clone().unwrap_or_default()
}

/// The directory of a pod's logs: `<namespace>_<name>_<uid>`.
pub fn pod_log_dir(root: &Path, namespace: &str, name: &str, uid: &str) -> PathBuf {
    root.join(format!("{namespace}_{name}_{uid}"))
}

/// A container's log below the pod's directory.
pub fn container_log_path(container: &str, attempt: i32) -> String {
    format!("{container}/{attempt}.log")
}

fn identity(pod: &Pod) -> HashMap<String, String> {
    [
        (labels::POD_NAME.to_owned(), text(&pod.metadata.name)),
        (labels::POD_NAMESPACE.to_owned(), text(&pod.metadata.namespace)),
        (labels::POD_UID.to_owned(), text(&pod.metadata.uid)),
    ]
    .into()
}

/// The sandbox of a pod, and notes about resolver limits for an event.
///
/// # Errors
/// A host name that does not fit.
pub fn sandbox_config(
    pod: &Pod,
    attempt: u32,
    cgroup_parent: &str,
    node: &Node,
) -> Result<(v1::PodSandboxConfig, Vec<String>), ConfigError> {
    let spec = pod.spec.clone().unwrap_or_default();
    let (name, namespace, uid) =
        (text(&pod.metadata.name), text(&pod.metadata.namespace), text(&pod.metadata.uid));
    let mut labels: HashMap<_, _> = pod.metadata.labels.clone().unwrap_or_default().into_iter().collect();
    labels.extend(identity(pod));
    let (dns, notes) = pod_dns(pod, &node.dns);
    let hostname = match spec.host_network {
        Some(true) => String::new(),
        _ => kernel_hostname(pod, &node.dns.cluster_domain)?,
    };
    let sysctls = spec.security_context.iter().flat_map(|s| s.sysctls.iter().flatten());
    let log_directory =
        pod_log_dir(&node.pod_logs_dir, &namespace, &name, &uid).to_string_lossy().into_owned();
    let config = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata { name, uid, namespace, attempt }),
        hostname,
        log_directory,
        dns_config: Some(dns),
        port_mappings: containers(pod)
            .iter()
            .flat_map(|c| c.ports.iter().flatten())
            .filter_map(port_mapping)
            .collect(),
        labels,
        annotations: pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent.to_owned(),
            security_context: Some(sandbox_security(pod)),
            sysctls: sysctls.map(|s| (s.name.replace('/', "."), s.value.clone())).collect(),
            ..Default::default()
        }),
        ..Default::default()
    };
    Ok((config, notes))
}

fn port_mapping(port: &ContainerPort) -> Option<v1::PortMapping> {
    let host_port = port.host_port.filter(|p| *p > 0)?;
    let protocol = match port.protocol.as_deref() {
        Some("UDP") => v1::Protocol::Udp,
        Some("SCTP") => v1::Protocol::Sctp,
        _ => v1::Protocol::Tcp,
    };
    Some(v1::PortMapping {
        protocol: protocol as i32,
        container_port: port.container_port,
        host_port,
        host_ip: text(&port.host_ip),
    })
}

/// What one start of a container is made from.
#[derive(Clone, Debug)]
pub struct ContainerInput<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub restart_count: i32,
    /// The image by its id in the runtime.
    pub image_ref: &'a str,
    pub image_user: &'a ImageUser,
    pub env: Vec<(String, String)>,
    pub mounts: Vec<v1::Mount>,
    /// The container whose process namespace an ephemeral container joins.
    pub target_id: Option<&'a str>,
    pub node: &'a Node,
}

/// The container as the runtime creates it.
///
/// # Errors
/// See [`container_security`].
pub fn container_config(input: ContainerInput<'_>) -> Result<v1::ContainerConfig, ConfigError> {
    let ContainerInput { pod, container, restart_count, node, .. } = input;
    let env: BTreeMap<&str, &str> = input.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let expand_all = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|s| expand(s, |name| env.get(name).map(|v| (*v).to_owned()))).collect()
    };
    let mut security = container_security(pod, container, input.image_user, node)?;
    if let (Some(target), Some(options)) = (input.target_id, security.namespace_options.as_mut())
        && options.pid == v1::NamespaceMode::Container as i32
    {
        options.pid = v1::NamespaceMode::Target as i32;
        options.target_id = target.to_owned();
    }
    let mut labels = identity(pod);
    labels.insert(labels::CONTAINER_NAME.into(), container.name.clone());
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: container.name.clone(),
            attempt: u32::try_from(restart_count).unwrap_or(0),
        }),
        image: Some(v1::ImageSpec {
            image: input.image_ref.to_owned(),
            user_specified_image: text(&container.image),
            ..Default::default()
        }),
        command: expand_all(&container.command),
        args: expand_all(&container.args),
        working_dir: text(&container.working_dir),
        envs: input
            .env
            .iter()
            .map(|(key, value)| v1::KeyValue { key: key.clone(), value: value.clone() })
            .collect(),
        mounts: input.mounts,
        labels,
        annotations: annotations(pod, container, restart_count),
        log_path: container_log_path(&container.name, restart_count),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(linux_resources(pod, container, node)),
            security_context: Some(security),
        }),
        ..Default::default()
    })
}

fn annotations(pod: &Pod, container: &Container, restart_count: i32) -> HashMap<String, String> {
    let mut map: HashMap<String, String> = [
        (labels::CONTAINER_HASH, format!("{:x}", container_hash(container))),
        (labels::RESTART_COUNT, restart_count.to_string()),
        (labels::TERMINATION_PATH, text(&container.termination_message_path)),
        (labels::TERMINATION_POLICY, text(&container.termination_message_policy)),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v))
    .collect();
    let mut set = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            map.insert(key.to_owned(), value);
        }
    };
    let grace = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    set(labels::POD_DELETION_GRACE, pod.metadata.deletion_grace_period_seconds.map(|s| s.to_string()));
    set(labels::POD_TERMINATION_GRACE, grace.map(|s| s.to_string()));
    let pre_stop = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref());
    set(labels::PRE_STOP, pre_stop.and_then(|p| serde_json::to_string(p).ok()));
    let ports = container.ports.as_ref().filter(|p| !p.is_empty());
    set(labels::PORTS, ports.and_then(|p| serde_json::to_string(p).ok()));
    map
}

/// CPU shares of so many thousandths.
pub fn cpu_shares(millis: i64) -> i64 {
    if millis == 0 { MIN_SHARES } else { (millis * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES) }
}

/// The CFS quota of so many thousandths, in microseconds a period; 0 is no limit.
pub fn cpu_quota(millis: i64) -> i64 {
    if millis == 0 { 0 } else { (millis * QUOTA_PERIOD_US / 1000).max(MIN_QUOTA_US) }
}

/// Requests and limits in the kernel's terms.
pub fn linux_resources(pod: &Pod, container: &Container, node: &Node) -> v1::LinuxContainerResources {
    let resources = container.resources.clone().unwrap_or_default();
    let pod_limits = pod.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.limits.clone());
    let or = |own: i64, pod: i64| if own == 0 { pod } else { own };
    let cpu_limit = or(amount(&resources.limits, "cpu"), amount(&pod_limits, "cpu"));
    let memory_limit = or(memory_bytes(&resources.limits), memory_bytes(&pod_limits));
    let requested = resources.requests.as_ref().is_some_and(|r| r.contains_key("cpu"));
    // a limit without a request is a request too
    let cpu_request = if requested { amount(&resources.requests, "cpu") } else { cpu_limit };
    let mut unified = HashMap::new();
    if node.cgroup_v2 {
        // all processes of a container end together when memory runs out
        unified.insert("memory.oom.group".to_owned(), "1".to_owned());
        // no container swaps, on a node that has swap (upstream's `NoSwap`)
        if node.swap_accounted {
            unified.insert("memory.swap.max".to_owned(), "0".to_owned());
        }
    }
    v1::LinuxContainerResources {
        cpu_shares: cpu_shares(cpu_request),
        cpu_quota: cpu_quota(cpu_limit),
        cpu_period: QUOTA_PERIOD_US,
        memory_limit_in_bytes: memory_limit,
        // cgroup v1 bounds memory and swap together
        memory_swap_limit_in_bytes: if node.swap_accounted && !node.cgroup_v2 { memory_limit } else { 0 },
        oom_score_adj: oom_score_adj(pod, container, node.memory_bytes),
        hugepage_limits: node
            .hugepage_sizes
            .iter()
            .map(|size| hugepage_limit(size, &resources.limits))
            .collect(),
        unified,
        ..Default::default()
    }
}

fn hugepage_limit(
    size: &str,
    limits: &Option<BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
) -> v1::HugepageLimit {
    // `2MB` is the kernel's word for the resource `hugepages-2Mi`
    let resource = format!("hugepages-{}", size.replace("KB", "Ki").replace("MB", "Mi").replace("GB", "Gi"));
    let limit = limits
        .as_ref()
        .and_then(|l| l.get(&resource))
        .and_then(|q| crate::quantity::value(&q.0))
        .unwrap_or(0);
    v1::HugepageLimit { page_size: size.to_owned(), limit: u64::try_from(limit).unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u1", "labels": {"app": "x"}}, "spec": spec,
        }))
        .unwrap()
    }

    fn config(spec: serde_json::Value, user: ImageUser) -> Result<v1::ContainerConfig, ConfigError> {
        let pod = pod(spec);
        let node = Node { memory_bytes: 1 << 30, hugepage_sizes: vec!["2MB".into()], ..Node::default() };
        container_config(ContainerInput {
            pod: &pod,
            container: &containers(&pod)[0],
            restart_count: 3,
            image_ref: "sha256:1",
            image_user: &user,
            env: vec![("A".into(), "x".into())],
            mounts: vec![],
            target_id: None,
            node: &node,
        })
    }

    #[test]
    fn a_container_carries_identity_and_limits() {
        let spec = json!({"terminationGracePeriodSeconds": 5, "containers": [{
            "name": "c", "image": "i", "command": ["sh", "-c", "echo $(A) $(B)"],
            "resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "500m", "memory": "64Mi", "hugepages-2Mi": "4Mi"}},
        }]});
        let c = config(spec, ImageUser { uid: Some(1000), ..Default::default() }).unwrap();
        assert_eq!(c.command[2], "echo x $(B)");
        assert_eq!((c.log_path.as_str(), c.labels[labels::POD_UID].as_str()), ("c/3.log", "u1"));
        assert_eq!(
            (
                c.annotations[labels::RESTART_COUNT].as_str(),
                c.annotations[labels::POD_TERMINATION_GRACE].as_str()
            ),
            ("3", "5")
        );
        let linux = c.linux.unwrap();
        let r = linux.resources.unwrap();
        assert_eq!(
            (r.cpu_shares, r.cpu_quota, r.cpu_period, r.memory_limit_in_bytes),
            (256, 50_000, 100_000, 64 << 20)
        );
        assert_eq!((r.hugepage_limits[0].limit, r.oom_score_adj), (4 << 20, 999));
        let s = linux.security_context.unwrap();
        assert_eq!(s.run_as_user.unwrap().value, 1000);
        assert!(s.masked_paths.contains(&"/proc/kcore".to_owned()) && !s.no_new_privs);
        assert_eq!(s.seccomp.unwrap().profile_type, v1::security_profile::ProfileType::Unconfined as i32);
    }

    #[test]
    fn no_container_swaps() {
        #[track_caller]
        fn check(cgroup_v2: bool, swap_accounted: bool, expect: (i64, Option<&str>)) {
            let container = json!({"name": "c", "resources": {"limits": {"memory": "64Mi"}}});
            let pod = pod(json!({"containers": [container]}));
            let node = Node { cgroup_v2, swap_accounted, ..Node::default() };
            let resources = linux_resources(&pod, &containers(&pod)[0], &node);
            let unified = resources.unified.get("memory.swap.max").map(String::as_str);
            assert_eq!((resources.memory_swap_limit_in_bytes, unified), expect);
        }
        check(true, true, (0, Some("0")));
        check(true, false, (0, None));
        check(false, true, (64 << 20, None));
        check(false, false, (0, None));
    }

    #[test]
    fn root_is_refused_where_it_must_not_be() {
        #[track_caller]
        fn check(context: serde_json::Value, uid: Option<i64>, username: &str, expect: &str) {
            let spec = json!({"securityContext": {"runAsNonRoot": true}, "containers": [{"name": "c", "securityContext": context}]});
            let result = config(spec, ImageUser { uid, username: username.into() });
            assert_eq!(result.map(|_| "ok".to_owned()).unwrap_or_else(|e| e.0), expect);
        }
        check(
            json!({}),
            Some(0),
            "",
            "container has runAsNonRoot and image will run as root (pod: \"p_ns(u1)\", container: c)",
        );
        check(
            json!({}),
            None,
            "web",
            "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root (pod: \"p_ns(u1)\", container: c)",
        );
        check(
            json!({"runAsUser": 0}),
            Some(5),
            "",
            "container's runAsUser breaks non-root policy (pod: \"p_ns(u1)\", container: c)",
        );
        check(json!({"runAsUser": 7}), Some(0), "", "ok");
        check(json!({"runAsNonRoot": false}), Some(0), "", "ok");
    }

    #[test]
    fn a_sandbox_has_the_pods_names_and_namespaces() {
        let spec = json!({"hostPID": true, "securityContext": {"fsGroup": 7, "supplementalGroups": [8], "sysctls": [{"name": "net/ipv4/x", "value": "1"}]},
            "containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81}]}]});
        let node = Node { pod_logs_dir: "/var/log/pods".into(), ..Node::default() };
        let (c, _) = sandbox_config(&pod(spec), 2, "/kubepods/x", &node).unwrap();
        assert_eq!((c.hostname.as_str(), c.log_directory.as_str()), ("p", "/var/log/pods/ns_p_u1"));
        assert_eq!((c.port_mappings.len(), c.labels["app"].as_str()), (1, "x"));
        let linux = c.linux.unwrap();
        assert_eq!(linux.sysctls["net.ipv4.x"], "1");
        let s = linux.security_context.unwrap();
        assert_eq!(s.supplemental_groups, [7, 8]);
        assert_eq!(s.namespace_options.unwrap().pid, v1::NamespaceMode::Node as i32);
    }
}
