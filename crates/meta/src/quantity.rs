//! Quantities (`500m`, `1Gi`): parsing, arithmetic and the canonical form (API reference: Quantity).

use k8s_openapi::apimachinery::pkg::api::resource as api;
use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};

/// The family of suffixes an amount is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// `12e6`
    DecimalExponent,
    /// `12Mi`
    BinarySI,
    /// `12M`, `500m`
    #[default]
    DecimalSI,
}

/// An exact decimal amount with its suffix family. Equal and ordered by amount alone.
///
/// Held in units of 10^-9, upstream's finest; finer amounts are rounded away from zero. Amounts beyond
/// 1.7 * 10^29 are capped there, those with a binary suffix at 2^63-1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const NANOS: i128 = 1_000_000_000;
const MILLIS: i128 = 1_000_000;
const NANO_EXPONENT: i32 = -9;
const MAX_BINARY: i128 = i64::MAX as i128 * NANOS;
/// Digits that upstream's fast path takes; longer numbers lose their spelling.
const FAST_PATH_DIGITS: usize = 18;
const BINARY_SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/// From 10^-9 in steps of a thousand.
const DECIMAL_SUFFIXES: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

/// A quantity taken apart: digits before and after the point, and what the suffix means.
struct Parts<'a> {
    negative: bool,
    /// Without leading zeros, but `0` where nothing is left.
    whole: &'a str,
    fraction: &'a str,
    format: Format,
    /// Power of 10, or of 2 for [`Format::BinarySI`].
    exponent: i32,
}

fn split_digits(s: &str) -> (&str, &str) {
    s.split_at(s.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(s.len()))
}

fn split(text: &str) -> Result<Parts<'_>, QuantityError> {
    if text.is_empty() {
        return Err(QuantityError::Format);
    }
    let (negative, rest) = match text.as_bytes()[0] {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let unpadded = rest.trim_start_matches('0');
    if unpadded.is_empty() {
        return Ok(Parts {
            negative: false,
            whole: "0",
            fraction: "",
            format: Format::DecimalSI,
            exponent: 0,
        });
    }
    let (whole, rest_after) = split_digits(unpadded);
    let (fraction, suffix) = match rest_after.strip_prefix('.') {
        Some(after) => split_digits(after),
        None => ("", rest_after),
    };
    let has_digit = rest.as_bytes().first().is_some_and(u8::is_ascii_digit) || !fraction.is_empty();
    let letters = suffix.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
    let tail = &suffix[letters..];
    let digits = tail.strip_prefix(['-', '+']).unwrap_or(tail);
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(QuantityError::Format);
    }
    let (format, exponent) = interpret(suffix).ok_or(QuantityError::Suffix)?;
    if !has_digit {
        return Err(QuantityError::Numeric);
    }
    let whole = if whole.is_empty() { "0" } else { whole };
    Ok(Parts { negative, whole, fraction, format, exponent })
}

fn interpret(suffix: &str) -> Option<(Format, i32)> {
    if let Some(i) = DECIMAL_SUFFIXES.iter().position(|s| *s == suffix) {
        return Some((Format::DecimalSI, NANO_EXPONENT + 3 * i as i32));
    }
    if let Some(i) = BINARY_SUFFIXES.iter().position(|s| *s == suffix) {
        return Some((Format::BinarySI, 10 * i as i32));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).filter(|e| !e.is_empty())?;
    exponent.parse::<i32>().ok().map(|e| (Format::DecimalExponent, e))
}

fn pow10(exponent: u32) -> i128 {
    10i128.checked_pow(exponent).unwrap_or(i128::MAX)
}

fn parse_digits(digits: impl Iterator<Item = u8>) -> i128 {
    digits.fold(0i128, |n, b| n.saturating_mul(10).saturating_add(i128::from(b - b'0')))
}

/// Division that rounds away from zero; `n` is not negative.
fn div_up(n: i128, by: i128) -> i128 {
    n / by + i128::from(n % by != 0)
}

impl Parts<'_> {
    fn nanos(&self) -> i128 {
        let digits = parse_digits(self.whole.bytes().chain(self.fraction.bytes()));
        let mut scale = -(self.fraction.len() as i32) - NANO_EXPONENT;
        let digits = if self.format == Format::BinarySI {
            digits.saturating_mul(1i128 << self.exponent)
        } else {
            scale = scale.saturating_add(self.exponent);
            digits
        };
        let nanos = if digits == 0 {
            0
        } else if scale >= 0 {
            digits.saturating_mul(pow10(scale.unsigned_abs()))
        } else {
            div_up(digits, pow10(scale.unsigned_abs()))
        };
        let nanos = if self.format == Format::BinarySI { nanos.min(MAX_BINARY) } else { nanos };
        if self.negative { -nanos } else { nanos }
    }

    /// Whether upstream keeps the client's spelling: it takes these for canonical already.
    fn spelling_kept(&self) -> bool {
        let digits = self.whole.len() + self.fraction.len();
        match self.format {
            Format::BinarySI => {
                let room = 14 - self.whole.len() as i32 - self.exponent * 3 / 10;
                let last = parse_digits(self.whole.bytes());
                self.fraction.is_empty() && room >= 0 && last & 7 != 0
            }
            _ => {
                let scale = self.exponent.saturating_sub(self.fraction.len() as i32);
                let zeros = self.whole.bytes().chain(self.fraction.bytes()).rev().take(3);
                digits <= FAST_PATH_DIGITS
                    && scale >= NANO_EXPONENT
                    && scale % 3 == 0
                    && !self.whole.starts_with('0')
                    && !(digits >= 3 && zeros.into_iter().all(|b| b == b'0'))
            }
        }
    }
}

impl Quantity {
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSI };

    /// `value` whole units.
    pub fn new(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * NANOS, format }
    }

    /// `milli` thousandths, written as `500m`.
    pub fn from_milli(milli: i64) -> Self {
        Self { nanos: i128::from(milli) * MILLIS, format: Format::DecimalSI }
    }

    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let parts = split(text)?;
        let nanos = parts.nanos();
        let small = parts.format == Format::BinarySI && nanos > 0 && nanos < NANOS;
        Ok(Self { nanos, format: if small { Format::DecimalSI } else { parts.format } })
    }

    /// The amount of a field of the API; zero where the text is not a quantity, which validation refuses.
    pub fn of(quantity: &api::Quantity) -> Self {
        Self::parse(&quantity.0).unwrap_or_default()
    }

    /// How upstream would store this text: None where it keeps it as it stands.
    pub fn canonical(text: &str) -> Result<Option<String>, QuantityError> {
        let parts = split(text)?;
        if parts.spelling_kept() || text == "0" {
            return Ok(None);
        }
        let canonical = Self::parse(text)?.to_string();
        Ok((canonical != text).then_some(canonical))
    }

    pub fn to_api(self) -> api::Quantity {
        api::Quantity(self.to_string())
    }

    pub fn format(self) -> Format {
        self.format
    }

    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whole units, rounded up, capped at the bounds of i64.
    pub fn value(self) -> i64 {
        scaled(self.nanos, NANOS)
    }

    /// Thousandths, rounded up, capped at the bounds of i64.
    pub fn milli_value(self) -> i64 {
        scaled(self.nanos, MILLIS)
    }

    /// Whether the amount has no fraction of 1/1000 below it.
    pub fn is_whole_milli(self) -> bool {
        self.nanos % MILLIS == 0
    }

    pub fn is_whole(self) -> bool {
        self.nanos % NANOS == 0
    }

    pub fn times(self, factor: i64) -> Self {
        Self { nanos: self.nanos.saturating_mul(i128::from(factor)), format: self.format }
    }

    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANOS as f64
    }
}

fn scaled(nanos: i128, unit: i128) -> i64 {
    let up = nanos.div_euclid(unit) + i128::from(nanos.rem_euclid(unit) != 0);
    up.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// The sum takes the left side's suffix family, or the right side's where the left is zero.
impl Add for Quantity {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_add(other.nanos), format }
    }
}
impl Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}
impl Neg for Quantity {
    type Output = Self;
    fn neg(self) -> Self {
        Self { nanos: self.nanos.saturating_neg(), format: self.format }
    }
}
impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}
impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}
impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}
impl std::str::FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::parse(s)
    }
}

/// The canonical form: no fraction, the largest suffix that keeps the amount exact.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0");
        }
        let units = self.nanos / NANOS;
        if self.format == Format::BinarySI && self.is_whole() && units.abs() >= 1024 {
            let mut mantissa = units;
            let mut suffix = 0;
            while mantissa % 1024 == 0 && suffix + 1 < BINARY_SUFFIXES.len() {
                mantissa /= 1024;
                suffix += 1;
            }
            return write!(f, "{mantissa}{}", BINARY_SUFFIXES[suffix]);
        }
        let mut mantissa = self.nanos;
        let mut exponent = NANO_EXPONENT;
        let exponential = self.format == Format::DecimalExponent;
        while mantissa % 1000 == 0 && (exponential || exponent < 18) {
            mantissa /= 1000;
            exponent += 3;
        }
        match (exponential, exponent) {
            (_, 0) => write!(f, "{mantissa}"),
            (true, e) => write!(f, "{mantissa}e{e}"),
            (false, e) => write!(f, "{mantissa}{}", DECIMAL_SUFFIXES[((e - NANO_EXPONENT) / 3) as usize]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_as_upstream_stores_it() {
        for (input, expect) in [
            ("0", "0"),
            ("0.0", "0"),
            ("00", "0"),
            ("0Mi", "0"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.5", "1500m"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("10000", "10k"),
            ("1000k", "1M"),
            ("1024Mi", "1Gi"),
            ("1025Mi", "1025Mi"),
            ("1000Ki", "1000Ki"),
            ("1.5Gi", "1536Mi"),
            ("0.5Gi", "512Mi"),
            ("1.1Ki", "1126400m"),
            ("512", "512"),
            ("1e3", "1e3"),
            ("12e4", "120e3"),
            ("1E3", "1E3"),
            ("1E", "1E"),
            ("1Ei", "1Ei"),
            ("100Ei", "9223372036854775807"),
            ("0.1n", "1n"),
            ("-0.5", "-500m"),
            ("-1Gi", "-1Gi"),
            ("123456789012345678901", "123456789012345678901"),
            ("1.500", "1.500"),
            ("2.", "2."),
        ] {
            let got = Quantity::canonical(input).map(|c| c.unwrap_or_else(|| input.to_owned()));
            assert_eq!(got.as_deref(), Ok(expect), "{input}");
        }
    }

    #[test]
    fn refuses_what_is_not_a_quantity() {
        for (input, expect) in [
            ("", QuantityError::Format),
            ("1.1.1", QuantityError::Format),
            ("a", QuantityError::Format),
            ("1 Gi", QuantityError::Format),
            ("1ki", QuantityError::Suffix),
            ("1mi", QuantityError::Suffix),
            ("1Gib", QuantityError::Format),
            ("M", QuantityError::Numeric),
        ] {
            assert_eq!(Quantity::parse(input), Err(expect), "{input:?}");
        }
    }

    #[test]
    fn arithmetic_is_exact_and_keeps_the_family() {
        let q = |s: &str| Quantity::parse(s).expect("a quantity");
        assert_eq!((q("1Gi") + q("512Mi")).to_string(), "1536Mi");
        assert_eq!((q("0") + q("512Mi")).to_string(), "512Mi");
        assert_eq!((q("1") - q("250m")).to_string(), "750m");
        assert_eq!(q("0.1").times(3), q("300m"));
        assert!(q("1Gi") > q("1G") && q("1000m") == q("1"));
        assert_eq!((q("1.1").value(), q("100u").milli_value(), q("-1.5").value()), (2, 1, -1));
    }
}
