//! `emptyDir`: a directory, or memory, that lives as long as the pod.

use k8s_openapi::api::core::v1::Volume;

use super::{Context, HostOp, Mounted, Plugin, VolumeError};
use crate::quantity::value;

/// Everybody may write, as upstream.
const MODE: u32 = 0o777;

pub(super) struct EmptyDir;

impl Plugin for EmptyDir {
    fn plan(&self, context: &Context<'_>, volume: &Volume) -> Option<Result<Mounted, VolumeError>> {
        let source = volume.empty_dir.as_ref()?;
        let path = context.volume_dir("empty-dir", &volume.name);
        let mut ops = vec![HostOp::Mkdir { path: path.clone(), mode: MODE }];
        match source.medium.as_deref().unwrap_or_default() {
            "" => {}
            "Memory" => {
                let limit = source.size_limit.as_ref().and_then(|q| value(&q.0)).filter(|v| *v > 0);
                let size_bytes = limit.and_then(|v| u64::try_from(v).ok());
                ops.push(HostOp::MountTmpfs { path: path.clone(), size_bytes });
                ops.push(HostOp::Mkdir { path: path.clone(), mode: MODE });
            }
            other => return Some(Err(VolumeError(format!("unknown storage medium {other:?}")))),
        }
        if let Some(group) = context.fs_group() {
            let only_if_root_differs = context.only_if_root_differs();
            ops.push(HostOp::ChangeGroup { path: path.clone(), group, only_if_root_differs });
        }
        Some(Ok(Mounted { ops, path, read_only: false, live: false }))
    }
}
