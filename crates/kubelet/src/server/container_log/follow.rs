//! The files of a log, as it is written and rotated; told by the kernel.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::fs::File;
use tokio::io::unix::AsyncFd;

/// Room for the events that are read at once.
const BUFFER_BYTES: usize = 4096;

/// A file that has, or had, the log's name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Named {
    /// Under which it is now; `None` once it is out of the directory.
    name: Option<OsString>,
    /// Whoever wrote it has closed it.
    closed: bool,
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
    fn new(log: OsString) -> Self {
        let first = Named { name: Some(log.clone()), closed: false };
        Self { log, files: VecDeque::from([first]), moving: None }
    }

    /// Takes one event of the directory in; whether a reader has to look again.
    fn take(&mut self, events: ReadFlags, cookie: u32, name: &std::ffi::OsStr) -> bool {
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            // more than a queue full of changes since the reader last looked: its file is long complete
            *self = Self::new(self.log.clone());
            self.files.push_front(Named { name: None, closed: true });
            return true;
        }
        if events.contains(ReadFlags::MOVED_TO)
            && let Some((_, at)) = self.moving.take_if(|(of, _)| *of == cookie)
        {
            self.files[at].name = Some(name.to_owned());
            return true;
        }
        if events.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) && name == self.log {
            self.files.push_back(Named { name: Some(name.to_owned()), closed: false });
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
    fn advance(&mut self) -> Option<OsString> {
        self.files.pop_front();
        self.moving = self.moving.and_then(|(cookie, at)| Some((cookie, at.checked_sub(1)?)));
        self.files.front().and_then(|file| file.name.clone())
    }
}

/// Watches the directory of a log.
pub(super) struct Watch {
    fd: AsyncFd<OwnedFd>,
    directory: PathBuf,
    files: Files,
}

impl Watch {
    /// Opens the log and watches it from then on.
    pub(super) async fn open(path: &Path) -> io::Result<(File, Self)> {
        loop {
            let file = File::open(path).await?;
            let watch = Self::new(path)?;
            let (opened, named) = (file.metadata().await?, tokio::fs::metadata(path).await?);
            // it was rotated in between: the events before the watch are not known
            if (opened.dev(), opened.ino()) == (named.dev(), named.ino()) {
                return Ok((file, watch));
            }
        }
    }

    fn new(path: &Path) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let flags = WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO;
        let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
        inotify::add_watch(&fd, &directory, flags)?;
        // deprecated for types that may change their descriptor under it; an owned one cannot
        #[allow(deprecated)]
        let fd = AsyncFd::new(fd)?;
        Ok(Self { fd, directory, files: Files::new(path.file_name().unwrap_or_default().to_owned()) })
    }

    /// Returns after the next change of the log's files.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.fd.readable().await?;
            let changed = take_all(ready.get_inner(), &mut self.files)?;
            ready.clear_ready();
            if changed {
                return Ok(());
            }
        }
    }

    /// Takes in what has changed until now.
    pub(super) fn catch_up(&mut self) -> io::Result<()> {
        take_all(self.fd.get_ref(), &mut self.files).map(drop)
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
        let Some(name) = self.files.advance() else { return Ok(None) };
        let path = self.directory.join(name);
        match File::open(&path).await {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            opened => return opened.map(Some),
        }
        // a reader that is far behind: compressed meanwhile
        let directory = self.directory.clone();
        let unpacked = crate::execute::blocking(move || {
            let packed = fs::File::open(crate::logs::compressed(&path))?;
            let mut file = tempfile::tempfile_in(directory)?;
            io::copy(&mut flate2::read::GzDecoder::new(packed), &mut file)?;
            io::Seek::rewind(&mut file)?;
            Ok(file)
        });
        match unpacked.await {
            Ok(file) => Ok(Some(File::from_std(file))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
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
