//! The shell of the ResourceQuota plugin: charges a write to the quotas of its namespace, durably, before the object is
//! stored.
//!
//! A quota's status is written with the revision it was read at, so that of two API servers on one store only one can
//! spend what is left; the other reads it again and decides anew. Within one server writers do not queue for it: each
//! charges the running total in memory, and one write of the status carries all who came while the last was under way.

use super::admission::with_request;
use crate::cache::{Attrs, Cache, Entry, EventType};
use crate::resource::{Attributes, Lookup, write_failure};
use admission::Request;
use futures::future::join_all;
use k8s_openapi::api::core::v1::ResourceQuota;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kinds::Object;
use meta::{ApiError, GroupResource, Time};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use store::{Expect, Key, Revision, StoreError, Write};
use tokio::sync::oneshot;

/// How often a write is charged again when another server's writers were first.
const CHARGE_ATTEMPTS: usize = 64;
const QUOTAS: &str = "resourcequotas";

/// The quotas that are being spent from, by namespace.
#[derive(Default)]
pub struct Quotas {
    lanes: Mutex<HashMap<String, Arc<Mutex<Lane>>>>,
}

/// The quotas of a namespace.
#[derive(Default)]
struct Lane {
    /// By name.
    running: BTreeMap<String, Running>,
    /// Who waits for the next write.
    waiting: Vec<Waiter>,
    writing: bool,
}

/// A quota with everything charged to it so far.
struct Running {
    key: Key,
    quota: ResourceQuota,
    /// What is stored.
    base: Revision,
    /// Charged since the last write began.
    dirty: bool,
    /// Grows when charges are lost because another server wrote.
    epoch: u64,
}

struct Waiter {
    /// Quota and epoch of each charge.
    charged: Vec<(String, u64)>,
    /// The quotas to be charged again.
    done: oneshot::Sender<Result<Vec<String>, ApiError>>,
}

impl Quotas {
    /// Charges the write that `attributes` and `object` are; on a dry run only checks that it could be.
    ///
    /// # Errors
    /// Forbidden, in the plugin's words; the store failed; Conflict, where other servers were first each time.
    pub async fn charge(
        &self,
        attributes: &Attributes<'_>,
        object: &Object,
        now: Time,
    ) -> Result<(), ApiError> {
        let Some(resource) = attributes.lookup.resource("", QUOTAS).filter(|r| !r.is_empty()) else {
            return Ok(());
        };
        let stored = resource.list(attributes.namespace);
        if attributes.namespace.is_empty() || stored.is_empty() {
            self.lanes.lock().retain(|n, lane| n != attributes.namespace || lane.lock().writing);
            return Ok(());
        }
        let lane = self.lanes.lock().entry(attributes.namespace.to_owned()).or_default().clone();
        // None: every quota.
        let mut open: Option<Vec<String>> = None;
        for _ in 0..CHARGE_ATTEMPTS {
            let (done, outcome) = oneshot::channel();
            {
                let mut held = lane.lock();
                held.refresh(&resource.list(attributes.namespace))?;
                let dry_run = attributes.dry_run;
                let charged =
                    with_request(attributes, |r| held.spend(r, object, open.as_deref(), dry_run, now))?;
                if charged.is_empty() {
                    return Ok(());
                }
                let charged = charged.into_iter().map(|name| {
                    let epoch = held.running.get(&name).map_or(0, |r| r.epoch);
                    (name, epoch)
                });
                let charged = charged.collect();
                held.waiting.push(Waiter { charged, done });
                if !std::mem::replace(&mut held.writing, true) {
                    tokio::spawn(write(lane.clone(), attributes.lookup.clone()));
                }
            }
            let lost =
                outcome.await.unwrap_or_else(|_| Err(ApiError::internal("the quota's writer ended")))?;
            if lost.is_empty() {
                return Ok(());
            }
            open = Some(lost);
        }
        let quotas = GroupResource::of("", QUOTAS);
        Err(ApiError::modified(&quotas, open.iter().flatten().next().map_or("", String::as_str)))
    }
}

impl Lane {
    /// Takes over what others stored, where nothing of ours is on its way.
    fn refresh(&mut self, stored: &[Arc<Entry>]) -> Result<(), ApiError> {
        self.running
            .retain(|name, running| running.dirty || self.writing || stored.iter().any(|e| e.name() == name));
        for entry in stored {
            let mut epoch = 0;
            if let Some(running) = self.running.get(entry.name()) {
                if running.dirty || self.writing || running.base >= entry.revision {
                    continue;
                }
                epoch = running.epoch;
            }
            self.running.insert(entry.name().to_owned(), Running::read(entry, epoch)?);
        }
        Ok(())
    }

    /// Charges the quotas named, or all; gives the names of those that were.
    fn spend(
        &mut self,
        request: &Request<'_>,
        object: &Object,
        only: Option<&[String]>,
        dry_run: bool,
        now: Time,
    ) -> Result<Vec<String>, ApiError> {
        let names: Vec<String> =
            self.running.keys().filter(|n| only.is_none_or(|only| only.contains(n))).cloned().collect();
        let quotas: Vec<&ResourceQuota> = names.iter().map(|n| &self.running[n].quota).collect();
        let charges = admission::resource_quota::charge(request, object, &quotas, now)?;
        if dry_run {
            return Ok(Vec::new());
        }
        let mut charged = Vec::new();
        for (index, used) in charges {
            let Some(running) = self.running.get_mut(&names[index]) else { continue };
            running.set(used);
            charged.push(names[index].clone());
        }
        Ok(charged)
    }
}

impl Running {
    fn read(entry: &Entry, epoch: u64) -> Result<Self, ApiError> {
        let object = entry.object()?;
        let quota = (*object).downcast::<ResourceQuota>().cloned();
        let quota = quota.ok_or_else(|| ApiError::internal("a resource quota that is none"))?;
        Ok(Self { key: entry.key.clone(), quota, base: entry.revision, dirty: false, epoch })
    }

    fn set(&mut self, used: BTreeMap<String, Quantity>) {
        self.quota.status.get_or_insert_default().used = Some(used);
        self.dirty = true;
    }
}

/// Writes what is charged until nobody waits.
async fn write(lane: Arc<Mutex<Lane>>, lookup: Lookup) {
    loop {
        let (waiting, dirty) = {
            let mut held = lane.lock();
            if held.waiting.is_empty() {
                held.writing = false;
                return;
            }
            let waiting = std::mem::take(&mut held.waiting);
            let dirty = held.running.iter_mut().filter(|(_, r)| r.dirty).map(|(n, r)| {
                r.dirty = false;
                (n.clone(), r.key.clone(), r.quota.clone(), r.base)
            });
            let dirty: Vec<(String, Key, ResourceQuota, Revision)> = dirty.collect();
            (waiting, dirty)
        };
        let writes = dirty.iter().map(|(_, key, quota, base)| commit(lookup.cache(), key, quota, *base));
        let results = join_all(writes).await;
        let mut failure = None;
        let mut held = lane.lock();
        for ((name, ..), result) in dirty.iter().zip(results) {
            let Some(running) = held.running.get_mut(name) else { continue };
            match result {
                Ok(Ok(revision)) => running.base = revision,
                Ok(Err(None)) => drop(held.running.remove(name)),
                Ok(Err(Some(other))) => match Running::read(&other, running.epoch + 1) {
                    Ok(read) => *running = read,
                    Err(error) => failure = Some(error),
                },
                Err(error) => {
                    // Unknown whether it was written: what is charged now is to be decided on what is stored.
                    running.base = Revision(0);
                    running.dirty = false;
                    running.epoch += 1;
                    failure = Some(error);
                }
            }
        }
        for waiter in waiting {
            let lost =
                |(name, epoch): &(String, u64)| held.running.get(name).is_some_and(|r| r.epoch != *epoch);
            let answer = match &failure {
                Some(error) => Err(error.clone()),
                None => Ok(waiter.charged.iter().filter(|c| lost(c)).map(|(n, _)| n.clone()).collect()),
            };
            // A client that hung up waits no longer.
            drop(waiter.done.send(answer));
        }
    }
}

/// Writes a quota over the revision it was read at: the new revision, or what is stored instead.
async fn commit(
    cache: &Cache,
    key: &Key,
    quota: &ResourceQuota,
    base: Revision,
) -> Result<Result<Revision, Option<Entry>>, ApiError> {
    let kind = &kinds::resource_quota::RESOURCE_QUOTA;
    let mut object: Object = Box::new(quota.clone());
    object.meta_mut().resource_version = None;
    let value: bytes::Bytes = object.encode().into();
    let prepared = cache.prepare(key, &value, Arc::new(Attrs::of(kind, &object)));
    let write = Write { key: key.clone(), expect: Expect::Revision(base), value: Some(value), ttl: None };
    match cache.store().write(write).await {
        Ok(written) => {
            prepared.committed();
            Ok(Ok(written.revision))
        }
        Err(StoreError::Conflict { current: None }) => Ok(Err(None)),
        Err(StoreError::Conflict { current: Some(kv) }) => {
            let prefix = cache.resource(QUOTAS).map_or(0, |r| r.prefix.len());
            Ok(Err(Some(Entry::new(kind, prefix, &kv, EventType::Modified, None)?)))
        }
        Err(other) => Err(write_failure(&other)),
    }
}
