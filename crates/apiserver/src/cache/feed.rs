//! Fills the cache from the store and keeps it following the store's watch.

use super::{Cache, REGISTRY, ResourceCache};
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use store::{EventBatch, KeyValue, Range, Revision, StoreError};

/// Keys read at once at the start.
const FILL_PAGE_KEYS: usize = 2000;
/// Pause before the store is asked again after it failed.
const REFILL_BACKOFF: Duration = Duration::from_millis(200);

impl Cache {
    /// The resource whose keys a key is among: the storage path is one or two segments.
    fn route(&self, key: &str) -> Option<&Arc<ResourceCache>> {
        let path = key.strip_prefix(REGISTRY)?;
        let first = path.find('/')?;
        if let Some(found) = self.resources.get(&path[..first]) {
            return Some(found);
        }
        let second = first + 1 + path[first + 1..].find('/')?;
        self.resources.get(&path[..second])
    }

    /// Reads everything at one revision. Gives that revision.
    pub(super) async fn fill(&self) -> Result<Revision, StoreError> {
        let at = self.store.revision().await?;
        self.prepared.lock().clear();
        for resource in self.resources.values() {
            let mut values: Vec<KeyValue> = Vec::new();
            loop {
                let after = values.last().map(|kv| kv.key.clone());
                let range = Range {
                    prefix: resource.prefix.as_str().into(),
                    after,
                    limit: FILL_PAGE_KEYS,
                    at: Some(at),
                };
                let page = self.store.range(range).await?;
                let last = page.remaining == 0 || page.items.is_empty();
                values.extend(page.items);
                if last {
                    break;
                }
            }
            resource.reset(&values, at);
        }
        self.revision.send_replace(at);
        Ok(at)
    }

    fn apply(&self, batch: &EventBatch) {
        let events = &batch.events;
        // Mostly a batch is of one resource: runs of events of the same resource are applied together.
        let mut from = 0;
        while from < events.len() {
            let resource = self.route(&events[from].kv.key);
            let same = |key: &str| match (self.route(key), resource) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (None, None) => true,
                _ => false,
            };
            let run = events[from..].iter().take_while(|e| same(&e.kv.key)).count();
            if let Some(resource) = resource {
                let prepared = events[from..from + run].iter().map(|e| {
                    let attrs = (!e.deleted).then(|| self.take_prepared(&e.kv.key, &e.kv.value)).flatten();
                    (e, attrs)
                });
                resource.apply(prepared);
            }
            from += run;
        }
        self.revision.send_if_modified(|r| {
            let newer = batch.revision > *r;
            *r = batch.revision.max(*r);
            newer
        });
    }

    /// Begins again after a gap.
    async fn refill(&self) -> Result<store::Watch, StoreError> {
        let at = self.fill().await?;
        self.store.watch(REGISTRY, at).await
    }

    /// Counts of objects by storage path, for metrics.
    pub fn counts(&self) -> HashMap<&'static str, usize> {
        self.resources.iter().map(|(storage, r)| (*storage, r.len())).collect()
    }
}

/// Applies batches until the store closes or the cache is gone. A watch that ends while the store lives was too
/// slow: everything is read again, and who watches begins again.
pub(super) async fn follow(cache: Weak<Cache>, mut events: store::Watch) {
    loop {
        match events.receiver.recv().await {
            Some(batch) => {
                let Some(cache) = cache.upgrade() else { return };
                cache.apply(&batch);
            }
            None => loop {
                let Some(cache) = cache.upgrade() else { return };
                match cache.refill().await {
                    Ok(again) => {
                        events = again;
                        break;
                    }
                    Err(StoreError::Closed) => return,
                    Err(error) => {
                        tracing::error!(%error, "the watch cache cannot read the store, trying again");
                        drop(cache);
                        tokio::time::sleep(REFILL_BACKOFF).await;
                    }
                }
            },
        }
    }
}
