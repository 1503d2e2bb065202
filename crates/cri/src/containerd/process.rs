//! The containerd process: found, started, watched, ended.

use std::fs::{self, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::prctl;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::{Layout, STOP_DEADLINE, SupervisorError, Version, io, write};

/// First pause before a containerd that ended is started again, doubled up to the other.
const FIRST_RESTART: Duration = Duration::from_millis(100);
const LAST_RESTART: Duration = Duration::from_secs(10);
/// A containerd that ran this long starts again without delay.
const STABLE_AFTER: Duration = Duration::from_secs(60);
/// The log is moved to `.1` at a start when it is larger.
const MAX_LOG_BYTES: u64 = 16 << 20;
/// How much of the end of the log is searched for the reason of a failed start.
const LOG_TAIL_BYTES: usize = 16 << 10;

/// A running containerd: our child, or one that an earlier ironclad started.
#[derive(Debug)]
pub(super) struct Handle {
    pid: Pid,
    child: Option<Child>,
    pidfd: OwnedFd,
}

impl Handle {
    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<String> {
        match &mut self.child {
            Some(child) => child.try_wait().ok().flatten().map(|status| status.to_string()),
            None => exited(&self.pidfd).then(|| "it is gone".to_owned()),
        }
    }

    /// Returns when it has ended, without looking at a clock: the kernel says so.
    async fn wait(&mut self) -> String {
        // deprecated for types that may change their descriptor under it; an owned one cannot
        #[allow(deprecated)]
        if let Ok(fd) = self.pidfd.try_clone().and_then(AsyncFd::new) {
            let _ = fd.readable().await;
        }
        self.ended().unwrap_or_else(|| "it is gone".to_owned())
    }
}

/// Whether a process has ended; a zombie that nobody waits for counts as ended.
fn exited(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    nix::poll::poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Ends processes by force and returns when they are gone, or after `deadline`.
pub(super) async fn kill_all(pids: Vec<Pid>, deadline: Duration) {
    let mut dying = Vec::new();
    for pid in pids {
        if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
            let _ = kill_process(pid, Signal::KILL);
            dying.push(Handle { pid, child: None, pidfd });
        }
    }
    let ended = futures::future::join_all(dying.iter_mut().map(Handle::wait));
    if tokio::time::timeout(deadline, ended).await.is_err() {
        tracing::warn!("processes of removed pods are still ending");
    }
}

/// Whether this process has CAP_SYS_RESOURCE, which lowering an OOM score takes.
pub(super) fn has_sys_resource() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = set.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    bits & (1 << CAP_SYS_RESOURCE) != 0
}

/// Checks what containerd needs and reads its version.
pub(super) async fn check_prerequisites() -> Result<Version, SupervisorError> {
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
        && !Path::new("/sys/fs/cgroup/memory").is_dir()
    {
        return Err(SupervisorError::NoCgroups);
    }
    if !on_path("runc") {
        return Err(SupervisorError::NoRunc);
    }
    let output = match tokio::process::Command::new("containerd").arg("--version").output().await {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(SupervisorError::Missing),
        Err(source) => return Err(io("run", Path::new("containerd"), source)),
    };
    let Some(found) = Version::parse(&output) else {
        return Err(SupervisorError::UnknownVersion { output: output.trim().to_owned() });
    };
    if found < Version::OLDEST {
        return Err(SupervisorError::TooOld { found });
    }
    Ok(found)
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// The containerd of this layout, if it runs: the pid file names it and its command line confirms it.
pub(super) fn find(layout: &Layout) -> Option<Handle> {
    let pid: i32 = fs::read_to_string(layout.pid_file()).ok()?.trim().parse().ok()?;
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let config = layout.config();
    let ours = arguments.split(|b| *b == 0).any(|word| word == config.as_os_str().as_encoded_bytes());
    if !ours {
        return None;
    }
    let pid = Pid::from_raw(pid)?;
    Some(Handle { pid, child: None, pidfd: pidfd_open(pid, PidfdFlags::empty()).ok()? })
}

/// Starts containerd in a session of its own, its output in the log.
pub(super) fn spawn(layout: &Layout) -> Result<Handle, SupervisorError> {
    let log = layout.log();
    if fs::metadata(&log).is_ok_and(|meta| meta.len() > MAX_LOG_BYTES) {
        let _ = fs::rename(&log, log.with_extension("log.1"));
    }
    let output = OpenOptions::new().create(true).append(true).open(&log).map_err(|e| io("open", &log, e))?;
    let errors = output.try_clone().map_err(|e| io("open", &log, e))?;
    // `setsid` becomes containerd, so that neither the terminal's signals nor our end reach it
    let mut command = if on_path("setsid") {
        let mut command = Command::new("setsid");
        command.arg("containerd");
        command
    } else {
        let mut command = Command::new("containerd");
        command.process_group(0);
        command
    };
    let _inherited = OrdinaryMemory::begin();
    let child = command
        .arg("--config")
        .arg(layout.config())
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .current_dir("/")
        .env_remove("NOTIFY_SOCKET")
        .spawn()
        .map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => SupervisorError::Missing,
            _ => io("run", Path::new("containerd"), source),
        })?;
    let raw = i32::try_from(child.id()).unwrap_or_default();
    write(&layout.pid_file(), &format!("{raw}\n"))?;
    let pid = Pid::from_raw(raw).expect("a child's pid is positive");
    let pidfd =
        pidfd_open(pid, PidfdFlags::empty()).map_err(|e| io("watch", Path::new("containerd"), e.into()))?;
    Ok(Handle { pid, child: Some(child), pidfd })
}

/// While it lives, transparent huge pages are as the machine has them: whoever starts this process may have
/// turned them off for itself, and a child would hand that on to every container (prctl(2),
/// `PR_SET_THP_DISABLE`).
struct OrdinaryMemory {
    were_off: bool,
}

impl OrdinaryMemory {
    fn begin() -> Self {
        let were_off = prctl::get_thp_disable().unwrap_or(false) && prctl::set_thp_disable(false).is_ok();
        Self { were_off }
    }
}

impl Drop for OrdinaryMemory {
    fn drop(&mut self) {
        if self.were_off {
            let _ = prctl::set_thp_disable(true);
        }
    }
}

/// Starts containerd again whenever it ends. Runs until it is dropped.
pub(super) async fn keep(layout: Layout, mut handle: Handle, pid: watch::Sender<Option<i32>>) {
    let mut pause = FIRST_RESTART;
    loop {
        let since = Instant::now();
        let status = handle.wait().await;
        pid.send_replace(None);
        tracing::warn!(%status, "containerd ended; starting it again");
        if since.elapsed() > STABLE_AFTER {
            pause = FIRST_RESTART;
        }
        handle = loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_RESTART);
            match spawn(&layout) {
                Ok(handle) => break handle,
                Err(error) => tracing::error!(%error, "containerd does not start"),
            }
        };
        pid.send_replace(Some(handle.pid()));
    }
}

/// Ends the containerd of this layout, if it runs.
pub(super) async fn stop(layout: &Layout) -> Result<(), SupervisorError> {
    if let Some(mut handle) = find(layout) {
        let _ = kill_process(handle.pid, Signal::TERM);
        if tokio::time::timeout(STOP_DEADLINE, handle.wait()).await.is_err() {
            let _ = kill_process(handle.pid, Signal::KILL);
            handle.wait().await;
        }
        // were it our child it would stay a zombie; for any other this fails and does not matter
        let _ = rustix::process::waitpid(Some(handle.pid), rustix::process::WaitOptions::NOHANG);
    }
    let _ = fs::remove_file(layout.pid_file());
    Ok(())
}

/// After a restart of the machine nothing in the state directory is alive, wherever it is mounted.
pub(super) fn forget_other_boot(layout: &Layout) -> Result<(), SupervisorError> {
    let Ok(noted) = fs::read_to_string(layout.boot_id_file()) else { return Ok(()) };
    if noted.trim() == boot_id() {
        return Ok(());
    }
    fs::remove_dir_all(&layout.state).map_err(|e| io("remove", &layout.state, e))
}

/// Notes which boot the state directory belongs to.
pub(super) fn note_boot(layout: &Layout) -> Result<(), SupervisorError> {
    write(&layout.boot_id_file(), &boot_id())
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The line of a containerd log that says why it, or its CRI plugin, did not start.
pub(super) fn last_error(log: &Path) -> Option<String> {
    let bytes = fs::read(log).ok()?;
    let tail = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned();
    let tells = |line: &&str| {
        line.contains("level=fatal")
            || line.starts_with("containerd: ")
            || (line.contains("failed to load plugin") && line.contains(".cri"))
    };
    let line = tail.lines().rev().find(tells)?;
    Some(line.rsplit_once("msg=").map_or(line, |(_, message)| message).trim().to_owned())
}

/// The shims of a containerd: the processes whose command line names its socket.
pub(super) fn shims(layout: &Layout) -> Vec<Pid> {
    let socket = layout.socket();
    let ttrpc = PathBuf::from(format!("{}.ttrpc", socket.display()));
    let wanted = [socket.as_os_str().as_encoded_bytes(), ttrpc.as_os_str().as_encoded_bytes()];
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let found = entries.filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let mut words = arguments.split(|b| *b == 0);
        let shim = words.next()?.windows(b"containerd-shim".len()).any(|w| w == b"containerd-shim");
        (shim && words.any(|word| wanted.contains(&word))).then(|| Pid::from_raw(pid))?
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_failed_start_is_in_the_log() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(
            file.path(),
            "time=\"x\" level=info msg=\"starting\"\ncontainerd: failed to load TOML: bad\n",
        )
        .unwrap();
        assert_eq!(last_error(file.path()).as_deref(), Some("containerd: failed to load TOML: bad"));
        assert_eq!(last_error(Path::new("/does/not/exist")), None);
    }
}
