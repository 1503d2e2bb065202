//! Carries host operations out, and undoes all of a pod's.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use k8s_openapi::jiff::Timestamp;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{HostOp, HostPathType, VolumeError, atomic};

/// Carries the operations out in order. Blocking.
///
/// # Errors
/// The first one that fails.
pub fn execute(ops: &[HostOp]) -> Result<(), VolumeError> {
    for op in ops {
        run(op).map_err(|e| match e.get_ref() {
            Some(inner) if inner.is::<VolumeError>() => VolumeError(inner.to_string()),
            _ => VolumeError(format!("{}: {e}", describe(op))),
        })?;
    }
    Ok(())
}

fn describe(op: &HostOp) -> String {
    match op {
        HostOp::Mkdir { path, .. } => format!("mkdir {}", path.display()),
        HostOp::MountPoint { path } => format!("mkdir {}", path.display()),
        HostOp::MountTmpfs { path, .. } => format!("mount tmpfs on {}", path.display()),
        HostOp::WriteAtomic { dir, .. } => format!("write files in {}", dir.display()),
        HostOp::ChangeGroup { path, .. } => format!("change the group of {}", path.display()),
        HostOp::CheckHostPath { path, .. } => format!("check {}", path.display()),
    }
}

fn run(op: &HostOp) -> io::Result<()> {
    match op {
        HostOp::Mkdir { path, mode } => {
            fs::create_dir_all(path)?;
            fs::set_permissions(path, PermissionsExt::from_mode(*mode))
        }
        HostOp::MountPoint { path } => fs::create_dir_all(path),
        HostOp::MountTmpfs { path, size_bytes } => {
            if is_mount_point(path)? {
                return Ok(());
            }
            let options = size_bytes.map(|size| format!("size={size}"));
            let flags = MsFlags::empty();
            Ok(mount(Some("tmpfs"), path, Some("tmpfs"), flags, options.as_deref())?)
        }
        HostOp::WriteAtomic { dir, payload, fs_group } => {
            let stamp = Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%9f").to_string();
            atomic::write(dir, payload, *fs_group, &stamp).map(drop)
        }
        HostOp::ChangeGroup { path, group, only_if_root_differs } => {
            let meta = fs::metadata(path)?;
            if *only_if_root_differs && meta.gid() == *group && meta.mode() & 0o2070 == 0o2070 {
                return Ok(());
            }
            change_group(path, *group)
        }
        HostOp::CheckHostPath { path, kind } => check_host_path(path, *kind),
    }
}

/// Gives everything below `path` to the group: readable and writable files, directories that pass the
/// group on (upstream's `SetVolumeOwnership`).
pub(super) fn change_group(path: &Path, group: u32) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_symlink() {
        return std::os::unix::fs::lchown(path, None, Some(group));
    }
    chown(path, None, Some(group))?;
    let mode = meta.mode() & 0o7777;
    // a file nobody may write stays so
    let read_only = meta.is_file() && mode & 0o222 == 0;
    let mask = if read_only { 0o440 } else { 0o660 };
    let wanted = if meta.is_dir() { mode | 0o660 | 0o110 | 0o2000 } else { mode | mask };
    fs::set_permissions(path, PermissionsExt::from_mode(wanted))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            change_group(&entry?.path(), group)?;
        }
    }
    Ok(())
}

fn check_host_path(path: &Path, kind: HostPathType) -> io::Result<()> {
    let exists = path.exists();
    match kind {
        HostPathType::Unset => return Ok(()),
        HostPathType::DirectoryOrCreate if !exists => {
            fs::create_dir_all(path)?;
            return fs::set_permissions(path, PermissionsExt::from_mode(0o755));
        }
        HostPathType::FileOrCreate if !exists => {
            fs::File::create(path)?;
            return fs::set_permissions(path, PermissionsExt::from_mode(0o644));
        }
        _ => {}
    }
    let file_type = fs::metadata(path).ok().map(|m| m.file_type());
    let is = |f: fn(&fs::FileType) -> bool| file_type.as_ref().is_some_and(f);
    let (ok, what) = match kind {
        HostPathType::Unset => (true, ""),
        HostPathType::Directory | HostPathType::DirectoryOrCreate => {
            (is(fs::FileType::is_dir), "a directory")
        }
        HostPathType::File | HostPathType::FileOrCreate => (is(fs::FileType::is_file), "a file"),
        HostPathType::Socket => (is(FileTypeExt::is_socket), "a socket file"),
        HostPathType::CharDevice => (is(FileTypeExt::is_char_device), "a character device"),
        HostPathType::BlockDevice => (is(FileTypeExt::is_block_device), "a block device"),
    };
    if ok {
        return Ok(());
    }
    let text = format!("hostPath type check failed: {} is not {what}", path.display());
    Err(io::Error::other(VolumeError(text)))
}

/// Mount points at or below `path`, the deepest first.
///
/// # Errors
/// If the mount table cannot be read.
pub fn mounts_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut mounts: Vec<_> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescape(point)))
        .filter(|point| point.starts_with(path))
        .collect();
    mounts.sort();
    mounts.reverse();
    Ok(mounts)
}

/// The mount table writes blanks and the like as octal numbers.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

fn is_mount_point(path: &Path) -> io::Result<bool> {
    let path = path.canonicalize()?;
    Ok(mounts_below(&path)?.contains(&path))
}

/// Unmounts everything below a pod's directory and removes the directory. Blocking; may be repeated.
///
/// # Errors
/// What could not be unmounted stays, with everything around it: nothing behind a mount is ever removed.
pub fn undo_pod(pod_dir: &Path) -> io::Result<()> {
    if !pod_dir.exists() {
        return Ok(());
    }
    let pod_dir = pod_dir.canonicalize()?;
    for point in mounts_below(&pod_dir)? {
        match umount2(&point, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
            Err(nix::errno::Errno::EBUSY) => {
                umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?
            }
            Err(e) => return Err(e.into()),
        }
    }
    if let Some(left) = mounts_below(&pod_dir)?.first() {
        return Err(io::Error::other(format!("{} is still mounted", left.display())));
    }
    fs::remove_dir_all(&pod_dir)
}
