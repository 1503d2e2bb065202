//! Reading a container's log for a client: the end of it, from a time on, and as it grows.

mod follow;
mod format;
mod options;

pub use format::{Line, Writer, parse_line};
pub use options::{Options, OptionsError, Stream};

use std::future::Future;
use std::io::{self, SeekFrom};
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader};
use tokio::sync::mpsc;

use follow::{Change, Watch};

/// Read from the file at once.
const READ_BYTES: usize = 64 << 10;
/// Handed to the client at once, if there is so much.
const SEND_BYTES: usize = 32 << 10;
/// The longest line that is taken; runtimes split at 16 KiB.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// Blocks in which the beginning of the last lines is searched for.
const TAIL_BLOCK_BYTES: u64 = 8 << 10;
/// How soon a container whose log was closed is looked at, doubling: the runtime closes the log a
/// moment before it reports the end, and a process may close its output and go on.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LAST_LOOK: Duration = Duration::from_secs(1);

/// Writes a log to `out` until its end or, when following, until the container has ended, the limit is
/// reached or nobody reads any more. `running` tells whether the container runs.
///
/// # Errors
/// If the file cannot be read or watched.
pub async fn read<F>(
    path: &Path,
    options: &Options,
    running: impl Fn() -> F + Send + Sync,
    out: mpsc::Sender<Bytes>,
) -> io::Result<()>
where
    F: Future<Output = bool> + Send,
{
    let path = tokio::fs::canonicalize(path).await?;
    // watched before it is read: what is written in between wakes us
    let mut watch = if options.follow { Some(Watch::new(&path)?) } else { None };
    let mut file = File::open(&path).await?;
    if let Some(lines) = options.tail_lines {
        let start = tail_start(&mut file, lines).await?;
        file.seek(SeekFrom::Start(start)).await?;
    }
    let mut lines_left = options.tail_lines.filter(|_| !options.follow);
    let mut reader = BufReader::with_capacity(READ_BYTES, file);
    let mut writer = Writer::new(options);
    let mut line = Vec::new();
    let mut batch = BytesMut::new();
    let mut ended = false;
    let mut closed = false;
    let mut pause = FIRST_LOOK;
    loop {
        // everything that is there
        while lines_left != Some(0) {
            let limit = MAX_LINE_BYTES.saturating_sub(line.len() as u64);
            let count = (&mut reader).take(limit).read_until(b'\n', &mut line).await?;
            let complete = line.ends_with(b"\n") || line.len() as u64 >= MAX_LINE_BYTES;
            if !complete && (options.follow && !ended || line.is_empty()) {
                break;
            }
            lines_left = lines_left.map(|left| left - 1);
            let done = writer.write(&line, &mut batch);
            line.clear();
            if batch.len() >= SEND_BYTES && out.send(batch.split().freeze()).await.is_err() {
                return Ok(());
            }
            if done {
                lines_left = Some(0);
                ended = true;
            }
            if count == 0 {
                break;
            }
        }
        if !batch.is_empty() && out.send(batch.split().freeze()).await.is_err() {
            return Ok(());
        }
        let Some(watch) = watch.as_mut().filter(|_| !ended) else { return Ok(()) };
        if !running().await {
            // one more pass for what was written meanwhile
            ended = true;
            continue;
        }
        let change = tokio::select! {
            change = watch.next() => Some(change?),
            () = tokio::time::sleep(pause), if closed => None,
            () = out.closed() => return Ok(()),
        };
        match change {
            Some(Change::Recreated) => {
                // the rest of the old file first: it is complete now
                let mut rest = Vec::new();
                reader.read_to_end(&mut rest).await?;
                line.extend_from_slice(&rest);
                for line in line.split_inclusive(|byte| *byte == b'\n') {
                    ended |= writer.write(line, &mut batch);
                }
                line.clear();
                match File::open(&path).await {
                    Ok(file) => reader = BufReader::with_capacity(READ_BYTES, file),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
                closed = false;
                pause = FIRST_LOOK;
            }
            Some(Change::Closed) => {
                closed = true;
                pause = FIRST_LOOK;
            }
            Some(Change::Written) => {}
            None => pause = (pause * 2).min(LAST_LOOK),
        }
    }
}

/// Where the last lines of a file begin. A last line without an end does not count.
async fn tail_start(file: &mut File, lines: u64) -> io::Result<u64> {
    let mut right = file.seek(SeekFrom::End(0)).await?;
    let mut found = 0u64;
    while right > 0 {
        let left = right.saturating_sub(TAIL_BLOCK_BYTES);
        let mut block = vec![0u8; usize::try_from(right - left).unwrap_or(0)];
        file.seek(SeekFrom::Start(left)).await?;
        file.read_exact(&mut block).await?;
        for (at, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            found += 1;
            if found > lines {
                return Ok(left + at as u64 + 1);
            }
        }
        right = left;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    const LOG: &str = "\
2026-06-01T00:00:01.5Z stdout F one
2026-06-01T00:00:02Z stderr F two
2026-06-01T00:00:03Z stdout P thr
2026-06-01T00:00:03.1Z stdout F ee
";

    async fn text(log: &str, query: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), log).unwrap();
        let options =
            Options::from_query(&super::super::route::query(query), "2026-06-01T01:00:00Z".parse().unwrap());
        let (sender, mut receiver) = mpsc::channel(16);
        read(file.path(), &options.unwrap(), || async { false }, sender).await.unwrap();
        let mut all = Vec::new();
        while let Some(piece) = receiver.recv().await {
            all.extend_from_slice(&piece);
        }
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn a_log_is_read_as_asked() {
        assert_eq!(text(LOG, "").await, "one\ntwo\nthree\n");
        assert_eq!(text(LOG, "tailLines=2").await, "three\n");
        assert_eq!(text(LOG, "tailLines=0").await, "");
        assert_eq!(text(LOG, "limitBytes=5").await, "one\nt");
        assert_eq!(text(LOG, "stream=Stderr").await, "two\n");
        assert_eq!(text(LOG, "sinceTime=2026-06-01T00:00:02Z").await, "two\nthree\n");
        assert_eq!(text(LOG, "sinceSeconds=3597").await, "three\n");
        assert_eq!(
            text(LOG, "timestamps=true&stream=Stdout").await,
            "2026-06-01T00:00:01.500000000Z one\n2026-06-01T00:00:03.000000000Z three\n"
        );
        // a last line that was not finished
        assert_eq!(text("2026-06-01T00:00:01Z stdout F on", "").await, "on");
    }

    #[tokio::test]
    async fn a_followed_log_grows_rotates_and_ends_with_the_container() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let line = |text: &str| format!("2026-06-01T00:00:01Z stdout F {text}\n");
        std::fs::write(&path, line("first")).unwrap();
        let running = Arc::new(AtomicBool::new(true));
        let (sender, mut receiver) = mpsc::channel(16);
        let task = tokio::spawn({
            let (path, running) = (path.clone(), running.clone());
            async move {
                let options = Options { follow: true, ..Options::default() };
                read(&path, &options, || std::future::ready(running.load(Ordering::Acquire)), sender).await
            }
        });
        assert_eq!(receiver.recv().await.unwrap(), "first\n");
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(line("second").as_bytes()).unwrap();
        assert_eq!(receiver.recv().await.unwrap(), "second\n");
        // rotation: moved away, then made anew by the runtime
        std::fs::rename(&path, directory.path().join("0.log.1")).unwrap();
        std::fs::write(&path, line("third")).unwrap();
        assert_eq!(receiver.recv().await.unwrap(), "third\n");
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(line("last").as_bytes()).unwrap();
        running.store(false, Ordering::Release);
        drop(file);
        assert_eq!(receiver.recv().await.unwrap(), "last\n");
        assert_eq!(receiver.recv().await, None);
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn following_ends_when_nobody_reads() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (sender, receiver) = mpsc::channel(1);
        drop(receiver);
        let options = Options { follow: true, ..Options::default() };
        read(file.path(), &options, || async { true }, sender).await.unwrap();
    }
}
