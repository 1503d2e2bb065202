//! Container logs on disk: the end of one, rotation, and what is left of pods that are gone.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use cri::RuntimeApi;

/// When a log is rotated, and what is kept (`containerLogMaxSize`, `containerLogMaxFiles`).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub max_bytes: u64,
    /// The file that is written and the one before it are always kept.
    pub max_files: usize,
}

/// The end of a log in CRI format, as text: at most so many bytes and lines.
///
/// # Errors
/// If the file cannot be read.
pub fn tail(path: &Path, max_bytes: usize, max_lines: usize) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let size = file.metadata()?.len();
    // each line carries some 40 bytes of its own
    let window = u64::try_from(max_bytes + max_lines * 64).unwrap_or(u64::MAX);
    file.seek(SeekFrom::Start(size.saturating_sub(window)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let skip = usize::from(size > window);
    let mut lines: Vec<String> = Vec::new();
    let mut open = String::new();
    for line in text.lines().skip(skip) {
        // time, stream, tag (P: partial), content
        let mut parts = line.splitn(4, ' ');
        let (Some(_), Some(_), Some(tag)) = (parts.next(), parts.next(), parts.next()) else { continue };
        open.push_str(parts.next().unwrap_or_default());
        if !tag.split(':').any(|t| t == "P") {
            lines.push(std::mem::take(&mut open) + "\n");
        }
    }
    // last words without a line's end
    if !open.is_empty() {
        lines.push(open);
    }
    let from = lines.len().saturating_sub(max_lines);
    let mut end = lines[from..].concat();
    let mut cut = end.len().saturating_sub(max_bytes);
    while !end.is_char_boundary(cut) {
        cut += 1;
    }
    Ok(end.split_off(cut))
}

/// Moves a log that is too large away and lets the runtime open a new one; keeps the newest few, all but the last
/// compressed. The file names are upstream's: `0.log`, `0.log.20260101-000000`, `0.log.20260101-000000.gz`.
///
/// # Errors
/// What the file system says; a runtime that cannot reopen gets its file back.
pub async fn rotate(
    runtime: &dyn RuntimeApi,
    container_id: &str,
    path: &Path,
    limits: Limits,
    now: meta::Time,
) -> io::Result<bool> {
    let size = match fs::metadata(path) {
        Ok(meta) => meta.len(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    if size < limits.max_bytes {
        return Ok(false);
    }
    let mut old = rotated(path)?;
    while old.len() + 2 > limits.max_files.max(2) {
        fs::remove_file(old.remove(0))?;
    }
    crate::execute::blocking(move || old.iter().try_for_each(|file| compress(file))).await?;
    let moved = unused_name(path, now);
    fs::rename(path, &moved)?;
    if let Err(e) = runtime.reopen_container_log(container_id).await {
        fs::rename(&moved, path)?;
        return Err(io::Error::other(e));
    }
    Ok(true)
}

/// Compresses a rotated log, if it is not yet. What a compression that was broken off left is overwritten.
pub fn compress(path: &Path) -> io::Result<()> {
    if path.extension().is_some_and(|e| e == "gz") {
        return Ok(());
    }
    let unfinished = with_suffix(path, ".tmp");
    let mut packed =
        flate2::write::GzEncoder::new(fs::File::create(&unfinished)?, flate2::Compression::default());
    io::copy(&mut fs::File::open(path)?, &mut packed)?;
    packed.finish()?.set_permissions(fs::metadata(path)?.permissions())?;
    fs::rename(unfinished, compressed(path))?;
    fs::remove_file(path)
}

/// Where a rotated log is once it is compressed.
pub fn compressed(path: &Path) -> PathBuf {
    with_suffix(path, ".gz")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The name for a log that is moved away; of the next second if one was already moved in this.
fn unused_name(path: &Path, mut now: meta::Time) -> PathBuf {
    loop {
        let name = with_suffix(path, &format!(".{}", now.strftime("%Y%m%d-%H%M%S")));
        if !name.exists() && !compressed(&name).exists() {
            return name;
        }
        now += std::time::Duration::from_secs(1);
    }
}

/// The rotated files of a log, the oldest first.
fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{name}.");
    let mut files: Vec<_> = fs::read_dir(dir)?
        .filter_map(Result::ok)
        .filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(&prefix) && !n.ends_with(".tmp")))
        .map(|e| e.path())
        .collect();
    files.sort();
    Ok(files)
}

/// The files of a log, the oldest first, under their names before compression.
pub fn kept(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = rotated(path)?;
    for file in &mut files {
        if file.extension().is_some_and(|e| e == "gz") {
            file.set_extension("");
        }
    }
    files.dedup();
    if path.try_exists()? {
        files.push(path.to_owned());
    }
    Ok(files)
}

/// The number of restarts that log files tell of, for a runtime that lost its memory (a reboot): one more
/// than the highest, 0 without any.
pub fn restarts_from_logs(dir: &Path) -> i32 {
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let numbers = entries.filter_map(|e| e.file_name().to_str()?.split_once(".log")?.0.parse::<i32>().ok());
    numbers.max().map_or(0, |n| n + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_plain_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::write(&path, "t stdout F one\nt stderr P tw\nt stderr F o\nt stdout F three\n").unwrap();
        assert_eq!(tail(&path, 100, 2).unwrap(), "two\nthree\n");
        assert_eq!(tail(&path, 4, 80).unwrap(), "ree\n");
        assert_eq!(restarts_from_logs(dir.path()), 1);
        fs::write(&path, "t stdout F one\nt stdout P DO\nt stdout P NE\n").unwrap();
        assert_eq!(tail(&path, 100, 1).unwrap(), "DONE");
    }
}
