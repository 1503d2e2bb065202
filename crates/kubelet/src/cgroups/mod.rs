//! The cgroups that pods run in, made and removed by the kubelet itself (the `cgroupfs` driver).
//!
//! `/kubepods` holds the guaranteed pods and the groups `burstable` and `besteffort` of the others; a
//! pod's cgroup is the parent of its containers', which the runtime makes. On cgroup v1 each controller
//! has a tree of its own and a cgroup is a directory in every one of them.

mod resources;
mod stats;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

pub use resources::{CPU_PERIOD_MICROS, Resources, for_pod, requested_cpu_millis, shares, weight};
pub use stats::{CpuStats, MemoryStats, Stats};

use crate::qos::qos_class;
use crate::shared::PodCgroups;

/// The cgroup of all pods, below the root of each tree.
pub const KUBEPODS: &str = "/kubepods";
/// How often a cgroup whose processes are just ending is removed again.
const REMOVE_ATTEMPTS: u32 = 50;
const REMOVE_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);
/// Where the processes go that are in the root of a container's tree.
const EVACUATED: &str = "init";
/// Without these no pod runs.
const NEEDED: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

/// Why pods cannot be put into cgroups.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("no cgroups are mounted: mount them at /sys/fs/cgroup, or start the kubelet where they are")]
    NotMounted,
    #[error(
        "the cgroup controllers {} are missing: enable them on the kernel's command line (cgroup_enable=...)",
        .0.join(", ")
    )]
    Missing(Vec<&'static str>),
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
}

/// Which kind of cgroups this machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One tree per controller, also where a v2 tree without controllers is mounted beside them (hybrid).
    V1,
    /// One tree.
    V2,
}

/// One mounted tree.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tree {
    mount: PathBuf,
    controllers: Vec<String>,
}

/// The trees of this machine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cgroups {
    version: Version,
    trees: Vec<Tree>,
    /// Limit of processes of a pod, the kubelet's `podPidsLimit`; none if `None`.
    pub pod_pids_limit: Option<i64>,
}

impl Cgroups {
    /// Finds the cgroups of this machine.
    ///
    /// # Errors
    /// One line that says what is missing.
    pub fn detect() -> Result<Self, CgroupError> {
        let path = PathBuf::from("/proc/self/mountinfo");
        let mounts = fs::read_to_string(&path).map_err(|source| CgroupError::Read { path, source })?;
        Self::from_mounts(&mounts, |mount| {
            fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default()
        })
    }

    /// As [`Cgroups::detect`], from the text of a mountinfo file and the controllers of a v2 tree.
    fn from_mounts(mounts: &str, controllers: impl Fn(&Path) -> String) -> Result<Self, CgroupError> {
        let mut trees: Vec<Tree> = Vec::new();
        let mut unified = None;
        for line in mounts.lines() {
            // "ID PARENT MAJ:MIN ROOT MOUNT OPTIONS... - TYPE SOURCE SUPER"
            let Some((head, tail)) = line.split_once(" - ") else { continue };
            let Some(mount) = head.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut tail = tail.split(' ');
            match (tail.next(), tail.nth(1)) {
                (Some("cgroup"), Some(options)) => {
                    let names =
                        options.split(',').filter(|o| !matches!(*o, "rw" | "ro" | "xattr" | "noprefix"));
                    let controllers: Vec<String> = names.map(str::to_owned).collect();
                    if !trees.iter().any(|tree| tree.controllers == controllers) {
                        trees.push(Tree { mount, controllers });
                    }
                }
                (Some("cgroup2"), _) if unified.is_none() => {
                    let controllers = controllers(&mount).split_whitespace().map(str::to_owned).collect();
                    unified = Some(Tree { mount, controllers });
                }
                _ => {}
            }
        }
        let version = match (&unified, trees.is_empty()) {
            (Some(_), true) => Version::V2,
            (_, false) => Version::V1,
            (None, true) => return Err(CgroupError::NotMounted),
        };
        // in a hybrid setting the runtime makes directories in the v2 tree too, which have to go again
        trees.extend(unified);
        let has = |name: &str| trees.iter().any(|tree| tree.controllers.iter().any(|c| c == name));
        let missing: Vec<&'static str> = NEEDED.into_iter().filter(|name| !has(name)).collect();
        if missing.is_empty() {
            Ok(Self { version, trees, pod_pids_limit: None })
        } else {
            Err(CgroupError::Missing(missing))
        }
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// Makes the cgroups above the pods' and gives them their share of the CPU: all pods together that of
    /// the allocatable CPU, those without requests as little as can be.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn ensure_node(&self, allocatable_cpu_millis: i64, allocatable_memory_bytes: i64) -> io::Result<()> {
        let node = Resources {
            cpu_shares: Some(shares(allocatable_cpu_millis)),
            memory_bytes: Some(allocatable_memory_bytes),
            ..Resources::default()
        };
        self.create(KUBEPODS, &node)?;
        for class in ["besteffort", "burstable"] {
            self.create(
                &format!("{KUBEPODS}/{class}"),
                &Resources { cpu_shares: Some(2), ..Resources::default() },
            )?;
        }
        Ok(())
    }

    /// Gives the burstable pods together the CPU share of their requests.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn update_burstable<'a>(&self, pods: impl IntoIterator<Item = &'a Pod>) -> io::Result<()> {
        let burstable = pods.into_iter().filter(|pod| qos_class(pod) == "Burstable");
        let cpu_shares = Some(shares(burstable.map(requested_cpu_millis).sum()));
        // made again where it is gone: another cluster of this machine, at its end, takes empty ones with it
        self.create(&format!("{KUBEPODS}/burstable"), &Resources { cpu_shares, ..Resources::default() })
    }

    /// Makes a cgroup in every tree, if it is not there, and sets its limits.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn create(&self, cgroup: &str, resources: &Resources) -> io::Result<()> {
        for tree in &self.trees {
            let mut path = tree.mount.clone();
            for part in cgroup.split('/').filter(|part| !part.is_empty()) {
                if self.version == Version::V2 {
                    delegate(&path, &tree.controllers)?;
                }
                path.push(part);
                match fs::create_dir(&path) {
                    Ok(())
                        if tree.controllers.iter().any(|c| c == "cpuset") && self.version == Version::V1 =>
                    {
                        inherit_cpuset(&path)?;
                    }
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(named(error, &path));
                    }
                    _ => {}
                }
            }
        }
        self.set(cgroup, resources)
    }

    /// Sets the limits of a cgroup that is there.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set(&self, cgroup: &str, resources: &Resources) -> io::Result<()> {
        let put = |controller: &str, file: &str, value: String| match self.path(controller, cgroup) {
            Some(path) => write(&path.join(file), &value),
            None => Ok(()),
        };
        let v2 = self.version == Version::V2;
        let or_max = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
        if let Some(value) = resources.cpu_shares {
            if v2 {
                put("cpu", "cpu.weight", weight(value).to_string())?;
            } else {
                put("cpu", "cpu.shares", value.to_string())?;
            }
        }
        if let Some(value) = resources.cpu_quota_micros {
            if v2 {
                put("cpu", "cpu.max", format!("{} {CPU_PERIOD_MICROS}", or_max(value)))?;
            } else {
                put("cpu", "cpu.cfs_period_us", CPU_PERIOD_MICROS.to_string())?;
                put("cpu", "cpu.cfs_quota_us", value.to_string())?;
            }
        }
        if let Some(value) = resources.memory_bytes {
            if v2 {
                put("memory", "memory.max", or_max(value))?;
            } else {
                put("memory", "memory.limit_in_bytes", value.to_string())?;
            }
        }
        if let Some(value) = resources.pids {
            put("pids", "pids.max", or_max(value))?;
        }
        Ok(())
    }

    /// Whether a cgroup is there, in any tree.
    pub fn exists(&self, cgroup: &str) -> bool {
        self.trees.iter().any(|tree| below(&tree.mount, cgroup).is_dir())
    }

    /// The processes of a cgroup and of those below it.
    pub fn processes(&self, cgroup: &str) -> Vec<i32> {
        let mut pids = Vec::new();
        for tree in &self.trees {
            walk(&below(&tree.mount, cgroup), &mut |path| {
                let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
                pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
            });
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Removes a cgroup and those below it, from every tree; succeeds also if it is gone. Processes that
    /// are just ending are waited for, briefly; this blocks.
    ///
    /// # Errors
    /// If processes stay.
    pub fn remove(&self, cgroup: &str) -> io::Result<()> {
        if cgroup.split('/').all(str::is_empty) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the root cgroup is not removed"));
        }
        for tree in &self.trees {
            let path = below(&tree.mount, cgroup);
            let mut attempt = 0;
            while let Err(error) = remove_tree(&path) {
                attempt += 1;
                if attempt == REMOVE_ATTEMPTS || error.raw_os_error() != Some(nix::libc::EBUSY) {
                    return Err(named(error, &path));
                }
                std::thread::sleep(REMOVE_PAUSE);
            }
        }
        Ok(())
    }

    /// Removes the cgroups of the pods of a node that is given up, killing what runs in them, and those above
    /// them if that leaves them empty: another node on this machine keeps its own.
    ///
    /// # Errors
    /// If processes stay.
    pub fn remove_pods<'a>(&self, uids: impl IntoIterator<Item = &'a str>) -> io::Result<()> {
        let parents =
            [format!("{KUBEPODS}/burstable"), format!("{KUBEPODS}/besteffort"), KUBEPODS.to_owned()];
        for uid in uids {
            for cgroup in parents.iter().map(|parent| format!("{parent}/pod{uid}")) {
                for pid in self.processes(&cgroup) {
                    let pid = nix::unistd::Pid::from_raw(pid);
                    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                }
                self.remove(&cgroup)?;
            }
        }
        for parent in &parents {
            for tree in &self.trees {
                // one that is not empty is still needed
                let _ = fs::remove_dir(below(&tree.mount, parent));
            }
        }
        Ok(())
    }

    /// The uids of the pods that have a cgroup, for the removal of those that are gone.
    pub fn pod_uids(&self) -> Vec<String> {
        let Some(root) = self.path("memory", KUBEPODS) else { return Vec::new() };
        let parents = [root.clone(), root.join("burstable"), root.join("besteffort")];
        let names = parents.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
        names.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("pod").map(str::to_owned)).collect()
    }

    /// What a cgroup and those below it use; what cannot be read is `None`.
    pub fn stats(&self, cgroup: &str) -> Stats {
        let read =
            |controller: &str, file: &str| fs::read_to_string(self.path(controller, cgroup)?.join(file)).ok();
        match self.version {
            Version::V1 => stats::v1(read),
            Version::V2 => stats::v2(read),
        }
    }

    /// Where a cgroup is in the tree of a controller.
    fn path(&self, controller: &str, cgroup: &str) -> Option<PathBuf> {
        let tree = self.trees.iter().find(|tree| tree.controllers.iter().any(|c| c == controller))?;
        Some(below(&tree.mount, cgroup))
    }
}

impl PodCgroups for Cgroups {
    fn ensure(&self, pod: &Pod) -> io::Result<String> {
        let cgroup = pod_cgroup(pod);
        self.create(&cgroup, &for_pod(pod, self.pod_pids_limit))?;
        Ok(cgroup)
    }

    fn parent(&self, pod: &Pod) -> String {
        pod_cgroup(pod)
    }

    fn remove(&self, pod: &Pod) -> io::Result<()> {
        Self::remove(self, &pod_cgroup(pod))
    }

    fn share(&self, pods: &[&Pod]) -> io::Result<()> {
        self.update_burstable(pods.iter().copied())
    }
}

/// The cgroup of a pod, which is what the runtime is given as the parent of its containers'.
pub fn pod_cgroup(pod: &Pod) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    match qos_class(pod) {
        "Guaranteed" => format!("{KUBEPODS}/pod{uid}"),
        "Burstable" => format!("{KUBEPODS}/burstable/pod{uid}"),
        _ => format!("{KUBEPODS}/besteffort/pod{uid}"),
    }
}

fn below(mount: &Path, cgroup: &str) -> PathBuf {
    mount.join(cgroup.trim_start_matches('/'))
}

fn named(error: io::Error, path: &Path) -> io::Error {
    // the errno stays readable for whoever decides by it
    match error.raw_os_error() {
        Some(nix::libc::EBUSY) => error,
        _ => io::Error::new(error.kind(), format!("{}: {error}", path.display())),
    }
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    fs::write(path, value)
        .map_err(|error| io::Error::new(error.kind(), format!("{} = {value}: {error}", path.display())))
}

/// Lets the children of a v2 cgroup have the controllers.
fn delegate(path: &Path, controllers: &[String]) -> io::Result<()> {
    let enabled = fs::read_to_string(path.join("cgroup.subtree_control")).unwrap_or_default();
    for controller in controllers.iter().filter(|c| !enabled.split_whitespace().any(|e| e == c.as_str())) {
        let enable = || write(&path.join("cgroup.subtree_control"), &format!("+{controller}"));
        let mut result = enable();
        if result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy) {
            evacuate(path)?;
            result = enable();
        }
        // only what pods need has to be there
        if result.is_err() && NEEDED.contains(&controller.as_str()) {
            return result;
        }
    }
    Ok(())
}

/// Moves the processes of a v2 cgroup into a child of it: but for the root of the machine's tree, a cgroup
/// gives controllers to its children only if no process is in it (cgroup-v2.rst, "no internal processes").
/// So it is where this machine is a container, whose processes are in what it takes for the root.
fn evacuate(path: &Path) -> io::Result<()> {
    let processes = fs::read_to_string(path.join("cgroup.procs")).map_err(|error| named(error, path))?;
    let child = path.join(EVACUATED);
    match fs::create_dir(&child) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(named(error, &child)),
        _ => {}
    }
    for process in processes.lines() {
        // one that has just ended needs no place; whether all are gone the next write to the parent tells
        let _ = fs::write(child.join("cgroup.procs"), process);
    }
    Ok(())
}

/// A new v1 cpuset is empty, and no process can enter it before it has what its parent has.
fn inherit_cpuset(path: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let Some(parent) = path.parent() else { continue };
        let value = fs::read_to_string(parent.join(file)).map_err(|error| named(error, parent))?;
        write(&path.join(file), value.trim())?;
    }
    Ok(())
}

fn walk(path: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), visit);
        }
    }
    visit(path);
}

fn remove_tree(path: &Path) -> io::Result<()> {
    let mut result = Ok(());
    walk(path, &mut |path| {
        if result.is_ok() {
            result = match fs::remove_dir(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
    });
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
24 23 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
25 24 0:23 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
26 24 0:24 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
27 24 0:25 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
28 24 0:26 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
29 24 0:27 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
30 24 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const UNIFIED: &str = "30 24 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_kind_of_cgroups_is_told_by_what_is_mounted() {
        let none = |_: &Path| String::new();
        let all = |_: &Path| "cpuset cpu io memory pids\n".to_owned();
        assert_eq!(Cgroups::from_mounts(HYBRID, none).unwrap().version(), Version::V1);
        assert_eq!(Cgroups::from_mounts(UNIFIED, all).unwrap().version(), Version::V2);
        let error = Cgroups::from_mounts(UNIFIED, |_| "cpu memory".into()).unwrap_err().to_string();
        assert!(error.starts_with("the cgroup controllers cpuset, pids are missing:"), "{error}");
        assert!(matches!(Cgroups::from_mounts("", none), Err(CgroupError::NotMounted)));
    }

    #[test]
    fn a_pods_cgroup_is_named_after_its_class_and_uid() {
        let pod = |resources: serde_json::Value| -> Pod {
            let container = serde_json::json!({ "name": "c", "resources": resources });
            let value =
                serde_json::json!({ "metadata": { "uid": "u-1" }, "spec": { "containers": [container] } });
            serde_json::from_value(value).unwrap()
        };
        assert_eq!(pod_cgroup(&pod(serde_json::json!({}))), "/kubepods/besteffort/podu-1");
        let limits = serde_json::json!({ "limits": { "cpu": "1", "memory": "1Gi" } });
        assert_eq!(pod_cgroup(&pod(limits)), "/kubepods/podu-1");
    }

    #[test]
    fn a_cgroup_is_made_limited_read_and_removed() {
        let Ok(cgroups) = Cgroups::detect() else { return };
        let name = format!("/ironclad-test-{}", std::process::id());
        let child = format!("{name}/child");
        let limits = Resources {
            cpu_shares: Some(512),
            cpu_quota_micros: Some(50_000),
            memory_bytes: Some(64 << 20),
            pids: Some(100),
        };
        if let Err(error) = cgroups.create(&child, &limits) {
            eprintln!("not run, needs root and writable cgroups: {error}");
            let _ = cgroups.remove(&name);
            return;
        }
        let path = cgroups.path("memory", &child).unwrap();
        let file = if cgroups.version() == Version::V2 { "memory.max" } else { "memory.limit_in_bytes" };
        assert_eq!(fs::read_to_string(path.join(file)).unwrap().trim(), (64 << 20).to_string());
        assert!(cgroups.exists(&child));
        assert_eq!(cgroups.stats(&child).processes, Some(0));
        cgroups.remove(&name).unwrap();
        assert!(!cgroups.exists(&name));
        cgroups.remove(&name).unwrap();
    }

    #[test]
    fn processes_make_room_in_a_cgroup_that_gives_controllers() {
        let trees = Cgroups::detect().map(|cgroups| cgroups.trees).unwrap_or_default();
        let Some(tree) = trees.iter().find(|tree| tree.mount.join("cgroup.controllers").exists()) else {
            return;
        };
        let cgroup = tree.mount.join(format!("ironclad-test-{}-full", std::process::id()));
        if let Err(error) = fs::create_dir(&cgroup) {
            eprintln!("not run, needs root and writable cgroups: {error}");
            return;
        }
        let mut process = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = process.id().to_string();
        fs::write(cgroup.join("cgroup.procs"), &pid).unwrap();
        evacuate(&cgroup).unwrap();
        let processes =
            |path: &Path| fs::read_to_string(path.join("cgroup.procs")).unwrap().trim().to_owned();
        assert_eq!([processes(&cgroup), processes(&cgroup.join(EVACUATED))], [String::new(), pid]);
        process.kill().unwrap();
        process.wait().unwrap();
        remove_tree(&cgroup).unwrap();
    }

    #[test]
    fn the_pods_of_another_node_stay() {
        let Ok(cgroups) = Cgroups::detect() else { return };
        let id = std::process::id();
        let (ours, theirs) = (format!("test-{id}-a"), format!("test-{id}-b"));
        let of = |uid: &str| format!("{KUBEPODS}/besteffort/pod{uid}");
        if cgroups.create(&of(&ours), &Resources::default()).is_err() {
            return;
        }
        cgroups.create(&of(&theirs), &Resources::default()).unwrap();
        cgroups.remove_pods([ours.as_str()]).unwrap();
        assert_eq!((cgroups.exists(&of(&ours)), cgroups.exists(&of(&theirs))), (false, true));
        cgroups.remove_pods([theirs.as_str()]).unwrap();
        assert!(!cgroups.exists(&of(&theirs)));
    }
}
