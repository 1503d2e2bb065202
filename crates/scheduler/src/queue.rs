//! Pods that wait for a node: those to try now, those that wait out a failure, those that wait for an event
//! that could help them, and those that gates hold (upstream's scheduling queue). Time is a parameter.

use crate::cycle::Profile;
use crate::framework::Event;
use crate::pod::PodInfo;
use client::Key;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Wait after the first failure; doubles with each (upstream's `podInitialBackoffSeconds`).
pub const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Longest wait after a failure (upstream's `podMaxBackoffSeconds`).
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A pod that no event helped is tried again after this long, in case an event was misjudged (upstream's
/// `DefaultPodMaxInUnschedulablePodsDuration`).
pub const MAX_UNSCHEDULABLE: Duration = Duration::from_secs(300);

/// The most important first, then the one that waits longest (upstream's PrioritySort).
type Rank = (Reverse<i32>, Instant, u64);

#[derive(Clone, Debug, PartialEq)]
enum Place {
    Active(Rank),
    /// Waits until then.
    Backoff(Instant, u64),
    /// Waits for an event; since then.
    Unschedulable(Instant, u64),
    Gated,
    /// Being scheduled or bound.
    InFlight,
}

struct Entry {
    pod: Arc<PodInfo>,
    place: Place,
    /// How often no node would do.
    refusals: u32,
    /// How often it failed by an error since no node would do; 0 where the last attempt did not.
    errors_in_a_row: u32,
    /// Failed attempts.
    attempts: u32,
    /// When the last one failed.
    failed_at: Option<Instant>,
    /// Who refused the pod; empty where there was no node to ask about.
    refused_by: BTreeSet<&'static str>,
    /// When the pod came into the queue.
    added: Instant,
    /// What the last attempt has to say is still being written: a new attempt now could be overtaken by it.
    explaining: bool,
}

/// How a pod failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No node would do. These plugins refused; empty where there are no nodes.
    Unschedulable(BTreeSet<&'static str>),
    /// Something went wrong: try again after a while.
    Error,
}

/// Pods by where they wait, for the metric `scheduler_pending_pods`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub active: usize,
    pub backoff: usize,
    pub unschedulable: usize,
    pub gated: usize,
}

/// Where pods came, and by which event.
pub type Incoming = BTreeMap<(&'static str, &'static str), u64>;

const ADDED: &str = "UnschedulablePodAdd";
const CHANGED: &str = "UnschedulablePodUpdate";
const GATES_OPENED: &str = "UpdatePodSchedulingGatesEliminated";
const FAILED: &str = "ScheduleAttemptFailure";
const BACKOFF_COMPLETE: &str = "BackoffComplete";
const TIMEOUT: &str = "UnschedulableTimeout";

/// The pods that wait, by where they wait.
#[derive(Default)]
pub struct Queue {
    entries: HashMap<Key, Entry>,
    active: BTreeMap<Rank, Key>,
    backoff: BTreeMap<(Instant, u64), Key>,
    unschedulable: BTreeMap<(Instant, u64), Key>,
    ticket: u64,
    incoming: Incoming,
}

impl Entry {
    /// When the pod may be tried again; None where it has not failed. Errors are counted apart, from one on:
    /// what no node would take before may wait for something else now (upstream's `getBackoffTime`).
    fn backoff_ends(&self) -> Option<Instant> {
        let count = if self.errors_in_a_row > 0 { self.errors_in_a_row } else { self.refusals };
        let doublings = count.saturating_sub(1).min(16);
        Some(self.failed_at? + BACKOFF_FIRST.saturating_mul(1 << doublings).min(BACKOFF_MAX))
    }
}

impl Queue {
    pub fn new() -> Self {
        Self::default()
    }

    fn ticket(&mut self) -> u64 {
        self.ticket += 1;
        self.ticket
    }

    /// A pod that waits for a node: new, or changed.
    pub fn put(&mut self, pod: Arc<PodInfo>, profile: &Profile, now: Instant) {
        let key = pod.key.clone();
        let gated = profile.pre_enqueue(&pod).is_some();
        let Some(entry) = self.entries.get_mut(&key).filter(|e| e.pod.uid == pod.uid) else {
            self.remove(&key);
            let entry = Entry {
                pod,
                place: Place::Gated,
                refusals: 0,
                errors_in_a_row: 0,
                attempts: 0,
                failed_at: None,
                refused_by: BTreeSet::new(),
                added: now,
                explaining: false,
            };
            self.entries.insert(key.clone(), entry);
            if gated {
                self.count("gated", ADDED);
            } else {
                self.activate(&key, ADDED);
            }
            return;
        };
        let was = std::mem::replace(&mut entry.pod, pod.clone());
        match entry.place {
            Place::InFlight | Place::Backoff(..) => {}
            Place::Gated if !gated => {
                // the time before the gates opened does not count
                entry.added = now;
                self.activate(&key, GATES_OPENED);
            }
            Place::Gated => {}
            // its priority may have changed
            Place::Active(_) => self.place_active(&key),
            Place::Unschedulable(..) => {
                let event = Event::PodChanged(&pod, &was);
                if self.helps(&key, profile, &event) {
                    self.requeue(&key, CHANGED, now);
                }
            }
        }
    }

    /// A pod that no longer waits: bound, or gone.
    pub fn remove(&mut self, key: &Key) {
        self.unplace(key);
        self.entries.remove(key);
    }

    /// A pod that waits or is in flight.
    pub fn pod(&self, key: &Key) -> Option<&Arc<PodInfo>> {
        self.entries.get(key).map(|e| &e.pod)
    }

    /// The next pod to schedule. It stays known until [`remove`](Self::remove) or [`failed`](Self::failed).
    pub fn pop(&mut self, profile: &Profile, now: Instant) -> Option<Arc<PodInfo>> {
        self.wake(profile, now);
        let free = |k: &&Key| self.entries.get(*k).is_some_and(|e| !e.explaining);
        // with nothing better to do, who waits only because no node would do may try at once
        let patient = |k: &&Key| free(k) && self.entries.get(*k).is_some_and(|e| e.errors_in_a_row == 0);
        let key = self.active.values().find(free).or_else(|| self.backoff.values().find(patient))?.clone();
        self.unplace(&key);
        let entry = self.entries.get_mut(&key)?;
        entry.refused_by.clear();
        entry.place = Place::InFlight;
        Some(entry.pod.clone())
    }

    /// A pod that was popped could not be placed.
    pub fn failed(&mut self, key: &Key, uid: &str, failure: Failure, now: Instant) {
        let ticket = self.ticket();
        let Some(entry) =
            self.entries.get_mut(key).filter(|e| e.pod.uid == uid && e.place == Place::InFlight)
        else {
            return;
        };
        entry.attempts += 1;
        entry.failed_at = Some(now);
        match failure {
            Failure::Unschedulable(refused_by) => {
                entry.refusals += 1;
                entry.errors_in_a_row = 0;
                entry.explaining = true;
                entry.refused_by = refused_by;
                entry.place = Place::Unschedulable(now, ticket);
                self.unschedulable.insert((now, ticket), key.clone());
                self.count("unschedulable", FAILED);
            }
            Failure::Error => {
                entry.errors_in_a_row += 1;
                entry.refused_by.clear();
                self.requeue(key, FAILED, now);
            }
        }
    }

    /// The API server has been told why the pod was refused; until then it is not tried again.
    pub fn explained(&mut self, key: &Key, uid: &str) {
        if let Some(entry) = self.entries.get_mut(key).filter(|e| e.pod.uid == uid) {
            entry.explaining = false;
        }
    }

    /// Lets the pods try again that this event could help.
    pub fn on_event(&mut self, profile: &Profile, event: &Event<'_>, now: Instant) {
        let helped: Vec<Key> =
            self.unschedulable.values().filter(|k| self.helps(k, profile, event)).cloned().collect();
        for key in helped {
            self.requeue(&key, event.label(), now);
        }
    }

    fn helps(&self, key: &Key, profile: &Profile, event: &Event<'_>) -> bool {
        let Some(entry) = self.entries.get(key) else { return false };
        if entry.refused_by.is_empty() {
            return matches!(event, Event::NodeAdded(_));
        }
        entry
            .refused_by
            .iter()
            .filter_map(|name| profile.plugin(name))
            .any(|plugin| plugin.wakes() & event.bit() != 0 && plugin.could_help(&entry.pod, event))
    }

    /// Moves pods whose time has come. [`pop`](Self::pop) does it too.
    pub fn wake(&mut self, _profile: &Profile, now: Instant) {
        while let Some(((due, _), key)) = self.backoff.first_key_value()
            && *due <= now
        {
            let key = key.clone();
            self.activate(&key, BACKOFF_COMPLETE);
        }
        while let Some(((since, _), key)) = self.unschedulable.first_key_value()
            && *since + MAX_UNSCHEDULABLE <= now
        {
            let key = key.clone();
            self.requeue(&key, TIMEOUT, now);
        }
    }

    /// When [`wake`](Self::wake) will have something to do.
    pub fn next_wake(&self) -> Option<Instant> {
        let backoff = self.backoff.keys().next().map(|(due, _)| *due);
        let leftover = self.unschedulable.keys().next().map(|(since, _)| *since + MAX_UNSCHEDULABLE);
        [backoff, leftover].into_iter().flatten().min()
    }

    /// Pods by where they wait.
    pub fn counts(&self) -> Counts {
        let gated = self.entries.values().filter(|e| e.place == Place::Gated).count();
        Counts {
            active: self.active.len(),
            backoff: self.backoff.len(),
            unschedulable: self.unschedulable.len(),
            gated,
        }
    }

    /// How often each plugin refused a pod that waits.
    pub fn refusals(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for plugin in self.entries.values().flat_map(|e| &e.refused_by) {
            *counts.entry(*plugin).or_default() += 1;
        }
        counts
    }

    /// Where pods came since this was last asked.
    pub fn take_incoming(&mut self) -> Incoming {
        std::mem::take(&mut self.incoming)
    }

    /// How often the pod was tried, this time included, and how long it has waited.
    pub fn waited(&self, key: &Key, uid: &str, now: Instant) -> Option<(u32, Duration)> {
        let entry = self.entries.get(key).filter(|e| e.pod.uid == uid)?;
        Some((entry.attempts + 1, now.saturating_duration_since(entry.added)))
    }

    fn count(&mut self, queue: &'static str, event: &'static str) {
        *self.incoming.entry((queue, event)).or_default() += 1;
    }

    /// Into the active pods, or to wait out what is left of the backoff.
    fn requeue(&mut self, key: &Key, event: &'static str, now: Instant) {
        let ticket = self.ticket();
        let Some(entry) = self.entries.get(key) else { return };
        let due = entry.backoff_ends().filter(|due| *due > now);
        let Some(due) = due else { return self.activate(key, event) };
        self.unplace(key);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.place = Place::Backoff(due, ticket);
            self.backoff.insert((due, ticket), key.clone());
            self.count("backoff", event);
        }
    }

    fn activate(&mut self, key: &Key, event: &'static str) {
        self.count("active", event);
        self.place_active(key);
    }

    fn place_active(&mut self, key: &Key) {
        self.unplace(key);
        let ticket = self.ticket();
        if let Some(entry) = self.entries.get_mut(key) {
            let rank = (Reverse(entry.pod.priority), entry.added, ticket);
            entry.place = Place::Active(rank);
            self.active.insert(rank, key.clone());
        }
    }

    fn unplace(&mut self, key: &Key) {
        match self.entries.get(key).map(|e| &e.place) {
            Some(Place::Active(rank)) => drop(self.active.remove(rank)),
            Some(Place::Backoff(due, ticket)) => drop(self.backoff.remove(&(*due, *ticket))),
            Some(Place::Unschedulable(since, ticket)) => drop(self.unschedulable.remove(&(*since, *ticket))),
            Some(Place::Gated | Place::InFlight) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::default_profile;
    use crate::testing::{node, pod, pod_with};
    use serde_json::json;

    fn name(pod: Option<Arc<PodInfo>>) -> Option<String> {
        pod.map(|p| p.key.name.to_string())
    }

    fn refused(by: &'static str) -> Failure {
        Failure::Unschedulable(BTreeSet::from([by]))
    }

    #[test]
    fn importance_then_age() {
        let (profile, t) = (default_profile(), Instant::now());
        let mut q = Queue::new();
        q.put(pod("old", json!({})), &profile, t);
        q.put(pod("new", json!({})), &profile, t + Duration::from_secs(1));
        q.put(pod("high", json!({"priority": 5})), &profile, t + Duration::from_secs(2));
        let order: Vec<_> = std::iter::from_fn(|| name(q.pop(&profile, t))).collect();
        assert_eq!(order, ["high", "old", "new"]);
    }

    #[test]
    fn gates_hold_a_pod_until_they_open() {
        let (profile, t) = (default_profile(), Instant::now());
        let mut q = Queue::new();
        q.put(pod("p", json!({"schedulingGates": [{"name": "a"}]})), &profile, t);
        assert_eq!((name(q.pop(&profile, t)), q.counts().gated), (None, 1));
        q.put(pod("p", json!({})), &profile, t);
        assert_eq!(name(q.pop(&profile, t)).as_deref(), Some("p"));
    }

    #[test]
    fn only_events_that_could_help_wake_a_pod() {
        let (profile, t) = (default_profile(), Instant::now());
        let mut q = Queue::new();
        let p = pod("p", json!({"nodeSelector": {"disk": "ssd"}}));
        q.put(p.clone(), &profile, t);
        let fail = |q: &mut Queue| {
            let p = q.pop(&profile, t).unwrap();
            q.failed(&p.key, &p.uid, refused("NodeAffinity"), t);
        };
        fail(&mut q);
        q.on_event(&profile, &Event::PodGone(&pod("x", json!({}))), t);
        q.on_event(&profile, &Event::NodeAdded(&node("a", json!({}))), t);
        assert_eq!((name(q.pop(&profile, t)), q.counts().unschedulable), (None, 1));
        let ssd = node("b", json!({"metadata": {"labels": {"disk": "ssd"}}}));
        q.on_event(&profile, &Event::NodeAdded(&ssd), t);
        assert_eq!(q.counts().backoff, 1);
        assert_eq!(name(q.pop(&profile, t)), None);
        q.explained(&p.key, &p.uid);
        assert_eq!(name(q.pop(&profile, t)).as_deref(), Some("p"));
    }

    #[test]
    fn errors_wait_longer_each_time() {
        let (profile, mut t) = (default_profile(), Instant::now());
        let mut q = Queue::new();
        q.put(pod("p", json!({})), &profile, t);
        for seconds in [1, 2, 4, 8, 10, 10] {
            let p = q.pop(&profile, t).unwrap();
            q.failed(&p.key, &p.uid, Failure::Error, t);
            assert_eq!(name(q.pop(&profile, t + Duration::from_millis(seconds * 1000 - 1))), None);
            t += Duration::from_secs(seconds);
            assert_eq!(q.next_wake(), Some(t));
        }
    }

    #[test]
    fn errors_and_refusals_are_counted_apart() {
        let (profile, mut t) = (default_profile(), Instant::now());
        let mut q = Queue::new();
        q.put(pod("p", json!({})), &profile, t);
        let mut fail = |failure: Failure, seconds: u64| {
            let p = q.pop(&profile, t).unwrap();
            q.failed(&p.key, &p.uid, failure, t);
            q.explained(&p.key, &p.uid);
            q.on_event(&profile, &Event::NodeAdded(&node("a", json!({}))), t);
            assert_eq!(q.next_wake(), Some(t + Duration::from_secs(seconds)));
            t += Duration::from_secs(seconds);
        };
        fail(refused("NodePorts"), 1);
        fail(refused("NodePorts"), 2);
        fail(Failure::Error, 1);
        fail(Failure::Error, 2);
        fail(refused("NodePorts"), 4);
    }

    #[test]
    fn nothing_waits_for_ever() {
        let (profile, t) = (default_profile(), Instant::now());
        let mut q = Queue::new();
        q.put(pod("p", json!({})), &profile, t);
        let p = q.pop(&profile, t).unwrap();
        q.failed(&p.key, &p.uid, refused("NodeName"), t);
        q.explained(&p.key, &p.uid);
        assert_eq!(q.next_wake(), Some(t + MAX_UNSCHEDULABLE));
        assert_eq!(name(q.pop(&profile, t + MAX_UNSCHEDULABLE)).as_deref(), Some("p"));
    }

    #[test]
    fn a_pod_of_the_same_name_is_another_pod() {
        let (profile, t) = (default_profile(), Instant::now());
        let mut q = Queue::new();
        q.put(pod("p", json!({})), &profile, t);
        let first = q.pop(&profile, t).unwrap();
        q.put(pod_with("p", json!({"metadata": {"uid": "other"}})), &profile, t);
        q.failed(&first.key, &first.uid, Failure::Error, t);
        assert_eq!(q.pop(&profile, t).unwrap().uid, "other");
    }
}
