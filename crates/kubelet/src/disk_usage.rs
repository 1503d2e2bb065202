//! What a directory uses of its file system.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes of a block, as `stat` counts them.
const BLOCK_BYTES: u64 = 512;

/// Bytes and inodes of everything at and below `path`, on its own file system; files with several names count once.
/// What goes away meanwhile counts nothing. Blocking.
pub fn disk_usage(path: &Path) -> (u64, u64) {
    let Ok(root) = fs::symlink_metadata(path) else { return (0, 0) };
    let mut linked = HashSet::new();
    let (mut bytes, mut inodes) = (0_u64, 0_u64);
    let mut waiting = vec![path.to_owned()];
    while let Some(path) = waiting.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.dev() != root.dev() || (meta.nlink() > 1 && !meta.is_dir() && !linked.insert(meta.ino())) {
            continue;
        }
        bytes += meta.blocks() * BLOCK_BYTES;
        inodes += 1;
        if meta.is_dir() {
            waiting.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()));
        }
    }
    (bytes, inodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let empty = disk_usage(dir.path());
        fs::write(dir.path().join("a"), vec![1; 100_000]).unwrap();
        fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        let (bytes, inodes) = disk_usage(dir.path());
        assert_eq!(inodes, empty.1 + 1);
        assert!((100_000..120_000).contains(&(bytes - empty.0)), "{bytes}");
    }
}
