//! Images as volumes, for runtimes whose CRI does not know them yet (containerd before 2.1): the image's files are
//! mounted read-only on the host, by containerd's own `ctr`.

use std::path::Path;

use crate::image::{ImageError, Importer};

impl Importer {
    /// Mounts an image that is on this node read-only at an empty directory that is there. The mount is undone like any
    /// other; containerd forgets about it by itself.
    ///
    /// # Errors
    /// If `ctr` cannot be started, the image is not there, or it cannot be mounted.
    pub async fn mount(&self, image: &str, directory: &Path) -> Result<(), ImageError> {
        let directory = directory.to_string_lossy();
        let mount = ["images", "mount", "--snapshotter", &self.snapshotter, image, &directory];
        let Err(first) = self.ctr(&mount, None).await else { return Ok(()) };
        // the snapshot is named after the directory: one of before a reboot is in the way
        let remove = ["snapshots", "--snapshotter", &self.snapshotter, "remove", &directory];
        match self.ctr(&remove, None).await {
            Ok(_) => self.ctr(&mount, None).await.map(drop),
            Err(_) => Err(first),
        }
    }
}
