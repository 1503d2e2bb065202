//! The commit thread: takes all writes that wait, checks each against what the earlier ones leave, commits
//! them with one fsync, shows them to readers and watchers, and only then acknowledges.

use super::index::Version;
use super::record::Record;
use super::{COMPACTED_AT, Shared, check_readable};
use crate::contract::*;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot, watch};

/// Writes that may wait for the thread; beyond, writers wait to be let in.
pub(super) const QUEUE_WRITES: usize = 4096;
/// Bounds of a group: what one fsync may carry.
const GROUP_WRITES: usize = 1024;
const GROUP_BYTES: usize = 8 * 1024 * 1024;

pub(super) enum Job {
    Write(Write, oneshot::Sender<Result<Written, StoreError>>),
    Compact(Revision, oneshot::Sender<Result<(), StoreError>>),
    /// Some key's time has come; answered when what was due is gone.
    Expire(oneshot::Sender<()>),
}

/// The thread ends when the last sender is gone.
pub(super) fn start(
    shared: Arc<Shared>,
    mut queue: mpsc::Receiver<Job>,
    jobs: mpsc::WeakSender<Job>,
) -> std::thread::JoinHandle<()> {
    let (next_expiry, expiries) = watch::channel(shared.index.read().next_expiry());
    tokio::spawn(expire(expiries, jobs));
    let thread = move || {
        while let Some(first) = queue.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP_WRITES
                && let Ok(job) = queue.try_recv()
            {
                group.push(job);
            }
            run_group(&shared, group);
            let next = shared.index.read().next_expiry();
            next_expiry.send_if_modified(|t| std::mem::replace(t, next) != next);
        }
    };
    std::thread::Builder::new()
        .name("store-commit".into())
        .spawn(thread)
        .expect("a process that cannot start one thread cannot serve")
}

/// Wakes the commit thread when a key expires; no key with a time to live, no timer.
async fn expire(mut expiries: watch::Receiver<Option<u64>>, jobs: mpsc::WeakSender<Job>) {
    loop {
        let next = *expiries.borrow_and_update();
        let wait = async {
            match next {
                Some(at) => tokio::time::sleep(Duration::from_secs(at.saturating_sub(unix_now()))).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = expiries.changed() => if changed.is_err() { return },
            () = wait => {
                let Some(jobs) = jobs.upgrade() else { return };
                let (done, gone) = oneshot::channel();
                let sent = jobs.send(Job::Expire(done)).await;
                // the commit thread ends with the last sender: none may be held while waiting for it
                drop(jobs);
                if sent.is_err() || gone.await.is_err() {
                    return;
                }
                // the timer's clock may run ahead of the wall's: then nothing was due, and the next turn waits again
            }
        }
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Writes of a group on their way to disk.
#[derive(Default)]
struct Staged {
    append: Vec<(Revision, Bytes)>,
    events: Vec<Event>,
    versions: Vec<(Key, Version, u64)>,
    /// The newest state of keys this group has touched; None: deleted.
    overlay: HashMap<Key, Option<KeyValue>>,
    bytes: usize,
    acks: Vec<(oneshot::Sender<Result<Written, StoreError>>, Written)>,
}

fn run_group(shared: &Shared, group: Vec<Job>) {
    let mut staged = Staged::default();
    for job in group {
        match job {
            Job::Write(write, done) => {
                match stage(shared, &mut staged, write) {
                    Ok(written) => staged.acks.push((done, written)),
                    // refused against what the group leaves, if the group fails nothing was promised
                    Err(refusal) => drop(done.send(Err(refusal))),
                }
                if staged.bytes >= GROUP_BYTES {
                    commit(shared, std::mem::take(&mut staged));
                }
            }
            Job::Compact(revision, done) => {
                commit(shared, std::mem::take(&mut staged));
                drop(done.send(compact(shared, revision)));
            }
            Job::Expire(done) => {
                commit(shared, std::mem::take(&mut staged));
                let due = shared.index.write().expired(unix_now());
                for (key, revision) in due {
                    let delete = Write { key, expect: Expect::Revision(revision), value: None, ttl: None };
                    if let Err(error) = stage(shared, &mut staged, delete) {
                        tracing::warn!(%error, "could not remove a key whose time to live is over");
                    }
                }
                commit(shared, std::mem::take(&mut staged));
                // nobody waits when the store closes
                let _ = done.send(());
            }
        }
    }
    commit(shared, staged);
}

fn stage(shared: &Shared, staged: &mut Staged, write: Write) -> Result<Written, StoreError> {
    let current = match staged.overlay.get(&write.key) {
        Some(state) => state.clone(),
        None => shared.newest(&write.key)?,
    };
    let holds = match write.expect {
        Expect::Any => true,
        Expect::Absent => current.is_none(),
        Expect::Revision(r) => current.as_ref().is_some_and(|c| c.mod_revision == r),
    };
    if !holds {
        return Err(StoreError::Conflict { current });
    }
    let newest = staged.append.last().map_or_else(|| shared.index.read().current, |(r, _)| *r);
    let deleted = write.value.is_none();
    if deleted && current.is_none() {
        return Ok(Written { revision: newest, previous: None });
    }
    let revision = Revision(newest.0 + 1);
    let created = current.as_ref().map_or(revision, |c| c.create_revision);
    let value = write.value.unwrap_or_default();
    let expires = write.ttl.map_or(0, |ttl| unix_now() + ttl.as_secs().max(1));
    let record = Record {
        key: Bytes::copy_from_slice(write.key.as_bytes()),
        value: value.clone(),
        create_revision: created,
        deleted,
        expires,
    }
    .encode();
    // a delete's event carries what was deleted, at the revision of the delete
    let shown = match &current {
        Some(c) if deleted => c.value.clone(),
        _ => value,
    };
    let kv =
        KeyValue { key: write.key.clone(), value: shown, create_revision: created, mod_revision: revision };
    staged.bytes += record.len();
    staged.append.push((revision, record));
    staged.versions.push((write.key.clone(), Version { created, modified: revision, deleted }, expires));
    staged.overlay.insert(write.key, (!deleted).then(|| kv.clone()));
    staged.events.push(Event { kv, deleted, previous: current.clone() });
    Ok(Written { revision, previous: current })
}

fn commit(shared: &Shared, staged: Staged) {
    if let Some((revision, _)) = staged.append.last() {
        let revision = *revision;
        if let Err(error) = shared.engine.commit(&staged.append, &[]) {
            tracing::error!(%error, "the store could not commit {} writes", staged.append.len());
            for (done, _) in staged.acks {
                let message = error.to_string();
                drop(done.send(Err(StoreError::Backend { message, maybe_committed: true })));
            }
            return;
        }
        {
            let mut index = shared.index.write();
            for (key, version, expires) in staged.versions {
                index.put(key, version, expires);
            }
            // under the index's lock: a watch that begins now sees the group in history or live, never both
            shared.watchers.publish(EventBatch { events: staged.events.into(), revision });
        }
    }
    for (done, written) in staged.acks {
        drop(done.send(Ok(written)));
    }
}

fn compact(shared: &Shared, revision: Revision) -> Result<(), StoreError> {
    let removed = {
        let mut index = shared.index.write();
        check_readable(&index, revision)?;
        index.compact(revision)
    };
    let mark = Record {
        key: Bytes::from_static(b"compacted"),
        value: Bytes::copy_from_slice(&revision.0.to_le_bytes()),
        create_revision: Revision(0),
        deleted: false,
        expires: 0,
    };
    // one batch: after a crash either all of the history is there or none of it
    Ok(shared.engine.commit(&[(COMPACTED_AT, mark.encode())], &removed)?)
}
