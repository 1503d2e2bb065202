//! The watch cache: every object as ready bytes, ordered by key, fed by the store's one watch in revision order.
//!
//! Reads never decode and never touch the store; a snapshot of a resource is one reference count. A read that
//! must be consistent waits until the feed has reached the store's revision.

pub mod entry;
mod feed;
pub mod pages;
pub mod resource_cache;
pub mod ring;
pub mod selector;
pub mod watchers;
mod waves;

pub use entry::{Attrs, Entry, EventType};
pub use pages::{ListPage, ListRequest, When};
pub use resource_cache::{Map, ResourceCache, Subscription, WatchStart};
pub use selector::{FieldRef, FieldTerm, Selector};
pub use watchers::{Delivery, Watcher};

use bytes::Bytes;
use kinds::AnyKind;
use meta::{ApiError, Reason};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use store::{Key, Revision, Store, StoreError};
use tokio::sync::watch;

/// How long a read waits for the cache to reach the revision it asks for, as upstream.
pub const FRESHNESS_TIMEOUT: Duration = Duration::from_secs(3);
/// Writes whose labels and fields wait for their event.
const PREPARED_MAX: usize = 4096;
/// Keys of all objects begin with this.
pub const REGISTRY: &str = "/registry/";

/// All resources.
pub struct Cache {
    store: Arc<dyn Store>,
    /// By `Info::storage`.
    resources: HashMap<&'static str, Arc<ResourceCache>>,
    /// Everything up to here has been applied and handed to the watchers.
    revision: watch::Sender<Revision>,
    /// What writers decoded already, by key, until the event of their write arrives.
    prepared: Mutex<HashMap<Key, (Bytes, Arc<Attrs>)>>,
}

/// What a [`StoreError`] is to the client of a read.
pub fn store_failure(error: &StoreError) -> ApiError {
    match error {
        StoreError::Closed => {
            ApiError::new(Reason::ServiceUnavailable, "the storage is shutting down").retry_after(1)
        }
        StoreError::Compacted { .. } => {
            ApiError::expired("The resourceVersion for the provided list is too old.")
        }
        StoreError::Future { requested, newest } => too_large(*requested, *newest),
        StoreError::TooLarge { .. } => {
            ApiError::new(Reason::RequestEntityTooLarge, format!("Request entity too large: {error}"))
        }
        other => ApiError::new(Reason::Unknown(500), other.to_string()),
    }
}

fn too_large(requested: Revision, current: Revision) -> ApiError {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;
    let message = format!("Timeout: Too large resource version: {requested}, current: {current}");
    let mut error = ApiError::new(Reason::Timeout, message).retry_after(1);
    error.details.get_or_insert_default().causes = Some(vec![StatusCause {
        reason: Some("ResourceVersionTooLarge".into()),
        message: Some("Too large resource version".into()),
        field: None,
    }]);
    error
}

impl Cache {
    /// Fills the cache from the store and follows it from then on. One cache serves each storage path; where
    /// several kinds share one (events), the first in `kinds` is what is stored.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn start(
        store: Arc<dyn Store>,
        kinds: &[&'static dyn AnyKind],
    ) -> Result<Arc<Self>, StoreError> {
        let mut resources: HashMap<&'static str, Arc<ResourceCache>> = HashMap::new();
        for kind in kinds {
            let storage = kind.info().storage;
            resources.entry(storage).or_insert_with(|| Arc::new(ResourceCache::new(*kind)));
        }
        let (revision, _) = watch::channel(Revision(0));
        let cache = Arc::new(Self { store, resources, revision, prepared: Mutex::default() });
        let filled = cache.fill().await?;
        let events = cache.store.watch(REGISTRY, filled).await?;
        tokio::spawn(feed::follow(Arc::downgrade(&cache), events));
        Ok(cache)
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub fn resource(&self, storage: &str) -> Option<&Arc<ResourceCache>> {
        self.resources.get(storage)
    }

    /// Everything up to here is in the cache.
    pub fn revision(&self) -> Revision {
        *self.revision.borrow()
    }

    /// Follows [`revision`](Self::revision).
    pub fn progress(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// Waits until the cache shows every write that was committed before this call. Gives the revision.
    ///
    /// # Errors
    /// The store is closed, or the feed lags by more than [`FRESHNESS_TIMEOUT`].
    pub async fn catch_up(&self) -> Result<Revision, ApiError> {
        let newest = self.store.revision().await.map_err(|e| store_failure(&e))?;
        self.wait_for(newest).await
    }

    /// Waits until the cache has reached `revision`.
    ///
    /// # Errors
    /// Timeout, with upstream's "Too large resource version".
    pub async fn wait_for(&self, revision: Revision) -> Result<Revision, ApiError> {
        let current = self.revision();
        if current >= revision {
            return Ok(current);
        }
        let mut progress = self.revision.subscribe();
        let reached = tokio::time::timeout(FRESHNESS_TIMEOUT, progress.wait_for(|r| *r >= revision)).await;
        match reached {
            Ok(Ok(r)) => Ok(*r),
            _ => Err(too_large(revision, self.revision())),
        }
    }

    /// What a writer decoded of the value it is about to commit, so that the feed need not decode it again.
    pub(crate) fn prepare(&self, key: &Key, value: &Bytes, attrs: Arc<Attrs>) -> Prepared<'_> {
        let mut prepared = self.prepared.lock();
        if prepared.len() < PREPARED_MAX {
            prepared.insert(key.clone(), (value.clone(), attrs));
        }
        Prepared { cache: self, key: key.clone(), value: Some(value.clone()) }
    }

    /// The attributes of `value`, where its writer left them. They follow from the value alone, so whoever wrote
    /// the same bytes is right.
    fn take_prepared(&self, key: &Key, value: &Bytes) -> Option<Arc<Attrs>> {
        let mut prepared = self.prepared.lock();
        let (of, _) = prepared.get(key)?;
        if of != value {
            return None;
        }
        prepared.remove(key).map(|(_, attrs)| attrs)
    }
}

/// Withdraws what was prepared, when the write did not happen.
pub(crate) struct Prepared<'a> {
    cache: &'a Cache,
    key: Key,
    value: Option<Bytes>,
}

impl Prepared<'_> {
    /// The write was committed: its event takes the attributes.
    pub fn committed(mut self) {
        self.value = None;
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        let Some(value) = self.value.take() else { return };
        self.cache.take_prepared(&self.key, &value);
    }
}
