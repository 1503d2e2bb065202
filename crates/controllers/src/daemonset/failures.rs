//! How long a node's failed daemons are left alone before they are replaced.

use client::Key;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::jiff::SignedDuration;
use meta::Time;
use parking_lot::Mutex;
use std::collections::HashMap;

const FIRST_DELAY: SignedDuration = SignedDuration::from_secs(1);
const MAX_DELAY: SignedDuration = SignedDuration::from_mins(15);
/// After so long without a failure a node's past is forgotten.
const FORGIVEN: SignedDuration = SignedDuration::from_mins(30);

#[derive(Default)]
pub(super) struct Failures(Mutex<HashMap<Key, OfSet>>);

/// A new template deserves a new chance.
struct OfSet {
    uid: Option<String>,
    generation: Option<i64>,
    nodes: HashMap<String, Delay>,
}

#[derive(Clone, Copy)]
struct Delay {
    since: Time,
    delay: SignedDuration,
}

impl Failures {
    pub fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }

    /// Whether a failed daemon may be replaced now, which counts it; otherwise when.
    pub fn may_replace(&self, key: &Key, set: &DaemonSet, node: &str, now: Time) -> Result<(), Time> {
        let uid = set.metadata.uid.clone();
        let generation = set.status.as_ref().and_then(|s| s.observed_generation);
        let mut all = self.0.lock();
        let fresh = || OfSet { uid: uid.clone(), generation, nodes: HashMap::new() };
        let of_set = all.entry(key.clone()).or_insert_with(fresh);
        if of_set.uid != uid || of_set.generation != generation {
            *of_set = fresh();
        }
        of_set.nodes.retain(|_, d| now.duration_since(d.since) <= FORGIVEN);
        let delay = match of_set.nodes.get(node) {
            None => FIRST_DELAY,
            Some(d) if now < d.since + d.delay => return Err(d.since + d.delay),
            Some(d) => (d.delay * 2).min(MAX_DELAY),
        };
        of_set.nodes.insert(node.into(), Delay { since: now, delay });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_and_a_new_generation_starts_anew() {
        let failures = Failures::default();
        let key = Key::new("ns", "a");
        let mut set = DaemonSet::default();
        let mut now: Time = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut waits = Vec::new();
        for _ in 0..12 {
            failures.may_replace(&key, &set, "n", now).unwrap();
            let until = failures.may_replace(&key, &set, "n", now).unwrap_err();
            waits.push(until.duration_since(now).as_secs());
            now = until;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]);
        failures.may_replace(&key, &set, "n", now).unwrap();
        assert!(failures.may_replace(&key, &set, "other", now).is_ok());
        assert!(failures.may_replace(&key, &set, "n", now).is_err());
        set.status.get_or_insert_default().observed_generation = Some(2);
        assert!(failures.may_replace(&key, &set, "n", now).is_ok());
    }
}
