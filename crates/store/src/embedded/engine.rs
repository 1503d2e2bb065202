//! Where the log of revisions is kept: an append-only map from revision to record. `fjall` on disk (see
//! docs/decisions/001-store-engine.md), a map in memory for tests.

use crate::contract::Revision;
use bytes::Bytes;
use std::path::Path;

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("{0}")]
    Io(String),
    #[error("{0}")]
    Corrupt(String),
}

pub trait Engine: Send + Sync + 'static {
    /// Atomic, and durable when it returns: one fsync.
    fn commit(&self, append: &[(Revision, Bytes)], remove: &[Revision]) -> Result<(), EngineError>;
    fn read(&self, revision: Revision) -> Result<Option<Bytes>, EngineError>;
    /// In revision order, from and including `from`.
    fn scan(
        &self,
        from: Revision,
        each: &mut dyn FnMut(Revision, Bytes) -> Result<(), EngineError>,
    ) -> Result<(), EngineError>;
}

/// Block cache, shared by index and data blocks. Reads come from the API server's cache; this serves the
/// writes' look at what they replace.
const CACHE_BYTES: u64 = 2 * 1024 * 1024;
/// The memtable is flushed to disk at this size.
const MEMTABLE_BYTES: u64 = 4 * 1024 * 1024;
/// Journals are kept until their memtables are flushed; at most this much on disk.
const JOURNAL_BYTES: u64 = 64 * 1024 * 1024;

pub(super) struct Fjall {
    database: fjall::Database,
    log: fjall::Keyspace,
}

impl From<fjall::Error> for EngineError {
    fn from(error: fjall::Error) -> Self {
        match error {
            fjall::Error::Io(e) => Self::Io(e.to_string()),
            other => Self::Corrupt(format!("{other:?}")),
        }
    }
}

impl Fjall {
    pub fn open(dir: &Path) -> Result<Self, EngineError> {
        let database = fjall::Database::builder(dir)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES)
            .worker_threads(1)
            .open()?;
        let log = database.keyspace("revisions", || {
            fjall::KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES)
        })?;
        Ok(Self { database, log })
    }
}

impl Engine for Fjall {
    fn commit(&self, append: &[(Revision, Bytes)], remove: &[Revision]) -> Result<(), EngineError> {
        let mut batch = self.database.batch().durability(Some(fjall::PersistMode::SyncData));
        for (revision, bytes) in append {
            batch.insert(&self.log, revision.0.to_be_bytes(), bytes.as_ref());
        }
        for revision in remove {
            batch.remove(&self.log, revision.0.to_be_bytes());
        }
        Ok(batch.commit()?)
    }

    fn read(&self, revision: Revision) -> Result<Option<Bytes>, EngineError> {
        Ok(self.log.get(revision.0.to_be_bytes())?.map(|v| Bytes::copy_from_slice(&v)))
    }

    fn scan(
        &self,
        from: Revision,
        each: &mut dyn FnMut(Revision, Bytes) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        for item in self.log.range(from.0.to_be_bytes()..) {
            let (key, value) = item.into_inner()?;
            let revision = <[u8; 8]>::try_from(key.as_ref())
                .map_err(|_| EngineError::Corrupt(format!("a log key has {} bytes, not 8", key.len())))?;
            each(Revision(u64::from_be_bytes(revision)), Bytes::copy_from_slice(&value))?;
        }
        Ok(())
    }
}
