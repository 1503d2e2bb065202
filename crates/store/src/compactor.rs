//! Forgets old history, so that the store grows with what lives and not with what was written.

use crate::contract::{Revision, Store};
use std::sync::Arc;
use std::time::Duration;

/// How long history stays readable, as upstream's `--etcd-compaction-interval`.
pub const COMPACTION_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// Compacts up to what was current one interval ago, each interval, until the store closes.
pub async fn run(store: Arc<dyn Store>, interval: Duration) {
    let mut last: Option<Revision> = None;
    let mut ticks = tokio::time::interval(interval);
    loop {
        ticks.tick().await;
        let Ok(now) = store.revision().await else { return };
        if let Some(revision) = last.filter(|r| *r < now) {
            match store.compact(revision).await {
                Ok(()) => tracing::debug!(%revision, "compacted"),
                Err(error) => tracing::warn!(%revision, %error, "could not compact; trying again next time"),
            }
        }
        last = Some(now);
    }
}
