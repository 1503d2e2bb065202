//! Watches: what happened since a revision from the log, then what happens, without a gap or a repeat.

use super::index::Version;
use super::{Shared, check_readable, decode};
use crate::contract::*;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Batches a watcher may lag behind; one that lags further is closed and must begin again.
const WATCH_BUFFER_BATCHES: usize = 8192;
/// Events of history sent as one batch.
const HISTORY_BATCH: usize = 512;

#[derive(Default)]
pub(super) struct Watchers(Mutex<Vec<Watcher>>);

struct Watcher {
    prefix: Key,
    batches: mpsc::Sender<EventBatch>,
}

impl Watchers {
    /// Called by the commit thread alone, in revision order.
    pub fn publish(&self, batch: EventBatch) {
        self.0.lock().retain(|w| {
            let all = batch.events.iter().all(|e| e.kv.key.starts_with(&*w.prefix));
            let mine = if all {
                batch.clone()
            } else {
                let events: Vec<_> =
                    batch.events.iter().filter(|e| e.kv.key.starts_with(&*w.prefix)).cloned().collect();
                EventBatch { events: events.into(), revision: batch.revision }
            };
            w.batches.try_send(mine).is_ok()
        });
    }
}

pub(super) fn watch(shared: &Arc<Shared>, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
    let prefix = Key::from(prefix);
    let (sender, live) = mpsc::channel(WATCH_BUFFER_BATCHES);
    let current = {
        let index = shared.index.read();
        check_readable(&index, after)?;
        // while the index is held nothing is published: live begins right after `current`
        shared.watchers.0.lock().push(Watcher { prefix: prefix.clone(), batches: sender });
        index.current
    };
    if after >= current {
        return Ok(Watch { receiver: live });
    }
    let (out, receiver) = mpsc::channel(WATCH_BUFFER_BATCHES);
    tokio::spawn(replay(shared.clone(), prefix, after, current, live, out));
    Ok(Watch { receiver })
}

async fn replay(
    shared: Arc<Shared>,
    prefix: Key,
    after: Revision,
    until: Revision,
    mut live: mpsc::Receiver<EventBatch>,
    out: mpsc::Sender<EventBatch>,
) {
    let history = tokio::task::spawn_blocking(move || history(&shared, &prefix, after, until)).await;
    match history {
        Ok(Ok(batches)) => {
            for batch in batches {
                if out.send(batch).await.is_err() {
                    return;
                }
            }
        }
        Ok(Err(error)) => return tracing::warn!(%error, "a watch ends: its history cannot be read"),
        Err(_) => return,
    }
    while let Some(batch) = live.recv().await {
        if out.send(batch).await.is_err() {
            return;
        }
    }
}

fn history(
    shared: &Shared,
    prefix: &str,
    after: Revision,
    until: Revision,
) -> Result<Vec<EventBatch>, StoreError> {
    let mut events = Vec::new();
    shared.engine.scan(Revision(after.0 + 1), &mut |revision, bytes| {
        if revision > until {
            return Ok(());
        }
        let record = decode(revision, &bytes)?;
        if record.key.starts_with(prefix.as_bytes()) {
            events.push((revision, record));
        }
        Ok(())
    })?;
    let mut out: Vec<Event> = Vec::with_capacity(events.len());
    for (revision, record) in events {
        let key = Key::from(String::from_utf8_lossy(&record.key).as_ref());
        let before: Option<Version> = shared.index.read().version(&key, Revision(revision.0 - 1));
        let previous = match before {
            Some(version) => shared.load(&key, version)?,
            None => None,
        };
        let value = match &previous {
            Some(p) if record.deleted => p.value.clone(),
            _ => record.value,
        };
        let kv = KeyValue { key, value, create_revision: record.create_revision, mod_revision: revision };
        out.push(Event { kv, deleted: record.deleted, previous });
    }
    let mut batches: Vec<EventBatch> = out
        .chunks(HISTORY_BATCH)
        .map(|c| EventBatch { events: c.into(), revision: c[c.len() - 1].kv.mod_revision })
        .collect();
    batches.push(EventBatch { events: Arc::new([]), revision: until });
    Ok(batches)
}
