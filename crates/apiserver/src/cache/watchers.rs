//! Who watches a resource, indexed so that an event visits only those that may want it.

use super::entry::{Entry, EventType};
use super::ring::Event;
use super::selector::{FieldRef, Selector};
use futures::task::AtomicWaker;
use meta::LabelSelector;
use meta::selector::Operator;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Events a watcher may lag behind before it is closed.
pub const WATCH_BUFFER_EVENTS: usize = 16 * 1024;

/// An event as one watcher sees it.
#[derive(Clone)]
pub struct Delivery {
    pub ty: EventType,
    pub entry: Arc<Entry>,
}

/// One watch of one client: what it selects and what it has not taken yet.
pub struct Watcher {
    pub selector: Selector,
    /// Events up to this revision are not for it.
    after: u64,
    queue: Mutex<VecDeque<Delivery>>,
    waker: AtomicWaker,
    closed: AtomicBool,
    /// Noted to be woken.
    woken: AtomicBool,
}

impl Watcher {
    pub fn new(selector: Selector, after: u64) -> Self {
        Self {
            selector,
            after,
            queue: Mutex::default(),
            waker: AtomicWaker::new(),
            closed: AtomicBool::new(false),
            woken: AtomicBool::new(false),
        }
    }

    /// What this watcher sees of an event; None where it is not concerned.
    pub fn view(&self, event: &Event) -> Option<Delivery> {
        if event.revision.0 <= self.after {
            return None;
        }
        let old = event.previous.as_ref().is_some_and(|p| self.selector.matches(p));
        let new = !event.is_delete() && self.selector.matches(&event.entry);
        match (old, new) {
            (false, true) => Some(Delivery { ty: EventType::Added, entry: event.entry.clone() }),
            (true, true) => Some(Delivery { ty: EventType::Modified, entry: event.entry.clone() }),
            (true, false) => Some(Delivery { ty: EventType::Deleted, entry: event.last_selected()? }),
            (false, false) => None,
        }
    }

    /// False where the buffer is full: the watcher is closed.
    pub fn push(&self, delivery: Delivery) -> bool {
        let mut queue = self.queue.lock();
        if queue.len() >= WATCH_BUFFER_EVENTS {
            drop(queue);
            self.close();
            return false;
        }
        queue.push_back(delivery);
        true
    }

    /// Takes what is there, up to `max`; registers for a wake-up first, so that nothing is missed.
    pub fn take(&self, cx: &mut std::task::Context<'_>, max: usize, out: &mut impl Extend<Delivery>) {
        self.waker.register(cx.waker());
        let mut queue = self.queue.lock();
        let n = queue.len().min(max);
        out.extend(queue.drain(..n));
        if queue.is_empty() && queue.capacity() > 64 {
            queue.shrink_to(0);
        }
    }

    /// Has it look at its queue, where [`Watchers::dispatch`] noted it.
    pub fn wake(&self) {
        self.woken.store(false, Ordering::Release);
        self.waker.wake();
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// The narrowest thing that a selector pins; a watcher is filed under it alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Shelf {
    Name(Box<str>),
    Field(usize, Box<str>),
    Label(Box<str>, Box<str>),
    Namespace(Box<str>),
    All,
}

fn pinned_label(labels: &LabelSelector) -> Option<(&str, &str)> {
    labels.requirements.iter().find_map(|r| match (r.operator, r.values.as_slice()) {
        (Operator::In, [one]) => Some((r.key.as_str(), one.as_str())),
        _ => None,
    })
}

impl Shelf {
    fn of(selector: &Selector) -> Self {
        if let Some(name) = selector.pinned(FieldRef::Name) {
            return Self::Name(name.into());
        }
        let field = selector.fields.iter().find_map(|t| match (t.field, t.negated) {
            (FieldRef::Index(i), false) => Some((i, t.value.clone())),
            _ => None,
        });
        if let Some((i, value)) = field {
            return Self::Field(i, value);
        }
        if let Some((k, v)) = pinned_label(&selector.labels) {
            return Self::Label(k.into(), v.into());
        }
        match &selector.namespace {
            Some(ns) => Self::Namespace(ns.clone()),
            None => Self::All,
        }
    }
}

type Filed = Vec<Arc<Watcher>>;
type ByValue = HashMap<Box<str>, Filed>;

#[derive(Default)]
pub struct Watchers {
    all: Filed,
    by_namespace: ByValue,
    by_name: ByValue,
    by_field: HashMap<usize, ByValue>,
    by_label: HashMap<Box<str>, ByValue>,
    count: usize,
}

impl Watchers {
    pub fn count(&self) -> usize {
        self.count
    }

    fn shelf(&mut self, shelf: Shelf) -> &mut Filed {
        match shelf {
            Shelf::Name(n) => self.by_name.entry(n).or_default(),
            Shelf::Field(i, v) => self.by_field.entry(i).or_default().entry(v).or_default(),
            Shelf::Label(k, v) => self.by_label.entry(k).or_default().entry(v).or_default(),
            Shelf::Namespace(n) => self.by_namespace.entry(n).or_default(),
            Shelf::All => &mut self.all,
        }
    }

    pub fn add(&mut self, watcher: Arc<Watcher>) {
        self.shelf(Shelf::of(&watcher.selector)).push(watcher);
        self.count += 1;
    }

    pub fn remove(&mut self, watcher: &Arc<Watcher>) {
        fn prune(map: &mut ByValue, key: &str) {
            if map.get(key).is_some_and(Vec::is_empty) {
                map.remove(key);
            }
        }
        let shelf = Shelf::of(&watcher.selector);
        let filed = self.shelf(shelf.clone());
        let before = filed.len();
        filed.retain(|w| !Arc::ptr_eq(w, watcher));
        self.count -= before - filed.len();
        match shelf {
            Shelf::Name(n) => prune(&mut self.by_name, &n),
            Shelf::Namespace(n) => prune(&mut self.by_namespace, &n),
            Shelf::Field(i, v) => {
                if let Some(map) = self.by_field.get_mut(&i) {
                    prune(map, &v);
                    if map.is_empty() {
                        self.by_field.remove(&i);
                    }
                }
            }
            Shelf::Label(k, v) => {
                if let Some(map) = self.by_label.get_mut(&k) {
                    prune(map, &v);
                    if map.is_empty() {
                        self.by_label.remove(&k);
                    }
                }
            }
            Shelf::All => {}
        }
    }

    /// Hands the event to those that want it and notes in `wake` whom to wake after the batch.
    pub fn dispatch(&self, event: &Event, wake: &mut Vec<Arc<Watcher>>) {
        if self.count == 0 {
            return;
        }
        let mut visit = |filed: Option<&Filed>| {
            for w in filed.into_iter().flatten() {
                let Some(delivery) = w.view(event) else { continue };
                if w.push(delivery) && !w.woken.swap(true, Ordering::AcqRel) {
                    wake.push(w.clone());
                }
            }
        };
        let (new, old) = (&event.entry, event.previous.as_ref());
        visit(Some(&self.all));
        visit(self.by_namespace.get(new.namespace()));
        visit(self.by_name.get(new.name()));
        for (i, map) in &self.by_field {
            let value = new.attrs.field(*i);
            visit(map.get(value));
            if let Some(was) = old.map(|o| o.attrs.field(*i)).filter(|was| *was != value) {
                visit(map.get(was));
            }
        }
        for (key, map) in &self.by_label {
            let value = new.attrs.label(key);
            visit(value.and_then(|v| map.get(v)));
            let was = old.and_then(|o| o.attrs.label(key));
            if was != value {
                visit(was.and_then(|v| map.get(v)));
            }
        }
    }

    /// Closes everyone: the history has a gap.
    pub fn close_all(&mut self) {
        let maps = self.by_field.drain().map(|(_, m)| m).chain(self.by_label.drain().map(|(_, m)| m));
        let filed =
            maps.flatten().chain(self.by_name.drain()).chain(self.by_namespace.drain()).flat_map(|(_, f)| f);
        for w in filed.chain(self.all.drain(..)) {
            w.close();
        }
        self.count = 0;
    }
}
