//! `image`: the files of an image, read-only. They are mounted before a container starts, because the image may have
//! to be pulled first: see `crate::image_volumes`.

use k8s_openapi::api::core::v1::Volume;

use super::{Context, HostOp, Mounted, Plugin, VolumeError};

pub(super) struct Image;

impl Plugin for Image {
    fn plan(&self, context: &Context<'_>, volume: &Volume) -> Option<Result<Mounted, VolumeError>> {
        volume.image.as_ref()?;
        let path = context.volume_dir("image", &volume.name);
        let ops = vec![HostOp::MountPoint { path: path.clone() }];
        Some(Ok(Mounted { ops, path, read_only: true, live: false }))
    }
}
