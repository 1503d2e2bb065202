//! RFC 3339 as `metav1.Time` and `metav1.MicroTime` write it.

/// Seconds and nanoseconds since the epoch; `None` if `text` is no RFC 3339 time.
pub(crate) fn parse(text: &str) -> Option<(i64, i32)> {
    let bytes = text.as_bytes();
    let number = |range: std::ops::Range<usize>| {
        let digits = bytes.get(range)?;
        digits
            .iter()
            .all(u8::is_ascii_digit)
            .then(|| digits.iter().fold(0i64, |n, d| n * 10 + i64::from(d - b'0')))
    };
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, wanted)| bytes.get(*at) != Some(wanted)) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let days = days_of(year, month, day);
    if civil(days) != (year, month, day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut at = 19;
    let mut nanos = 0;
    if bytes.get(at) == Some(&b'.') {
        let digits = bytes[at + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        let used = digits.min(9);
        nanos = number(at + 1..at + 1 + used)? * 10_i64.pow(9 - used as u32);
        at += 1 + digits;
    }
    let offset = match (bytes.get(at), bytes.len() - at) {
        (Some(b'Z'), 1) => 0,
        (Some(sign @ (b'+' | b'-')), 6) if bytes[at + 3] == b':' => {
            let (hours, minutes) = (number(at + 1..at + 3)?, number(at + 4..at + 6)?);
            let seconds = hours * 3600 + minutes * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => return None,
    };
    Some((days * 86_400 + hour * 3600 + minute * 60 + second - offset, nanos as i32))
}

/// Days since 1970-01-01 of a day in the proleptic Gregorian calendar; the inverse of [`civil`].
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Writes the time in UTC with whole seconds, or with six decimals for `micro`.
pub(crate) fn write(out: &mut Vec<u8>, seconds: i64, nanos: i32, micro: bool) -> bool {
    use std::io::Write;
    let (days, second_of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    if !(-719_162..=2_932_896).contains(&days) {
        return false;
    }
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    let written = if micro {
        write!(
            out,
            "\"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z\"",
            nanos / 1000
        )
    } else {
        write!(out, "\"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z\"")
    };
    written.is_ok()
}

/// Year, month and day of a count of days since 1970-01-01 in the proleptic Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_round_trip() {
        for (text, micro) in [
            ("1970-01-01T00:00:00Z", false),
            ("2024-02-29T23:59:59Z", false),
            ("1969-12-31T23:59:59Z", false),
            ("9999-12-31T23:59:59Z", false),
            ("2026-11-22T22:08:20.123456Z", true),
        ] {
            let (seconds, nanos) = super::parse(text).unwrap();
            let mut out = Vec::new();
            assert!(super::write(&mut out, seconds, nanos, micro));
            assert_eq!(String::from_utf8(out).unwrap(), format!("\"{text}\""));
        }
        assert_eq!(super::parse("2024-01-01T01:00:00+01:00"), Some((1_704_067_200, 0)));
        for text in
            ["yesterday", "2024-02-30T00:00:00Z", "2024-01-01T25:00:00Z", "2024-01-01T00:00:00", "2024-01-01"]
        {
            assert_eq!(super::parse(text), None, "{text}");
        }
    }
}
