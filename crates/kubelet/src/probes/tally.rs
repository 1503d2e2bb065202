//! Thresholds: what a series of outcomes means.

use k8s_openapi::api::core::v1::Probe;

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    /// The word at the beginning of events.
    pub fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// Outcomes of one probe of one container so far.
#[derive(Clone, Debug)]
pub struct Tally {
    kind: ProbeKind,
    success_threshold: u32,
    failure_threshold: u32,
    last: Option<bool>,
    run: u32,
    over: bool,
}

impl Tally {
    pub fn new(kind: ProbeKind, probe: &Probe) -> Self {
        let threshold = |v: Option<i32>, default| {
            v.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default)
        };
        Self {
            kind,
            success_threshold: threshold(probe.success_threshold, 1),
            failure_threshold: threshold(probe.failure_threshold, 3),
            last: None,
            run: 0,
            over: false,
        }
    }

    /// Takes one outcome; gives the result once enough of the same kind came in a row.
    pub fn record(&mut self, ok: bool) -> Option<bool> {
        if self.last == Some(ok) {
            self.run += 1;
        } else {
            self.last = Some(ok);
            self.run = 1;
        }
        let needed = if ok { self.success_threshold } else { self.failure_threshold };
        if self.run < needed {
            return None;
        }
        // a startup result is final, and after a liveness failure the container is replaced
        self.over = self.kind == ProbeKind::Startup || (self.kind == ProbeKind::Liveness && !ok);
        Some(ok)
    }

    /// Whether this container need not be probed again.
    pub fn is_over(&self) -> bool {
        self.over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_need_their_thresholds() {
        #[track_caller]
        fn check(kind: ProbeKind, success: i32, failure: i32, outcomes: &str, expect: &str) {
            let probe = Probe {
                success_threshold: Some(success),
                failure_threshold: Some(failure),
                ..Probe::default()
            };
            let mut tally = Tally::new(kind, &probe);
            let mut results = String::new();
            for c in outcomes.chars() {
                results.push(match tally.record(c == '+') {
                    Some(true) => '+',
                    Some(false) => '-',
                    None => '.',
                });
                if tally.is_over() {
                    break;
                }
            }
            assert_eq!(results, expect);
        }
        check(ProbeKind::Readiness, 1, 3, "+--+---+", "+..+..-+");
        check(ProbeKind::Readiness, 2, 1, "+-++", ".-.+");
        check(ProbeKind::Liveness, 1, 2, "+-+----", "+.+.-");
        check(ProbeKind::Startup, 1, 3, "--+-+", "..+");
    }
}
