//! Amounts of resources as numbers. Values come from a validated API object, so that what cannot be
//! read counts as absent.

/// The amount in thousandths, rounded up, saturating.
pub fn millis(text: &str) -> Option<i64> {
    let text = text.trim();
    let split = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (multiplier, divisor): (i128, i128) = match suffix {
        "" => (1000, 1),
        "n" => (1, 1_000_000),
        "u" => (1, 1000),
        "m" => (1, 1),
        "k" => (1000_i128.pow(2), 1),
        "M" => (1000_i128.pow(3), 1),
        "G" => (1000_i128.pow(4), 1),
        "T" => (1000_i128.pow(5), 1),
        "P" => (1000_i128.pow(6), 1),
        "E" => (1000_i128.pow(7), 1),
        "Ki" => (1000 << 10, 1),
        "Mi" => (1000 << 20, 1),
        "Gi" => (1000 << 30, 1),
        "Ti" => (1000 << 40, 1),
        "Pi" => (1000 << 50, 1),
        "Ei" => (1000 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let scale = 10_i128.checked_pow(power.unsigned_abs())?;
            if power >= 0 { (scale.checked_mul(1000)?, 1) } else { (1000, scale) }
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let divisor = divisor.checked_mul(10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
    let amount = digits.checked_mul(multiplier)?;
    let up = i128::from(amount > 0 && amount % divisor != 0);
    Some(i64::try_from(amount / divisor + up).unwrap_or(i64::MAX))
}

/// The amount in whole units, rounded up.
pub fn value(text: &str) -> Option<i64> {
    let millis = millis(text)?;
    if millis == i64::MAX {
        // too large for thousandths; no node has that much
        return Some(i64::MAX);
    }
    Some(millis / 1000 + i64::from(millis % 1000 > 0))
}

/// Thousandths in canonical form: `1500m`, `2`.
pub fn millis_text(millis: i64) -> String {
    if millis % 1000 == 0 { (millis / 1000).to_string() } else { format!("{millis}m") }
}

/// Bytes in canonical form: `64Mi`, `1500`.
pub fn bytes_text(bytes: i64) -> String {
    let suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut amount = bytes;
    let mut index = 0;
    while amount != 0 && amount % 1024 == 0 && index + 1 < suffixes.len() {
        amount /= 1024;
        index += 1;
    }
    format!("{amount}{}", suffixes[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_upstream_does() {
        for (text, expect) in [
            ("100m", Some(100)),
            ("1.5", Some(1500)),
            ("2", Some(2000)),
            ("1u", Some(1)),
            ("1Ki", Some(1_024_000)),
            ("1e3", Some(1_000_000)),
            ("12E", Some(i64::MAX)),
            ("x", None),
        ] {
            assert_eq!(millis(text), expect, "{text}");
        }
        assert_eq!((value("64Mi"), value("100m")), (Some(64 << 20), Some(1)));
        assert_eq!((millis_text(1500), millis_text(2000)), ("1500m".into(), "2".into()));
        assert_eq!((bytes_text(64 << 20), bytes_text(1500)), ("64Mi".into(), "1500".into()));
    }
}
