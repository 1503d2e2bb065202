//! Volumes: a plugin turns a volume of the spec into host operations, one executor carries them out and
//! undoes them.
//!
//! Planning is pure. The operations are idempotent: running a plan again brings changed contents up to date.

mod atomic;
mod empty_dir;
mod executor;
mod files;
mod host_path;
mod image;
mod payload;
mod persistent;
mod subpath;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cri::v1;
use k8s_openapi::api::core::v1::{Container, Volume};

use crate::env::{EnvInput, expand};

pub use executor::{execute, mounts_below, undo_pod};

/// Contents of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    pub data: Vec<u8>,
    pub mode: u32,
    /// The owner; root if none is given.
    pub uid: Option<u32>,
}

/// Files of a volume by their path below it.
pub type Payload = BTreeMap<String, FileEntry>;

/// What must be at the path of a hostPath volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPathType {
    Unset,
    Directory,
    DirectoryOrCreate,
    File,
    FileOrCreate,
    Socket,
    CharDevice,
    BlockDevice,
}

/// One step on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostOp {
    /// A directory with this mode, and its parents.
    Mkdir { path: PathBuf, mode: u32 },
    /// A directory to mount something on, unless that is done.
    MountPoint { path: PathBuf },
    /// An empty file system in memory, unless one is mounted there.
    MountTmpfs { path: PathBuf, size_bytes: Option<u64> },
    /// All files at once: readers see the old contents or the new, never a mixture.
    WriteAtomic { dir: PathBuf, payload: Payload, fs_group: Option<u32> },
    /// Everything below belongs to the group and is open to it.
    ChangeGroup { path: PathBuf, group: u32, only_if_root_differs: bool },
    /// The path is there and is what it should be.
    CheckHostPath { path: PathBuf, kind: HostPathType },
}

/// Why a volume cannot be set up; the text goes into a `FailedMount` event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct VolumeError(pub String);

/// A volume ready to be mounted into containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    pub ops: Vec<HostOp>,
    /// Where it is on the host.
    pub path: PathBuf,
    pub read_only: bool,
    /// Its contents follow objects of the API.
    pub live: bool,
}

/// What plugins plan from.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub env: EnvInput<'a>,
    /// `<root>/pods/<uid>`.
    pub pod_dir: &'a Path,
    /// The node's name, for the node affinity of local volumes.
    pub node_name: &'a str,
}

impl Context<'_> {
    /// The directory of a volume of the plugin `kubernetes.io/<plugin>`.
    fn volume_dir(&self, plugin: &str, volume: &str) -> PathBuf {
        self.pod_dir.join("volumes").join(format!("kubernetes.io~{plugin}")).join(volume)
    }

    fn fs_group(&self) -> Option<u32> {
        let context = self.env.pod.spec.as_ref()?.security_context.as_ref()?;
        u32::try_from(context.fs_group?).ok()
    }

    fn only_if_root_differs(&self) -> bool {
        let context = self.env.pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
        context.and_then(|c| c.fs_group_change_policy.as_deref()) == Some("OnRootMismatch")
    }
}

/// A kind of volume.
trait Plugin: Sync {
    /// The plan, or `None` if the volume is of another kind.
    fn plan(&self, context: &Context<'_>, volume: &Volume) -> Option<Result<Mounted, VolumeError>>;
}

/// Every kind of volume that this kubelet knows.
static PLUGINS: &[&dyn Plugin] = &[
    &empty_dir::EmptyDir,
    &host_path::HostPath,
    &image::Image,
    &files::ConfigMap,
    &files::Secret,
    &files::DownwardApi,
    &files::Projected,
    &persistent::Claim,
];

/// The plan of one volume.
///
/// # Errors
/// An object that is missing, or a kind that is not known.
pub fn plan_volume(context: &Context<'_>, volume: &Volume) -> Result<Mounted, VolumeError> {
    let unknown = || Err(VolumeError("no volume plugin matched".into()));
    PLUGINS.iter().find_map(|p| p.plan(context, volume)).unwrap_or_else(unknown)
}

/// The plans of all volumes by name; failures by name too.
pub fn plan_volumes(context: &Context<'_>) -> (BTreeMap<String, Mounted>, BTreeMap<String, VolumeError>) {
    let (mut mounted, mut failed) = (BTreeMap::new(), BTreeMap::new());
    let volumes = context.env.pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    for volume in volumes {
        match plan_volume(context, volume) {
            Ok(plan) => drop(mounted.insert(volume.name.clone(), plan)),
            Err(e) => drop(failed.insert(volume.name.clone(), e)),
        }
    }
    (mounted, failed)
}

/// The mounts of a container. Paths below a volume are prepared here, safely: see [`subpath`].
///
/// # Errors
/// A volume that is not there, or a path that leads out of it.
pub fn container_mounts(
    pod_dir: &Path,
    container: &Container,
    volumes: &BTreeMap<String, Mounted>,
    env: &[(String, String)],
) -> Result<Vec<v1::Mount>, VolumeError> {
    let mut mounts = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let Some(volume) = volumes.get(&mount.name) else {
            let text =
                format!("cannot find volume {:?} to mount into container {:?}", mount.name, container.name);
            return Err(VolumeError(text));
        };
        let mut sub_path = mount.sub_path.clone().unwrap_or_default();
        if let Some(expression) = mount.sub_path_expr.as_deref().filter(|e| !e.is_empty()) {
            sub_path = expand_sub_path(expression, env)?;
        }
        let host_path = if sub_path.is_empty() {
            volume.path.clone()
        } else {
            let target = pod_dir
                .join("volume-subpaths")
                .join(&mount.name)
                .join(&container.name)
                .join(index.to_string());
            subpath::prepare(&volume.path, &sub_path, &target)
                .map_err(|e| e.describe(&mount.name, &container.name))?
        };
        let propagation = match mount.mount_propagation.as_deref() {
            None | Some("None") => v1::MountPropagation::PropagationPrivate,
            Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
            Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
            Some(other) => return Err(VolumeError(format!("invalid MountPropagation mode: {other:?}"))),
        };
        let container_path = match mount.mount_path.starts_with('/') {
            true => mount.mount_path.clone(),
            false => format!("/{}", mount.mount_path),
        };
        mounts.push(v1::Mount {
            container_path,
            host_path: host_path.to_string_lossy().into_owned(),
            readonly: mount.read_only == Some(true) || volume.read_only,
            propagation: propagation as i32,
            ..Default::default()
        });
    }
    Ok(mounts)
}

fn expand_sub_path(expression: &str, env: &[(String, String)]) -> Result<String, VolumeError> {
    let missing = std::cell::Cell::new(false);
    let expanded = expand(expression, |name| {
        let value = env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()).filter(|v| !v.is_empty());
        missing.set(missing.get() || value.is_none());
        value
    });
    if missing.get() {
        return Err(VolumeError(format!("missing value for {expression:?}")));
    }
    Ok(expanded)
}
