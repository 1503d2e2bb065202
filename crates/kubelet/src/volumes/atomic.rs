//! Replaces all files of a directory at once, the way upstream's kubelet does and programs expect:
//! the files are in a directory with a time in its name, `..data` links to it, and links of the files'
//! own names lead through `..data`. Replacing that one link replaces everything.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use super::{FileEntry, Payload};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Writes `payload` below `dir`; returns whether anything changed.
///
/// # Errors
/// A path that leads out of the directory, or what the file system says.
pub(super) fn write(dir: &Path, payload: &Payload, fs_group: Option<u32>, stamp: &str) -> io::Result<bool> {
    for path in payload.keys() {
        check_path(path)?;
    }
    let old = fs::read_link(dir.join(DATA)).ok();
    if old.as_ref().is_some_and(|old| same(&dir.join(old), payload)) {
        return Ok(false);
    }
    let name = format!("..{stamp}");
    let fresh = dir.join(&name);
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, PermissionsExt::from_mode(0o755))?;
    for (path, file) in payload {
        write_file(&fresh, path, file)?;
    }
    if let Some(group) = fs_group {
        super::executor::change_group(&fresh, group)?;
    }
    symlink(&name, dir.join(NEW_DATA)).or_else(|e| {
        if e.kind() != io::ErrorKind::AlreadyExists {
            return Err(e);
        }
        // left over from a crash
        fs::remove_file(dir.join(NEW_DATA))?;
        symlink(&name, dir.join(NEW_DATA))
    })?;
    fs::rename(dir.join(NEW_DATA), dir.join(DATA))?;
    link_names(dir, payload)?;
    if let Some(old) = old.filter(|old| old.as_os_str() != name.as_str()) {
        fs::remove_dir_all(dir.join(old))?;
    }
    Ok(true)
}

fn check_path(path: &str) -> io::Result<()> {
    let relative = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    if path.is_empty() || !relative || path.starts_with("..") {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("invalid path {path:?} in a volume"),
        ));
    }
    Ok(())
}

fn write_file(root: &Path, path: &str, file: &FileEntry) -> io::Result<()> {
    let full = root.join(path);
    if let Some(parent) = full.parent() {
        fs::create_dir_all(parent)?;
        let mut dir = parent;
        // the mode of directories does not depend on this process' mask
        while dir != root {
            fs::set_permissions(dir, PermissionsExt::from_mode(0o755))?;
            match dir.parent() {
                Some(up) => dir = up,
                None => break,
            }
        }
    }
    fs::write(&full, &file.data)?;
    if let Some(uid) = file.uid {
        chown(&full, Some(uid), None)?;
    }
    fs::set_permissions(&full, PermissionsExt::from_mode(file.mode))
}

/// Whether the directory holds exactly the payload.
fn same(dir: &Path, payload: &Payload) -> bool {
    let mut found = BTreeSet::new();
    if collect(dir, Path::new(""), &mut found).is_err() {
        return false;
    }
    found.len() == payload.len()
        && payload.iter().all(|(path, file)| {
            found.contains(Path::new(path)) && fs::read(dir.join(path)).is_ok_and(|data| data == file.data)
        })
}

fn collect(dir: &Path, below: &Path, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &path, found)?;
        } else {
            found.insert(path);
        }
    }
    Ok(())
}

/// Makes the links of the top-level names and removes those of names that are gone.
fn link_names(dir: &Path, payload: &Payload) -> io::Result<()> {
    let names: BTreeSet<&str> = payload.keys().map(|p| p.split('/').next().unwrap_or(p)).collect();
    for name in &names {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), link)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let stale = name.to_str().is_some_and(|n| !n.starts_with("..") && !names.contains(n));
        if stale && entry.file_type()?.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let entry = |data: &str| FileEntry { data: data.into(), mode: 0o640, uid: None };
        files.iter().map(|(path, data)| ((*path).to_owned(), entry(data))).collect()
    }

    #[test]
    fn contents_are_replaced_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert!(write(root, &payload(&[("a", "1"), ("d/e", "2")]), None, "1").unwrap());
        assert!(!write(root, &payload(&[("a", "1"), ("d/e", "2")]), None, "2").unwrap(), "nothing changed");
        assert_eq!(fs::read_to_string(root.join("d/e")).unwrap(), "2");
        assert_eq!(fs::metadata(root.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_link(root.join("a")).unwrap(), Path::new("..data/a"));
        assert!(write(root, &payload(&[("a", "3")]), None, "3").unwrap());
        let mut names: Vec<_> =
            fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["..3", "..data", "a"]);
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "3");
        for bad in ["../x", "/x", "a/../b", "..x"] {
            assert!(write(root, &payload(&[(bad, "1")]), None, "4").is_err(), "{bad}");
        }
    }
}
