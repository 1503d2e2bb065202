//! Shared informers: one list+watch per kind and selection in a process, one copy of each object, and the
//! changes in order.
//!
//! `store` holds the objects and decides what changed; `reflector` speaks the protocol (WatchList, falling back
//! to list, resumed by resourceVersion); this file is what the users see.

mod reflector;
mod store;

use crate::Key;
use kube::{Client, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use store::Delta;
use store::Store;

/// What an informer can hold: every `k8s-openapi` resource, `DynamicObject`, and `PartialObjectMeta` of either.
pub trait Cached: Resource + DeserializeOwned + Send + Sync + 'static {}
impl<K: Resource + DeserializeOwned + Send + Sync + 'static> Cached for K {}

/// The values under which an index finds an object.
pub type IndexFn<K> = fn(&K) -> Vec<String>;

/// Which objects, and what is kept of them. Callers with equal options share one watch.
pub struct Options<K> {
    namespace: Option<String>,
    labels: Option<String>,
    fields: Option<String>,
    transform: Option<fn(&mut K)>,
    indexes: Vec<(&'static str, IndexFn<K>)>,
}

impl<K> Default for Options<K> {
    fn default() -> Self {
        Self { namespace: None, labels: None, fields: None, transform: None, indexes: Vec::new() }
    }
}

impl<K> Options<K> {
    /// Every object of the kind.
    pub fn all() -> Self {
        Self::default()
    }

    /// Only one namespace.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// A label selector in query form.
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.labels = Some(selector.into());
        self
    }

    /// A field selector in query form: `spec.nodeName=a`.
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.fields = Some(selector.into());
        self
    }

    /// Drops what is not needed before an object is kept. `managedFields` are always dropped.
    pub fn transform(mut self, f: fn(&mut K)) -> Self {
        self.transform = Some(f);
        self
    }

    /// See [`Informer::by_index`].
    pub fn index(mut self, name: &'static str, f: IndexFn<K>) -> Self {
        self.indexes.push((name, f));
        self
    }
}

/// The informers of a component. They watch until the last clone and the last of their informers is dropped.
#[derive(Clone)]
pub struct Informers(Arc<Registry>);

struct Registry {
    client: Client,
    shared: Mutex<HashMap<SharedKey, Arc<dyn Any + Send + Sync>>>,
}

#[derive(PartialEq, Eq, Hash)]
struct SharedKey {
    kind: TypeId,
    path: String,
    labels: Option<String>,
    fields: Option<String>,
    /// Address of the transform: two callers share only what both agreed to drop.
    transform: Option<usize>,
}

impl Informers {
    pub fn new(client: Client) -> Self {
        Self(Arc::new(Registry { client, shared: Mutex::default() }))
    }

    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// The informer of a kind known at compile time. Must be called within a tokio runtime.
    pub fn of<K>(&self, options: Options<K>) -> Informer<K>
    where
        K: Cached,
        K::DynamicType: Default,
    {
        self.of_dynamic(K::DynamicType::default(), options)
    }

    /// The informer of a kind that discovery named. Must be called within a tokio runtime.
    pub fn of_dynamic<K: Cached>(&self, kind: K::DynamicType, options: Options<K>) -> Informer<K> {
        let path = K::url_path(&kind, options.namespace.as_deref());
        let key = SharedKey {
            kind: TypeId::of::<K>(),
            path: path.clone(),
            labels: options.labels.clone(),
            fields: options.fields.clone(),
            transform: options.transform.map(|f| f as usize),
        };
        let mut shared = self.0.shared.lock();
        let informer = match shared.get(&key).and_then(|any| any.clone().downcast::<Shared<K>>().ok()) {
            Some(existing) => Informer(existing),
            None => {
                let stop = CancellationToken::new();
                let new = Informer(Arc::new(Shared {
                    name: K::plural(&kind).into_owned(),
                    store: Store::new(),
                    synced: watch::Sender::new(false),
                    _stop: stop.clone().drop_guard(),
                }));
                let source = reflector::Source {
                    client: self.0.client.clone(),
                    path,
                    labels: options.labels,
                    fields: options.fields,
                    metadata_only: K::metadata_api(),
                };
                tokio::spawn(reflector::run(source, options.transform, Arc::downgrade(&new.0), stop));
                shared.insert(key, new.0.clone());
                new
            }
        };
        drop(shared);
        for (name, f) in options.indexes {
            informer.0.store.add_index(name, f);
        }
        informer
    }

    /// Ends the informers of a collection that is no longer served (`/apis/example.com/v1/things`), once their last
    /// handle is dropped; handles keep what they last held.
    pub fn forget_path(&self, path: &str) {
        self.0.shared.lock().retain(|k, _| k.path != path);
    }
}

struct Shared<K> {
    /// Plural name, for log lines.
    name: String,
    store: Store<K>,
    synced: watch::Sender<bool>,
    /// Ends the watch when the last handle goes.
    _stop: DropGuard,
}

/// The objects of one kind, kept up to date. Cloning shares it.
pub struct Informer<K>(Arc<Shared<K>>);

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Cached> Informer<K> {
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.0.store.get(key)
    }

    /// By namespace (empty for cluster-scoped kinds) and name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.0.store.get(&Key::new(namespace, name))
    }

    /// Every object, ordered by key.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.0.store.list()
    }

    /// The objects of a namespace, ordered by name.
    pub fn by_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.0.store.by_namespace(namespace)
    }

    /// The objects that an index files under a value, ordered by key. Empty for an index nobody declared.
    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<K>> {
        self.0.store.by_index(index, value)
    }

    /// Declares an index; also on an informer that is filled already.
    pub fn add_index(&self, name: &'static str, f: IndexFn<K>) {
        self.0.store.add_index(name, f);
    }

    pub fn len(&self) -> usize {
        self.0.store.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `f` with every object there is, as an addition, and then with each change, in order. It runs on the
    /// informer's task and must be cheap (queue a key); it may read informers but not register handlers on this one.
    pub fn on_change(&self, f: impl FnMut(&Delta<K>) + Send + 'static) {
        self.0.store.on_change(Box::new(f));
    }

    /// Whether the first list is complete.
    pub fn has_synced(&self) -> bool {
        *self.0.synced.borrow()
    }

    /// Returns when the first list is complete.
    pub async fn synced(&self) {
        let mut rx = self.0.synced.subscribe();
        // The sender lives in `self`.
        let _ = rx.wait_for(|s| *s).await;
    }

    /// The newest resourceVersion seen, bookmarks included: a write with a version up to this one has been
    /// observed. 0 before the first list.
    pub fn version(&self) -> u64 {
        self.0.store.version()
    }

    /// Returns once a write with this resourceVersion has been observed.
    pub async fn saw(&self, version: u64) {
        // The sender lives in `self`.
        let _ = self.0.store.progress().wait_for(|v| *v >= version).await;
    }

    /// Returns once the object is gone, is going, or is another one of the same name.
    pub async fn saw_deleted(&self, key: &Key, uid: &str) {
        let alive = || {
            self.get(key).is_some_and(|o| {
                o.meta().uid.as_deref() == Some(uid) && o.meta().deletion_timestamp.is_none()
            })
        };
        // The sender lives in `self`.
        let _ = self.0.store.progress().wait_for(|_| !alive()).await;
    }

    /// An informer without a server, filled by [`put`](Self::put): the world of a test.
    pub fn detached() -> Self
    where
        K::DynamicType: Default,
    {
        Self(Arc::new(Shared {
            name: K::plural(&K::DynamicType::default()).into_owned(),
            store: Store::new(),
            synced: watch::Sender::new(true),
            _stop: CancellationToken::new().drop_guard(),
        }))
    }

    /// Puts an object into a detached informer.
    pub fn put(&self, object: K) {
        self.0.store.put(object);
    }

    /// Takes an object out of a detached informer.
    pub fn remove(&self, key: &Key)
    where
        K: Clone,
    {
        if let Some(o) = self.get(key) {
            self.0.store.remove((*o).clone());
        }
    }

    /// Plural name of the kind.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    fn from_weak(weak: &Weak<Shared<K>>) -> Option<Self> {
        weak.upgrade().map(Self)
    }
}
