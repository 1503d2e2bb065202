//! Removing every trace of a containerd: pods, processes, mounts, network namespaces, files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use rustix::process::Pid;

use super::{Layout, Options, SupervisorError, io, process};
use crate::Runtime;
use crate::api::RuntimeApi;

/// How long stopping all pods through the runtime may take before it is done without it.
const POLITE_DEADLINE: Duration = Duration::from_secs(20);
/// How long killed processes may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

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
    for directory in [&layout.state, &layout.home] {
        unmount_below(directory);
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(io("remove", directory, error));
            }
            _ => {}
        }
    }
    // `/run/ironclad` and the directory of a data directory, if nothing else is there
    for parent in layout.state.ancestors().skip(1).take_while(|p| p.starts_with("/run/ironclad")) {
        let _ = fs::remove_dir(parent);
    }
    Ok(())
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
    let tasks = state.join("io.containerd.runtime.v2.task/k8s.io");
    let Ok(entries) = fs::read_dir(tasks) else { return Vec::new() };
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
    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        assert_eq!(super::unescape(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(super::unescape(r"/a\9"), r"/a\9");
    }
}
