//! How much is served at a time, and for how long.

use auth::User;
use meta::{ApiError, Reason};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::form_urlencoded;

/// Requests that are served at a time, long-running ones apart (upstream: 400 reads and 200 writes).
pub const MAX_IN_FLIGHT: usize = 600;
/// Requests that may wait for their turn; further ones are told to come back.
pub const MAX_WAITING: usize = 4096;
/// How long a request may take that is not long-running.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// When those told to come back should.
const RETRY_AFTER_SECONDS: i32 = 1;

/// Counts the requests under way.
pub struct InFlight {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Default for InFlight {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_IN_FLIGHT)), waiting: AtomicUsize::new(0) }
    }
}

/// A place; dropping it makes room. Masters take none, so that an administrator can always act.
pub struct Place {
    _permit: Option<OwnedSemaphorePermit>,
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl InFlight {
    /// Waits for a place in order of arrival; None where too many wait already.
    pub async fn enter(&self, user: &User) -> Option<Place> {
        if user.in_group(User::MASTERS) {
            return Some(Place { _permit: None });
        }
        if let Ok(permit) = self.places.clone().try_acquire_owned() {
            return Some(Place { _permit: Some(permit) });
        }
        let waiting = Waiting(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            return None;
        }
        let permit = self.places.clone().acquire_owned().await.ok();
        drop(waiting);
        permit.map(|p| Place { _permit: Some(p) })
    }
}

pub fn too_many() -> ApiError {
    ApiError::new(Reason::TooManyRequests, "Too many requests, please try again later.")
        .retry_after(RETRY_AFTER_SECONDS)
}

pub fn timed_out() -> ApiError {
    ApiError::new(Reason::Timeout, "Timeout: request did not complete within the allotted timeout")
}

/// How long a request may take: what it asks for in `timeout`, and never more than [`REQUEST_TIMEOUT`].
pub fn deadline(query: &str) -> Duration {
    let asked = form_urlencoded::parse(query.as_bytes()).find(|(k, _)| k == "timeout");
    let asked = asked.and_then(|(_, v)| duration(&v)).filter(|d| !d.is_zero());
    asked.map_or(REQUEST_TIMEOUT, |d| d.min(REQUEST_TIMEOUT))
}

/// A duration as Go writes it: `30s`, `1m30s`, `500ms`.
fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let after = &rest[digits..];
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let seconds = match &after[..unit_end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += Duration::try_from_secs_f64(number * seconds).ok()?;
        rest = &after[unit_end..];
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines() {
        let check =
            |query: &str, expect_ms: u128| assert_eq!(deadline(query).as_millis(), expect_ms, "{query}");
        check("", 60_000);
        check("timeout=30s", 30_000);
        check("a=b&timeout=1m30s", 60_000);
        check("timeout=1.5s", 1_500);
        check("timeout=250ms", 250);
        check("timeout=0s", 60_000);
        check("timeout=soon", 60_000);
    }

    #[tokio::test]
    async fn a_place_is_given_back() {
        let all = InFlight::default();
        let user = User::component("u", &[]);
        let mut places = Vec::new();
        for _ in 0..MAX_IN_FLIGHT {
            places.push(all.enter(&user).await.unwrap());
        }
        assert!(all.enter(&User::component("root", &[User::MASTERS])).await.is_some());
        let mut next = Box::pin(all.enter(&user));
        assert!(futures::poll!(&mut next).is_pending());
        places.pop();
        assert!(futures::poll!(&mut next).is_ready());
    }
}
