//! Exponential back-off as values: who waits how long is data that a plan takes and gives.

use std::collections::BTreeMap;

use meta::Time;

/// Bounds of a back-off, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub initial_seconds: i64,
    pub max_seconds: i64,
}

/// Restarts of a container.
pub const CONTAINER_BACKOFF: Limits = Limits { initial_seconds: 10, max_seconds: 300 };
/// Pulls of an image.
pub const IMAGE_BACKOFF: Limits = Limits { initial_seconds: 10, max_seconds: 300 };

/// One key's delay and when it was last raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffEntry {
    pub delay_seconds: i64,
    pub updated: Time,
}

/// Delays by key (a container's or an image's name).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff(BTreeMap<String, BackoffEntry>);

impl Backoff {
    /// Until when `key` waits, if it must wait at `now` after the event at `since` (upstream's
    /// `IsInBackOffSince`). A delay not raised for twice the longest delay is forgotten.
    pub fn until(&self, key: &str, since: Time, now: Time, limits: Limits) -> Option<Time> {
        let entry = self.0.get(key)?;
        if expired(entry, since, limits) {
            return None;
        }
        let until = add(since, entry.delay_seconds);
        (now < until).then_some(until)
    }

    /// The present delay of `key`, in seconds.
    pub fn delay_seconds(&self, key: &str) -> i64 {
        self.0.get(key).map_or(0, |e| e.delay_seconds)
    }

    /// Doubles the delay of `key`, or starts it (upstream's `Next`).
    pub fn raise(&mut self, key: &str, since: Time, now: Time, limits: Limits) {
        let delay_seconds = match self.0.get(key) {
            Some(entry) if !expired(entry, since, limits) => {
                (entry.delay_seconds * 2).min(limits.max_seconds)
            }
            _ => limits.initial_seconds,
        };
        self.0.insert(key.to_owned(), BackoffEntry { delay_seconds, updated: now });
    }

    /// Forgets `key`.
    pub fn clear(&mut self, key: &str) {
        self.0.remove(key);
    }
}

fn expired(entry: &BackoffEntry, since: Time, limits: Limits) -> bool {
    since.as_second() - entry.updated.as_second() > limits.max_seconds * 2
}

/// A time some seconds later; stays put at the end of the calendar.
pub(crate) fn add(time: Time, seconds: i64) -> Time {
    time.checked_add(k8s_openapi::jiff::SignedDuration::from_secs(seconds)).unwrap_or(time)
}

/// Whole seconds in Go's form of a duration: `40s`, `1m20s`, `5m0s`.
pub(crate) fn go_seconds(seconds: i64) -> String {
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (h, m) {
        (0, 0) => format!("{s}s"),
        (0, m) => format!("{m}m{s}s"),
        (h, m) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_five_minutes_and_are_forgotten_after_ten() {
        let mut backoff = Backoff::default();
        let mut now: Time = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(backoff.until("c", now, now, CONTAINER_BACKOFF), None);
        let mut delays = Vec::new();
        for _ in 0..7 {
            backoff.raise("c", now, now, CONTAINER_BACKOFF);
            delays.push(go_seconds(backoff.delay_seconds("c")));
            let until = backoff.until("c", now, now, CONTAINER_BACKOFF).unwrap();
            assert_eq!(backoff.until("c", now, until, CONTAINER_BACKOFF), None);
            now = until;
        }
        assert_eq!(delays, ["10s", "20s", "40s", "1m20s", "2m40s", "5m0s", "5m0s"]);
        // it ran for more than ten minutes before it ended
        let later = add(now, 601);
        assert_eq!(backoff.until("c", later, later, CONTAINER_BACKOFF), None);
        backoff.raise("c", later, later, CONTAINER_BACKOFF);
        assert_eq!(backoff.delay_seconds("c"), 10);
    }
}
