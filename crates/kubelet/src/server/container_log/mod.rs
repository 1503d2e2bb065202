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

use follow::Watch;

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
    let (mut file, mut watch) = if options.follow {
        let (file, watch) = Watch::open(&path).await?;
        (file, Some(watch))
    } else {
        (File::open(&path).await?, None)
    };
    if let Some(lines) = options.tail_lines {
        let start = tail_start(&mut file, lines).await?;
        file.seek(SeekFrom::Start(start)).await?;
    }
    let mut lines_left = options.tail_lines.filter(|_| !options.follow);
    let mut reader = BufReader::with_capacity(READ_BYTES, file);
    let mut writer = Writer::new(options);
    let mut line = Vec::new();
    let mut batch = BytesMut::new();
    // that no file of the log is written any more
    let mut ended = watch.is_none();
    let mut asked = false;
    let mut pause = FIRST_LOOK;
    loop {
        // decided before the file is read to its end, so that nothing comes after
        let complete = ended || watch.as_ref().is_some_and(Watch::finished);
        while lines_left != Some(0) {
            let limit = MAX_LINE_BYTES.saturating_sub(line.len() as u64);
            let count = (&mut reader).take(limit).read_until(b'\n', &mut line).await?;
            let whole = line.ends_with(b"\n") || line.len() as u64 >= MAX_LINE_BYTES;
            if !whole && (!complete || line.is_empty()) {
                break;
            }
            lines_left = lines_left.map(|left| left - 1);
            let limited = writer.write(&line, &mut batch);
            line.clear();
            if (limited || batch.len() >= SEND_BYTES) && out.send(batch.split().freeze()).await.is_err() {
                return Ok(());
            }
            if limited {
                return Ok(());
            }
            if count == 0 {
                break;
            }
        }
        if !batch.is_empty() && out.send(batch.split().freeze()).await.is_err() {
            return Ok(());
        }
        let Some(watch) = watch.as_mut() else { return Ok(()) };
        if complete && watch.has_next() {
            // one that is removed already is skipped: only so many are kept
            if let Some(next) = watch.advance().await? {
                reader = BufReader::with_capacity(READ_BYTES, next);
            }
            continue;
        }
        if ended {
            return Ok(());
        }
        if (!asked || watch.closed()) && !running().await {
            // one more pass for what was written meanwhile
            watch.catch_up()?;
            ended = true;
            continue;
        }
        asked = true;
        tokio::select! {
            changed = watch.changed() => {
                changed?;
                pause = FIRST_LOOK;
            }
            () = tokio::time::sleep(pause), if watch.closed() => pause = (pause * 2).min(LAST_LOOK),
            () = out.closed() => return Ok(()),
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

    /// A log that is followed; its container runs until it is dropped.
    struct Followed {
        directory: tempfile::TempDir,
        running: Arc<AtomicBool>,
        lines: mpsc::Receiver<Bytes>,
        task: tokio::task::JoinHandle<io::Result<()>>,
    }

    impl Followed {
        /// Its first line is read already: from then on it is watched.
        async fn start() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("0.log");
            write(&mut std::fs::File::create(&path).unwrap(), "first");
            let running = Arc::new(AtomicBool::new(true));
            // a queue of one: the reader goes no further than the client
            let (sender, lines) = mpsc::channel(1);
            let task = tokio::spawn({
                let running = running.clone();
                async move {
                    let options = Options { follow: true, ..Options::default() };
                    read(&path, &options, || std::future::ready(running.load(Ordering::Acquire)), sender)
                        .await
                }
            });
            let mut followed = Self { directory, running, lines, task };
            followed.expect("first\n").await;
            followed
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.directory.path().join(name)
        }

        fn open(&self) -> std::fs::File {
            std::fs::OpenOptions::new().create(true).append(true).open(self.path("0.log")).unwrap()
        }

        fn rename(&self, from: &str, to: &str) {
            std::fs::rename(self.path(from), self.path(to)).unwrap();
        }

        /// The next that the client gets, in whatever pieces.
        async fn expect(&mut self, text: &str) {
            let mut got = Vec::new();
            while got.len() < text.len() {
                got.extend_from_slice(&self.lines.recv().await.expect("more of the log"));
            }
            assert_eq!(String::from_utf8(got).unwrap(), text);
        }

        async fn ends(mut self) {
            assert_eq!(self.lines.recv().await, None);
            self.task.await.unwrap().unwrap();
        }
    }

    fn write(file: &mut std::fs::File, text: &str) {
        file.write_all(format!("2026-06-01T00:00:01Z stdout F {text}\n").as_bytes()).unwrap();
    }

    #[tokio::test]
    async fn a_followed_log_grows_rotates_and_ends_with_the_container() {
        let mut log = Followed::start().await;
        let mut file = log.open();
        write(&mut file, "second");
        log.expect("second\n").await;
        // rotation: moved away, made anew by the runtime, the old one closed at last
        log.rename("0.log", "0.log.1");
        let mut new = log.open();
        drop(file);
        write(&mut new, "third");
        log.expect("third\n").await;
        write(&mut new, "last");
        log.running.store(false, Ordering::Release);
        drop(new);
        log.expect("last\n").await;
        log.ends().await;
    }

    /// A runtime makes the new file first, and then brings what it has at hand to the old one.
    #[tokio::test]
    async fn what_is_written_to_a_rotated_log_until_it_is_closed_is_read_before_the_new_one() {
        let mut log = Followed::start().await;
        let mut old = log.open();
        log.rename("0.log", "0.log.1");
        let mut new = log.open();
        write(&mut new, "new");
        write(&mut old, "late");
        log.expect("late\n").await;
        write(&mut old, "later");
        log.expect("later\n").await;
        drop(old);
        log.expect("new\n").await;
        log.running.store(false, Ordering::Release);
        drop(new);
        log.ends().await;
    }

    #[tokio::test]
    async fn a_reader_that_is_rotations_behind_misses_none_of_the_files_that_are_kept() {
        let mut log = Followed::start().await;
        write(&mut log.open(), "second");
        for number in 1..=3 {
            log.rename("0.log", &format!("0.log.{number}"));
            write(&mut log.open(), &format!("after {number}"));
        }
        crate::logs::compress(&log.path("0.log.1")).unwrap();
        crate::logs::compress(&log.path("0.log.2")).unwrap();
        log.running.store(false, Ordering::Release);
        log.expect("second\nafter 1\nafter 2\nafter 3\n").await;
        log.ends().await;
    }

    /// The runtime did not reopen its log: the file gets its name back.
    #[tokio::test]
    async fn a_rotation_that_is_taken_back_repeats_nothing() {
        let mut log = Followed::start().await;
        let mut file = log.open();
        log.rename("0.log", "0.log.1");
        log.rename("0.log.1", "0.log");
        write(&mut file, "second");
        log.expect("second\n").await;
        log.running.store(false, Ordering::Release);
        drop(file);
        log.ends().await;
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
