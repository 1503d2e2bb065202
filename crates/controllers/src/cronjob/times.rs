//! Which time of a schedule is due (upstream's `mostRecentScheduleTime`).

use k8s_openapi::jiff::SignedDuration;
use kinds::batch::schedule::Schedule;
use meta::Time;

/// Times missed beyond which something is wrong with a clock.
const TOO_MANY: i64 = 100;
/// Clocks differ: rather a little late than a moment early, which would be a second start.
const LATER: SignedDuration = SignedDuration::from_millis(100);

/// The last time that has come since a schedule was last followed.
#[derive(Debug, PartialEq)]
pub(super) struct Due {
    pub time: Option<Time>,
    /// So many have come that a clock must be wrong.
    pub many: bool,
}

/// # Errors
/// In upstream's words, where the schedule can be read but is never due.
pub(super) fn due(schedule: &Schedule, since: Time, now: Time) -> Result<Due, String> {
    let never = || "time difference between two schedules is less than 1 second".to_owned();
    let first = schedule.next(since).ok_or_else(never)?;
    if now < first {
        return Ok(Due { time: None, many: false });
    }
    let second = schedule.next(first).ok_or_else(never)?;
    if now < second {
        return Ok(Due { time: Some(first), many: false });
    }
    // As if the times were always so far apart; then from a little before on, one by one.
    let apart = second.duration_since(first).as_secs().max(1);
    let missed = now.duration_since(first).as_secs() / apart + 1;
    let from = first + SignedDuration::from_secs((missed - 2).max(-1) * apart);
    let mut time = None;
    let mut next = schedule.next(from);
    while let Some(t) = next.filter(|t| *t <= now) {
        time = Some(t);
        next = schedule.next(t);
    }
    Ok(Due { time, many: missed > TOO_MANY })
}

/// When to look again.
pub(super) fn next_time(schedule: &Schedule, since: Time, now: Time) -> Option<Time> {
    let from = match due(schedule, since, now) {
        Ok(Due { time: Some(time), .. }) => time,
        // `@every` counts from the last time
        Ok(Due { time: None, many: false }) => since,
        _ => now,
    };
    schedule.next(from).map(|t| t + LATER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_time_that_has_come_is_due() {
        let check = |schedule: &str, since: &str, now: &str, expect: Option<&str>, many: bool, next: &str| {
            let at = |t: &str| -> Time { format!("2026-01-{t}Z").parse().unwrap() };
            let s = Schedule::parse(schedule).unwrap();
            assert_eq!(due(&s, at(since), at(now)), Ok(Due { time: expect.map(at), many }), "{schedule}");
            assert_eq!(next_time(&s, at(since), at(now)), Some(at(next) + LATER), "{schedule}");
        };
        check("0 * * * *", "01T10:00:00", "01T10:59:59", None, false, "01T11:00:00");
        check("0 * * * *", "01T10:00:00", "01T11:00:00", Some("01T11:00:00"), false, "01T12:00:00");
        check("0 * * * *", "01T10:00:00", "01T15:20:00", Some("01T15:00:00"), false, "01T16:00:00");
        check("* * * * *", "01T10:00:00", "01T12:00:30", Some("01T12:00:00"), true, "01T12:01:00");
        check("@every 7m", "01T10:00:00", "01T10:15:00", Some("01T10:14:00"), false, "01T10:21:00");
        // Not at the same distance from one another: from Friday to Monday.
        check("30 6-16/4 * * 1-5", "02T14:31:00", "05T10:31:00", Some("05T10:30:00"), false, "05T14:30:00");
        assert!(due(&Schedule::parse("59 23 31 2 *").unwrap(), Time::UNIX_EPOCH, Time::MAX).is_err());
    }
}
