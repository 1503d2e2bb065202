//! When a CronJob is due: the five fields of cron, `@hourly` and the like, and `@every 1h30m`, as the library that
//! upstream uses reads them (robfig/cron v3, standard parser), down to its words of refusal.
//!
//! Time zones come from the database within the binary: a schedule means the same on every machine.

use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Span, Zoned, civil};
use meta::Time;
use meta::field::quoted;

/// Set where a field is `*` or `?`: then days must match the other field of days too.
const STAR: u64 = 1 << 63;
/// A schedule that is never due in so many years has no next time (the 30th of February).
const MAX_YEARS: i16 = 5;
const NANOS_A_SECOND: i64 = 1_000_000_000;

/// When something is due.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule(Form);

#[derive(Clone, Debug, PartialEq)]
enum Form {
    Fields { minute: u64, hour: u64, day: u64, month: u64, weekday: u64, zone: TimeZone },
    Every(SignedDuration),
}

struct Bounds {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds { min: 0, max: 59, names: &[] };
const HOURS: Bounds = Bounds { min: 0, max: 23, names: &[] };
const DAYS: Bounds = Bounds { min: 1, max: 31, names: &[] };
/// The names count from `min`.
const MONTHS: Bounds = Bounds {
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Bounds = Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

/// The zone of an IANA name, spelled exactly.
///
/// # Errors
/// `unknown time zone <name>`, as Go says it.
pub fn time_zone(name: &str) -> Result<TimeZone, String> {
    if name.is_empty() || name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    let found = TimeZoneDatabase::bundled().get(name).ok();
    found.filter(|z| z.iana_name() == Some(name)).ok_or_else(|| format!("unknown time zone {name}"))
}

impl Schedule {
    /// Reads a schedule. It is in UTC unless it begins with `TZ=<zone> ` or `CRON_TZ=<zone> `.
    ///
    /// # Errors
    /// What is wrong with it, in upstream's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("empty spec string".into());
        }
        let (mut text, mut zone) = (text, TimeZone::UTC);
        if let Some(rest) = text.strip_prefix("CRON_TZ=").or_else(|| text.strip_prefix("TZ=")) {
            let (name, rest) = rest
                .split_once(' ')
                .ok_or("invalid schedule format: runtime error: slice bounds out of range [:-1]")?;
            zone = time_zone(name).map_err(|e| format!("provided bad location {name}: {e}"))?;
            text = rest.trim();
        }
        if text.starts_with('@') {
            return descriptor(text, zone);
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
        };
        Ok(Self(Form::Fields {
            minute: field(minute, &MINUTES)?,
            hour: field(hour, &HOURS)?,
            day: field(day, &DAYS)?,
            month: field(month, &MONTHS)?,
            weekday: field(weekday, &WEEKDAYS)?,
            zone,
        }))
    }

    /// The schedule of a CronJob.
    ///
    /// # Errors
    /// What is wrong with it, in upstream's words.
    pub fn of(schedule: &str, zone: Option<&str>) -> Result<Self, String> {
        match zone {
            Some(zone) if !schedule.contains("TZ") => Self::parse(&format!("TZ={zone} {schedule}")),
            _ => Self::parse(schedule),
        }
    }

    /// The first time after `after`; None where there is none in the next years.
    pub fn next(&self, after: Time) -> Option<Time> {
        let part =
            SignedDuration::from_nanos(i64::from(after.subsec_nanosecond()).rem_euclid(NANOS_A_SECOND));
        match &self.0 {
            Form::Every(delay) => after.checked_add(*delay - part).ok(),
            Form::Fields { zone, .. } => {
                let start = after.checked_add(SignedDuration::from_secs(1) - part).ok()?;
                self.due(start.to_zoned(zone.clone()))
            }
        }
    }

    /// The first time that is due from `t` on: fields are raised until they match, from the months down; where one
    /// wraps around, it begins anew.
    fn due(&self, mut t: Zoned) -> Option<Time> {
        let Form::Fields { minute, hour, day, month, weekday, zone } = &self.0 else { return None };
        let is = |bits: u64, n: i8| u32::try_from(n).is_ok_and(|n| bits & (1 << n) != 0);
        let day_matches = |t: &Zoned| {
            let of_month = is(*day, t.day());
            let of_week = is(*weekday, t.weekday().to_sunday_zero_offset());
            if (day | weekday) & STAR != 0 { of_month && of_week } else { of_month || of_week }
        };
        let midnight = |date: civil::Date| date.to_zoned(zone.clone()).ok();
        let last_year = t.year().saturating_add(MAX_YEARS);
        // Whether what is below the field that is raised is at its beginning already.
        let mut raised = false;
        'wrap: loop {
            if t.year() > last_year {
                return None;
            }
            while !is(*month, t.month()) {
                raised = true;
                t = midnight(t.date().first_of_month().checked_add(Span::new().months(1)).ok()?)?;
                if t.month() == 1 {
                    continue 'wrap;
                }
            }
            while !day_matches(&t) {
                raised = true;
                // where summer time takes midnight away, the day begins later, and counts all the same
                t = midnight(t.date().tomorrow().ok()?)?;
                if t.day() == 1 {
                    continue 'wrap;
                }
            }
            while !is(*hour, t.hour()) {
                if !raised {
                    raised = true;
                    t = t
                        .checked_sub(SignedDuration::from_secs(
                            i64::from(t.minute()) * 60 + i64::from(t.second()),
                        ))
                        .ok()?;
                }
                let date = t.date();
                t = t.checked_add(SignedDuration::from_hours(1)).ok()?;
                if t.date() != date {
                    continue 'wrap;
                }
            }
            while !is(*minute, t.minute()) {
                if !raised {
                    raised = true;
                    t = t.checked_sub(SignedDuration::from_secs(t.second().into())).ok()?;
                }
                t = t.checked_add(SignedDuration::from_mins(1)).ok()?;
                if t.minute() == 0 {
                    continue 'wrap;
                }
            }
            while t.second() != 0 {
                raised = true;
                t = t.checked_add(SignedDuration::from_secs(60 - i64::from(t.second()))).ok()?;
                if t.second() == 0 {
                    continue 'wrap;
                }
            }
            return Some(t.timestamp());
        }
    }
}

fn bits(min: u32, max: u32, step: u32) -> u64 {
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    (min..=max).step_by(step).fold(0, |bits, n| bits | 1 << n)
}

fn all(bounds: &Bounds) -> u64 {
    bits(bounds.min, bounds.max, 1) | STAR
}

/// Parts with commas between them; what has no part never matches.
fn field(text: &str, bounds: &Bounds) -> Result<u64, String> {
    text.split(',').filter(|p| !p.is_empty()).try_fold(0, |bits, part| Ok(bits | range(part, bounds)?))
}

/// `number`, `number-number`, `*`, each with `/step` or without.
fn range(part: &str, bounds: &Bounds) -> Result<u64, String> {
    let with_step: Vec<&str> = part.split('/').collect();
    let ends: Vec<&str> = with_step[0].split('-').collect();
    let (start, mut end, mut star) = match ends[..] {
        ["*" | "?", ..] => (bounds.min, bounds.max, STAR),
        [only] => {
            let n = number_or_name(only, bounds)?;
            (n, n, 0)
        }
        [first, last] => (number_or_name(first, bounds)?, number_or_name(last, bounds)?, 0),
        [first, ..] => {
            number_or_name(first, bounds)?;
            return Err(format!("too many hyphens: {part}"));
        }
        [] => unreachable!("a split has a first part"),
    };
    let step = match with_step[..] {
        [_] => 1,
        [_, step] => {
            let step = number(step)?;
            if ends.len() == 1 {
                end = bounds.max;
            }
            if step > 1 {
                star = 0;
            }
            step
        }
        _ => return Err(format!("too many slashes: {part}")),
    };
    if start < bounds.min {
        return Err(format!("beginning of range ({start}) below minimum ({}): {part}", bounds.min));
    }
    if end > bounds.max {
        return Err(format!("end of range ({end}) above maximum ({}): {part}", bounds.max));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {part}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    Ok(bits(start, end, step) | star)
}

fn number_or_name(text: &str, bounds: &Bounds) -> Result<u32, String> {
    let named = bounds.names.iter().zip(bounds.min..).find(|(name, _)| text.eq_ignore_ascii_case(name));
    named.map_or_else(|| number(text), |(_, n)| Ok(n))
}

fn number(text: &str) -> Result<u32, String> {
    let refuse =
        |why: &str| format!("failed to parse int from {text}: strconv.Atoi: parsing {}: {why}", quoted(text));
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(refuse("invalid syntax"));
    }
    let n: i64 = text.parse().map_err(|_| refuse("value out of range"))?;
    if n < 0 {
        return Err(format!("negative number ({n}) not allowed: {text}"));
    }
    // beyond every field's bounds in any case
    Ok(u32::try_from(n).unwrap_or(u32::MAX))
}

fn descriptor(text: &str, zone: TimeZone) -> Result<Schedule, String> {
    let first = |b: &Bounds| 1 << b.min;
    let at = |hour, day, month, weekday| {
        Ok(Schedule(Form::Fields { minute: 1, hour, day, month, weekday, zone: zone.clone() }))
    };
    let midnight = first(&HOURS);
    match text {
        "@yearly" | "@annually" => at(midnight, first(&DAYS), first(&MONTHS), all(&WEEKDAYS)),
        "@monthly" => at(midnight, first(&DAYS), all(&MONTHS), all(&WEEKDAYS)),
        "@weekly" => at(midnight, all(&DAYS), all(&MONTHS), first(&WEEKDAYS)),
        "@daily" | "@midnight" => at(midnight, all(&DAYS), all(&MONTHS), all(&WEEKDAYS)),
        "@hourly" => at(all(&HOURS), all(&DAYS), all(&MONTHS), all(&WEEKDAYS)),
        _ => {
            let Some(span) = text.strip_prefix("@every ") else {
                return Err(format!("unrecognized descriptor: {text}"));
            };
            let nanos = go_duration(span).map_err(|e| format!("failed to parse duration {text}: {e}"))?;
            Ok(Schedule(Form::Every(SignedDuration::from_secs((nanos / NANOS_A_SECOND).max(1)))))
        }
    }
}

/// Nanoseconds of a duration in Go's notation.
fn go_duration(text: &str) -> Result<i64, String> {
    let wrong = || format!("time: invalid duration {}", quoted(text));
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut nanos: f64 = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(rest.len());
        let (amount, tail) = rest.split_at(end);
        let amount: f64 = amount.parse().map_err(|_| wrong())?;
        let end = tail.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let unit = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 6e10,
            "h" => 3.6e12,
            "" => return Err(format!("time: missing unit in duration {}", quoted(text))),
            other => {
                return Err(format!("time: unknown unit {} in duration {}", quoted(other), quoted(text)));
            }
        };
        nanos += amount * unit;
        rest = tail;
    }
    if nanos >= i64::MAX as f64 {
        return Err(wrong());
    }
    let nanos = nanos as i64;
    Ok(if negative { -nanos } else { nanos })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The next times after one, in UTC.
    fn check(schedule: &str, zone: Option<&str>, after: &str, expect: &[&str]) {
        let schedule = Schedule::of(schedule, zone).unwrap();
        let mut t: Time = after.parse().unwrap();
        for expect in expect {
            t = schedule.next(t).unwrap();
            assert_eq!(t, expect.parse::<Time>().unwrap(), "{schedule:?}");
        }
    }

    #[test]
    fn schedules_are_due_when_upstreams_are() {
        let utc = |schedule: &str, after: &str, expect: &[&str]| check(schedule, None, after, expect);
        utc("*/15 * * * *", "2026-01-01T00:14:59.5Z", &["2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z"]);
        utc("*/15 * * * *", "2026-01-01T00:15:00Z", &["2026-01-01T00:30:00Z"]);
        utc("5/20 0 * * ?", "2026-01-01T00:30:00Z", &["2026-01-01T00:45:00Z", "2026-01-02T00:05:00Z"]);
        utc(
            "20-35/15 23 31 DEC *",
            "2026-01-01T00:00:00Z",
            &["2026-12-31T23:20:00Z", "2026-12-31T23:35:00Z", "2027-12-31T23:20:00Z"],
        );
        utc("0 0 29 feb *", "2026-01-01T00:00:00Z", &["2028-02-29T00:00:00Z"]);
        utc("0 12 * * Mon-wed", "2026-01-01T00:00:00Z", &["2026-01-05T12:00:00Z", "2026-01-06T12:00:00Z"]);
        // a day of the month or of the week, where both are given
        utc("0 0 13 * fri", "2026-01-10T00:00:00Z", &["2026-01-13T00:00:00Z", "2026-01-16T00:00:00Z"]);
        utc("0 0 */10 * fri", "2026-01-01T00:00:00Z", &["2026-01-02T00:00:00Z"]);
        utc("0 0 */1 * fri", "2026-01-01T00:00:00Z", &["2026-01-02T00:00:00Z", "2026-01-09T00:00:00Z"]);
        utc("@hourly", "2026-01-01T00:59:59Z", &["2026-01-01T01:00:00Z"]);
        utc("@weekly", "2026-01-01T00:00:00Z", &["2026-01-04T00:00:00Z"]);
        utc("@yearly", "2026-01-01T00:00:00Z", &["2027-01-01T00:00:00Z"]);
        utc("@every 1h30m", "2026-01-01T00:00:01.7Z", &["2026-01-01T01:30:01Z"]);
        utc("@every 1ms", "2026-01-01T00:00:00Z", &["2026-01-01T00:00:01Z"]);
        assert_eq!(Schedule::parse("0 0 30 2 *").unwrap().next(Time::UNIX_EPOCH), None);
    }

    #[test]
    fn zones_have_their_own_days_and_summers() {
        let ny = Some("America/New_York");
        check("0 9 * * *", ny, "2026-01-01T00:00:00Z", &["2026-01-01T14:00:00Z"]);
        check("CRON_TZ=Asia/Tokyo 0 9 * * *", ny, "2026-01-01T00:00:00Z", &["2026-01-02T00:00:00Z"]);
        // 02:30 is not there on the 8th of March, and 01:30 is there twice on the 1st of November
        check("30 2 * * *", ny, "2026-03-07T12:00:00Z", &["2026-03-09T06:30:00Z"]);
        check(
            "30 1 * * *",
            ny,
            "2026-11-01T00:00:00Z",
            &["2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z", "2026-11-02T06:30:00Z"],
        );
        // midnight is not there
        check("0 0 * * *", Some("America/Santiago"), "2026-09-05T12:00:00Z", &["2026-09-07T03:00:00Z"]);
    }

    #[test]
    fn refusals_are_upstreams_words() {
        for (text, expect) in [
            ("", "empty spec string"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            (
                "* * * * sunday",
                "failed to parse int from sunday: strconv.Atoi: parsing \"sunday\": invalid syntax",
            ),
            ("-1 * * * *", "failed to parse int from : strconv.Atoi: parsing \"\": invalid syntax"),
            ("@always", "unrecognized descriptor: @always"),
            ("@every 5", "failed to parse duration @every 5: time: missing unit in duration \"5\""),
            ("@every 5d", "failed to parse duration @every 5d: time: unknown unit \"d\" in duration \"5d\""),
            ("TZ=Mars/Base 0 0 * * *", "provided bad location Mars/Base: unknown time zone Mars/Base"),
            ("TZ=0", "invalid schedule format: runtime error: slice bounds out of range [:-1]"),
        ] {
            assert_eq!(Schedule::parse(text).unwrap_err(), expect, "{text}");
        }
        assert!(time_zone("america/new_york").is_err());
    }
}
