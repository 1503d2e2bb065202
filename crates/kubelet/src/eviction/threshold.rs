//! When the kubelet begins to evict: thresholds as they are configured, and the observations they are held against.

use std::collections::BTreeMap;

use meta::Quantity;

/// Something that can run short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    MemoryAvailable,
    NodeFsAvailable,
    NodeFsInodesFree,
    ImageFsAvailable,
    ImageFsInodesFree,
    PidAvailable,
}

/// The node conditions that eviction knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    Memory,
    Disk,
    Pid,
}

impl Condition {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
            Self::Pid => "PIDPressure",
        }
    }
}

impl Signal {
    /// By its name in the configuration.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "memory.available" => Self::MemoryAvailable,
            "nodefs.available" => Self::NodeFsAvailable,
            "nodefs.inodesFree" => Self::NodeFsInodesFree,
            "imagefs.available" => Self::ImageFsAvailable,
            "imagefs.inodesFree" => Self::ImageFsInodesFree,
            "pid.available" => Self::PidAvailable,
            _ => return None,
        })
    }

    pub fn condition(self) -> Condition {
        match self {
            Self::MemoryAvailable => Condition::Memory,
            Self::PidAvailable => Condition::Pid,
            _ => Condition::Disk,
        }
    }

    /// The resource as messages name it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory",
            Self::NodeFsAvailable | Self::ImageFsAvailable => "ephemeral-storage",
            Self::NodeFsInodesFree | Self::ImageFsInodesFree => "inodes",
            Self::PidAvailable => "pids",
        }
    }
}

/// An amount, or a part of what there is.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub enum Amount {
    Absolute(i64),
    /// Between 0 and 1.
    Share(f64),
}

impl Amount {
    /// Of this capacity.
    pub fn of(self, capacity: i64) -> i64 {
        match self {
            Self::Absolute(amount) => amount,
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                reason = "as upstream rounds"
            )]
            Self::Share(share) => (capacity as f64 * share) as i64,
        }
    }
}

/// Below this, for this long, pods are evicted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    pub signal: Signal,
    pub value: Amount,
    /// 0 is a hard threshold.
    pub grace_seconds: i64,
    /// Once met, it is resolved only when so much more than the value is free.
    pub min_reclaim: Option<Amount>,
}

/// What there is of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    pub available: i64,
    pub capacity: i64,
}

pub type Observations = BTreeMap<Signal, Observation>;
type Statements = BTreeMap<String, String>;

/// The thresholds of upstream's defaults (`evictionHard` where nothing else is configured).
pub fn defaults() -> Statements {
    [
        ("memory.available", "100Mi"),
        ("nodefs.available", "10%"),
        ("nodefs.inodesFree", "5%"),
        ("imagefs.available", "15%"),
        ("imagefs.inodesFree", "5%"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// Reads the statements of a configuration. `grace_seconds` belongs to `soft`.
///
/// # Errors
/// What is wrong, in upstream's words.
pub fn parse(
    hard: &Statements,
    soft: &Statements,
    grace_seconds: &BTreeMap<String, i64>,
    min_reclaim: &Statements,
) -> Result<Vec<Threshold>, String> {
    let mut thresholds = Vec::new();
    for (statements, is_soft) in [(hard, false), (soft, true)] {
        for (name, text) in statements {
            let signal = Signal::parse(name).ok_or_else(|| format!("unsupported eviction signal {name}"))?;
            let Some(value) = amount(name, text, "threshold")? else { continue };
            let grace_seconds = match (is_soft, grace_seconds.get(name)) {
                (false, _) => 0,
                (true, Some(seconds)) => *seconds,
                (true, None) => {
                    return Err(format!(
                        "grace period must be specified for the soft eviction threshold {name}"
                    ));
                }
            };
            let min_reclaim = match min_reclaim.get(name) {
                Some(text) => amount(name, text, "minimum reclaim")?,
                None => None,
            };
            thresholds.push(Threshold { signal, value, grace_seconds, min_reclaim });
        }
    }
    Ok(thresholds)
}

/// An amount or a percentage; `None` for 0% and 100%, which switch a threshold off.
fn amount(name: &str, text: &str, what: &str) -> Result<Option<Amount>, String> {
    if let Some(number) = text.strip_suffix('%') {
        if matches!(number, "0" | "100") {
            return Ok(None);
        }
        let percent: f64 = number.parse().map_err(|e| format!("eviction {what} {name}: {text:?}: {e}"))?;
        return match percent {
            p if p < 0.0 => Err(format!("eviction percentage {what} {name} must be >= 0%: {text}")),
            p if p > 100.0 => Err(format!("eviction percentage {what} {name} must be <= 100%: {text}")),
            p => Ok(Some(Amount::Share(p / 100.0))),
        };
    }
    let quantity = Quantity::parse(text).map_err(|e| format!("eviction {what} {name}: {e}"))?;
    match quantity.value() {
        value if value > 0 => Ok(Some(Amount::Absolute(value))),
        _ => Err(format!("eviction {what} {name} must be positive: {text}")),
    }
}

/// What the hard threshold of a signal keeps free of a capacity; 0 without one.
pub fn kept_free(thresholds: &[Threshold], signal: Signal, capacity: i64) -> i64 {
    let hard = thresholds.iter().find(|t| t.signal == signal && t.grace_seconds == 0);
    hard.map_or(0, |t| t.value.of(capacity))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_read_or_refused() {
        #[track_caller]
        fn check(name: &str, text: &str, expect: Result<Option<Amount>, &str>) {
            let hard = [(name.to_owned(), text.to_owned())].into();
            let none = BTreeMap::new();
            let read = parse(&hard, &none, &BTreeMap::new(), &none);
            let read = read.map(|list| list.first().map(|t| t.value));
            assert_eq!(read, expect.map_err(str::to_owned));
        }
        check("memory.available", "100Mi", Ok(Some(Amount::Absolute(100 << 20))));
        check("nodefs.available", "10%", Ok(Some(Amount::Share(0.1))));
        check("nodefs.available", "0%", Ok(None));
        check("nodefs.free", "10%", Err("unsupported eviction signal nodefs.free"));
        check("pid.available", "0", Err("eviction threshold pid.available must be positive: 0"));
        let soft = [("memory.available".to_owned(), "1Gi".to_owned())].into();
        let none = BTreeMap::new();
        assert!(parse(&none, &soft, &BTreeMap::new(), &none).unwrap_err().starts_with("grace period"));
    }
}
