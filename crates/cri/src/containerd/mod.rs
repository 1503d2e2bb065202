//! A containerd of our own: configured, started and found again.
//!
//! containerd runs as a process of its own, outside our session, and outlives us: containers keep
//! running while the kubelet restarts. The next start finds it by its pid file and takes it over. It
//! is stopped only when somebody asks ([`Supervisor::stop`], [`remove_all`]).

mod config;
mod process;
mod remove;

use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_cri::v1::ImageSpec;
use tokio::sync::watch;

pub use config::{Settings, Version, render};
pub use remove::{pod_uids, remove_all, unmount_below};

use crate::api::{ImageApi, RuntimeApi};
use crate::image::{self, Importer, PAUSE_IMAGE};
use crate::{Error, Runtime};

/// Where a containerd leaves its tasks' sockets must be short: the kernel's bound of a socket path.
const MAX_SOCKET_PATH_BYTES: usize = 107;
/// How long containerd may take to answer after its start.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How long containerd may take to end after SIGTERM.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// First pause between two looks at a starting containerd, doubled up to the other.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LAST_LOOK: Duration = Duration::from_millis(50);
/// Where distributions put the standard CNI plugins.
const CNI_BIN_DIRS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];
/// Bound of one look at a starting containerd.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there is no containerd. Each text is one line that says what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    #[error("running containers needs root: start ironclad as root")]
    NotRoot,
    #[error("containerd is not installed: install it (on Debian: apt-get install containerd runc)")]
    Missing,
    #[error("runc is not installed: install it (on Debian: apt-get install runc)")]
    NoRunc,
    #[error(
        "containerd {found} is too old: the container runtime interface v1 takes {} or later; upgrade it (on Debian: apt-get install containerd)",
        Version::OLDEST
    )]
    TooOld { found: Version },
    #[error("cannot tell the version of containerd from {output:?}")]
    UnknownVersion { output: String },
    #[error("no cgroups are mounted at /sys/fs/cgroup: mount them, or start ironclad where they are")]
    NoCgroups,
    #[error("{} is in use by another containerd that ironclad did not start: stop it, or give --container-runtime-endpoint", socket.display())]
    SocketInUse { socket: PathBuf },
    #[error("{} is too long for a socket path ({MAX_SOCKET_PATH_BYTES} bytes at most): choose a shorter --data-dir", path.display())]
    PathTooLong { path: PathBuf },
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("containerd ended at its start: {message} (see {})", log.display())]
    Ended { message: String, log: PathBuf },
    #[error("containerd did not answer within {}s: {message} (see {})", START_DEADLINE.as_secs(), log.display())]
    NoAnswer { message: String, log: PathBuf },
    #[error("containerd answers, but its CRI plugin is off: {message} (see {})", log.display())]
    NoCri { message: String, log: PathBuf },
    #[error(transparent)]
    Image(#[from] image::ImageError),
    #[error(transparent)]
    Runtime(#[from] Error),
}

/// What a caller chooses about containerd.
#[derive(Debug, Clone)]
pub struct Options {
    /// ironclad's data directory; containerd's part of it is `<data-dir>/containerd`.
    pub data_dir: PathBuf,
    /// Where sockets and running tasks are; by default as [`state_dir`] says.
    pub state_dir: Option<PathBuf>,
    /// Whether runc asks systemd for cgroups instead of making them itself.
    pub systemd_cgroup: bool,
}

impl Options {
    /// Of a data directory; a relative one is below the working directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        let data_dir = std::path::absolute(&data_dir).unwrap_or(data_dir);
        Self { data_dir, state_dir: None, systemd_cgroup: false }
    }

    fn state(&self) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(|| state_dir(&self.data_dir))
    }
}

/// The directory of sockets and running tasks of a data directory: `/run/ironclad` for the default
/// one, and a directory of its own below it, short whatever the data directory, for any other.
pub fn state_dir(data_dir: &Path) -> PathBuf {
    if data_dir == Path::new("/var/lib/ironclad") {
        return PathBuf::from("/run/ironclad/containerd");
    }
    use sha2::{Digest, Sha256};
    use std::os::unix::ffi::OsStrExt;
    let absolute = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let sum = Sha256::digest(absolute.as_os_str().as_bytes());
    let name: String = sum.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    PathBuf::from(format!("/run/ironclad/{name}/containerd"))
}

/// Files of one containerd.
#[derive(Debug, Clone)]
struct Layout {
    home: PathBuf,
    state: PathBuf,
}

impl Layout {
    fn new(options: &Options) -> Self {
        Self { home: options.data_dir.join("containerd"), state: options.state() }
    }
    fn root(&self) -> PathBuf {
        self.home.join("root")
    }
    fn config(&self) -> PathBuf {
        self.home.join("config.toml")
    }
    fn log(&self) -> PathBuf {
        self.home.join("containerd.log")
    }
    fn registries(&self) -> PathBuf {
        self.home.join("certs.d")
    }
    fn pid_file(&self) -> PathBuf {
        self.state.join("containerd.pid")
    }
    fn boot_id_file(&self) -> PathBuf {
        self.state.join("boot_id")
    }
    fn socket(&self) -> PathBuf {
        self.state.join("containerd.sock")
    }
}

/// A running containerd and what keeps it running.
#[derive(Debug)]
pub struct Supervisor {
    layout: Layout,
    runtime: Runtime,
    snapshotter: String,
    cni_conf_dir: PathBuf,
    cni_bin_dir: PathBuf,
    adopted: bool,
    started_in: Duration,
    /// The process we watch; `None` while it is being started again, and after `stop`.
    pid: watch::Receiver<Option<i32>>,
    keeper: tokio::task::JoinHandle<()>,
}

impl Supervisor {
    /// Finds the containerd of this data directory, or starts one, and returns when its CRI answers
    /// and the pause image is there.
    ///
    /// # Errors
    /// One line for each thing that can be wrong; see [`SupervisorError`].
    pub async fn start(options: &Options) -> Result<Self, SupervisorError> {
        let begun = Instant::now();
        if !rustix::process::geteuid().is_root() {
            return Err(SupervisorError::NotRoot);
        }
        let layout = Layout::new(options);
        // containerd makes longer ones below it: its ttrpc socket
        let longest = layout.state.join("containerd.sock.ttrpc");
        if longest.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
            return Err(SupervisorError::PathTooLong { path: longest });
        }
        let cni_conf_dir = options.data_dir.join("cni/net.d");
        let cni_bin_dir = cni_bin_dir();
        process::forget_other_boot(&layout)?;
        let found = process::find(&layout);
        let adopted = found.is_some();
        // before anything is made: a start that is refused leaves no trace
        let version = if adopted { None } else { Some(process::check_prerequisites().await?) };
        for directory in [&layout.home, &layout.root(), &layout.state, &layout.registries(), &cni_conf_dir] {
            make_dir(directory)?;
        }
        process::note_boot(&layout)?;
        let snapshotter = snapshotter(&layout.root());
        let runtime = Runtime::new(&layout.socket().display().to_string())?;

        if let Some(version) = version {
            if StdUnixStream::connect(layout.socket()).is_ok() {
                return Err(SupervisorError::SocketInUse { socket: layout.socket() });
            }
            let settings = Settings {
                version,
                root: layout.root(),
                state: layout.state.clone(),
                socket: layout.socket(),
                sandbox_image: PAUSE_IMAGE.to_owned(),
                cni_bin_dir: cni_bin_dir.clone(),
                cni_conf_dir: cni_conf_dir.clone(),
                registry_dir: layout.registries(),
                snapshotter: snapshotter.clone(),
                systemd_cgroup: options.systemd_cgroup,
                may_lower_oom_score: process::has_sys_resource(),
            };
            write(&layout.config(), &render(&settings))?;
        }
        let handle = match found {
            Some(handle) => handle,
            None => process::spawn(&layout)?,
        };
        let handle = match wait_until_ready(&layout, &runtime, handle).await {
            Ok(handle) => handle,
            Err(error) => {
                if !adopted {
                    process::stop(&layout).await?;
                    remove::forget_idle(&layout);
                }
                return Err(error);
            }
        };
        let (sender, pid) = watch::channel(Some(handle.pid()));
        let keeper = tokio::spawn(process::keep(layout.clone(), handle, sender));
        let this = Self {
            layout,
            runtime,
            snapshotter,
            cni_conf_dir,
            cni_bin_dir,
            adopted,
            started_in: begun.elapsed(),
            pid,
            keeper,
        };
        if let Err(error) = this.ensure_pause_image().await {
            if !adopted {
                this.stop().await?;
            }
            return Err(error);
        }
        tracing::info!(
            adopted,
            started_ms = u64::try_from(this.started_in.as_millis()).unwrap_or(u64::MAX),
            socket = %this.socket().display(),
            "containerd answers"
        );
        Ok(this)
    }

    /// A client of this containerd.
    pub fn runtime(&self) -> Runtime {
        self.runtime.clone()
    }

    /// Its socket, also what `--container-runtime-endpoint` would name.
    pub fn socket(&self) -> PathBuf {
        self.layout.socket()
    }

    /// Imports images into it.
    pub fn importer(&self) -> Importer {
        Importer { socket: self.socket(), snapshotter: self.snapshotter.clone() }
    }

    /// Where a network configuration makes the network ready; containerd watches it.
    pub fn cni_conf_dir(&self) -> &Path {
        &self.cni_conf_dir
    }

    /// Where the CNI plugins were found.
    pub fn cni_bin_dir(&self) -> &Path {
        &self.cni_bin_dir
    }

    /// Whether it ran already.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// How long it took from the start of the process to the first answer of the CRI.
    pub fn started_in(&self) -> Duration {
        self.started_in
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<i32> {
        *self.pid.borrow()
    }

    /// Follows the process id: `None` while containerd is being started again after it ended.
    pub fn pid_changes(&self) -> watch::Receiver<Option<i32>> {
        self.pid.clone()
    }

    /// Returns when the CRI answers, as after a restart of containerd; not before.
    pub async fn answers(&self) {
        let mut pause = FIRST_LOOK;
        while self.pid().is_none() || self.runtime.version().await.is_err() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_LOOK);
        }
    }

    /// Imports an image archive and returns once the CRI shows it.
    ///
    /// # Errors
    /// If containerd refuses the archive or never shows the image.
    pub async fn import(&self, archive: &[u8]) -> Result<Vec<String>, SupervisorError> {
        let names = self.importer().import(archive).await?;
        for name in &names {
            self.wait_for_image(name).await?;
        }
        Ok(names)
    }

    /// Ends containerd; containers go on running, and a later start takes them over. If there are none, no
    /// trace stays but its files below the data directory.
    ///
    /// # Errors
    /// If it does not end.
    pub async fn stop(self) -> Result<(), SupervisorError> {
        self.keeper.abort();
        process::stop(&self.layout).await?;
        remove::forget_idle(&self.layout);
        Ok(())
    }

    /// Ends all containers, each with `grace` to end by itself, and then containerd.
    ///
    /// # Errors
    /// If containerd does not end. What the runtime does not stop is only logged.
    pub async fn stop_with_containers(self, grace: Duration) -> Result<(), SupervisorError> {
        remove::stop_pods(&self.runtime, grace).await;
        self.stop().await
    }

    async fn ensure_pause_image(&self) -> Result<(), SupervisorError> {
        let spec = ImageSpec { image: PAUSE_IMAGE.to_owned(), ..Default::default() };
        if self.runtime.image_status(spec).await?.is_some() {
            return Ok(());
        }
        self.import(&image::pause_archive()?).await?;
        self.importer().pin(PAUSE_IMAGE).await?;
        Ok(())
    }

    /// The CRI takes note of an image a moment after it was made.
    async fn wait_for_image(&self, name: &str) -> Result<(), SupervisorError> {
        let deadline = Instant::now() + PING_TIMEOUT;
        let spec = ImageSpec { image: name.to_owned(), ..Default::default() };
        while self.runtime.image_status(spec.clone()).await?.is_none() {
            if Instant::now() > deadline {
                let message = format!("image {name} was imported but the runtime does not show it");
                return Err(Error::NotFound { message }.into());
            }
            tokio::time::sleep(FIRST_LOOK).await;
        }
        Ok(())
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // only the watching ends: containerd stays
        self.keeper.abort();
    }
}

/// Returns when the CRI answers, or says why it does not.
async fn wait_until_ready(
    layout: &Layout,
    runtime: &Runtime,
    mut handle: process::Handle,
) -> Result<process::Handle, SupervisorError> {
    let deadline = Instant::now() + START_DEADLINE;
    let mut pause = FIRST_LOOK;
    loop {
        // a connection refused before the socket is there would make the channel back off: look first
        let answer = if StdUnixStream::connect(layout.socket()).is_ok() {
            tokio::time::timeout(PING_TIMEOUT, runtime.version())
                .await
                .unwrap_or(Err(Error::DeadlineExceeded { call: "Version", after: PING_TIMEOUT }))
        } else {
            Err(Error::Unavailable { message: "its socket is not there".into() })
        };
        let error = match answer {
            Ok(_) => return Ok(handle),
            Err(Error::Unimplemented { message }) => {
                let message = process::last_error(&layout.log()).unwrap_or(message);
                return Err(SupervisorError::NoCri { message, log: layout.log() });
            }
            Err(error) => error,
        };
        if let Some(status) = handle.ended() {
            let message = process::last_error(&layout.log()).unwrap_or(status);
            return Err(SupervisorError::Ended { message, log: layout.log() });
        }
        if Instant::now() > deadline {
            return Err(SupervisorError::NoAnswer { message: error.message(), log: layout.log() });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_LOOK);
    }
}

/// The first directory that holds the bridge plugin; the first one of all if none does.
fn cni_bin_dir() -> PathBuf {
    let found = CNI_BIN_DIRS.iter().find(|dir| Path::new(dir).join("bridge").exists());
    PathBuf::from(found.unwrap_or(&CNI_BIN_DIRS[0]))
}

/// `overlayfs` if an overlay can be mounted on this file system, else `native`, which copies.
fn snapshotter(root: &Path) -> String {
    use nix::mount::{MsFlags, mount, umount};
    let trial = root.join("overlay-trial");
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| trial.join(name));
    let made = [&lower, &upper, &work, &merged].iter().all(|dir| std::fs::create_dir_all(dir).is_ok());
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let works = made
        && mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str())).is_ok();
    if works {
        let _ = umount(&merged);
    }
    let _ = std::fs::remove_dir_all(&trial);
    if works { "overlayfs".to_owned() } else { "native".to_owned() }
}

fn make_dir(path: &Path) -> Result<(), SupervisorError> {
    std::fs::create_dir_all(path).map_err(|source| io("create directory", path, source))
}

fn write(path: &Path, text: &str) -> Result<(), SupervisorError> {
    std::fs::write(path, text).map_err(|source| io("write", path, source))
}

fn io(what: &'static str, path: &Path, source: std::io::Error) -> SupervisorError {
    SupervisorError::Io { what, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_directory_is_short_whatever_the_data_directory() {
        assert_eq!(state_dir(Path::new("/var/lib/ironclad")), Path::new("/run/ironclad/containerd"));
        let long = PathBuf::from("/x".repeat(200));
        assert!(state_dir(&long).join("containerd.sock.ttrpc").as_os_str().len() < MAX_SOCKET_PATH_BYTES);
        assert_ne!(state_dir(&long), state_dir(Path::new("/other")));
    }
}
