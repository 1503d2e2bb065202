//! One resource: its objects by key, its recent events and its watchers.

use super::entry::{Attrs, Entry, EventType};
use super::ring::{Event, Ring};
use super::selector::{FieldRef, Selector};
use super::watchers::{Delivery, Watcher, Watchers};
use super::waves::Waves;
use super::{REGISTRY, pages::Snapshots};
use kinds::{AnyKind, Scope};
use meta::ApiError;
use parking_lot::{Mutex, RwLock};
use rpds::RedBlackTreeMapSync;
use std::ops::Bound;
use std::sync::Arc;
use store::{Event as StoreEvent, Key, KeyValue, Revision};

/// The objects of a resource at one revision: a clone is a snapshot and costs one reference count.
pub type Map = RedBlackTreeMapSync<Key, Arc<Entry>>;

struct State {
    map: Map,
    /// Of the last event of this resource.
    revision: Revision,
    ring: Ring,
}

pub struct ResourceCache {
    pub kind: &'static dyn AnyKind,
    /// `/registry/<storage>/`.
    pub prefix: String,
    // Lock order: watchers, then state.
    watchers: Mutex<Watchers>,
    waves: Waves,
    state: RwLock<State>,
    pub(super) snapshots: Mutex<Snapshots>,
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchStart {
    /// With the present objects as ADDED, then what happens.
    State,
    /// With what happened after this revision.
    After(Revision),
}

/// A registered watch; dropping it ends the registration.
pub struct Subscription {
    pub watcher: Arc<Watcher>,
    /// The present objects, where the watch begins with them.
    pub initial: Vec<Arc<Entry>>,
    /// The revision that `initial` shows, or that the watch began after.
    pub revision: Revision,
    cache: Arc<ResourceCache>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.cache.watchers.lock().remove(&self.watcher);
    }
}

impl ResourceCache {
    pub fn new(kind: &'static dyn AnyKind) -> Self {
        Self {
            kind,
            prefix: format!("{REGISTRY}{}/", kind.info().storage),
            watchers: Mutex::default(),
            waves: Waves::default(),
            state: RwLock::new(State {
                map: Map::new_sync(),
                revision: Revision(0),
                ring: Ring::new(Revision(0)),
            }),
            snapshots: Mutex::default(),
        }
    }

    pub fn key(&self, namespace: &str, name: &str) -> Key {
        match self.kind.info().scope {
            Scope::Namespaced => format!("{}{namespace}/{name}", self.prefix).into(),
            Scope::Cluster => format!("{}{name}", self.prefix).into(),
        }
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        self.get_key(&self.key(namespace, name))
    }

    pub fn get_key(&self, key: &str) -> Option<Arc<Entry>> {
        self.state.read().map.get(key).cloned()
    }

    pub fn len(&self) -> usize {
        self.state.read().map.size()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn watcher_count(&self) -> usize {
        self.watchers.lock().count()
    }

    /// The objects and the revision of the last event among them.
    pub fn snapshot(&self) -> (Map, Revision) {
        let state = self.state.read();
        (state.map.clone(), state.revision)
    }

    /// Keys of a namespace, or of all where it is empty, begin with this.
    pub fn key_prefix(&self, namespace: &str) -> String {
        if namespace.is_empty() || self.kind.info().scope == Scope::Cluster {
            self.prefix.clone()
        } else {
            format!("{}{namespace}/", self.prefix)
        }
    }

    /// Every object of a namespace (of all where it is empty), in key order.
    pub fn list(&self, namespace: &str) -> Vec<Arc<Entry>> {
        let prefix = self.key_prefix(namespace);
        let (map, _) = self.snapshot();
        range(&map, &prefix, None).cloned().collect()
    }

    /// An entry of a stored value of this resource.
    pub(super) fn entry(
        &self,
        kv: &KeyValue,
        made_by: EventType,
        attrs: Option<Arc<Attrs>>,
    ) -> Result<Arc<Entry>, ApiError> {
        Entry::new(self.kind, self.prefix.len(), kv, made_by, attrs).map(Arc::new)
    }

    /// Replaces everything, at first and after a gap in the store's watch: who watches must begin again.
    pub(super) fn reset(&self, values: &[KeyValue], revision: Revision) {
        let mut map = Map::new_sync();
        for kv in values {
            match self.entry(kv, EventType::Added, None) {
                Ok(entry) => map.insert_mut(kv.key.clone(), entry),
                Err(error) => {
                    tracing::error!(key = %kv.key, %error, "a stored value cannot be read and is left out")
                }
            }
        }
        let mut watchers = self.watchers.lock();
        *self.state.write() = State { map, revision, ring: Ring::new(revision) };
        watchers.close_all();
        *self.snapshots.lock() = Snapshots::default();
    }

    /// Applies events of this resource in order and hands them to the watchers.
    pub(super) fn apply<'a>(&self, events: impl Iterator<Item = (&'a StoreEvent, Option<Arc<Attrs>>)>) {
        let watchers = self.watchers.lock();
        let mut wake = Vec::new();
        for (event, attrs) in events {
            let previous = self.get_key(&event.kv.key);
            let made = if event.deleted {
                match &previous {
                    Some(last) => last.at(event.kv.mod_revision, EventType::Deleted).map(Arc::new),
                    None => continue,
                }
            } else {
                let ty = if previous.is_some() { EventType::Modified } else { EventType::Added };
                self.entry(&event.kv, ty, attrs)
            };
            let entry = match made {
                Ok(entry) => entry,
                Err(error) => {
                    tracing::error!(key = %event.kv.key, %error, "a stored value cannot be read and is left out");
                    continue;
                }
            };
            let event = Arc::new(Event::new(entry.clone(), previous));
            {
                let mut state = self.state.write();
                if event.is_delete() {
                    state.map.remove_mut(&entry.key);
                } else {
                    state.map.insert_mut(entry.key.clone(), entry);
                }
                state.revision = event.revision;
                state.ring.push(event.clone());
            }
            watchers.dispatch(&event, &mut wake);
        }
        drop(watchers);
        self.waves.wake(wake);
    }

    /// Registers a watcher. `current`: the cache's revision, loaded before.
    ///
    /// # Errors
    /// Expired, where the events after the revision asked for are no longer kept.
    pub fn subscribe(
        self: &Arc<Self>,
        selector: Selector,
        start: WatchStart,
        current: Revision,
    ) -> Result<Subscription, ApiError> {
        let mut watchers = self.watchers.lock();
        let state = self.state.read();
        let revision = state.revision.max(current);
        let (after, initial, backlog) = match start {
            WatchStart::State => (state.revision, self.select(&state.map, &selector), Vec::new()),
            WatchStart::After(after) => {
                let Some(events) = state.ring.since(after) else {
                    return Err(ApiError::expired(format!(
                        "too old resource version: {after} ({})",
                        state.ring.floor()
                    )));
                };
                (after, Vec::new(), events.cloned().collect())
            }
        };
        drop(state);
        let watcher = Arc::new(Watcher::new(selector, after.0));
        let deliveries = backlog.iter().filter_map(|e| watcher.view(e));
        let within: Vec<Delivery> = deliveries.collect();
        for delivery in within {
            watcher.push(delivery);
        }
        watchers.add(watcher.clone());
        let revision = if matches!(start, WatchStart::State) { revision } else { after };
        Ok(Subscription { watcher, initial, revision, cache: self.clone() })
    }

    /// Objects of a snapshot that a selector wants, in key order; one name is looked up.
    pub fn select(&self, map: &Map, selector: &Selector) -> Vec<Arc<Entry>> {
        let namespace = selector.namespace.as_deref().unwrap_or("");
        let namespaced = self.kind.info().scope == Scope::Namespaced;
        if let Some(name) = selector.pinned(FieldRef::Name)
            && (!namespaced || !namespace.is_empty())
        {
            let entry = map.get(&*self.key(namespace, name)).filter(|e| selector.matches(e));
            return entry.cloned().into_iter().collect();
        }
        let prefix = self.key_prefix(namespace);
        let entries = range(map, &prefix, None);
        if selector.is_everything() {
            return entries.cloned().collect();
        }
        entries.filter(|e| selector.matches_in_namespace(e)).cloned().collect()
    }
}

/// Entries whose keys begin with `prefix`, from `start` on where given.
pub fn range<'a>(
    map: &'a Map,
    prefix: &'a str,
    start: Option<&'a str>,
) -> impl Iterator<Item = &'a Arc<Entry>> {
    let from = start.unwrap_or(prefix);
    map.range::<str, _>((Bound::Included(from), Bound::Unbounded))
        .take_while(move |(key, _)| key.starts_with(prefix))
        .map(|(_, entry)| entry)
}
