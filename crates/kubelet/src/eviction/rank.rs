//! Who has to go, and what is said about it. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::threshold::{Observations, Signal, Threshold};
use crate::admission::requests;
use crate::quantity::{bytes_text, value};
use crate::server::stats::{ContainerStats, FsStats, PodStats};
use crate::sync::{containers, init_containers};

pub type Stats<'a> = BTreeMap<&'a str, &'a PodStats>;

fn stats_of<'a>(pod: &Pod, stats: &Stats<'a>) -> Option<&'a PodStats> {
    stats.get(pod.metadata.uid.as_deref().unwrap_or_default()).copied()
}

fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// What counts as a pod's use of the disk that is short: with a disk of their own for images and containers' layers,
/// logs and volumes are on the node's and layers on the other.
fn disk_use(stats: &PodStats, signal: Signal, own_image_fs: bool) -> (u64, u64) {
    let image = matches!(signal, Signal::ImageFsAvailable | Signal::ImageFsInodesFree);
    let (layers, rest) = (!own_image_fs || image, !own_image_fs || !image);
    let of = |fs: &FsStats| (fs.used_bytes, fs.inodes_used);
    let mut parts: Vec<(u64, u64)> = Vec::new();
    for c in &stats.containers {
        parts.extend(c.rootfs.as_ref().filter(|_| layers).map(of));
        parts.extend(c.logs.as_ref().filter(|_| rest).map(of));
    }
    let volumes = stats.volume.iter().filter(|v| v.local);
    parts.extend(volumes.filter(|_| rest).map(|v| of(&v.fs)));
    parts.into_iter().fold((0, 0), |(a, b), (bytes, inodes)| (a + bytes, b + inodes))
}

/// Orders pods by who is to go first: those beyond their requests, then by priority, then by how far beyond.
pub fn rank(pods: &mut [Arc<Pod>], stats: &Stats<'_>, signal: Signal, own_image_fs: bool) {
    let request = |pod: &Pod, name: &str| requests(pod).get(name).copied().unwrap_or(0);
    pods.sort_by_cached_key(|pod| {
        let found = stats_of(pod, stats);
        let beyond = match signal {
            Signal::PidAvailable => {
                let processes = found.and_then(|s| s.process_stats).map_or(0, |p| p.process_count);
                return (false, priority(pod), Reverse(signed(processes)));
            }
            Signal::MemoryAvailable => found
                .and_then(|s| s.memory.as_ref())
                .map(|m| signed(m.working_set_bytes) - request(pod, "memory")),
            _ => found.map(|s| {
                let (bytes, inodes) = disk_use(s, signal, own_image_fs);
                match signal {
                    Signal::NodeFsInodesFree | Signal::ImageFsInodesFree => signed(inodes),
                    _ => signed(bytes) - request(pod, "ephemeral-storage"),
                }
            }),
        };
        // who tells nothing goes first
        let beyond = beyond.unwrap_or(i64::MAX);
        (beyond <= 0, priority(pod), Reverse(beyond))
    });
}

/// Why a pod is evicted, and the annotations of the event.
pub fn message(
    pod: &Pod,
    stats: &Stats<'_>,
    threshold: &Threshold,
    met: &[Threshold],
    observations: &Observations,
) -> (String, BTreeMap<String, String>) {
    let resource = threshold.signal.resource();
    let mut text = format!("The node was low on resource: {resource}. ");
    let told = met.iter().find(|t| t.signal.resource() == resource);
    if let Some((t, seen)) = told.and_then(|t| Some((t, observations.get(&t.signal)?))) {
        let write = |amount: i64| match t.signal {
            Signal::NodeFsInodesFree | Signal::ImageFsInodesFree | Signal::PidAvailable => amount.to_string(),
            _ => bytes_text(amount),
        };
        let quantity = write(t.value.of(seen.capacity));
        text += &format!("Threshold quantity: {quantity}, available: {}. ", write(seen.available));
    }
    let mut annotations = BTreeMap::new();
    let Some(found) = stats_of(pod, stats) else { return (text, annotations) };
    let (mut names, mut uses) = (Vec::new(), Vec::new());
    for seen in &found.containers {
        let Some(spec) = containers(pod).iter().chain(init_containers(pod)).find(|c| c.name == seen.name)
        else {
            continue;
        };
        let requested = spec.resources.as_ref().and_then(|r| r.requests.as_ref()?.get(resource).cloned());
        let request = requested.as_ref().and_then(|q| value(&q.0)).unwrap_or(0);
        let Some(used) = container_use(seen, resource).filter(|used| *used > request) else { continue };
        let request = requested.map_or_else(|| "0".to_owned(), |q| q.0);
        let used = bytes_text(used);
        text += &format!(
            "Container {} was using {used}, request is {request}, has larger consumption of {resource}. ",
            seen.name
        );
        names.push(seen.name.clone());
        uses.push(used);
    }
    annotations.insert("offending_containers".into(), names.join(","));
    annotations.insert("offending_containers_usage".into(), uses.join(","));
    annotations.insert("starved_resource".into(), resource.into());
    (text, annotations)
}

fn container_use(seen: &ContainerStats, resource: &str) -> Option<i64> {
    match resource {
        "memory" => seen.memory.as_ref().map(|m| signed(m.working_set_bytes)),
        "ephemeral-storage" => {
            Some(signed(seen.rootfs.as_ref()?.used_bytes.saturating_add(seen.logs.as_ref()?.used_bytes)))
        }
        _ => None,
    }
}

/// Why a pod has to go because it uses more local storage than it may; `None` if it does not.
pub fn over_limit(pod: &Pod, stats: &PodStats, own_image_fs: bool) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    for volume in spec.volumes.iter().flatten() {
        let Some(limit) = volume.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref()) else { continue };
        let used = stats.volume.iter().find(|v| v.name == volume.name).map(|v| v.fs.used_bytes);
        let most = value(&limit.0).filter(|l| *l > 0);
        if used.zip(most).is_some_and(|(used, most)| signed(used) > most) {
            return Some(format!(
                "Usage of EmptyDir volume {:?} exceeds the limit {:?}. ",
                volume.name, limit.0
            ));
        }
    }
    let limit = |c: &k8s_openapi::api::core::v1::Container| {
        let quantity = c.resources.as_ref()?.limits.as_ref()?.get("ephemeral-storage")?.0.clone();
        Some((value(&quantity).filter(|v| *v > 0)?, quantity))
    };
    let total: i64 = containers(pod).iter().filter_map(limit).map(|(v, _)| v).sum();
    let used = stats.ephemeral_storage.as_ref().map_or(0, |fs| signed(fs.used_bytes));
    if total > 0 && used > total {
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {}. ",
            bytes_text(total)
        ));
    }
    for seen in &stats.containers {
        let layer = seen.rootfs.as_ref().filter(|_| !own_image_fs).map_or(0, |fs| fs.used_bytes);
        let used = signed(seen.logs.as_ref().map_or(0, |fs| fs.used_bytes).saturating_add(layer));
        let own = containers(pod).iter().find(|c| c.name == seen.name).and_then(limit);
        if let Some((_, quantity)) = own.filter(|(most, _)| used > *most) {
            return Some(format!(
                "Container {} exceeded its local ephemeral storage limit {quantity:?}. ",
                seen.name
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::threshold::{Amount, Observation};
    use serde_json::json;

    fn pod(name: &str, priority: i32, resources: serde_json::Value) -> Arc<Pod> {
        let pod = json!({"metadata": {"name": name, "uid": name}, "spec": {"priority": priority,
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}],
            "containers": [{"name": "c", "resources": resources}]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn stats(name: &str, memory: u64, layer: u64, volume: u64) -> PodStats {
        serde_json::from_value(json!({
            "podRef": {"name": name, "namespace": "d", "uid": name}, "startTime": "2026-06-01T00:00:00Z",
            "memory": memory_json(memory),
            "ephemeral-storage": fs_json(layer + volume),
            "containers": [{"name": "c", "startTime": "2026-06-01T00:00:00Z", "memory": memory_json(memory),
                "rootfs": fs_json(layer), "logs": fs_json(0)}],
            "volume": [{"name": "v", "time": "2026-06-01T00:00:00Z", "availableBytes": 0, "capacityBytes": 0,
                "usedBytes": volume, "inodesFree": 0, "inodes": 0, "inodesUsed": 1, "local": true}],
        }))
        .unwrap()
    }

    fn memory_json(bytes: u64) -> serde_json::Value {
        json!({"time": "2026-06-01T00:00:00Z", "usageBytes": bytes, "workingSetBytes": bytes, "rssBytes": 0,
            "pageFaults": 0, "majorPageFaults": 0})
    }

    fn fs_json(bytes: u64) -> serde_json::Value {
        json!({"time": "2026-06-01T00:00:00Z", "availableBytes": 0, "capacityBytes": 0, "usedBytes": bytes,
            "inodesFree": 0, "inodes": 0, "inodesUsed": 1})
    }

    #[test]
    fn who_uses_more_than_asked_for_goes_first_then_the_less_important() {
        let request = |memory: &str| json!({"requests": {"memory": memory}});
        let mut pods = vec![
            pod("modest", 0, request("1Gi")),
            pod("important", 9, request("1Mi")),
            pod("small", 0, request("1Mi")),
            pod("large", 0, request("1Mi")),
        ];
        let all = [
            stats("modest", 500 << 20, 0, 0),
            stats("important", 300 << 20, 0, 0),
            stats("small", 2 << 20, 0, 0),
            stats("large", 100 << 20, 0, 0),
        ];
        let by_uid: Stats = all.iter().map(|s| (s.pod_ref.uid.as_str(), s)).collect();
        rank(&mut pods, &by_uid, Signal::MemoryAvailable, false);
        let names: Vec<_> = pods.iter().map(|p| p.metadata.name.as_deref().unwrap()).collect();
        assert_eq!(names, ["large", "small", "important", "modest"]);
        let threshold = Threshold {
            signal: Signal::MemoryAvailable,
            value: Amount::Absolute(100 << 20),
            grace_seconds: 0,
            min_reclaim: None,
        };
        let seen = [(Signal::MemoryAvailable, Observation { available: 50 << 20, capacity: 1 << 30 })].into();
        assert_eq!(
            message(&pods[0], &by_uid, &threshold, &[threshold], &seen).0,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using \
             100Mi, request is 1Mi, has larger consumption of memory. "
        );
    }

    #[test]
    fn local_storage_has_limits() {
        #[track_caller]
        fn check(limits: serde_json::Value, layer: u64, volume: u64, expect: Option<&str>) {
            let pod = pod("p", 0, json!({ "limits": limits }));
            let seen = over_limit(&pod, &stats("p", 0, layer, volume), false);
            assert_eq!(seen.as_deref(), expect);
        }
        check(json!({}), 9 << 20, 1 << 20, None);
        check(
            json!({}),
            0,
            (1 << 20) + 1,
            Some("Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". "),
        );
        let limit = json!({"ephemeral-storage": "2Mi"});
        check(
            limit,
            3 << 20,
            0,
            Some("Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. "),
        );
    }
}
