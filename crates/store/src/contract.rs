//! What every backend promises. One suite of tests runs against each of them.

use async_trait::async_trait;
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Grows by one with every committed write, over the whole key space; the first write is revision 2, as
/// etcd's (an empty store is at revision 1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key is upstream's path: `/registry/pods/default/web`.
pub type Key = Arc<str>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Key,
    pub value: Bytes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
}

/// What must hold for a write to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Any,
    Absent,
    /// The key's `mod_revision`.
    Revision(Revision),
}

#[derive(Clone, Debug)]
pub struct Write {
    pub key: Key,
    pub expect: Expect,
    /// None deletes.
    pub value: Option<Bytes>,
    /// The key goes by itself after this long (events); whole seconds, as an etcd lease.
    pub ttl: Option<Duration>,
}

/// A committed write: durable when it is returned.
#[derive(Clone, Debug)]
pub struct Written {
    pub revision: Revision,
    pub previous: Option<KeyValue>,
}

#[derive(Clone, Debug)]
pub struct Range {
    /// Keys that begin with this.
    pub prefix: Key,
    /// Only keys after this one.
    pub after: Option<Key>,
    /// 0: no limit.
    pub limit: usize,
    /// The state as of then; None: the newest.
    pub at: Option<Revision>,
}

#[derive(Clone, Debug)]
pub struct Page {
    pub items: Vec<KeyValue>,
    /// The revision the page shows.
    pub revision: Revision,
    /// Keys left after the last one.
    pub remaining: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// For a delete: key, the revision of the delete, and the value that was deleted.
    pub kv: KeyValue,
    pub deleted: bool,
    /// What the write replaced; None for a create.
    pub previous: Option<KeyValue>,
}

/// Events of one commit group, in revision order. An empty batch reports progress alone.
#[derive(Clone, Debug)]
pub struct EventBatch {
    pub events: Arc<[Event]>,
    /// Everything up to here has been delivered.
    pub revision: Revision,
}

/// An ordered, gap-free stream of batches. `recv` gives None when the store closes, and an error when this
/// watcher was too slow for its bounded buffer and must begin again.
pub struct Watch {
    pub receiver: tokio::sync::mpsc::Receiver<EventBatch>,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The expectation did not hold; what is stored instead.
    #[error("the stored revision is not the expected one")]
    Conflict { current: Option<KeyValue> },
    /// The revision asked for is compacted away; `oldest` is the first that can be read.
    #[error("revision {requested} has been compacted, the oldest kept is {oldest}")]
    Compacted { requested: Revision, oldest: Revision },
    #[error("revision {requested} is in the future, the newest is {newest}")]
    Future { requested: Revision, newest: Revision },
    #[error("the value of {key} has {bytes} bytes, more than {max_bytes}")]
    TooLarge { key: Key, bytes: usize, max_bytes: usize },
    #[error("the store is locked by another server ({0})")]
    Locked(String),
    #[error("the store is corrupt: {0}")]
    Corrupt(String),
    #[error("the store is closed")]
    Closed,
    /// The outcome of a write is unknown where `maybe_committed`.
    #[error("the store failed: {message}")]
    Backend { message: String, maybe_committed: bool },
}

#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Commits, durably: one fsync serves all writes of a group.
    async fn write(&self, write: Write) -> Result<Written, StoreError>;
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError>;
    async fn range(&self, range: Range) -> Result<Page, StoreError>;
    /// Events of keys that begin with `prefix`, after `after`.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError>;
    /// The newest committed revision: what a linearizable read must have seen.
    async fn revision(&self) -> Result<Revision, StoreError>;
    /// Whether the state as of a revision can still be read.
    ///
    /// # Errors
    /// [`StoreError::Compacted`], [`StoreError::Future`].
    async fn check_readable(&self, at: Revision) -> Result<(), StoreError>;
    /// Forgets history up to and including this revision (what is live stays).
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;
}
