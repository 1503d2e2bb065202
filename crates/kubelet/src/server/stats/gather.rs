//! The shell that reads the figures.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cri::v1 as pb;
use cri::{ImageApi, RuntimeApi};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use meta::Time;
use parking_lot::Mutex;

use super::{
    ContainerStats, CpuStats, FsStats, InterfaceStats, MemoryStats, Moment, NetworkStats, NodeStats,
    PodReference, PodStats, ProcessStats, RlimitStats, RuntimeStats, Summary, SwapStats, VolumeStats,
};
use crate::cgroups::{Cgroups, Stats, pod_cgroup};
use crate::config::Config;
use crate::container_config::pod_log_dir;
use crate::disk_usage::disk_usage;
use crate::node_status::Disk;
use crate::node_status::facts::{disk, host};
use crate::sync::init_containers;

/// Two looks closer together than this give no rate: the last one is told again, in nanoseconds.
const MIN_RATE_NANOS: i128 = 1_000_000_000;

/// A walk over a pod's files is made again at the earliest after this many times what the last one took: it costs no
/// more than a hundredth of a core, however many files there are.
const WALK_PAUSE: u32 = 100;

/// The last look at a cgroup's CPU time.
#[derive(Debug, Clone, Copy)]
struct Sample {
    time: Time,
    usage_nanos: u64,
    rate: Option<u64>,
}

/// Reads figures; remembers CPU times between two looks, for the rates.
pub struct Collector {
    pub cgroups: Cgroups,
    pub runtime: Arc<dyn RuntimeApi>,
    pub node_name: String,
    pub images: Arc<dyn ImageApi>,
    /// The kubelet's directory, on the node's file system.
    pub kubelet_dir: PathBuf,
    pub pod_logs_dir: PathBuf,
    samples: Mutex<HashMap<String, Sample>>,
    walks: Arc<Mutex<Walks>>,
}

impl Collector {
    pub fn new(
        cgroups: Cgroups,
        runtime: Arc<dyn RuntimeApi>,
        images: Arc<dyn ImageApi>,
        config: &Config,
    ) -> Self {
        Self {
            cgroups,
            runtime,
            images,
            node_name: config.node_name.clone(),
            kubelet_dir: config.data_dir.clone(),
            pod_logs_dir: config.pod_logs_dir.clone(),
            samples: Mutex::default(),
            walks: Arc::default(),
        }
    }

    /// Everything, now.
    pub async fn summary(&self, pods: &[Arc<Pod>], now: Time) -> Summary {
        let layers = self.runtime.list_container_stats(None).await.unwrap_or_default();
        let layers: HashMap<&str, &pb::FilesystemUsage> = layers
            .iter()
            .filter_map(|stats| {
                Some((stats.attributes.as_ref()?.id.as_str(), stats.writable_layer.as_ref()?))
            })
            .collect();
        let image_fs = self.images.image_fs_info().await.ok().and_then(|info| {
            let fs = info.image_filesystems.into_iter().next()?;
            Some((PathBuf::from(fs.fs_id?.mountpoint), fs.used_bytes?.value, fs.inodes_used?.value))
        });
        let node = self.node(image_fs.as_ref(), now);
        let node_fs = disk(&self.kubelet_dir).unwrap_or_default();
        let local = {
            let (pods, data, logs) = (pods.to_vec(), self.kubelet_dir.clone(), self.pod_logs_dir.clone());
            let walks = self.walks.clone();
            let walk = move || walks.lock().walk(&pods, &data, &logs);
            tokio::task::spawn_blocking(walk).await.unwrap_or_default()
        };
        let pods: Vec<PodStats> = pods
            .iter()
            .zip(local)
            .filter_map(|(pod, local)| self.pod(pod, &local, &layers, &node_fs, now))
            .collect();
        // what is gone is forgotten
        self.samples.lock().retain(|_, sample| sample.time == now);
        Summary { node, pods }
    }

    fn node(&self, image_fs: Option<&(PathBuf, u64, u64)>, now: Time) -> NodeStats {
        let facts = host(&self.kubelet_dir, image_fs.map(|(path, _, _)| path.as_path()));
        let stats = self.cgroups.stats("/");
        let cpu = match stats.cpu {
            Some(cpu) => Some(cpu.usage_nanos),
            None => proc_stat_nanos(&fs::read_to_string("/proc/stat").unwrap_or_default()),
        };
        let used = facts.memory_bytes.saturating_sub(facts.memory_available_bytes);
        let memory = stats.memory.unwrap_or(crate::cgroups::MemoryStats {
            usage_bytes: used,
            working_set_bytes: used,
            ..Default::default()
        });
        let node_fs = fs_stats(&facts.node_fs, None, now);
        NodeStats {
            node_name: self.node_name.clone(),
            start_time: Moment(boot_time(now)),
            cpu: cpu.map(|usage_nanos| self.cpu("/", usage_nanos, now)),
            memory: Some(memory_stats(&memory, Some(facts.memory_bytes), now)),
            network: network("/proc/net/dev", now),
            own_image_fs: facts.image_fs.is_some(),
            runtime: Some(RuntimeStats {
                image_fs: fs_stats(
                    facts.image_fs.as_ref().unwrap_or(&facts.node_fs),
                    image_fs.map(|(_, bytes, inodes)| (*bytes, *inodes)),
                    now,
                ),
            }),
            fs: Some(node_fs),
            rlimit: Some(RlimitStats {
                time: Moment(now),
                maxpid: facts.max_pids,
                curproc: facts.running_pids,
            }),
            swap: Some(SwapStats {
                time: Moment(now),
                swap_available_bytes: Some(facts.swap_bytes),
                swap_usage_bytes: 0,
            }),
        }
    }

    /// A pod that has a cgroup.
    fn pod(
        &self,
        pod: &Pod,
        local: &Local,
        layers: &HashMap<&str, &pb::FilesystemUsage>,
        node_fs: &Disk,
        now: Time,
    ) -> Option<PodStats> {
        let cgroup = pod_cgroup(pod);
        if !self.cgroups.exists(&cgroup) {
            return None;
        }
        let stats = self.cgroups.stats(&cgroup);
        let status = pod.status.as_ref();
        let lists = status
            .map(|s| [&s.init_container_statuses, &s.container_statuses, &s.ephemeral_container_statuses]);
        let statuses = lists.into_iter().flatten().flatten().flatten();
        let containers: Vec<ContainerStats> = statuses
            .filter_map(|status| self.container(&cgroup, status, local, layers, node_fs, now))
            .collect();
        let volume: Vec<VolumeStats> = local
            .volumes
            .iter()
            .map(|(name, (disk, used), on_disk)| VolumeStats {
                name: name.clone(),
                fs: fs_stats(disk.as_ref().unwrap_or(node_fs), Some(*used), now),
                local: *on_disk,
            })
            .collect();
        // layers, logs, volumes on the disk, and the kubelet's own files
        let parts = containers.iter().flat_map(|c| [c.rootfs.as_ref(), c.logs.as_ref()]).flatten();
        let parts = parts.chain(volume.iter().filter(|v| v.local).map(|v| &v.fs));
        let (used, inodes) = parts.fold(local.own, |(a, b), fs| (a + fs.used_bytes, b + fs.inodes_used));
        let host_network = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        let process = if host_network { None } else { self.cgroups.processes(&cgroup).into_iter().next() };
        let name = |name: &Option<String>| name.clone().unwrap_or_default();
        Some(PodStats {
            pod_ref: PodReference {
                name: name(&pod.metadata.name),
                namespace: name(&pod.metadata.namespace),
                uid: name(&pod.metadata.uid),
            },
            start_time: status.and_then(|s| s.start_time.clone()).unwrap_or(Moment(now)),
            containers,
            cpu: stats.cpu.map(|cpu| self.cpu(&cgroup, cpu.usage_nanos, now)),
            memory: stats.memory.map(|memory| memory_stats(&memory, memory.limit_bytes, now)),
            network: process.and_then(|pid| network(&format!("/proc/{pid}/net/dev"), now)),
            volume,
            ephemeral_storage: Some(fs_stats(node_fs, Some((used, inodes)), now)),
            process_stats: stats.processes.map(|process_count| ProcessStats { process_count }),
            swap: stats.memory.map(|memory| swap_stats(memory.swap_bytes, now)),
        })
    }

    /// A running container: its cgroup has its id for a name, below its pod's.
    fn container(
        &self,
        pod_cgroup: &str,
        status: &ContainerStatus,
        local: &Local,
        layers: &HashMap<&str, &pb::FilesystemUsage>,
        node_fs: &Disk,
        now: Time,
    ) -> Option<ContainerStats> {
        let running = status.state.as_ref()?.running.as_ref()?;
        let id = status.container_id.as_deref()?.split_once("://")?.1;
        let cgroup = format!("{pod_cgroup}/{id}");
        let Stats { cpu, memory, .. } = self.cgroups.stats(&cgroup);
        let layer = layers.get(id).map(|layer| {
            let value = |value: &Option<pb::UInt64Value>| value.as_ref().map_or(0, |v| v.value);
            (value(&layer.used_bytes), value(&layer.inodes_used))
        });
        Some(ContainerStats {
            name: status.name.clone(),
            start_time: running.started_at.clone().unwrap_or(Moment(now)),
            cpu: cpu.map(|cpu| self.cpu(&cgroup, cpu.usage_nanos, now)),
            memory: memory.map(|memory| memory_stats(&memory, memory.limit_bytes, now)),
            rootfs: layer.map(|used| fs_stats(node_fs, Some(used), now)),
            logs: local.logs.get(&status.name).map(|used| fs_stats(node_fs, Some(*used), now)),
            swap: memory.map(|memory| swap_stats(memory.swap_bytes, now)),
        })
    }

    fn cpu(&self, cgroup: &str, usage_nanos: u64, now: Time) -> CpuStats {
        let mut samples = self.samples.lock();
        let last = samples.get(cgroup).copied();
        let (sample, rate) = next_sample(last, usage_nanos, now);
        samples.insert(cgroup.to_owned(), Sample { time: now, ..sample });
        CpuStats { time: Moment(now), usage_nano_cores: rate, usage_core_nano_seconds: usage_nanos }
    }
}

/// Bytes and inodes.
type Used = (u64, u64);

/// What pods' files were found to be, by the pod's uid: when that was, how long it took, and what came of it.
#[derive(Default)]
struct Walks(HashMap<String, (Instant, Duration, Arc<Local>)>);

impl Walks {
    /// Walks where it is time to. Blocking.
    fn walk(&mut self, pods: &[Arc<Pod>], kubelet_dir: &Path, logs_dir: &Path) -> Vec<Arc<Local>> {
        let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
        self.0.retain(|known, _| pods.iter().any(|pod| uid(pod) == *known));
        let one = |pod: &Arc<Pod>| {
            let last = self.0.get(&uid(pod)).filter(|(at, took, _)| at.elapsed() < *took * WALK_PAUSE);
            if let Some((_, _, local)) = last {
                return local.clone();
            }
            let start = Instant::now();
            let local = Arc::new(Local::of(pod, kubelet_dir, logs_dir));
            self.0.insert(uid(pod), (Instant::now(), start.elapsed(), local.clone()));
            local
        };
        pods.iter().map(one).collect()
    }
}

/// What a pod uses of the node's disk beside its containers' layers.
#[derive(Default)]
struct Local {
    /// By container.
    logs: HashMap<String, Used>,
    /// Name, use with the file system where it is not the node's, and whether it is the node's disk.
    volumes: Vec<(String, (Option<Disk>, Used), bool)>,
    own: Used,
}

impl Local {
    /// Blocking.
    fn of(pod: &Pod, kubelet_dir: &Path, logs_dir: &Path) -> Self {
        let text = |v: &Option<String>| v.clone().unwrap_or_default();
        let meta = &pod.metadata;
        let dir = kubelet_dir.join("pods").join(text(&meta.uid));
        let logs = pod_log_dir(logs_dir, &text(&meta.namespace), &text(&meta.name), &text(&meta.uid));
        let containers = init_containers(pod).iter().chain(crate::sync::containers(pod));
        let logs = containers.map(|c| (c.name.clone(), disk_usage(&logs.join(&c.name)))).collect();
        let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter_map(|volume| {
            let source = volume.empty_dir.as_ref()?;
            let path = dir.join("volumes/kubernetes.io~empty-dir").join(&volume.name);
            let in_memory = source.medium.as_deref() == Some("Memory");
            let used = if in_memory {
                let disk = disk(&path)?;
                let bytes = disk.capacity_bytes.saturating_sub(disk.available_bytes);
                (Some(disk), (bytes, disk.inodes.saturating_sub(disk.inodes_free)))
            } else {
                (None, disk_usage(&path))
            };
            Some((volume.name.clone(), used, !in_memory))
        });
        Self { logs, volumes: volumes.collect(), own: disk_usage(&dir.join("etc-hosts")) }
    }
}

/// What to remember of a look, and the rate since the last one.
fn next_sample(last: Option<Sample>, usage_nanos: u64, now: Time) -> (Sample, Option<u64>) {
    let fresh = |rate| Sample { time: now, usage_nanos, rate };
    let Some(last) = last else { return (fresh(None), None) };
    let elapsed = now.as_nanosecond() - last.time.as_nanosecond();
    if elapsed < MIN_RATE_NANOS {
        return (last, last.rate);
    }
    let used = u128::from(usage_nanos.saturating_sub(last.usage_nanos));
    let rate = used.saturating_mul(1_000_000_000) / elapsed.unsigned_abs();
    let rate = Some(u64::try_from(rate).unwrap_or(u64::MAX));
    (fresh(rate), rate)
}

fn memory_stats(memory: &crate::cgroups::MemoryStats, bound: Option<u64>, now: Time) -> MemoryStats {
    MemoryStats {
        time: Moment(now),
        available_bytes: bound.map(|bound| bound.saturating_sub(memory.working_set_bytes)),
        usage_bytes: memory.usage_bytes,
        working_set_bytes: memory.working_set_bytes,
        rss_bytes: memory.rss_bytes,
        page_faults: memory.page_faults,
        major_page_faults: memory.major_page_faults,
    }
}

fn swap_stats(swap_usage_bytes: u64, now: Time) -> SwapStats {
    SwapStats { time: Moment(now), swap_available_bytes: Some(0), swap_usage_bytes }
}

/// A file system, of which `used` (bytes and inodes) or else all that is not free is ours.
fn fs_stats(disk: &Disk, used: Option<(u64, u64)>, now: Time) -> FsStats {
    let all = (
        disk.capacity_bytes.saturating_sub(disk.available_bytes),
        disk.inodes.saturating_sub(disk.inodes_free),
    );
    let (used_bytes, inodes_used) = used.unwrap_or(all);
    FsStats {
        time: Moment(now),
        available_bytes: disk.available_bytes,
        capacity_bytes: disk.capacity_bytes,
        used_bytes,
        inodes_free: disk.inodes_free,
        inodes: disk.inodes,
        inodes_used,
    }
}

fn network(path: &str, now: Time) -> Option<NetworkStats> {
    let interfaces = interfaces(&fs::read_to_string(Path::new(path)).ok()?);
    // in a pod eth0; on a node the first one that is real
    let default = interfaces.iter().find(|i| i.name == "eth0").or(interfaces.first()).cloned()?;
    Some(NetworkStats { time: Moment(now), default, interfaces })
}

/// Reads `/proc/net/dev`: "NAME: 8 figures received, 8 sent". The loopback is left out.
fn interfaces(table: &str) -> Vec<InterfaceStats> {
    let read = |line: &str| {
        let (name, figures) = line.split_once(':')?;
        let figures: Vec<u64> = figures.split_whitespace().filter_map(|figure| figure.parse().ok()).collect();
        let name = name.trim();
        if name == "lo" {
            return None;
        }
        Some(InterfaceStats {
            name: name.to_owned(),
            rx_bytes: *figures.first()?,
            rx_errors: *figures.get(2)?,
            tx_bytes: *figures.get(8)?,
            tx_errors: *figures.get(10)?,
        })
    };
    table.lines().filter_map(read).collect()
}

/// CPU time of the whole machine, from the first line of `/proc/stat`, in ticks of 10 ms: all but idle
/// and waiting for disks.
fn proc_stat_nanos(stat: &str) -> Option<u64> {
    let figures: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).filter_map(|figure| figure.parse().ok()).collect();
    let busy =
        figures.iter().enumerate().filter(|(at, _)| !matches!(at, 3 | 4 | 8 | 9)).map(|(_, ticks)| ticks);
    Some(busy.sum::<u64>().saturating_mul(10_000_000))
}

fn boot_time(now: Time) -> Time {
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds: u64 = uptime.split('.').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
    now.checked_sub(std::time::Duration::from_secs(seconds)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u32) -> Time {
        format!("2026-06-01T00:00:{second:02}Z").parse().unwrap()
    }

    #[test]
    fn rates_are_between_looks_that_are_far_enough_apart() {
        let (first, rate) = next_sample(None, 1_000_000_000, at(0));
        assert_eq!(rate, None);
        let (second, rate) = next_sample(Some(first), 2_000_000_000, at(10));
        assert_eq!(rate, Some(100_000_000));
        let soon = "2026-06-01T00:00:10.5Z".parse().unwrap();
        assert_eq!(
            next_sample(Some(second), 2_500_000_000, soon).1,
            Some(100_000_000),
            "the last rate is told again"
        );
    }

    #[test]
    fn the_kernels_tables_are_read() {
        let table = "Inter-|   Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 100 2 3 0 0 0 0 0 200 4 5 0 0 0 0 0\n";
        let expect =
            InterfaceStats { name: "eth0".into(), rx_bytes: 100, rx_errors: 3, tx_bytes: 200, tx_errors: 5 };
        assert_eq!(interfaces(table), [expect]);
        assert_eq!(proc_stat_nanos("cpu  10 0 20 1000 50 0 1 0 0 0\ncpu0 1\n"), Some(310_000_000));
    }
}
