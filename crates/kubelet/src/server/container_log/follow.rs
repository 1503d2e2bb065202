//! What happens to a log file, told by the kernel.

use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::io::unix::AsyncFd;

/// Room for the events that are read at once.
const BUFFER_BYTES: usize = 4096;

/// What happened to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    Written,
    /// Whoever wrote it has closed it.
    Closed,
    /// Another file has its name now.
    Recreated,
}

/// Watches the directory of a file, so that it sees a new file of the same name.
pub(super) struct Watch {
    fd: AsyncFd<OwnedFd>,
    name: OsString,
}

impl Watch {
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let flags = WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        let directory = path.parent().unwrap_or(Path::new("/"));
        inotify::add_watch(&fd, directory, flags)?;
        // deprecated for types that may change their descriptor under it; an owned one cannot
        #[allow(deprecated)]
        let fd = AsyncFd::new(fd)?;
        Ok(Self { fd, name: path.file_name().unwrap_or_default().to_owned() })
    }

    /// Returns at the next change; of several at once, the one that asks for most.
    pub(super) async fn next(&mut self) -> io::Result<Change> {
        loop {
            let mut ready = self.fd.readable().await?;
            let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
            let mut reader = Reader::new(ready.get_inner(), &mut buffer);
            let mut seen = None;
            loop {
                let event = match reader.next() {
                    Ok(event) => event,
                    Err(rustix::io::Errno::AGAIN) => {
                        ready.clear_ready();
                        break;
                    }
                    Err(error) => return Err(error.into()),
                };
                let events = event.events();
                let ours =
                    event.file_name().is_some_and(|name| name.to_bytes() == self.name.as_encoded_bytes());
                let change = if events.contains(ReadFlags::QUEUE_OVERFLOW) {
                    Change::Written
                } else if !ours {
                    continue;
                } else if events.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
                    Change::Recreated
                } else if events.contains(ReadFlags::CLOSE_WRITE) {
                    Change::Closed
                } else {
                    Change::Written
                };
                seen = seen.max(Some(change));
            }
            if let Some(change) = seen {
                return Ok(change);
            }
        }
    }
}
