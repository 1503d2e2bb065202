//! `hostPath`: a file or directory of the node.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{HostPathVolumeSource, Volume};

use super::{Context, HostOp, HostPathType, Mounted, Plugin, VolumeError};

pub(super) struct HostPath;

impl Plugin for HostPath {
    fn plan(&self, _: &Context<'_>, volume: &Volume) -> Option<Result<Mounted, VolumeError>> {
        Some(plan(volume.host_path.as_ref()?))
    }
}

pub(super) fn plan(source: &HostPathVolumeSource) -> Result<Mounted, VolumeError> {
    let path = PathBuf::from(&source.path);
    if source.path.split('/').any(|part| part == "..") {
        return Err(VolumeError(format!("invalid HostPath `{}`: must not contain '..'", source.path)));
    }
    let kind = match source.type_.as_deref().unwrap_or_default() {
        "" => HostPathType::Unset,
        "Directory" => HostPathType::Directory,
        "DirectoryOrCreate" => HostPathType::DirectoryOrCreate,
        "File" => HostPathType::File,
        "FileOrCreate" => HostPathType::FileOrCreate,
        "Socket" => HostPathType::Socket,
        "CharDevice" => HostPathType::CharDevice,
        "BlockDevice" => HostPathType::BlockDevice,
        other => return Err(VolumeError(format!("{other} is an invalid volume type"))),
    };
    let ops = vec![HostOp::CheckHostPath { path: path.clone(), kind }];
    Ok(Mounted { ops, path, read_only: false, live: false })
}
