//! The recent events of a resource, for watches that begin in the past.

use super::entry::{Entry, EventType};
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use store::Revision;

/// Events kept at most, per resource.
pub const RING_MAX_EVENTS: usize = 100 * 1024;
/// Bytes of objects that the events of a resource keep at most.
pub const RING_MAX_BYTES: usize = 16 * 1024 * 1024;
/// Events kept however old they are.
pub const RING_MIN_EVENTS: usize = 100;
/// Above the minimum, events go at this age (upstream's event fresh duration).
pub const RING_FRESH: Duration = Duration::from_secs(75);

/// A committed write of one object.
pub struct Event {
    pub revision: Revision,
    /// The new object; for a delete the last one, at the revision of the delete.
    pub entry: Arc<Entry>,
    /// What it replaced.
    pub previous: Option<Arc<Entry>>,
    /// The previous object at this event's revision: what a watcher whose selection it left is told.
    left: OnceLock<Option<Arc<Entry>>>,
    at: Instant,
}

impl Event {
    pub fn new(entry: Arc<Entry>, previous: Option<Arc<Entry>>) -> Self {
        Self { revision: entry.revision, entry, previous, left: OnceLock::new(), at: Instant::now() }
    }

    pub fn is_delete(&self) -> bool {
        self.entry.made_by == EventType::Deleted
    }

    /// The object that a DELETED event shows.
    pub fn last_selected(&self) -> Option<Arc<Entry>> {
        if self.is_delete() {
            return Some(self.entry.clone());
        }
        let make = || self.previous.as_ref()?.at(self.revision, EventType::Deleted).ok().map(Arc::new);
        self.left.get_or_init(make).clone()
    }

    fn held_bytes(&self) -> usize {
        self.entry.held_bytes() + self.previous.as_ref().map_or(0, |p| p.held_bytes())
    }
}

pub struct Ring {
    events: VecDeque<Arc<Event>>,
    held_bytes: usize,
    /// A watch may begin after this revision or a later one.
    floor: Revision,
}

impl Ring {
    pub fn new(floor: Revision) -> Self {
        Self { events: VecDeque::new(), held_bytes: 0, floor }
    }

    pub fn push(&mut self, event: Arc<Event>) {
        let now = event.at;
        self.held_bytes += event.held_bytes();
        self.events.push_back(event);
        while let Some(first) = self.events.front() {
            let full = self.events.len() > RING_MAX_EVENTS || self.held_bytes > RING_MAX_BYTES;
            let stale = self.events.len() > RING_MIN_EVENTS && now.duration_since(first.at) > RING_FRESH;
            if !(full || stale) || self.events.len() == 1 {
                break;
            }
            self.held_bytes -= first.held_bytes();
            self.floor = first.revision;
            self.events.pop_front();
        }
    }

    pub fn floor(&self) -> Revision {
        self.floor
    }

    /// Events after `revision`, oldest first; None where some of them are no longer kept.
    pub fn since(&self, revision: Revision) -> Option<impl Iterator<Item = &Arc<Event>>> {
        if revision < self.floor {
            return None;
        }
        let from = self.events.partition_point(|e| e.revision <= revision);
        Some(self.events.range(from..))
    }
}
