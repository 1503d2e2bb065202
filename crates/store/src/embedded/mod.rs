//! The embedded backend, the default of a single server: an index of revisions in memory, their records in
//! a log on disk, and one thread that commits writes in groups: one fsync for all that queued meanwhile.

mod commit;
mod engine;
mod index;
mod record;
mod watchers;

pub use engine::{Engine, EngineError};

use crate::contract::*;
use async_trait::async_trait;
use bytes::Bytes;
use commit::{Job, QUEUE_WRITES};
use index::{Index, Version};
use parking_lot::RwLock;
use record::Record;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use watchers::Watchers;

/// Bound of one value, as etcd's default request limit.
pub const MAX_VALUE_BYTES: usize = 1536 * 1024;
/// The record that says how far history is compacted.
const COMPACTED_AT: Revision = Revision(0);

struct Shared {
    engine: Arc<dyn Engine>,
    index: RwLock<Index>,
    watchers: Watchers,
}

pub struct Embedded {
    shared: Arc<Shared>,
    /// None only while it is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    commits: Option<std::thread::JoinHandle<()>>,
    /// Held for the store's life: no second server opens the same directory.
    _lock: Option<std::fs::File>,
}

impl Drop for Embedded {
    /// Waits for the group that is being committed, so that the directory is free when this returns.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.commits.take() {
            drop(thread.join());
        }
    }
}

impl Embedded {
    /// Opens or creates the store in `dir`. Must be called in a tokio runtime.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir).map_err(|e| unusable(dir, &e))?;
        let lock = lock(dir)?;
        let engine = engine::Fjall::open(&dir.join("log")).map_err(|e| opening(dir, e))?;
        let mut store = Self::over(Arc::new(engine)).map_err(|e| opening(dir, e))?;
        store._lock = Some(lock);
        Ok(store)
    }

    /// Builds the index from the log and starts the commit thread.
    pub fn over(engine: Arc<dyn Engine>) -> Result<Self, EngineError> {
        let index = load(&*engine)?;
        let shared = Arc::new(Shared { engine, index: RwLock::new(index), watchers: Watchers::default() });
        let (jobs, queue) = mpsc::channel(QUEUE_WRITES);
        let commits = commit::start(shared.clone(), queue, jobs.downgrade());
        Ok(Self { shared, jobs: Some(jobs), commits: Some(commits), _lock: None })
    }

    async fn submit<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> Result<T, StoreError> {
        let (done, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or(StoreError::Closed)?;
        jobs.send(job(done)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)
    }
}

fn unusable(dir: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Backend { message: format!("{}: {error}", dir.display()), maybe_committed: false }
}

fn opening(dir: &Path, error: EngineError) -> StoreError {
    match error {
        EngineError::Io(e) => {
            StoreError::Backend { message: format!("{}: {e}", dir.display()), maybe_committed: false }
        }
        EngineError::Corrupt(e) => StoreError::Corrupt(format!("{}: {e}", dir.display())),
    }
}

fn lock(dir: &Path) -> Result<std::fs::File, StoreError> {
    let path = dir.join("LOCK");
    let file = std::fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| unusable(&path, &e))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Locked(path.display().to_string())),
        Err(e) => Err(unusable(&path, &e.into())),
    }
}

fn load(engine: &dyn Engine) -> Result<Index, EngineError> {
    let mut index = Index::new();
    engine.scan(Revision(0), &mut |revision, bytes| {
        let record = decode(revision, &bytes)?;
        if revision == COMPACTED_AT {
            let value = record.value.as_ref().try_into().map_err(|_| corrupt(revision))?;
            index.compacted = Revision(u64::from_le_bytes(value));
            // the newest revision itself may have been compacted away
            index.current = index.current.max(index.compacted);
            return Ok(());
        }
        let key = std::str::from_utf8(&record.key).map_err(|_| corrupt(revision))?;
        let version =
            Version { created: record.create_revision, modified: revision, deleted: record.deleted };
        index.put(Key::from(key), version, record.expires);
        Ok(())
    })?;
    Ok(index)
}

fn corrupt(revision: Revision) -> EngineError {
    EngineError::Corrupt(format!("the record of revision {revision} does not match its checksum"))
}

fn decode(revision: Revision, bytes: &Bytes) -> Result<Record, EngineError> {
    Record::decode(bytes).ok_or_else(|| corrupt(revision))
}

impl From<EngineError> for StoreError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Io(message) => Self::Backend { message, maybe_committed: false },
            EngineError::Corrupt(message) => Self::Corrupt(message),
        }
    }
}

impl Shared {
    /// The value of a version; None where compaction took it since the index was read.
    fn load(&self, key: &Key, version: Version) -> Result<Option<KeyValue>, StoreError> {
        let Some(bytes) = self.engine.read(version.modified)? else { return Ok(None) };
        Ok(Some(KeyValue {
            key: key.clone(),
            value: decode(version.modified, &bytes)?.value,
            create_revision: version.created,
            mod_revision: version.modified,
        }))
    }

    fn newest(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        loop {
            let Some(version) = self.index.read().newest(key) else { return Ok(None) };
            if let Some(kv) = self.load(&Key::from(key), version)? {
                return Ok(Some(kv));
            }
            // superseded and compacted between the two looks: the index knows a newer one by now
        }
    }

    fn page(&self, range: &Range) -> Result<Page, StoreError> {
        loop {
            let (versions, remaining, at) = {
                let index = self.index.read();
                let at = range.at.unwrap_or(index.current);
                check_readable(&index, at)?;
                let (v, more) = index.range(&range.prefix, range.after.as_deref(), range.limit, at);
                (v, more, at)
            };
            let mut items = Vec::with_capacity(versions.len());
            for (key, version) in &versions {
                match self.load(key, *version)? {
                    Some(kv) => items.push(kv),
                    None => break,
                }
            }
            if items.len() == versions.len() {
                return Ok(Page { items, revision: at, remaining });
            }
            // a compaction passed by: read again; an explicit revision it passed is refused above
        }
    }
}

fn check_readable(index: &Index, at: Revision) -> Result<(), StoreError> {
    if at > index.current {
        return Err(StoreError::Future { requested: at, newest: index.current });
    }
    if at < index.compacted {
        return Err(StoreError::Compacted { requested: at, oldest: index.compacted });
    }
    Ok(())
}

#[async_trait]
impl Store for Embedded {
    async fn write(&self, write: Write) -> Result<Written, StoreError> {
        if let Some(value) = write.value.as_ref().filter(|v| v.len() > MAX_VALUE_BYTES) {
            return Err(StoreError::TooLarge {
                key: write.key,
                bytes: value.len(),
                max_bytes: MAX_VALUE_BYTES,
            });
        }
        self.submit(|done| Job::Write(write, done)).await?
    }

    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        self.shared.newest(key)
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || shared.page(&range)).await.map_err(|_| StoreError::Closed)?
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        watchers::watch(&self.shared, prefix, after)
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.shared.index.read().current)
    }

    async fn check_readable(&self, at: Revision) -> Result<(), StoreError> {
        check_readable(&self.shared.index.read(), at)
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.submit(|done| Job::Compact(revision, done)).await?
    }
}
