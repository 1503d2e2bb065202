//! How many replicas each replica set should have.

use super::revision::{DESIRED, MAX, set_sizes};
use super::{Rollout, Set, age};
use crate::children::scaled;
use std::cmp::Reverse;

impl Rollout<'_> {
    /// Surge and unavailability together: they may not both be zero, or nothing could move.
    fn fenceposts(&self) -> (i32, i32) {
        let rolling = self.spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let wanted = self.replicas();
        let surge = scaled(rolling.and_then(|r| r.max_surge.as_ref()), wanted, true);
        let unavailable = scaled(rolling.and_then(|r| r.max_unavailable.as_ref()), wanted, false);
        if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
    }

    pub(super) fn max_surge(&self) -> i32 {
        if self.is_rolling() { self.fenceposts().0 } else { 0 }
    }

    pub(super) fn max_unavailable(&self) -> i32 {
        if !self.is_rolling() || self.replicas() == 0 {
            return 0;
        }
        self.fenceposts().1.min(self.replicas())
    }

    /// Replicas the current replica set, having so many, may have in a rolling update.
    pub(super) fn new_count(&self, have: i32) -> i32 {
        let wanted = self.replicas();
        let room = wanted + self.max_surge() - self.all().map(Set::replicas).sum::<i32>();
        if room <= 0 { have } else { have + room.min(wanted - have) }
    }

    /// Whether it was scaled since the replica sets were: the sizes they remember differ.
    pub(super) fn is_scaling(&self) -> bool {
        let wanted = self.replicas();
        let desired = |s: &Set| s.annotation(DESIRED).and_then(|v| v.parse::<i32>().ok()).filter(|n| *n >= 0);
        self.all().filter(|s| s.replicas() > 0).any(|s| desired(s).is_some_and(|d| d != wanted))
    }

    /// `force`: remember the sizes even where the count stays.
    fn scale(&mut self, which: Which, count: i32, force: bool) -> bool {
        let (desired, max) = (self.replicas(), self.replicas() + self.max_surge());
        let set = match which {
            Which::New => self.new.as_mut(),
            Which::Old(i) => self.old.get_mut(i),
        };
        let Some(set) = set else { return false };
        let resize = set.replicas() != count;
        if !resize && !force {
            return false;
        }
        set.changed |= set_sizes(&mut set.object.metadata, desired, max) || resize;
        if let Some(spec) = &mut set.object.spec {
            spec.replicas = Some(count);
        }
        resize
    }

    fn set(&self, which: Which) -> Option<&Set> {
        match which {
            Which::New => self.new.as_ref(),
            Which::Old(i) => self.old.get(i),
        }
    }

    fn which(&self) -> Vec<Which> {
        (0..self.old.len()).map(Which::Old).chain(self.new.iter().map(|_| Which::New)).collect()
    }

    fn active(&self) -> Vec<Which> {
        self.which().into_iter().filter(|w| self.set(*w).is_some_and(|s| s.replicas() > 0)).collect()
    }

    pub(super) fn scale_new_fully(&mut self) {
        self.scale(Which::New, self.replicas(), false);
    }

    /// Grows the current replica set as far as the surge allows.
    pub(super) fn grow_new(&mut self) -> bool {
        let Some(have) = self.new.as_ref().map(Set::replicas) else { return false };
        let wanted = self.replicas();
        if have == wanted {
            return false;
        }
        let count = if have > wanted { wanted } else { self.new_count(have) };
        self.scale(Which::New, count, false)
    }

    /// Stops every old replica set, before a new one may start.
    pub(super) fn stop_old(&mut self) -> bool {
        let mut stopped = false;
        for i in 0..self.old.len() {
            stopped |= self.scale(Which::Old(i), 0, false);
        }
        stopped
    }

    /// Shrinks the old replica sets as far as availability allows: first what is not available anyway.
    pub(super) fn shrink_old(&mut self) -> bool {
        let old: i32 = self.old.iter().map(Set::replicas).sum();
        if old == 0 {
            return false;
        }
        let all = old + self.new.as_ref().map_or(0, Set::replicas);
        let min_available = self.replicas() - self.max_unavailable();
        let new_unavailable = self.new.as_ref().map_or(0, |s| s.replicas() - s.available());
        let limit = all - min_available - new_unavailable;
        if limit <= 0 {
            return false;
        }
        if self.old.iter().any(|s| s.available() > s.replicas()) {
            // It has not caught up with the last time it was shrunk: what it counts is no ground for going on.
            return false;
        }
        let mut cleaned = 0;
        for i in 0..self.old.len() {
            let (have, available) = (self.old[i].replicas(), self.old[i].available());
            if cleaned >= limit || have == 0 || have == available {
                continue;
            }
            let n = (limit - cleaned).min(have - available).max(0);
            self.scale(Which::Old(i), have - n, false);
            cleaned += n;
        }
        let available: i32 = self.all().map(Set::available).sum();
        let spare = available - min_available;
        let mut stopped = 0;
        for i in 0..self.old.len() {
            let have = self.old[i].replicas();
            if stopped >= spare || have == 0 {
                continue;
            }
            let n = have.min(spare - stopped);
            self.scale(Which::Old(i), have - n, false);
            stopped += n;
        }
        cleaned + stopped > 0
    }

    /// After a change of `spec.replicas`, or while paused: the one active replica set takes the whole change; several
    /// share it in proportion to their sizes, so that a rollout is neither hurried nor undone by it.
    pub(super) fn scale_all(&mut self) {
        let wanted = self.replicas();
        let active = self.active();
        if active.len() <= 1 {
            let newest = if self.new.is_some() {
                Some(Which::New)
            } else {
                self.old.len().checked_sub(1).map(Which::Old)
            };
            if let Some(w) = active.first().copied().or(newest) {
                self.scale(w, wanted, false);
            }
            return;
        }
        if self.is_saturated() {
            self.stop_old();
            return;
        }
        if !self.is_rolling() {
            return;
        }
        let size = |w: &Which| self.set(*w).map_or(0, Set::replicas);
        let allowed = if wanted > 0 { wanted + self.max_surge() } else { 0 };
        let to_add = allowed - active.iter().map(size).sum::<i32>();
        let mut order = active;
        let born = |w: &Which| self.set(*w).map(|s| age(&s.object));
        if to_add > 0 {
            order.sort_by_key(|w| (Reverse(size(w)), Reverse(born(w))));
        } else {
            order.sort_by_key(|w| (Reverse(size(w)), born(w)));
        }
        let mut added = 0;
        let mut counts = Vec::new();
        for w in order {
            let share = if to_add == 0 { 0 } else { self.share(w, to_add, added) };
            added += share;
            counts.push((w, size(&w) + share));
        }
        for (i, (w, count)) in counts.into_iter().enumerate() {
            // What rounding left over goes to the largest.
            let rest = if i == 0 { to_add - added } else { 0 };
            self.scale(w, (count + rest).max(0), true);
        }
    }

    /// The part of a change that falls to one replica set; negative when shrinking.
    fn share(&self, w: Which, to_add: i32, added: i32) -> i32 {
        let Some(set) = self.set(w).filter(|s| s.replicas() != 0 && to_add != added) else { return 0 };
        let fraction = self.fraction(set);
        let allowed = to_add - added;
        if to_add > 0 { fraction.min(allowed) } else { fraction.max(allowed) }
    }

    fn fraction(&self, set: &Set) -> i32 {
        let wanted = self.replicas();
        if wanted == 0 {
            return -set.replicas();
        }
        let remembered = set.annotation(MAX).and_then(|v| v.parse::<i32>().ok()).filter(|n| *n > 0);
        let before = remembered.unwrap_or_else(|| self.status.replicas.unwrap_or(0));
        if before == 0 {
            return 0;
        }
        let target = f64::from(set.replicas()) * f64::from(wanted + self.max_surge()) / f64::from(before);
        target.round() as i32 - set.replicas()
    }

    /// The current replica set has all replicas, knows that it should, and all are available.
    fn is_saturated(&self) -> bool {
        let wanted = self.replicas();
        self.new.as_ref().is_some_and(|s| {
            s.replicas() == wanted
                && s.annotation(DESIRED).and_then(|v| v.parse::<i32>().ok()) == Some(wanted)
                && s.available() == wanted
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    New,
    Old(usize),
}
