//! Paths below a volume (`subPath`). A container may have put links into the volume: the kernel resolves
//! the path and refuses to leave the volume, and what it opened is what gets bound.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::mount::{MsFlags, mount};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::VolumeError;

/// Why a path below a volume cannot be used. What the file system says is not told to the user: it could
/// tell about the node.
#[derive(Debug)]
pub(super) enum SubPathError {
    Invalid(String),
    Create(io::Error),
    Open(io::Error),
}

impl SubPathError {
    pub(super) fn describe(self, volume: &str, container: &str) -> VolumeError {
        let (text, cause) = match self {
            Self::Invalid(text) => return VolumeError(text),
            Self::Create(e) => ("failed to create subPath directory for", e),
            Self::Open(e) => ("failed to prepare subPath for", e),
        };
        let text = format!("{text} volumeMount {volume:?} of container {container:?}");
        tracing::warn!(error = %cause, "{text}");
        VolumeError(text)
    }
}

/// Binds `volume/sub_path` to `target` and returns the target; makes the directory if nothing is there.
pub(super) fn prepare(volume: &Path, sub_path: &str, target: &Path) -> Result<PathBuf, SubPathError> {
    if sub_path.starts_with('/') {
        return Err(SubPathError::Invalid(format!(
            "error SubPath `{sub_path}` must not be an absolute path"
        )));
    }
    if sub_path.split('/').any(|part| part == "..") {
        let text = format!("unable to provision SubPath `{sub_path}`: must not contain '..'");
        return Err(SubPathError::Invalid(text));
    }
    let opened = match open(volume, sub_path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            create(volume, sub_path).map_err(SubPathError::Create)?;
            open(volume, sub_path)
        }
        other => other,
    };
    let fd = opened.map_err(SubPathError::Open)?;
    bind(&fd, target).map_err(SubPathError::Open)?;
    Ok(target.to_owned())
}

fn resolve() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS
}

fn open(volume: &Path, sub_path: &str) -> io::Result<OwnedFd> {
    let root = rustix::fs::open(volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    Ok(openat2(root, sub_path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve())?)
}

/// Makes the missing directories, each with the volume's own mode, never following a link out of it.
fn create(volume: &Path, sub_path: &str) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(volume)?.permissions().mode() & 0o7777;
    let directory = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::open(volume, directory, Mode::empty())?;
    let root = rustix::fs::open(volume, directory, Mode::empty())?;
    let mut path = PathBuf::new();
    for part in Path::new(sub_path).components() {
        let Component::Normal(name) = part else { continue };
        path.push(name);
        match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(mode)) {
            Ok(()) => {
                let made = rustix::fs::openat(&at, name, directory | OFlags::NOFOLLOW, Mode::empty())?;
                rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))?;
                at = made;
            }
            Err(rustix::io::Errno::EXIST) => at = openat2(&root, &path, directory, Mode::empty(), resolve())?,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn bind(fd: &OwnedFd, target: &Path) -> io::Result<()> {
    let stat = rustix::fs::fstat(fd.as_fd())?;
    let is_dir = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
    if let Ok(seen) = fs::metadata(target) {
        use std::os::unix::fs::MetadataExt;
        if seen.ino() == stat.st_ino && seen.dev() == stat.st_dev {
            return Ok(());
        }
        // an earlier start of the container bound another file here
        let _ = nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH);
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    if is_dir {
        fs::create_dir_all(target)?;
    } else if !target.exists() {
        fs::write(target, b"")?;
    }
    let source = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(mount(Some(source.as_str()), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_never_leaves_its_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        fs::create_dir_all(volume.join("real")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        std::os::unix::fs::symlink("real", volume.join("inner")).unwrap();
        std::os::unix::fs::symlink("../outside", volume.join("out")).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("abs")).unwrap();
        #[track_caller]
        fn check(volume: &Path, sub_path: &str, expect: bool) {
            let fd = open(volume, sub_path);
            assert_eq!(fd.is_ok(), expect, "{sub_path}");
        }
        check(&volume, "real", true);
        check(&volume, "inner", true);
        check(&volume, "out", false);
        check(&volume, "abs/passwd", false);
        assert!(create(&volume, "out/x").is_err() && !dir.path().join("outside/x").exists());
        create(&volume, "inner/a/b").unwrap();
        assert!(volume.join("real/a/b").is_dir());
        for bad in ["/etc", "a/../../b"] {
            assert!(
                matches!(prepare(&volume, bad, &dir.path().join("t")), Err(SubPathError::Invalid(_))),
                "{bad}"
            );
        }
    }
}
