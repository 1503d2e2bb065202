//! What is true of this machine and its runtime right now.

use std::fs;
use std::path::{Path, PathBuf};

use cri::v1 as pb;
use cri::{ImageApi, RuntimeApi};

/// Space of one file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    pub capacity_bytes: u64,
    pub available_bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

/// How the runtime is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeHealth {
    /// `containerd`.
    pub name: String,
    /// `1.6.20`.
    pub version: String,
    /// Why no pod can run, as the node's condition says it; `None` if all is well.
    pub runtime_error: Option<String>,
    pub network_error: Option<String>,
    pub handlers: Vec<pb::RuntimeHandler>,
    pub supplemental_groups_policy: Option<bool>,
}

/// Everything a node's status is made of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostFacts {
    pub cpu_cores: u64,
    pub memory_bytes: u64,
    pub memory_available_bytes: u64,
    pub swap_bytes: u64,
    /// Page size in bytes and how many pages are set aside.
    pub huge_pages: Vec<(u64, u64)>,
    /// The file system of the kubelet's directory.
    pub node_fs: Disk,
    /// The file system of images, where it is another one.
    pub image_fs: Option<Disk>,
    pub max_pids: u64,
    pub running_pids: u64,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel_version: String,
    pub os_image: String,
    /// In Kubernetes' words: `amd64`.
    pub architecture: String,
    pub runtime: RuntimeHealth,
    pub images: Vec<pb::Image>,
    pub pressure: super::Conditions,
}

/// Reads everything. What cannot be read is empty, and a runtime that does not answer says so in its
/// health: a node's status is posted all the same.
pub async fn gather(runtime: &dyn RuntimeApi, images: &dyn ImageApi, kubelet_dir: &Path) -> HostFacts {
    let (health, list, fs_info) =
        tokio::join!(runtime_health(runtime), images.list_images(), images.image_fs_info());
    let mount = fs_info.ok().and_then(|info| info.image_filesystems.into_iter().next()).and_then(|f| f.fs_id);
    let mut facts = host(kubelet_dir, mount.map(|id| PathBuf::from(id.mountpoint)).as_deref());
    facts.runtime = health;
    facts.images = list.unwrap_or_default();
    facts
}

/// The machine's part of the facts; blocks for some file reads.
pub fn host(kubelet_dir: &Path, image_dir: Option<&Path>) -> HostFacts {
    let meminfo = text("/proc/meminfo");
    let kib = |name: &str| meminfo_kib(&meminfo, name) * 1024;
    let os_release = text("/etc/os-release");
    HostFacts {
        cpu_cores: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
        memory_bytes: kib("MemTotal"),
        memory_available_bytes: kib("MemAvailable"),
        swap_bytes: kib("SwapTotal"),
        huge_pages: huge_pages(Path::new("/sys/kernel/mm/hugepages")),
        node_fs: disk(kubelet_dir).unwrap_or_default(),
        image_fs: image_dir.filter(|dir| !same_device(dir, kubelet_dir)).and_then(disk),
        max_pids: number("/proc/sys/kernel/pid_max").min(number("/proc/sys/kernel/threads-max")),
        running_pids: running_pids(&text("/proc/loadavg")),
        machine_id: first_line(&["/etc/machine-id", "/var/lib/dbus/machine-id"]),
        system_uuid: first_line(&["/sys/class/dmi/id/product_uuid", "/etc/machine-id"]),
        boot_id: first_line(&["/proc/sys/kernel/random/boot_id"]),
        kernel_version: first_line(&["/proc/sys/kernel/osrelease"]),
        os_image: os_image(&os_release),
        architecture: cri::image::architecture().to_owned(),
        runtime: RuntimeHealth::default(),
        images: Vec::new(),
        pressure: super::Conditions::default(),
    }
}

async fn runtime_health(runtime: &dyn RuntimeApi) -> RuntimeHealth {
    let (version, status) = tokio::join!(runtime.version(), runtime.status(false));
    let mut health = RuntimeHealth::default();
    if let Ok(version) = version {
        health.name = version.runtime_name;
        health.version = version.runtime_version;
    }
    let status = match status {
        Ok(status) => status,
        Err(_) => {
            health.runtime_error = Some("container runtime is down".to_owned());
            return health;
        }
    };
    let conditions = status.status.map(|status| status.conditions).unwrap_or_default();
    health.runtime_error = condition_error(&conditions, "RuntimeReady", "container runtime not ready");
    health.network_error =
        condition_error(&conditions, "NetworkReady", "container runtime network not ready");
    health.handlers = status.runtime_handlers;
    health.supplemental_groups_policy = status.features.map(|features| features.supplemental_groups_policy);
    health
}

/// Why a condition of the runtime is not met, in upstream's words.
fn condition_error(conditions: &[pb::RuntimeCondition], name: &str, what: &str) -> Option<String> {
    match conditions.iter().find(|condition| condition.r#type == name) {
        Some(condition) if condition.status => None,
        Some(condition) => {
            Some(format!("{what}: {name}=false reason:{} message:{}", condition.reason, condition.message))
        }
        None => Some(format!("{what}: {name} condition missing")),
    }
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn number(path: &str) -> u64 {
    text(path).trim().parse().unwrap_or(u64::MAX)
}

fn first_line(paths: &[&str]) -> String {
    let mut lines = paths.iter().map(|path| text(path).trim().to_owned());
    lines.find(|line| !line.is_empty()).unwrap_or_default()
}

fn meminfo_kib(meminfo: &str, name: &str) -> u64 {
    let mut lines = meminfo.lines().filter_map(|line| line.split_once(':'));
    let value = lines.find(|(n, _)| *n == name).map(|(_, value)| value.trim());
    value.and_then(|value| value.split(' ').next()?.parse().ok()).unwrap_or(0)
}

/// The fourth field is "running/all".
fn running_pids(loadavg: &str) -> u64 {
    let counts = loadavg.split(' ').nth(3).and_then(|field| field.split_once('/'));
    counts.and_then(|(_, all)| all.parse().ok()).unwrap_or(0)
}

fn os_image(os_release: &str) -> String {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    value.map(|name| name.trim_matches(['"', '\'']).to_owned()).unwrap_or_else(|| "Unknown".to_owned())
}

/// The directories are named `hugepages-2048kB`.
fn huge_pages(directory: &Path) -> Vec<(u64, u64)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let read = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let kib: u64 = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let count = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
        Some((kib * 1024, count))
    };
    let mut pages: Vec<(u64, u64)> = entries.filter_map(read).collect();
    pages.sort_unstable();
    pages
}

/// Space of the file system that a directory is on.
pub fn disk(path: &Path) -> Option<Disk> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(Disk {
        capacity_bytes: stat.f_blocks * stat.f_frsize,
        available_bytes: stat.f_bavail * stat.f_frsize,
        inodes: stat.f_files,
        inodes_free: stat.f_ffree,
    })
}

fn same_device(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => a.dev() == b.dev(),
        // what cannot be looked at is not told apart
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(meminfo_kib("MemTotal:       24683520 kB\nMemFree: 1 kB\n", "MemTotal"), 24_683_520);
        assert_eq!(running_pids("0.20 0.18 0.12 1/80 11206\n"), 80);
        assert_eq!(
            os_image("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            "Debian GNU/Linux 12 (bookworm)"
        );
        let facts = host(Path::new("/"), None);
        assert!(
            facts.memory_bytes > facts.memory_available_bytes && facts.cpu_cores > 0 && facts.max_pids > 0
        );
        assert!(facts.node_fs.capacity_bytes >= facts.node_fs.available_bytes && !facts.boot_id.is_empty());
    }

    #[tokio::test]
    async fn a_network_that_is_not_ready_is_told_in_upstreams_words() {
        let runtime = cri::fake::FakeRuntime::new();
        runtime.set_network_not_ready(Some("Network plugin returns error: cni plugin not initialized"));
        let facts = gather(&runtime, &runtime, Path::new("/")).await;
        assert_eq!(facts.runtime.runtime_error, None);
        assert_eq!(
            facts.runtime.network_error.as_deref(),
            Some(
                "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
                 message:Network plugin returns error: cni plugin not initialized"
            )
        );
    }
}
