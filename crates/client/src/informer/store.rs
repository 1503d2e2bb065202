//! The objects of one informer and what changes in them: synchronous, no I/O.

use super::IndexFn;
use crate::Key;
use kube::Resource;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use tokio::sync::watch;

/// One change: an addition has no `old`, a removal no `new`.
pub struct Delta<K> {
    pub key: Key,
    pub old: Option<Arc<K>>,
    pub new: Option<Arc<K>>,
}

impl<K> Delta<K> {
    /// The object as it is, or as it last was.
    pub fn object(&self) -> &Arc<K> {
        self.new.as_ref().or(self.old.as_ref()).expect("a change has an object before or after it")
    }
}

type Handler<K> = Box<dyn FnMut(&Delta<K>) + Send>;

pub(super) struct Store<K> {
    state: RwLock<State<K>>,
    /// Held over a change and its delivery, so that every handler sees every change once and in order.
    handlers: Mutex<Vec<Handler<K>>>,
    version: watch::Sender<u64>,
}

struct State<K> {
    objects: BTreeMap<Key, Arc<K>>,
    indexes: HashMap<&'static str, Index<K>>,
}

struct Index<K> {
    values: IndexFn<K>,
    entries: HashMap<String, BTreeSet<Key>>,
}

impl<K> Index<K> {
    fn insert(&mut self, key: &Key, object: &K) {
        for v in (self.values)(object) {
            self.entries.entry(v).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &Key, object: &K) {
        for v in (self.values)(object) {
            if let Some(keys) = self.entries.get_mut(&v) {
                keys.remove(key);
                if keys.is_empty() {
                    self.entries.remove(&v);
                }
            }
        }
    }
}

impl<K: Resource> State<K> {
    fn set(&mut self, key: &Key, new: Option<Arc<K>>) -> Option<Arc<K>> {
        let old = match &new {
            Some(n) => self.objects.insert(key.clone(), n.clone()),
            None => self.objects.remove(key),
        };
        for index in self.indexes.values_mut() {
            if let Some(o) = &old {
                index.remove(key, o);
            }
            if let Some(n) = &new {
                index.insert(key, n);
            }
        }
        old
    }
}

impl<K: Resource> Store<K> {
    pub fn new() -> Self {
        Self {
            state: RwLock::new(State { objects: BTreeMap::new(), indexes: HashMap::new() }),
            handlers: Mutex::default(),
            version: watch::Sender::new(0),
        }
    }

    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.state.read().objects.get(key).cloned()
    }

    pub fn list(&self) -> Vec<Arc<K>> {
        self.state.read().objects.values().cloned().collect()
    }

    pub fn by_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let first = Key::new(namespace, "");
        let state = self.state.read();
        state
            .objects
            .range((Bound::Included(&first), Bound::Unbounded))
            .take_while(|(k, _)| k.namespace == first.namespace)
            .map(|(_, o)| o.clone())
            .collect()
    }

    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<K>> {
        let state = self.state.read();
        let Some(keys) = state.indexes.get(index).and_then(|i| i.entries.get(value)) else {
            return Vec::new();
        };
        keys.iter().filter_map(|k| state.objects.get(k).cloned()).collect()
    }

    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    pub fn version(&self) -> u64 {
        *self.version.borrow()
    }

    /// Tells of each event after it was applied: what waits for a state looks again.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Once the change that a version stands for has been applied.
    pub fn saw_version(&self, version: &str) {
        let version = version.parse().unwrap_or(0);
        self.version.send_modify(|v| *v = version.max(*v));
    }

    pub fn add_index(&self, name: &'static str, values: IndexFn<K>) {
        let mut state = self.state.write();
        if state.indexes.contains_key(name) {
            return;
        }
        let mut index = Index { values, entries: HashMap::new() };
        for (k, o) in &state.objects {
            index.insert(k, o);
        }
        state.indexes.insert(name, index);
    }

    pub fn on_change(&self, mut f: Handler<K>) {
        let mut handlers = self.handlers.lock();
        let now: Vec<_> = self.state.read().objects.iter().map(|(k, o)| (k.clone(), o.clone())).collect();
        for (key, object) in now {
            f(&Delta { key, old: None, new: Some(object) });
        }
        handlers.push(f);
    }

    /// An object as the server now has it.
    pub fn put(&self, object: K) {
        let key = Key::of(&object);
        let mut handlers = self.handlers.lock();
        let version = object.meta().resource_version.clone();
        let new = Some(Arc::new(object));
        let old = self.state.write().set(&key, new.clone());
        // Before the delivery: who is woken by it may ask whether a version has been seen.
        self.saw_version(version.as_deref().unwrap_or(""));
        changed(&mut handlers, key, old, new);
    }

    /// An object that is gone; `last` is its final state, if the server sent it.
    pub fn remove(&self, last: K) {
        let key = Key::of(&last);
        let mut handlers = self.handlers.lock();
        let old = self.state.write().set(&key, None);
        self.saw_version(last.meta().resource_version.as_deref().unwrap_or(""));
        if old.is_some() {
            // What it was when it went, which may be newer than what was held.
            deliver(&mut handlers, &Delta { key, old: Some(Arc::new(last)), new: None });
        }
    }

    /// The complete list after a fresh start of the watch: what it lacks is gone, what it has unchanged is no change.
    pub fn replace(&self, objects: Vec<K>) {
        let mut handlers = self.handlers.lock();
        let mut gone: BTreeSet<Key> = self.state.read().objects.keys().cloned().collect();
        for object in objects {
            let key = Key::of(&object);
            gone.remove(&key);
            let same = self.get(&key).is_some_and(|o| {
                o.meta().uid == object.meta().uid
                    && o.meta().resource_version == object.meta().resource_version
            });
            if !same {
                self.set(&mut handlers, key, Some(Arc::new(object)));
            }
        }
        for key in gone {
            self.set(&mut handlers, key, None);
        }
    }

    fn set(&self, handlers: &mut [Handler<K>], key: Key, new: Option<Arc<K>>) {
        let old = self.state.write().set(&key, new.clone());
        changed(handlers, key, old, new);
    }
}

fn changed<K: Resource>(handlers: &mut [Handler<K>], key: Key, old: Option<Arc<K>>, new: Option<Arc<K>>) {
    if old.is_none() && new.is_none() {
        return;
    }
    // Deleted and created again under one name while the watch was away: two changes, not one.
    let replaced = matches!((&old, &new), (Some(o), Some(n)) if o.meta().uid != n.meta().uid);
    if replaced {
        deliver(handlers, &Delta { key: key.clone(), old, new: None });
        deliver(handlers, &Delta { key, old: None, new });
    } else {
        deliver(handlers, &Delta { key, old, new });
    }
}

fn deliver<K>(handlers: &mut [Handler<K>], delta: &Delta<K>) {
    for h in handlers {
        h(delta);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Pod, PodSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn pod(name: &str, uid: &str, version: &str, node: &str) -> Pod {
        Pod {
            metadata: ObjectMeta {
                namespace: Some("ns".into()),
                name: Some(name.into()),
                uid: Some(uid.into()),
                resource_version: Some(version.into()),
                ..Default::default()
            },
            spec: Some(PodSpec { node_name: Some(node.into()), ..Default::default() }),
            ..Default::default()
        }
    }

    fn node(p: &Pod) -> Vec<String> {
        p.spec.as_ref().and_then(|s| s.node_name.clone()).into_iter().collect()
    }

    fn recorded(store: &Store<Pod>) -> Arc<Mutex<Vec<String>>> {
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = log.clone();
        store.on_change(Box::new(move |d| {
            let v = |o: &Option<Arc<Pod>>| {
                o.as_ref().and_then(|o| o.metadata.resource_version.clone()).unwrap_or("-".into())
            };
            sink.lock().push(format!("{} {}>{}", d.key.name, v(&d.old), v(&d.new)));
        }));
        log
    }

    #[test]
    fn changes_are_delivered_in_order_and_a_late_handler_sees_what_is_there() {
        let s = Store::new();
        s.put(pod("a", "1", "1", "n1"));
        let log = recorded(&s);
        s.put(pod("b", "2", "2", "n1"));
        s.put(pod("a", "1", "3", "n2"));
        s.remove(pod("b", "2", "4", "n1"));
        s.remove(pod("b", "2", "4", "n1"));
        assert_eq!(*log.lock(), ["a ->1", "b ->2", "a 1>3", "b 4>-"]);
    }

    #[test]
    fn a_fresh_list_becomes_the_difference() {
        let s = Store::new();
        for p in [pod("a", "1", "1", "n1"), pod("b", "2", "2", "n1"), pod("c", "3", "3", "n1")] {
            s.put(p);
        }
        let log = recorded(&s);
        log.lock().clear();
        s.replace(vec![pod("a", "1", "1", "n1"), pod("b", "9", "8", "n1"), pod("d", "4", "9", "n1")]);
        assert_eq!(*log.lock(), ["b 2>-", "b ->8", "d ->9", "c 3>-"]);
    }

    #[test]
    fn indexes_follow_the_objects() {
        let s = Store::new();
        s.put(pod("a", "1", "1", "n1"));
        s.add_index("node", node);
        s.put(pod("b", "2", "2", "n1"));
        let names = |v: &str| -> Vec<_> {
            s.by_index("node", v).iter().map(|p| p.metadata.name.clone().unwrap()).collect()
        };
        assert_eq!(names("n1"), ["a", "b"]);
        s.put(pod("a", "1", "3", "n2"));
        assert_eq!((names("n1"), names("n2")), (vec!["b".into()], vec!["a".into()]));
        s.remove(pod("b", "2", "4", "n1"));
        assert!(names("n1").is_empty());
        assert_eq!(s.by_namespace("ns").len(), 1);
        assert!(s.by_namespace("n").is_empty());
    }
}
