//! What follows from observations over time: which conditions the node has, and what must be reclaimed. Pure.

use std::collections::{BTreeMap, BTreeSet};

use meta::Time;

use super::threshold::{Condition, Observations, Threshold};

/// What is remembered between two looks.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Thresholds that are met, and since when.
    first_met: Vec<(Threshold, Time)>,
    last_pressed: BTreeMap<Condition, Time>,
    /// Thresholds met for as long as they ask, and not yet resolved.
    pub met: Vec<Threshold>,
    /// What the node is short of, or was until a short while ago.
    pub conditions: BTreeSet<Condition>,
}

/// The thresholds that are met, whatever their grace periods. `with_min_reclaim`: a little more must be free.
pub fn met(thresholds: &[Threshold], observations: &Observations, with_min_reclaim: bool) -> Vec<Threshold> {
    let is_met = |t: &&Threshold| {
        let Some(seen) = observations.get(&t.signal) else { return false };
        let reclaim = t.min_reclaim.filter(|_| with_min_reclaim).map_or(0, |r| r.of(seen.capacity));
        seen.available < t.value.of(seen.capacity).saturating_add(reclaim)
    };
    thresholds.iter().filter(is_met).copied().collect()
}

/// The state after a look at `now`. A condition stays for `transition_seconds` after it was last seen, so that it
/// does not swing.
pub fn next(
    last: &State,
    thresholds: &[Threshold],
    observations: &Observations,
    transition_seconds: i64,
    now: Time,
) -> State {
    let mut all = met(thresholds, observations, false);
    for t in met(&last.met, observations, true) {
        if !all.contains(&t) {
            all.push(t);
        }
    }
    let since =
        |t: &Threshold| last.first_met.iter().find(|(known, _)| known == t).map_or(now, |(_, at)| *at);
    let first_met: Vec<_> = all.iter().map(|t| (*t, since(t))).collect();
    let seconds = |since: Time| now.as_second() - since.as_second();
    let mut last_pressed = last.last_pressed.clone();
    last_pressed.extend(all.iter().map(|t| (t.signal.condition(), now)));
    let pressed = |at: Time| at == now || seconds(at) < transition_seconds;
    let conditions = last_pressed.iter().filter(|(_, at)| pressed(**at)).map(|(c, _)| *c).collect();
    let met = first_met.iter().filter(|(t, at)| seconds(*at) >= t.grace_seconds).map(|(t, _)| *t).collect();
    State { first_met, last_pressed, met, conditions }
}

impl State {
    /// What to reclaim first: memory before everything else.
    pub fn to_reclaim(&self) -> Option<Threshold> {
        let memory = self.met.iter().find(|t| t.signal.condition() == Condition::Memory);
        memory.or(self.met.first()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::threshold::{Amount, Observation, Signal};

    fn at(second: u32) -> Time {
        format!("2026-06-01T00:00:{second:02}Z").parse().unwrap()
    }

    #[test]
    fn pressure_begins_after_its_grace_and_ends_after_the_transition_period() {
        let soft = Threshold {
            signal: Signal::MemoryAvailable,
            value: Amount::Absolute(100),
            grace_seconds: 10,
            min_reclaim: Some(Amount::Absolute(50)),
        };
        let mut state = State::default();
        let mut check = |second, available, conditions: &[Condition], evicts: bool| {
            let seen = [(Signal::MemoryAvailable, Observation { available, capacity: 1000 })].into();
            state = next(&state, &[soft], &seen, 30, at(second));
            assert_eq!(state.conditions, conditions.iter().copied().collect(), "at {second}");
            assert_eq!(state.to_reclaim().is_some(), evicts, "at {second}");
        };
        check(0, 100, &[], false);
        check(1, 99, &[Condition::Memory], false);
        check(11, 99, &[Condition::Memory], true);
        // more is free than the threshold, but not as much more as asked for
        check(12, 120, &[Condition::Memory], true);
        check(13, 150, &[Condition::Memory], false);
        check(41, 150, &[Condition::Memory], false);
        check(42, 150, &[], false);
    }
}
