//! `ironclad reset`: undoes `ironclad server`, traces removed.

use crate::component::block_on;
use crate::host;
use crate::paths::DataDir;
use anyhow::{Context, bail};
use kubelet::cgroups::Cgroups;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: DataDir,
    /// Where containers' logs were written
    #[arg(long, default_value = "/var/log/pods")]
    pod_logs_dir: PathBuf,
    /// Stop the server, its containers and containerd, but keep the data
    #[arg(long)]
    keep_data: bool,
}

/// The server has this long to end by itself.
const DEADLINE: Duration = Duration::from_secs(15);
/// ... and the kernel this long to take it apart.
const RELEASE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

pub fn run(args: Args) -> anyhow::Result<()> {
    host::require_root()?;
    let data = args.data.path().to_owned();
    refuse_to_remove_more_than_ours(&data)?;
    stop_server(&args.data)?;
    refuse_while_in_use(&args.data)?;
    let mut uids = pod_uids(&args.data.kubelet().join("pods"));
    let options = cri::containerd::Options::new(&data);
    block_on(|_| async {
        // a pod that was just deleted may have no directory any more, but its sandbox and its logs
        uids.extend(cri::containerd::pod_uids(&options).await);
        cri::containerd::remove_all(&options).await?;
        proxy::cleanup().await?;
        network::cleanup().await?;
        anyhow::Ok(())
    })?;
    match Cgroups::detect() {
        Ok(cgroups) => {
            cgroups.remove_pods(uids.iter().map(String::as_str)).context("removing the pods' cgroups")?
        }
        // without cgroups no pod ever ran
        Err(error) => tracing::debug!(%error, "no cgroups to remove"),
    }
    cri::containerd::unmount_below(&args.data.kubelet());
    remove_logs(&uids, &args.pod_logs_dir);
    let data = DataDir::path(&args.data);
    if !args.keep_data && data.exists() {
        remove_directory(data).with_context(|| format!("removing {}", data.display()))?;
    }
    Ok(())
}

/// Removes a directory with what is in it; one that is a mount point stays, empty.
fn remove_directory(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy && entries(path).next().is_none() => {
            Ok(())
        }
        result => result,
    }
}

/// A slip in `--data-dir` must not cost a home directory.
fn refuse_to_remove_more_than_ours(data: &Path) -> anyhow::Result<()> {
    if !data.exists()
        || data.join("pki").exists()
        || data.join("store").exists()
        || data.join("containerd").exists()
    {
        return Ok(());
    }
    match std::fs::read_dir(data).map(|mut d| d.next().is_none()) {
        Ok(true) => Ok(()),
        _ => bail!("{} is no data directory of ironclad: nothing is removed", data.display()),
    }
}

/// A server that the pid file does not tell of, as one that was started under another name.
fn refuse_while_in_use(data: &DataDir) -> anyhow::Result<()> {
    let Ok(mut file) = std::fs::File::open(data.store_lock()) else { return Ok(()) };
    let deadline = Instant::now() + RELEASE;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // one that was just killed gives its files up a moment later
            Err((file, Errno::EWOULDBLOCK)) if Instant::now() < deadline => file,
            Err((_, Errno::EWOULDBLOCK)) => {
                bail!("a server has {} open: stop it first; nothing is removed", data.store().display())
            }
            _ => return Ok(()),
        };
        std::thread::sleep(LOOK);
    }
}

/// The pods that this node's kubelet has a directory for: another on the same machine keeps its own.
fn pod_uids(pods: &Path) -> Vec<String> {
    entries(pods).filter_map(|p| Some(p.file_name()?.to_str()?.to_owned())).collect()
}

/// Removes the logs of these pods (`<logs>/<namespace>_<name>_<uid>`), and the links that lead to them. The
/// directories themselves go where nothing else is in them.
fn remove_logs(uids: &[String], logs: &Path) {
    for log in entries(logs) {
        let name = log.to_string_lossy();
        if uids.iter().any(|uid| name.ends_with(&format!("_{uid}"))) {
            // what stays is only a log
            let _ = std::fs::remove_dir_all(&log);
        }
    }
    let by_name = Path::new("/var/log/containers");
    for link in entries(by_name).filter(|l| l.is_symlink() && !l.exists()) {
        let _ = std::fs::remove_file(link);
    }
    for directory in [logs, by_name] {
        let _ = std::fs::remove_dir(directory);
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(directory).into_iter().flatten().filter_map(|e| Some(e.ok()?.path()))
}

fn stop_server(data: &DataDir) -> anyhow::Result<()> {
    let Ok(text) = std::fs::read_to_string(data.pid_file()) else { return Ok(()) };
    let Ok(pid) = text.trim().parse::<i32>() else { return Ok(()) };
    // the number may be somebody else's by now
    let program =
        |path: std::io::Result<PathBuf>| Some(path.ok()?.file_name()?.to_string_lossy().into_owned());
    let own = program(std::env::current_exe());
    let ours = program(std::fs::read_link(format!("/proc/{pid}/exe")))
        .is_some_and(|name| name.starts_with("ironclad") || Some(&name) == own.as_ref());
    if !ours {
        return Ok(());
    }
    let pid = Pid::from_raw(pid);
    let deadline = Instant::now() + DEADLINE;
    kill(pid, Signal::SIGTERM).context("stopping the server")?;
    while kill(pid, None) != Err(Errno::ESRCH) && !is_zombie(pid) {
        if Instant::now() > deadline {
            kill(pid, Signal::SIGKILL).context("killing the server")?;
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn is_zombie(pid: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|s| s.rsplit(") ").next().is_some_and(|r| r.starts_with('Z')))
}
