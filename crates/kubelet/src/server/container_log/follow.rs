//! The files of a log: those that are kept, and, as it is written and rotated, those that come; told by the kernel.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::fs::File;
use tokio::io::unix::AsyncFd;

use super::Options;
use crate::execute::blocking;
use crate::logs;

/// Room for the events that are read at once.
const BUFFER_BYTES: usize = 4096;
/// Blocks in which the beginning of the last lines is searched for.
const TAIL_BLOCK_BYTES: u64 = 8 << 10;

/// A file that has, or had, the log's name.
#[derive(Debug, Default)]
struct Named {
    /// Under which it is now, but for compression; `None` once it is out of the directory.
    name: Option<OsString>,
    /// Whoever wrote it has closed it.
    closed: bool,
    /// One that was there from the first.
    opened: Option<Opened>,
}

#[derive(Debug)]
enum Opened {
    Plain(fs::File),
    Packed(fs::File),
}

impl Opened {
    /// `None` if it is removed.
    fn open(path: &Path) -> io::Result<Option<Self>> {
        let found = |opened: io::Result<fs::File>| match opened {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        };
        if let Some(file) = found(fs::File::open(path))? {
            return Ok(Some(Self::Plain(file)));
        }
        Ok(found(fs::File::open(logs::compressed(path)))?.map(Self::Packed))
    }

    /// The file to read; what is compressed is unpacked into one without a name.
    fn unpack(self, directory: &Path) -> io::Result<fs::File> {
        let packed = match self {
            Self::Plain(file) => return Ok(file),
            Self::Packed(packed) => packed,
        };
        let mut file = tempfile::tempfile_in(directory)?;
        io::copy(&mut flate2::read::GzDecoder::new(packed), &mut file)?;
        file.rewind()?;
        Ok(file)
    }

    /// Whether nothing was written to it since then.
    fn is_older(&self, since: SystemTime) -> bool {
        let (Self::Plain(file) | Self::Packed(file)) = self;
        file.metadata().and_then(|meta| meta.modified()).is_ok_and(|written| written < since)
    }
}

/// The files that had the log's name one after the other, the one that is read first.
#[derive(Debug)]
struct Files {
    log: OsString,
    files: VecDeque<Named>,
    /// The file whose new name the next event tells, by the cookie that joins the two.
    moving: Option<(u32, usize)>,
}

impl Files {
    /// Opens what is kept of a log.
    fn open(path: &Path) -> io::Result<Self> {
        loop {
            let kept = logs::kept(path)?;
            let mut files = VecDeque::new();
            for file in &kept {
                // the last is still written, also where it was just moved away and its successor is to come
                let closed = Some(file) != kept.last();
                files.push_back(Named {
                    name: file.file_name().map(OsStr::to_owned),
                    closed,
                    opened: Opened::open(file)?,
                });
            }
            // each rotation adds a name: if none came, the files are those of their names
            if logs::kept(path)? == kept {
                files.retain(|file| file.opened.is_some());
                if files.is_empty() {
                    return Err(io::Error::from_raw_os_error(rustix::io::Errno::NOENT.raw_os_error()));
                }
                let log = path.file_name().unwrap_or_default().to_owned();
                return Ok(Self { log, files, moving: None });
            }
        }
    }

    /// Drops what is not asked for; the first file, at the first line to read.
    fn start(&mut self, directory: &Path, options: &Options) -> io::Result<fs::File> {
        let mut first = 0;
        let mut start = 0;
        if let Some(mut lines) = options.tail_lines {
            for at in (0..self.files.len()).rev() {
                let Some(opened) = self.files[at].opened.take() else { continue };
                let mut file = opened.unpack(directory)?;
                let found = last_lines(&mut file, &mut lines)?;
                file.rewind()?;
                self.files[at].opened = Some(Opened::Plain(file));
                if let Some(found) = found {
                    (first, start) = (at, found);
                    break;
                }
            }
        } else if let Some(since) = options.since {
            let older = |file: &Named| file.opened.as_ref().is_some_and(|o| o.is_older(since.into()));
            while first + 1 < self.files.len() && older(&self.files[first]) {
                first += 1;
            }
        }
        self.files.drain(..first);
        let opened = self.files.front_mut().and_then(|file| file.opened.take());
        let mut file = opened.ok_or(io::ErrorKind::NotFound)?.unpack(directory)?;
        file.seek(SeekFrom::Start(start))?;
        Ok(file)
    }

    fn names(&self) -> impl Iterator<Item = Option<&OsStr>> {
        self.files.iter().map(|file| file.name.as_deref())
    }

    /// Takes one event of the directory in; whether a reader has to look again.
    fn take(&mut self, events: ReadFlags, cookie: u32, name: &OsStr) -> bool {
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            // more than a queue full of changes since the reader last looked: its file is long complete
            let newest = Named { name: Some(self.log.clone()), ..Named::default() };
            self.files = [Named { closed: true, ..Named::default() }, newest].into();
            self.moving = None;
            return true;
        }
        if events.contains(ReadFlags::MOVED_TO)
            && let Some((_, at)) = self.moving.take_if(|(of, _)| *of == cookie)
        {
            self.files[at].name = Some(name.to_owned());
            return true;
        }
        if events.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) && name == self.log {
            self.files.push_back(Named { name: Some(name.to_owned()), ..Named::default() });
            return true;
        }
        let Some(at) = self.files.iter().rposition(|file| file.name.as_deref() == Some(name)) else {
            return false;
        };
        let file = &mut self.files[at];
        if events.contains(ReadFlags::MOVED_FROM) {
            file.name = None;
            self.moving = Some((cookie, at));
        } else {
            file.closed = events.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::DELETE);
        }
        true
    }

    /// Whether another file came after the one that is read.
    fn has_next(&self) -> bool {
        self.files.len() > 1
    }

    /// Whether nothing more will be written to the file that is read.
    fn finished(&self) -> bool {
        self.has_next() && self.files.front().is_some_and(|file| file.closed || file.name.is_none())
    }

    /// Drops the file that was read, for the next one.
    fn advance(&mut self) {
        self.files.pop_front();
        self.moving = self.moving.and_then(|(cookie, at)| Some((cookie, at.checked_sub(1)?)));
    }
}

/// A log, file after file.
pub(super) struct Log {
    directory: PathBuf,
    files: Files,
    /// Tells of its directory; only while it is followed.
    events: Option<AsyncFd<OwnedFd>>,
}

impl Log {
    /// Opens what is kept of a log, to be read from where it is asked for, and watches it from then on if it is to
    /// be followed.
    pub(super) async fn open(path: &Path, options: Options) -> io::Result<(File, Self)> {
        let path = match tokio::fs::canonicalize(path).await {
            // just moved away, with its successor to come
            Err(e) if e.kind() == io::ErrorKind::NotFound => path.to_owned(),
            path => path?,
        };
        let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
        let work = {
            let directory = directory.clone();
            move || {
                let (events, mut files) = if options.follow {
                    let (events, files) = watched(&path)?;
                    (Some(events), files)
                } else {
                    (None, Files::open(&path)?)
                };
                Ok((files.start(&directory, &options)?, events, files))
            }
        };
        let (first, events, files) = blocking(work).await?;
        // deprecated for types that may change their descriptor under it; an owned one cannot
        #[allow(deprecated)]
        let events = events.map(AsyncFd::new).transpose()?;
        Ok((File::from_std(first), Self { directory, files, events }))
    }

    /// Whether it is watched for what is still to come.
    pub(super) fn is_followed(&self) -> bool {
        self.events.is_some()
    }

    /// Returns after the next change of the log's files; never if it is not followed.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        let Some(events) = &self.events else { return std::future::pending().await };
        loop {
            let mut ready = events.readable().await?;
            let changed = take_all(ready.get_inner(), &mut self.files)?;
            ready.clear_ready();
            if changed {
                return Ok(());
            }
        }
    }

    /// Takes in what has changed until now.
    pub(super) fn catch_up(&mut self) -> io::Result<()> {
        self.events.as_ref().map_or(Ok(false), |events| take_all(events.get_ref(), &mut self.files)).map(drop)
    }

    /// Whether whoever writes the log has closed it, and no new file follows.
    pub(super) fn closed(&self) -> bool {
        !self.files.has_next() && self.files.files.front().is_some_and(|file| file.closed)
    }

    /// Whether another file came after the one that is read.
    pub(super) fn has_next(&self) -> bool {
        self.files.has_next()
    }

    /// Whether one did, and nothing more will be written to the one that is read.
    pub(super) fn finished(&self) -> bool {
        self.files.finished()
    }

    /// The file after the one that was read; `None` if it is already removed.
    pub(super) async fn advance(&mut self) -> io::Result<Option<File>> {
        self.files.advance();
        let Some(opened) = self.open_front()? else { return Ok(None) };
        let directory = self.directory.clone();
        Ok(Some(File::from_std(blocking(move || opened.unpack(&directory)).await?)))
    }

    fn open_front(&mut self) -> io::Result<Option<Opened>> {
        loop {
            self.catch_up()?;
            let Some(front) = self.files.files.front_mut() else { return Ok(None) };
            if let Some(opened) = front.opened.take() {
                return Ok(Some(opened));
            }
            let Some(name) = front.name.clone() else { return Ok(None) };
            let opened = Opened::open(&self.directory.join(&name))?;
            self.catch_up()?;
            // else it was moved in between, and the name is another file's
            if self.files.names().next() == Some(Some(&name)) {
                return Ok(opened);
            }
        }
    }
}

/// The kept files of a log and a watch that tells what becomes of them.
fn watched(path: &Path) -> io::Result<(OwnedFd, Files)> {
    let flags = WatchFlags::MODIFY
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO;
    loop {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&events, path.parent().unwrap_or(Path::new("/")), flags)?;
        let mut files = Files::open(path)?;
        let opened: Vec<_> = files.names().map(|name| name.map(OsStr::to_owned)).collect();
        take_all(&events, &mut files)?;
        // else an event may tell of a rotation that is seen already
        if files.names().eq(opened.iter().map(Option::as_deref)) {
            return Ok((events, files));
        }
    }
}

/// Takes all events that wait in.
fn take_all(fd: &OwnedFd, files: &mut Files) -> io::Result<bool> {
    let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
    let mut reader = Reader::new(fd, &mut buffer);
    let mut changed = false;
    loop {
        match reader.next() {
            Ok(event) => {
                let name = event.file_name().map_or(&b""[..], std::ffi::CStr::to_bytes);
                let name = std::os::unix::ffi::OsStrExt::from_bytes(name);
                changed |= files.take(event.events(), event.cookie(), name);
            }
            Err(rustix::io::Errno::AGAIN) => return Ok(changed),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Where the last lines of a file begin, or how many are missing. A last line without an end does not count.
fn last_lines(file: &mut fs::File, lines: &mut u64) -> io::Result<Option<u64>> {
    let mut right = file.seek(SeekFrom::End(0))?;
    let mut found = 0u64;
    while right > 0 {
        let left = right.saturating_sub(TAIL_BLOCK_BYTES);
        let mut block = vec![0u8; usize::try_from(right - left).unwrap_or(0)];
        file.seek(SeekFrom::Start(left))?;
        file.read_exact(&mut block)?;
        for (at, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            found += 1;
            if found > *lines {
                return Ok(Some(left + at as u64 + 1));
            }
        }
        right = left;
    }
    *lines -= found;
    Ok((*lines == 0).then_some(0))
}
