//! Amounts of resources as numbers. Values come from a validated API object, so that what cannot be
//! read counts as absent.

use meta::Quantity;
use meta::quantity::Format;

/// The amount in thousandths, rounded up, saturating.
pub fn millis(text: &str) -> Option<i64> {
    Quantity::parse(text).ok().map(Quantity::milli_value)
}

/// The amount in whole units, rounded up.
pub fn value(text: &str) -> Option<i64> {
    Quantity::parse(text).ok().map(Quantity::value)
}

/// Thousandths in canonical form: `1500m`, `2`.
pub fn millis_text(millis: i64) -> String {
    Quantity::from_milli(millis).to_api().0
}

/// Bytes in canonical form: `64Mi`, `1500`.
pub fn bytes_text(bytes: i64) -> String {
    Quantity::new(bytes, Format::BinarySI).to_api().0
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
