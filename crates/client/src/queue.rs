//! The rate-limited work queue: a key is queued once however often it is added, is never handed to two
//! workers at a time, and is queued again after `done` if it was added in between (client-go's workqueue).
//!
//! [`Core`] decides and takes the time as a parameter; [`WorkQueue`] is the async shell.

use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// First delay of a key that failed; doubles with each failure (`DefaultControllerRateLimiter`).
pub const BACKOFF_FIRST: Duration = Duration::from_millis(5);
/// Longest delay of a key that fails again and again.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1000);

/// The queue's state. Every method is total and takes the time it needs.
#[derive(Debug)]
pub struct Core<K> {
    ready: VecDeque<K>,
    /// Queued or to be queued after `done`, and since when.
    dirty: HashMap<K, Instant>,
    /// In work, and since when.
    processing: HashMap<K, Instant>,
    /// The earliest wake of each delayed key; entries of `heap` that disagree are stale.
    delayed: HashMap<K, Instant>,
    heap: BinaryHeap<Reverse<(Instant, u64)>>,
    by_ticket: HashMap<u64, K>,
    ticket: u64,
    failures: HashMap<K, u32>,
    first: Duration,
    max: Duration,
    /// Adds since the start, for `workqueue_adds_total`.
    adds: u64,
    /// Delayed adds since the start, whatever the reason, as client-go counts them for `workqueue_retries_total`.
    retries: u64,
}

impl<K: Clone + Eq + Hash> Default for Core<K> {
    fn default() -> Self {
        Self::new(BACKOFF_FIRST, BACKOFF_MAX)
    }
}

impl<K: Clone + Eq + Hash> Core<K> {
    pub fn new(first: Duration, max: Duration) -> Self {
        Self {
            ready: VecDeque::new(),
            dirty: HashMap::new(),
            processing: HashMap::new(),
            delayed: HashMap::new(),
            heap: BinaryHeap::new(),
            by_ticket: HashMap::new(),
            ticket: 0,
            failures: HashMap::new(),
            first,
            max,
            adds: 0,
            retries: 0,
        }
    }

    /// Queues the key, unless it is queued already.
    pub fn add(&mut self, key: K, now: Instant) {
        let Entry::Vacant(new) = self.dirty.entry(key) else { return };
        self.adds += 1;
        if !self.processing.contains_key(new.key()) {
            self.ready.push_back(new.key().clone());
        }
        new.insert(now);
    }

    /// Queues the key at a time, or earlier if it already waits for an earlier one.
    pub fn add_at(&mut self, key: K, at: Instant, now: Instant) {
        self.retries += 1;
        if at <= now {
            self.add(key, now);
            return;
        }
        match self.delayed.get(&key) {
            Some(t) if *t <= at => {}
            _ => {
                self.delayed.insert(key.clone(), at);
                self.ticket += 1;
                self.heap.push(Reverse((at, self.ticket)));
                self.by_ticket.insert(self.ticket, key);
            }
        }
    }

    /// Counts a failure and queues the key after its back-off, which is returned.
    pub fn add_failed(&mut self, key: K, now: Instant) -> Duration {
        let n = self.failures.entry(key.clone()).or_insert(0);
        let delay = self.first.saturating_mul(1u32.checked_shl(*n).unwrap_or(u32::MAX)).min(self.max);
        *n = n.saturating_add(1);
        self.add_at(key, now + delay, now);
        delay
    }

    /// Forgets the key's failures: its next one starts with the first delay again.
    pub fn forget(&mut self, key: &K) {
        self.failures.remove(key);
    }

    pub fn failures(&self, key: &K) -> u32 {
        self.failures.get(key).copied().unwrap_or(0)
    }

    /// The next key to work on, and how long it was queued; the caller owes a [`done`](Self::done).
    pub fn take(&mut self, now: Instant) -> Option<(K, Duration)> {
        self.wake(now);
        let key = self.ready.pop_front()?;
        let since = self.dirty.remove(&key).unwrap_or(now);
        self.processing.insert(key.clone(), now);
        Some((key, now.saturating_duration_since(since)))
    }

    /// Ends the work on a key; true if it was added meanwhile and is queued again.
    pub fn done(&mut self, key: &K) -> bool {
        self.processing.remove(key);
        let again = self.dirty.contains_key(key);
        if again {
            self.ready.push_back(key.clone());
        }
        again
    }

    /// When the next delayed key becomes ready.
    pub fn next_wake(&mut self) -> Option<Instant> {
        loop {
            let Reverse((at, ticket)) = *self.heap.peek()?;
            let current = self.by_ticket.get(&ticket).is_some_and(|k| self.delayed.get(k) == Some(&at));
            if current {
                return Some(at);
            }
            self.heap.pop();
            self.by_ticket.remove(&ticket);
        }
    }

    /// Keys that are ready.
    pub fn len(&self) -> usize {
        self.ready.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// Nothing ready, in work or delayed.
    pub fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.processing.is_empty() && self.delayed.is_empty()
    }

    fn wake(&mut self, now: Instant) {
        while let Some(at) = self.next_wake() {
            if at > now {
                return;
            }
            let Some(Reverse((_, ticket))) = self.heap.pop() else { return };
            if let Some(key) = self.by_ticket.remove(&ticket) {
                self.delayed.remove(&key);
                self.add(key, now);
            }
        }
    }

    fn stats(&self, now: Instant) -> Stats {
        let worked = |since: &Instant| now.saturating_duration_since(*since);
        Stats {
            depth: self.dirty.len(),
            adds: self.adds,
            retries: self.retries,
            processing: self.processing.len(),
            unfinished: self.processing.values().map(worked).sum(),
            longest: self.processing.values().map(worked).max().unwrap_or_default(),
        }
    }
}

/// What the queue has done, for the `workqueue_*` metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Keys that are queued, or will be once their work has ended.
    pub depth: usize,
    pub adds: u64,
    pub retries: u64,
    pub processing: usize,
    /// How long all keys in work have been in work, together.
    pub unfinished: Duration,
    /// How long the key that is longest in work has been.
    pub longest: Duration,
}

/// The queue shared by handlers that add and workers that take. Cloning shares it.
pub struct WorkQueue<K>(Arc<Shared<K>>);

struct Shared<K> {
    core: Mutex<Core<K>>,
    changed: Notify,
    closed: tokio_util::sync::CancellationToken,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Clone + Eq + Hash> Default for WorkQueue<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    pub fn new() -> Self {
        Self::with_backoff(BACKOFF_FIRST, BACKOFF_MAX)
    }

    pub fn with_backoff(first: Duration, max: Duration) -> Self {
        Self(Arc::new(Shared {
            core: Mutex::new(Core::new(first, max)),
            changed: Notify::new(),
            closed: tokio_util::sync::CancellationToken::new(),
        }))
    }

    pub fn add(&self, key: K) {
        self.0.core.lock().add(key, now());
        self.0.changed.notify_one();
    }

    pub fn add_after(&self, key: K, delay: Duration) {
        let now = now();
        self.0.core.lock().add_at(key, now + delay, now);
        self.0.changed.notify_one();
    }

    /// Counts a failure and queues the key after its back-off, which is returned.
    pub fn add_failed(&self, key: K) -> Duration {
        let delay = self.0.core.lock().add_failed(key, now());
        self.0.changed.notify_one();
        delay
    }

    pub fn forget(&self, key: &K) {
        self.0.core.lock().forget(key);
    }

    /// How often the key failed since it was last forgotten.
    pub fn failures(&self, key: &K) -> u32 {
        self.0.core.lock().failures(key)
    }

    /// The next key; None once the queue is closed. The caller owes a [`done`](Self::done).
    pub async fn next(&self) -> Option<K> {
        self.next_waited().await.map(|(key, _)| key)
    }

    /// [`next`](Self::next), and how long the key was queued.
    pub async fn next_waited(&self) -> Option<(K, Duration)> {
        loop {
            let changed = self.0.changed.notified();
            let wake = {
                let mut core = self.0.core.lock();
                if self.0.closed.is_cancelled() {
                    return None;
                }
                if let Some(taken) = core.take(now()) {
                    if !core.is_empty() {
                        self.0.changed.notify_one();
                    }
                    return Some(taken);
                }
                core.next_wake()
            };
            let timer = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changed => {}
                () = timer => {}
                () = self.0.closed.cancelled() => return None,
            }
        }
    }

    /// The next key if one is ready, without waiting. The caller owes a [`done`](Self::done).
    pub fn try_next(&self) -> Option<K> {
        self.0.core.lock().take(now()).map(|(key, _)| key)
    }

    pub fn done(&self, key: &K) {
        if self.0.core.lock().done(key) {
            self.0.changed.notify_one();
        }
    }

    /// Ends every `next`; keys not yet taken are dropped.
    pub fn close(&self) {
        self.0.closed.cancel();
    }

    pub fn stats(&self) -> Stats {
        self.0.core.lock().stats(now())
    }
}

/// The runtime's clock, so that tests with paused time see one time everywhere.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_key_is_queued_once_and_not_lost_while_in_work() {
        let t = Instant::now();
        let mut q = Core::default();
        let take = |q: &mut Core<_>| q.take(t).map(|(key, _)| key);
        q.add("a", t);
        q.add("a", t);
        q.add("b", t);
        assert_eq!(take(&mut q), Some("a"));
        q.add("a", t);
        assert_eq!(take(&mut q), Some("b"));
        assert_eq!(take(&mut q), None, "a is in work");
        assert!(q.done(&"a"));
        assert!(!q.done(&"b"));
        assert_eq!(take(&mut q), Some("a"));
        assert!(!q.done(&"a"));
        assert!(q.is_idle());
    }

    #[test]
    fn how_long_keys_wait_and_are_in_work() {
        let t = Instant::now();
        let mut q = Core::default();
        q.add("a", t);
        q.add("a", t + ms(5));
        q.add_at("b", t + ms(20), t);
        assert_eq!(q.take(t + ms(10)), Some(("a", ms(10))), "since it was first added");
        q.add("a", t + ms(15));
        assert_eq!(q.take(t + ms(30)), Some(("b", ms(0))), "its delay is no waiting");
        let stats = q.stats(t + ms(40));
        assert_eq!((stats.unfinished, stats.longest), (ms(40), ms(30)));
        assert_eq!((stats.adds, stats.retries, stats.processing), (3, 1, 2));
        q.done(&"a");
        assert_eq!(q.take(t + ms(50)), Some(("a", ms(35))), "also while it was in work");
    }

    #[test]
    fn delays_keep_the_earliest_time() {
        let t = Instant::now();
        let mut q = Core::default();
        q.add_at("a", t + ms(50), t);
        q.add_at("a", t + ms(20), t);
        q.add_at("a", t + ms(90), t);
        assert_eq!(q.next_wake(), Some(t + ms(20)));
        assert_eq!(q.take(t + ms(19)), None);
        assert_eq!(q.take(t + ms(20)), Some(("a", ms(0))));
        q.done(&"a");
        assert_eq!(q.next_wake(), None, "the later times went with the first");
        assert!(q.is_idle());
    }

    #[test]
    fn failures_back_off_per_key() {
        let t = Instant::now();
        let mut q = Core::default();
        let delays: Vec<_> = (0..4).map(|_| q.add_failed("a", t)).collect();
        assert_eq!(delays, [ms(5), ms(10), ms(20), ms(40)]);
        assert_eq!(q.add_failed("b", t), ms(5));
        for _ in 0..60 {
            q.add_failed("a", t);
        }
        assert_eq!(q.add_failed("a", t), BACKOFF_MAX);
        q.forget(&"a");
        assert_eq!(q.add_failed("a", t), ms(5));
    }

    #[tokio::test(start_paused = true)]
    async fn workers_get_keys_as_they_come() {
        let q = WorkQueue::new();
        let worker = tokio::spawn({
            let q = q.clone();
            async move {
                let mut seen = Vec::new();
                while let Some(k) = q.next().await {
                    seen.push(k);
                    q.done(&k);
                    if seen.len() == 3 {
                        break;
                    }
                }
                seen
            }
        });
        q.add(1);
        q.add(2);
        q.add_after(3, ms(1));
        assert_eq!(worker.await.unwrap(), [1, 2, 3]);
    }
}
