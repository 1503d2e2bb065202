//! The status of this node, from the facts: pure, except for [`facts`], which gathers them, and [`Source`].

mod conditions;
pub mod facts;
mod source;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeStatus, NodeSwapStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use meta::Time;

pub use conditions::Conditions;
pub use facts::{Disk, HostFacts, RuntimeHealth, gather};
pub use source::Source;

use crate::eviction::threshold::{Signal, Threshold, kept_free};
use crate::quantity::{bytes_text, millis_text};

/// How many images a status names, and how many names of each (upstream's `nodeStatusMaxImages` and
/// `MaxNamesPerImageInNodeStatus`).
const MAX_IMAGES: usize = 50;
const MAX_NAMES_PER_IMAGE: usize = 5;

/// What the kubelet is told about its node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    pub hostname: String,
    /// Addresses of the node, the first of each family first.
    pub internal_ips: Vec<String>,
    pub max_pods: u32,
    /// The kubelet's port.
    pub port: u16,
    /// `v1.36.0`.
    pub kubelet_version: String,
    /// Set aside for the system and for Kubernetes' own processes.
    pub reserved_cpu_millis: u64,
    pub reserved_memory_bytes: u64,
    /// Of what pods may have, this much is kept free.
    pub eviction: Vec<Threshold>,
    /// Problems that keep the node from being ready, besides those of the runtime.
    pub errors: Vec<String>,
}

/// A status and the reasons of the events that go with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub status: NodeStatus,
    /// As `NodeReady`, `NodeHasDiskPressure`; type Normal, and `Node NAME status is now: REASON`.
    pub events: Vec<&'static str>,
    /// The boot id, if the machine was started anew since the last status: a Warning `Rebooted`.
    pub rebooted: Option<String>,
}

/// The status of the node now; what others wrote into the last one (extended resources, volumes) stays.
pub fn report(last: Option<&NodeStatus>, facts: &HostFacts, settings: &Settings, now: Time) -> Report {
    let empty = NodeStatus::default();
    let last = last.unwrap_or(&empty);
    let capacity = capacity(facts, settings, last);
    let allocatable = allocatable(facts, settings, &capacity);
    let mut events = Vec::new();
    let conditions = conditions::conditions(last.conditions.as_deref(), facts, settings, now, &mut events);
    let last_boot = last.node_info.as_ref().map(|info| info.boot_id.as_str()).unwrap_or_default();
    let rebooted = (!last_boot.is_empty() && last_boot != facts.boot_id).then(|| facts.boot_id.clone());
    let status = NodeStatus {
        addresses: Some(addresses(settings)),
        allocatable: Some(allocatable),
        capacity: Some(capacity),
        conditions: Some(conditions),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: settings.port.into() }),
        }),
        features: facts
            .runtime
            .supplemental_groups_policy
            .map(|policy| NodeFeatures { supplemental_groups_policy: Some(policy) }),
        images: Some(images(facts)),
        node_info: Some(node_info(facts, settings)),
        runtime_handlers: runtime_handlers(facts),
        ..last.clone()
    };
    Report { status, events, rebooted }
}

/// Whether two statuses differ in more than the times of their conditions' heartbeats: then the new one
/// is written at once.
pub fn differs(a: &NodeStatus, b: &NodeStatus) -> bool {
    let still = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    still(a) != still(b)
}

fn quantity(text: String) -> Quantity {
    Quantity(text)
}

fn bytes(count: u64) -> Quantity {
    quantity(bytes_text(i64::try_from(count).unwrap_or(i64::MAX)))
}

fn capacity(facts: &HostFacts, settings: &Settings, last: &NodeStatus) -> BTreeMap<String, Quantity> {
    // extended resources, which somebody else declares, are kept
    let mut list: BTreeMap<String, Quantity> = last
        .capacity
        .iter()
        .flatten()
        .filter(|(name, _)| name.contains('/') && !name.starts_with("kubernetes.io/"))
        .map(|(name, amount)| (name.clone(), amount.clone()))
        .collect();
    let millis = i64::try_from(facts.cpu_cores.saturating_mul(1000)).unwrap_or(i64::MAX);
    list.insert("cpu".into(), quantity(millis_text(millis)));
    list.insert("memory".into(), bytes(facts.memory_bytes));
    list.insert("pods".into(), quantity(settings.max_pods.to_string()));
    list.insert("ephemeral-storage".into(), bytes(facts.node_fs.capacity_bytes));
    for (size, count) in &facts.huge_pages {
        list.insert(huge_page_name(*size), bytes(size.saturating_mul(*count)));
    }
    list
}

fn huge_page_name(size_bytes: u64) -> String {
    format!("hugepages-{}", bytes_text(i64::try_from(size_bytes).unwrap_or(i64::MAX)))
}

/// What pods may have: the capacity without what is reserved, the eviction thresholds, and memory that
/// is set aside as huge pages.
fn allocatable(
    facts: &HostFacts,
    settings: &Settings,
    capacity: &BTreeMap<String, Quantity>,
) -> BTreeMap<String, Quantity> {
    let mut list = capacity.clone();
    let free = |signal, capacity: u64| {
        let capacity = i64::try_from(capacity).unwrap_or(i64::MAX);
        u64::try_from(kept_free(&settings.eviction, signal, capacity)).unwrap_or(0)
    };
    let huge: u64 = facts.huge_pages.iter().map(|(size, count)| size.saturating_mul(*count)).sum();
    let memory = facts
        .memory_bytes
        .saturating_sub(settings.reserved_memory_bytes)
        .saturating_sub(free(Signal::MemoryAvailable, facts.memory_bytes))
        .saturating_sub(huge);
    let cpu = facts.cpu_cores.saturating_mul(1000).saturating_sub(settings.reserved_cpu_millis);
    let disk = facts.node_fs.capacity_bytes;
    list.insert("cpu".into(), quantity(millis_text(i64::try_from(cpu).unwrap_or(i64::MAX))));
    list.insert("memory".into(), bytes(memory));
    list.insert("ephemeral-storage".into(), bytes(disk.saturating_sub(free(Signal::NodeFsAvailable, disk))));
    list
}

fn addresses(settings: &Settings) -> Vec<NodeAddress> {
    let address = |type_: &str, address: &str| NodeAddress { type_: type_.into(), address: address.into() };
    let mut list: Vec<NodeAddress> =
        settings.internal_ips.iter().map(|ip| address("InternalIP", ip)).collect();
    list.push(address("Hostname", &settings.hostname));
    list
}

fn node_info(facts: &HostFacts, settings: &Settings) -> NodeSystemInfo {
    let version = if facts.runtime.version.is_empty() { "Unknown" } else { &facts.runtime.version };
    NodeSystemInfo {
        architecture: facts.architecture.clone(),
        boot_id: facts.boot_id.clone(),
        container_runtime_version: format!("{}://{version}", facts.runtime.name),
        kernel_version: facts.kernel_version.clone(),
        // no longer told, since the kubelet does not know it
        kube_proxy_version: String::new(),
        kubelet_version: settings.kubelet_version.clone(),
        machine_id: facts.machine_id.clone(),
        operating_system: "linux".into(),
        os_image: facts.os_image.clone(),
        swap: (facts.swap_bytes > 0)
            .then(|| NodeSwapStatus { capacity: i64::try_from(facts.swap_bytes).ok() }),
        system_uuid: facts.system_uuid.clone(),
    }
}

fn runtime_handlers(facts: &HostFacts) -> Option<Vec<NodeRuntimeHandler>> {
    let handlers: Vec<NodeRuntimeHandler> = facts
        .runtime
        .handlers
        .iter()
        .map(|handler| NodeRuntimeHandler {
            name: Some(handler.name.clone()),
            features: handler.features.map(|features| NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(features.recursive_read_only_mounts),
                user_namespaces: Some(features.user_namespaces),
            }),
        })
        .collect();
    (!handlers.is_empty()).then_some(handlers)
}

/// The largest images first.
fn images(facts: &HostFacts) -> Vec<ContainerImage> {
    let mut images: Vec<&cri::v1::Image> = facts.images.iter().collect();
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let named = images.into_iter().take(MAX_IMAGES).map(|image| ContainerImage {
        names: Some(
            image.repo_digests.iter().chain(&image.repo_tags).take(MAX_NAMES_PER_IMAGE).cloned().collect(),
        ),
        size_bytes: i64::try_from(image.size).ok(),
    });
    named.collect()
}

/// A condition of this type.
pub fn find<'a>(conditions: &'a [NodeCondition], type_: &str) -> Option<&'a NodeCondition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> HostFacts {
        HostFacts {
            cpu_cores: 2,
            memory_bytes: 24_683_528 << 10,
            memory_available_bytes: 20 << 30,
            huge_pages: vec![(2 << 20, 10)],
            node_fs: Disk {
                capacity_bytes: 1000 << 30,
                available_bytes: 500 << 30,
                inodes: 100,
                inodes_free: 90,
            },
            boot_id: "boot-1".into(),
            runtime: RuntimeHealth {
                name: "containerd".into(),
                version: "1.6.20".into(),
                ..Default::default()
            },
            images: vec![
                cri::v1::Image {
                    id: "small".into(),
                    size: 1,
                    repo_tags: vec!["a:1".into()],
                    ..Default::default()
                },
                cri::v1::Image {
                    id: "large".into(),
                    size: 9,
                    repo_tags: vec!["b:1".into()],
                    ..Default::default()
                },
            ],
            ..HostFacts::default()
        }
    }

    fn settings() -> Settings {
        Settings {
            hostname: "n1".into(),
            internal_ips: vec!["10.0.0.1".into()],
            max_pods: 110,
            port: 10250,
            kubelet_version: "v1.36.0".into(),
            eviction: crate::Config::default().eviction,
            ..Settings::default()
        }
    }

    fn now() -> Time {
        "2026-06-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn what_pods_may_have_is_the_capacity_without_the_thresholds() {
        let status = report(None, &facts(), &settings(), now()).status;
        let amount =
            |list: &Option<BTreeMap<String, Quantity>>, name: &str| list.as_ref().unwrap()[name].0.clone();
        assert_eq!(amount(&status.capacity, "memory"), "24683528Ki");
        // 100Mi of eviction threshold, 20Mi of huge pages
        assert_eq!(amount(&status.allocatable, "memory"), "24560648Ki");
        assert_eq!(amount(&status.allocatable, "ephemeral-storage"), "900Gi");
        assert_eq!(
            (amount(&status.capacity, "cpu"), amount(&status.capacity, "pods")),
            ("2".into(), "110".into())
        );
        assert_eq!(amount(&status.allocatable, "hugepages-2Mi"), "20Mi");
        let info = status.node_info.unwrap();
        assert_eq!(
            (info.container_runtime_version.as_str(), info.kubelet_version.as_str()),
            ("containerd://1.6.20", "v1.36.0")
        );
        assert_eq!(status.images.unwrap()[0].names.as_deref(), Some(&["b:1".to_owned()][..]));
    }

    #[test]
    fn a_second_status_keeps_what_others_wrote_and_tells_a_reboot() {
        let mut last = report(None, &facts(), &settings(), now()).status;
        last.capacity.as_mut().unwrap().insert("example.com/gpu".into(), Quantity("2".into()));
        last.volumes_in_use = Some(vec!["v".into()]);
        let later = "2026-06-01T00:10:00Z".parse().unwrap();
        let same = report(Some(&last), &facts(), &settings(), later);
        assert!(same.events.is_empty() && same.rebooted.is_none());
        assert_eq!(same.status.capacity.as_ref().unwrap()["example.com/gpu"].0, "2");
        assert_eq!(same.status.volumes_in_use, last.volumes_in_use);
        let again = report(Some(&same.status), &facts(), &settings(), now()).status;
        assert!(!differs(&same.status, &again), "only heartbeats differ");
        let started =
            report(Some(&last), &HostFacts { boot_id: "boot-2".into(), ..facts() }, &settings(), later);
        assert_eq!(started.rebooted.as_deref(), Some("boot-2"));
    }
}
