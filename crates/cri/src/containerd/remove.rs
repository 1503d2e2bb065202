//! Removing every trace of a containerd: pods, processes, mounts, network namespaces, files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_cri::v1::ContainerState;
use nix::mount::{MntFlags, umount2};
use rustix::process::Pid;

use super::{Layout, Options, SupervisorError, io, process};
use crate::Runtime;
use crate::api::RuntimeApi;

/// How long stopping all pods through the runtime may take before it is done without it.
const POLITE_DEADLINE: Duration = Duration::from_secs(20);
/// How long killed processes may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(5);
/// Where shims make their sockets, whatever containerd's own directories are.
const SHIM_SOCKETS: &str = "/run/containerd/s";
/// Where runc has a directory for each container.
const RUNC_STATE: &str = "/run/containerd/runc/k8s.io";
/// Where the CNI library notes what a network was given to.
const CNI_RESULTS: &str = "/var/lib/cni/results";
/// Directories of shims, runc and the CNI library that every containerd of a machine shares, the inner ones first.
const SHARED: [&str; 7] = [
    SHIM_SOCKETS,
    RUNC_STATE,
    "/run/containerd/runc",
    "/run/containerd",
    CNI_RESULTS,
    "/var/lib/cni/cache",
    "/var/lib/cni",
];

/// Stops all pods of this data directory's containerd, ends containerd and its shims, unmounts what
/// they mounted below the data directory and the state directory, and removes their files. Works
/// from any state, also when containerd is long gone; the rest of the data directory stays.
///
/// # Errors
/// If not root, or a file cannot be removed.
pub async fn remove_all(options: &Options) -> Result<(), SupervisorError> {
    if !rustix::process::geteuid().is_root() {
        return Err(SupervisorError::NotRoot);
    }
    let layout = Layout::new(options);
    if process::find(&layout).is_some()
        && tokio::time::timeout(POLITE_DEADLINE, remove_pods(&layout)).await.is_err()
    {
        tracing::warn!("the runtime did not stop its pods in time; ending them without it");
    }
    process::stop(&layout).await?;
    let orphans = init_pids(&layout.state).into_iter().chain(process::shims(&layout)).collect();
    process::kill_all(orphans, KILL_DEADLINE).await;
    forget_tasks(&layout.state);
    remove_directory(&layout.home)?;
    remove_state(&layout)?;
    for directory in SHARED {
        // one that another containerd uses is not empty
        let _ = fs::remove_dir(directory);
    }
    Ok(())
}

/// Removes the directory of sockets and running tasks of a containerd that has ended, unless it left tasks:
/// its next start finds them by what is there.
pub(super) fn forget_idle(layout: &Layout) {
    let mut tasks = fs::read_dir(tasks(&layout.state)).into_iter().flatten();
    if tasks.next().is_some() {
        return;
    }
    if let Err(error) = remove_state(layout) {
        tracing::warn!(%error, "the runtime's state directory stays");
    }
}

fn remove_state(layout: &Layout) -> Result<(), SupervisorError> {
    remove_directory(&layout.state)?;
    // `/run/ironclad` and the directory of a data directory, if nothing else is there
    for parent in layout.state.ancestors().skip(1).take_while(|p| p.starts_with("/run/ironclad")) {
        let _ = fs::remove_dir(parent);
    }
    Ok(())
}

fn remove_directory(directory: &Path) -> Result<(), SupervisorError> {
    unmount_below(directory);
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", directory, error)),
        _ => Ok(()),
    }
}

/// The uids of the pods that this data directory's containerd has sandboxes of, also of those whose pod is
/// deleted; none if it does not run.
pub async fn pod_uids(options: &Options) -> Vec<String> {
    let layout = Layout::new(options);
    if process::find(&layout).is_none() {
        return Vec::new();
    }
    let Ok(runtime) = Runtime::new(&layout.socket().display().to_string()) else { return Vec::new() };
    let listed = tokio::time::timeout(POLITE_DEADLINE, runtime.list_pod_sandboxes(None)).await;
    let sandboxes = listed.ok().and_then(Result::ok).unwrap_or_default();
    let uids = sandboxes.into_iter().filter_map(|sandbox| Some(sandbox.metadata?.uid));
    uids.filter(|uid| !uid.is_empty()).collect()
}

/// Stops the containers of all pods, each with `grace` to end by itself, and then their sandboxes.
pub(super) async fn stop_pods(runtime: &Runtime, grace: Duration) {
    let seconds = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
    let containers = runtime.list_containers(None).await.unwrap_or_default();
    let running = containers.iter().filter(|c| c.state() == ContainerState::ContainerRunning);
    let stops = running.map(|container| async move {
        if let Err(error) = runtime.stop_container(&container.id, seconds).await {
            tracing::warn!(container = container.id, %error, "cannot stop the container");
        }
    });
    futures::future::join_all(stops).await;
    let sandboxes = runtime.list_pod_sandboxes(None).await.unwrap_or_default();
    let stops = sandboxes.iter().map(|sandbox| async move {
        if let Err(error) = runtime.stop_pod_sandbox(&sandbox.id).await {
            tracing::warn!(sandbox = sandbox.id, %error, "cannot stop the sandbox");
        }
    });
    futures::future::join_all(stops).await;
}

/// Where containerd keeps a directory for each task that runs.
fn tasks(state: &Path) -> PathBuf {
    state.join("io.containerd.runtime.v2.task/k8s.io")
}

/// Removes what shims, runc and the CNI library keep outside the state directory of tasks that were ended by force.
fn forget_tasks(state: &Path) {
    for task in fs::read_dir(tasks(state)).into_iter().flatten().flatten() {
        // the task's directory names its shim's socket
        let address = fs::read_to_string(task.path().join("address")).unwrap_or_default();
        if let Some(socket) = address.trim().strip_prefix("unix://").map(Path::new)
            && socket.starts_with(SHIM_SOCKETS)
        {
            let _ = fs::remove_file(socket);
        }
        let _ = fs::remove_dir_all(Path::new(RUNC_STATE).join(task.file_name()));
        // "<network>-<sandbox>-<interface>"
        let sandbox = format!("-{}-", task.file_name().to_string_lossy());
        for result in fs::read_dir(CNI_RESULTS).into_iter().flatten().flatten() {
            if result.file_name().to_string_lossy().contains(&sandbox) {
                let _ = fs::remove_file(result.path());
            }
        }
    }
}

async fn remove_pods(layout: &Layout) {
    let Ok(runtime) = Runtime::new(&layout.socket().display().to_string()) else { return };
    let sandboxes = runtime.list_pod_sandboxes(None).await.unwrap_or_default();
    let removals = sandboxes.iter().map(|sandbox| {
        let runtime = &runtime;
        async move {
            if let Err(error) = runtime.stop_pod_sandbox(&sandbox.id).await {
                tracing::warn!(sandbox = sandbox.id, %error, "cannot stop the sandbox");
            }
            if let Err(error) = runtime.remove_pod_sandbox(&sandbox.id).await {
                tracing::warn!(sandbox = sandbox.id, %error, "cannot remove the sandbox");
            }
        }
    });
    futures::future::join_all(removals).await;
}

/// The first processes of the tasks that containerd left: each task's directory holds `init.pid`.
fn init_pids(state: &Path) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir(tasks(state)) else { return Vec::new() };
    let read = |entry: fs::DirEntry| {
        let pid: i32 = fs::read_to_string(entry.path().join("init.pid")).ok()?.trim().parse().ok()?;
        // the pid may have gone to another process: a task's own names its cgroup after the task
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        cgroup.contains(entry.file_name().to_str()?).then(|| Pid::from_raw(pid))?
    };
    entries.flatten().filter_map(read).collect()
}

/// Unmounts everything below a directory, the innermost first.
pub fn unmount_below(directory: &Path) {
    let Ok(table) = fs::read_to_string("/proc/self/mountinfo") else { return };
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(unescape(field)))
        .filter(|point| point.starts_with(directory))
        .collect();
    points.sort();
    for point in points.iter().rev() {
        if umount2(point, MntFlags::UMOUNT_NOFOLLOW).is_err() {
            let _ = umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
        }
    }
}

/// mountinfo writes blanks, tabs, line ends and backslashes as three octal digits.
fn unescape(field: &str) -> String {
    let mut out = String::new();
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        match rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_containerd_without_tasks_left_goes() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { home: dir.path().join("home"), state: dir.path().join("state") };
        let task = tasks(&layout.state).join("0123");
        fs::create_dir_all(&task).unwrap();
        forget_idle(&layout);
        assert!(task.exists(), "a task that runs is found again");
        fs::remove_dir(&task).unwrap();
        forget_idle(&layout);
        assert!(!layout.state.exists());
        forget_idle(&layout);
    }

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(unescape(r"/a\9"), r"/a\9");
    }
}
