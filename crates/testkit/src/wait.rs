//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// Between two looks at something that cannot be watched.
const LOOK: Duration = Duration::from_millis(50);

/// Looks until `look` gives a value. Panics with what was last seen when the time is over.
pub fn until<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + deadline;
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) if Instant::now() > end => panic!("{what}: not within {deadline:?}; last seen: {seen}"),
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}
