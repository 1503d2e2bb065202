//! What becomes of a new event: dropped as spam, folded into an aggregate, counted on an event that exists, or
//! created. The rules and bounds are those of client-go's EventCorrelator.

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time as MetaTime;
use meta::Time;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

/// Entries of each of the three caches.
const CACHE_ENTRIES: usize = 4096;
/// Events that differ only in their message become one from this count on ...
const AGGREGATE_AFTER: usize = 10;
/// ... unless the last was longer ago than this.
const AGGREGATE_SECONDS: i64 = 600;
/// Events of one source about one object before they are limited ...
const SPAM_BURST: f64 = 25.0;
/// ... to one in this many seconds.
const SPAM_SECONDS: f64 = 300.0;
/// Before the message of an aggregate.
const COMBINED: &str = "(combined from similar events): ";

/// What to write.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Create(Event),
    /// Count it on the event of this name: the event carries the new count, message and time.
    Count(Event),
    Drop,
}

pub struct Correlator {
    spam: Lru<String, Bucket>,
    aggregates: Lru<String, Aggregate>,
    seen: Lru<String, Seen>,
}

struct Bucket {
    tokens: f64,
    at: Time,
}

struct Aggregate {
    messages: BTreeSet<String>,
    last: Time,
}

#[derive(Clone)]
struct Seen {
    name: String,
    count: i32,
    first: Option<MetaTime>,
}

impl Default for Correlator {
    fn default() -> Self {
        Self { spam: Lru::new(), aggregates: Lru::new(), seen: Lru::new() }
    }
}

fn common(e: &Event) -> Vec<&str> {
    let (s, o) = (e.source.as_ref(), &e.involved_object);
    vec![
        s.and_then(|s| s.component.as_deref()).unwrap_or(""),
        s.and_then(|s| s.host.as_deref()).unwrap_or(""),
        o.kind.as_deref().unwrap_or(""),
        o.namespace.as_deref().unwrap_or(""),
        o.name.as_deref().unwrap_or(""),
        o.uid.as_deref().unwrap_or(""),
        o.api_version.as_deref().unwrap_or(""),
        e.type_.as_deref().unwrap_or(""),
    ]
}

fn spam_key(e: &Event) -> String {
    common(e).join("\0")
}

fn aggregate_key(e: &Event) -> String {
    let mut k = common(e);
    k.push(e.reason.as_deref().unwrap_or(""));
    k.push(e.reporting_component.as_deref().unwrap_or(""));
    k.push(e.reporting_instance.as_deref().unwrap_or(""));
    k.join("\0")
}

fn event_key(e: &Event) -> String {
    let mut k = common(e);
    k.push(e.involved_object.field_path.as_deref().unwrap_or(""));
    k.push(e.reason.as_deref().unwrap_or(""));
    k.push(e.message.as_deref().unwrap_or(""));
    k.join("\0")
}

impl Correlator {
    /// `event` is complete, with a fresh name and a count of 1.
    pub fn correlate(&mut self, event: Event, now: Time) -> Verdict {
        let (mut event, key) = self.aggregate(event, now);
        let known = self.seen.get(&key).cloned();
        if let Some(seen) = &known {
            event.metadata.name = Some(seen.name.clone());
            event.first_timestamp = seen.first.clone();
            event.count = Some(seen.count + 1);
        }
        let state = Seen {
            name: event.metadata.name.clone().unwrap_or_default(),
            count: event.count.unwrap_or(1),
            first: event.first_timestamp.clone(),
        };
        self.seen.put(key, state);
        if !self.admit(&event, now) {
            return Verdict::Drop;
        }
        if known.is_some() { Verdict::Count(event) } else { Verdict::Create(event) }
    }

    fn aggregate(&mut self, event: Event, now: Time) -> (Event, String) {
        let key = aggregate_key(&event);
        let message = event.message.clone().unwrap_or_default();
        let fresh = || Aggregate { messages: BTreeSet::new(), last: now };
        let mut record = self.aggregates.take(&key).unwrap_or_else(fresh);
        if now.duration_since(record.last).as_secs() > AGGREGATE_SECONDS {
            record = fresh();
        }
        record.messages.insert(message.clone());
        record.last = now;
        if record.messages.len() < AGGREGATE_AFTER {
            self.aggregates.put(key, record);
            let key = event_key(&event);
            return (event, key);
        }
        // The set need not grow: it only decides whether the bound was reached.
        record.messages.pop_first();
        self.aggregates.put(key.clone(), record);
        let combined = Event { message: Some(format!("{COMBINED}{message}")), ..event };
        (combined, key)
    }

    fn admit(&mut self, event: &Event, now: Time) -> bool {
        let key = spam_key(event);
        let mut bucket = self.spam.take(&key).unwrap_or(Bucket { tokens: SPAM_BURST, at: now });
        let elapsed = now.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + elapsed / SPAM_SECONDS).min(SPAM_BURST);
        bucket.at = now;
        let admitted = bucket.tokens >= 1.0;
        if admitted {
            bucket.tokens -= 1.0;
        }
        self.spam.put(key, bucket);
        admitted
    }
}

/// Keeps the [`CACHE_ENTRIES`] entries used last.
struct Lru<K, V> {
    entries: HashMap<K, (u64, V)>,
    order: BTreeMap<u64, K>,
    tick: u64,
}

impl<K: Clone + Eq + Hash, V> Lru<K, V> {
    fn new() -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), tick: 0 }
    }

    fn take(&mut self, key: &K) -> Option<V> {
        let (tick, value) = self.entries.remove(key)?;
        self.order.remove(&tick);
        Some(value)
    }

    fn get(&mut self, key: &K) -> Option<&V> {
        let value = self.take(key)?;
        self.put(key.clone(), value);
        self.entries.get(key).map(|(_, v)| v)
    }

    fn put(&mut self, key: K, value: V) {
        self.take(&key);
        self.tick += 1;
        self.order.insert(self.tick, key.clone());
        self.entries.insert(key, (self.tick, value));
        if self.entries.len() > CACHE_ENTRIES
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.entries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ObjectReference;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use k8s_openapi::jiff::SignedDuration;

    fn event(n: usize, message: &str) -> Event {
        Event {
            metadata: ObjectMeta { name: Some(format!("pod.{n}")), ..Default::default() },
            involved_object: ObjectReference { name: Some("pod".into()), ..Default::default() },
            reason: Some("Failed".into()),
            message: Some(message.into()),
            count: Some(1),
            ..Default::default()
        }
    }

    fn show(v: Verdict) -> String {
        let text =
            |e: Event| format!("{} x{} {}", e.metadata.name.unwrap(), e.count.unwrap(), e.message.unwrap());
        match v {
            Verdict::Create(e) => format!("create {}", text(e)),
            Verdict::Count(e) => format!("count {}", text(e)),
            Verdict::Drop => "drop".into(),
        }
    }

    #[test]
    fn the_same_event_is_counted() {
        let mut c = Correlator::default();
        let t = Time::UNIX_EPOCH;
        assert_eq!(show(c.correlate(event(1, "m"), t)), "create pod.1 x1 m");
        assert_eq!(show(c.correlate(event(2, "m"), t)), "count pod.1 x2 m");
        assert_eq!(show(c.correlate(event(3, "n"), t)), "create pod.3 x1 n");
    }

    #[test]
    fn many_messages_become_one_event() {
        let mut c = Correlator::default();
        let t = Time::UNIX_EPOCH;
        for n in 1..10 {
            assert_eq!(show(c.correlate(event(n, &format!("m{n}")), t)), format!("create pod.{n} x1 m{n}"));
        }
        assert_eq!(
            show(c.correlate(event(10, "ma"), t)),
            "create pod.10 x1 (combined from similar events): ma"
        );
        assert_eq!(
            show(c.correlate(event(11, "mb"), t)),
            "count pod.10 x2 (combined from similar events): mb"
        );
        let later = t + SignedDuration::from_secs(AGGREGATE_SECONDS + 1);
        assert_eq!(show(c.correlate(event(12, "mc"), later)), "create pod.12 x1 mc");
    }

    #[test]
    fn a_source_that_spams_is_limited() {
        let mut c = Correlator::default();
        let t = Time::UNIX_EPOCH;
        let verdicts: Vec<_> = (0..30).map(|n| c.correlate(event(n, "m"), t)).collect();
        assert_eq!(verdicts.iter().filter(|v| **v != Verdict::Drop).count(), 25);
        let later = t + SignedDuration::from_secs(300);
        assert_eq!(show(c.correlate(event(31, "m"), later)), "count pod.0 x31 m");
        assert_eq!(show(c.correlate(event(32, "m"), later)), "drop");
    }
}
