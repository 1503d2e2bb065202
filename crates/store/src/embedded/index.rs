//! Which revisions each key has: the whole of the store but the values, which stay on disk. Pure.

use crate::contract::{Key, Revision};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub created: Revision,
    pub modified: Revision,
    pub deleted: bool,
}

#[derive(Default)]
pub(super) struct Index {
    /// Oldest version first; a key without versions is not there.
    keys: BTreeMap<Key, Vec<Version>>,
    /// (Unix seconds, key, revision that set it)
    expiries: BTreeSet<(u64, Key, Revision)>,
    pub current: Revision,
    /// History up to and including this is gone.
    pub compacted: Revision,
}

impl Index {
    /// The first write gets revision 2, as in etcd.
    pub fn new() -> Self {
        Self { current: Revision(1), ..Self::default() }
    }

    /// The live version of a key as of `at`.
    pub fn version(&self, key: &str, at: Revision) -> Option<Version> {
        live_at(self.keys.get(key)?, at)
    }

    pub fn newest(&self, key: &str) -> Option<Version> {
        self.version(key, Revision(u64::MAX))
    }

    /// Versions are put in revision order.
    pub fn put(&mut self, key: Key, version: Version, expires: u64) {
        self.current = self.current.max(version.modified);
        if expires != 0 && !version.deleted {
            self.expiries.insert((expires, key.clone(), version.modified));
        }
        self.keys.entry(key).or_default().push(version);
    }

    /// Live versions as of `at` of keys with this prefix after `after`, with how many more there are.
    pub fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Revision,
    ) -> (Vec<(Key, Version)>, usize) {
        let from = match after {
            Some(a) if a >= prefix => Bound::Excluded(a),
            _ => Bound::Included(prefix),
        };
        let mut live = self
            .keys
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(k, _)| k.starts_with(prefix))
            .filter_map(|(k, versions)| Some((k.clone(), live_at(versions, at)?)));
        let items: Vec<_> = live.by_ref().take(if limit == 0 { usize::MAX } else { limit }).collect();
        (items, live.count())
    }

    /// Drops what `revision` and all later states do not need; gives the revisions to remove from the log.
    pub fn compact(&mut self, revision: Revision) -> Vec<Revision> {
        let mut gone = Vec::new();
        self.keys.retain(|_, versions| {
            let newest_kept = versions.iter().rposition(|v| v.modified <= revision);
            if let Some(i) = newest_kept {
                // a tombstone at or below the compacted revision is seen by nobody any more
                let cut = if versions[i].deleted { i + 1 } else { i };
                gone.extend(versions.drain(..cut).map(|v| v.modified));
            }
            !versions.is_empty()
        });
        self.compacted = self.compacted.max(revision);
        gone
    }

    /// Keys whose time has come, and forgets the entries: a later write of the key made them void or the
    /// caller deletes it now.
    pub fn expired(&mut self, now: u64) -> Vec<(Key, Revision)> {
        let mut due = Vec::new();
        while let Some((at, key, revision)) = self.expiries.first().cloned() {
            if at > now {
                break;
            }
            self.expiries.pop_first();
            if self.newest(&key).is_some_and(|v| v.modified == revision) {
                due.push((key, revision));
            }
        }
        due
    }

    /// Unix seconds of the next expiry.
    pub fn next_expiry(&self) -> Option<u64> {
        self.expiries.first().map(|(at, ..)| *at)
    }
}

fn live_at(versions: &[Version], at: Revision) -> Option<Version> {
    versions.iter().rev().find(|v| v.modified <= at).filter(|v| !v.deleted).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(writes: &[(&str, u64, bool)]) -> Index {
        let mut index = Index::new();
        for (key, rev, deleted) in writes {
            let v = Version { created: Revision(*rev), modified: Revision(*rev), deleted: *deleted };
            index.put(Key::from(*key), v, 0);
        }
        index
    }

    fn names(
        index: &Index,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: u64,
    ) -> (Vec<String>, usize) {
        let (items, more) = index.range(prefix, after, limit, Revision(at));
        (items.into_iter().map(|(k, _)| k.to_string()).collect(), more)
    }

    #[test]
    fn a_range_shows_the_state_as_of_its_revision() {
        let i = index(&[("/a/1", 2, false), ("/a/2", 3, false), ("/a/1", 4, true), ("/b/1", 5, false)]);
        assert_eq!(names(&i, "/a/", None, 0, 3), (vec!["/a/1".into(), "/a/2".into()], 0));
        assert_eq!(names(&i, "/a/", None, 0, 4), (vec!["/a/2".into()], 0));
        assert_eq!(names(&i, "/", None, 1, 5), (vec!["/a/2".into()], 1));
        assert_eq!(names(&i, "/", Some("/a/2"), 0, 5), (vec!["/b/1".into()], 0));
    }

    #[test]
    fn compaction_keeps_what_lives_and_drops_what_nobody_can_see() {
        let mut i =
            index(&[("/a", 2, false), ("/a", 3, false), ("/b", 4, false), ("/b", 5, true), ("/a", 6, false)]);
        assert_eq!(i.compact(Revision(5)), vec![Revision(2), Revision(4), Revision(5)]);
        assert_eq!(names(&i, "/", None, 0, 5), (vec!["/a".into()], 0));
        assert_eq!(i.newest("/a").map(|v| v.modified), Some(Revision(6)));
        assert_eq!(i.newest("/b"), None);
    }

    #[test]
    fn a_key_written_again_does_not_expire_by_its_old_time() {
        let mut i = Index::new();
        let v = |r| Version { created: Revision(2), modified: Revision(r), deleted: false };
        i.put(Key::from("/e"), v(2), 10);
        i.put(Key::from("/e"), v(3), 20);
        assert_eq!(i.expired(10), vec![]);
        assert_eq!(i.expired(20), vec![(Key::from("/e"), Revision(3))]);
    }
}
