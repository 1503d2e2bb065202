//! Reading a container's log for a client: the end of it, from a time on, and as it grows.

mod follow;
mod format;
mod options;

pub use format::{Line, Writer, parse_line};
pub use options::{Options, OptionsError, Stream};

use std::future::Future;
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::sync::mpsc;

use follow::Log;

/// Read from the file at once.
const READ_BYTES: usize = 64 << 10;
/// Handed to the client at once, if there is so much.
const SEND_BYTES: usize = 32 << 10;
/// The longest line that is taken; runtimes split at 16 KiB.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// How soon a container whose log was closed is looked at, doubling: the runtime closes the log a
/// moment before it reports the end, and a process may close its output and go on.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LAST_LOOK: Duration = Duration::from_secs(1);

/// The log of a container, all that is kept of it: upstream reads the newest file only, which is empty, or not
/// there, just after a rotation.
pub struct ContainerLog {
    first: File,
    log: Log,
    options: Options,
}

impl ContainerLog {
    /// Opens a log by the name of its newest file.
    ///
    /// # Errors
    /// If there is none, or it cannot be read or watched.
    pub async fn open(path: &Path, options: Options) -> io::Result<Self> {
        let (first, log) = Log::open(path, options.clone()).await?;
        Ok(Self { first, log, options })
    }

    /// Writes it to `out` until its end or, when following, until the container has ended, the limit is
    /// reached or nobody reads any more. `running` tells whether the container runs.
    ///
    /// # Errors
    /// If a file cannot be read or watched.
    pub async fn copy<F>(
        self,
        running: impl Fn() -> F + Send + Sync,
        out: mpsc::Sender<Bytes>,
    ) -> io::Result<()>
    where
        F: Future<Output = bool> + Send,
    {
        let Self { first, mut log, options } = self;
        let mut lines_left = options.tail_lines.filter(|_| !options.follow);
        let mut reader = BufReader::with_capacity(READ_BYTES, first);
        let mut writer = Writer::new(&options);
        let mut line = Vec::new();
        let mut batch = BytesMut::new();
        // that no file of the log is written any more
        let mut ended = !log.is_followed();
        let mut asked = false;
        let mut pause = FIRST_LOOK;
        loop {
            // decided before the file is read to its end, so that nothing comes after
            let complete = ended || log.finished();
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
            if complete && log.has_next() {
                // one that is removed already is skipped: only so many are kept
                if let Some(next) = log.advance().await? {
                    reader = BufReader::with_capacity(READ_BYTES, next);
                }
                continue;
            }
            if ended {
                return Ok(());
            }
            if (!asked || log.closed()) && !running().await {
                // one more pass for what was written meanwhile
                log.catch_up()?;
                ended = true;
                continue;
            }
            asked = true;
            tokio::select! {
                changed = log.changed() => {
                    changed?;
                    pause = FIRST_LOOK;
                }
                () = tokio::time::sleep(pause), if log.closed() => pause = (pause * 2).min(LAST_LOOK),
                () = out.closed() => return Ok(()),
            }
        }
    }
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

    /// What a client gets of a log whose container has ended.
    async fn read(path: &Path, query: &str) -> String {
        let options =
            Options::from_query(&super::super::route::query(query), "2026-06-01T01:00:00Z".parse().unwrap());
        let (sender, mut receiver) = mpsc::channel(1);
        let log = ContainerLog::open(path, options.unwrap()).await.unwrap();
        let copied = tokio::spawn(log.copy(|| async { false }, sender));
        let mut all = Vec::new();
        while let Some(piece) = receiver.recv().await {
            all.extend_from_slice(&piece);
        }
        copied.await.unwrap().unwrap();
        String::from_utf8(all).unwrap()
    }

    async fn text(log: &str, query: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), log).unwrap();
        read(file.path(), query).await
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

    /// However the moment of a rotation falls, a client gets the lines that it asked for.
    #[tokio::test]
    async fn a_log_is_read_across_its_rotations() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let all = async |expect: &str| {
            for query in ["", "follow=true", "sinceSeconds=3600", "tailLines=9", "tailLines=9&follow=true"] {
                assert_eq!(read(&path("0.log"), query).await, expect, "{query}");
            }
            for lines in 0..4 {
                let from = expect.lines().count().saturating_sub(lines);
                let end: String = expect.split_inclusive('\n').skip(from).collect();
                assert_eq!(read(&path("0.log"), &format!("tailLines={lines}")).await, end, "{lines}");
            }
        };
        let rotate = |number: u8| {
            std::fs::rename(path("0.log"), path(&format!("0.log.20260601-00000{number}"))).unwrap()
        };
        let new = || std::fs::File::create(path("0.log")).unwrap();
        let mut file = new();
        write(&mut file, "one");
        write(&mut file, "two");
        rotate(1);
        all("one\ntwo\n").await;
        file = new();
        all("one\ntwo\n").await;
        write(&mut file, "three");
        all("one\ntwo\nthree\n").await;
        crate::logs::compress(&path("0.log.20260601-000001")).unwrap();
        rotate(2);
        file = new();
        write(&mut file, "four");
        all("one\ntwo\nthree\nfour\n").await;
        // another container's
        std::fs::write(path("1.log"), "").unwrap();
        std::fs::remove_file(path("0.log.20260601-000001.gz")).unwrap();
        all("three\nfour\n").await;
        for name in ["0.log", "0.log.20260601-000002"] {
            std::fs::remove_file(path(name)).unwrap();
        }
        let none = ContainerLog::open(&path("0.log"), Options::default()).await.err().unwrap();
        assert_eq!(none.to_string(), "No such file or directory (os error 2)");
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
                    let log = ContainerLog::open(&path, options).await?;
                    log.copy(|| std::future::ready(running.load(Ordering::Acquire)), sender).await
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
        let log = ContainerLog::open(file.path(), options).await.unwrap();
        log.copy(|| async { true }, sender).await.unwrap();
    }
}
