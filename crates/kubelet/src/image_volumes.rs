//! Volumes that are images (KEP-4639): pulled like a container's image, then mounted where the volume is.

use std::path::Path;

use cri::image::Importer;
use k8s_openapi::api::core::v1::Container;

use crate::execute::{Round, Sandbox};
use crate::images::StartError;
use crate::sync::ContainerKind;
use crate::volumes::mounts_below;

impl Round {
    /// Sees to it that the images behind a container's volumes are mounted.
    ///
    /// # Errors
    /// The state in which the container waits.
    pub(crate) async fn mount_images(
        &self,
        about: (ContainerKind, &str),
        container: &Container,
        sandbox: &Sandbox,
    ) -> Result<(), StartError> {
        let volumes = self.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        let wanted = |name: &str| container.volume_mounts.iter().flatten().any(|m| m.name == name);
        for volume in volumes.filter(|v| v.image.is_some() && wanted(&v.name)) {
            let Some(source) = volume.image.as_ref() else { continue };
            let place =
                self.prepared.as_ref().and_then(|p| p.volumes.get(&volume.name)).map(|m| m.path.clone());
            let Some(place) = place else { continue };
            let reference = source.reference.as_deref().unwrap_or_default();
            let ready = self.ensure_image(about, reference, source.pull_policy.as_deref(), sandbox).await?;
            if is_mounted(&place) {
                continue;
            }
            let fail = |why: String| {
                let message = format!("failed to mount image volume {:?}: {why}", volume.name);
                self.shared.event(&self.pod, Some(about), true, "Failed", format!("Error: {message}"));
                StartError::new("CreateContainerError", message)
            };
            let importer: &Importer = self
                .shared
                .config
                .image_mounts
                .as_ref()
                .ok_or_else(|| fail("the container runtime does not support image volumes".into()))?;
            importer.mount(&ready.id, &place).await.map_err(|e| fail(e.to_string()))?;
        }
        Ok(())
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = path.canonicalize().and_then(|path| Ok(mounts_below(&path)?.contains(&path)));
    mounts.unwrap_or(false)
}
