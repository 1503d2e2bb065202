//! When watchers are woken: at once where they are few, in waves where they are many.
//!
//! To wake a watcher costs its task's turn, an HTTP/2 frame and a share of a TLS record, whether it has one event to
//! tell or ten. While the first wave of a crowd is under way, what comes next waits for the following one.

use super::watchers::Watcher;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// From this many on, the watchers that an event concerns are a crowd.
const CROWD: usize = 64;
/// The pause after a wave, for each watcher that it woke: twice what a delivery costs a core, so that a resource
/// that changes all the time leaves half of one to others.
const PAUSE_PER_WATCHER: Duration = Duration::from_micros(16);
/// The longest pause, and so the longest that an event is held back, but for the timer's own millisecond.
const PAUSE_MAX: Duration = Duration::from_millis(100);

#[derive(Default)]
pub struct Waves(Arc<Mutex<Next>>);

#[derive(Default)]
struct Next {
    waiting: Vec<Arc<Watcher>>,
    /// Before that, no wave begins.
    not_before: Option<Instant>,
    /// A timer will wake those who wait.
    timed: bool,
}

impl Next {
    fn begin(&mut self, now: Instant) {
        let watchers = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        self.not_before = Some(now + PAUSE_PER_WATCHER.saturating_mul(watchers).min(PAUSE_MAX));
        self.timed = false;
        self.waiting.drain(..).for_each(|w| w.wake());
    }
}

impl Waves {
    /// Wakes the watchers, each of which has events in its queue: now, or with the next wave.
    pub fn wake(&self, watchers: Vec<Arc<Watcher>>) {
        if watchers.len() < CROWD {
            watchers.into_iter().for_each(|w| w.wake());
            return;
        }
        let now = Instant::now();
        let mut next = self.0.lock();
        next.waiting.extend(watchers);
        if next.timed {
            return;
        }
        match next.not_before.filter(|due| *due > now) {
            None => next.begin(now),
            Some(due) => {
                next.timed = true;
                let next = self.0.clone();
                tokio::spawn(async move {
                    tokio::time::sleep_until(due).await;
                    next.lock().begin(Instant::now());
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Selector;
    use futures::task::{ArcWake, waker};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Context;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl ArcWake for Count {
        fn wake_by_ref(this: &Arc<Self>) {
            this.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn watchers(n: usize, count: &Arc<Count>) -> Vec<Arc<Watcher>> {
        let waker = waker(count.clone());
        let mut context = Context::from_waker(&waker);
        let make = || {
            let watcher = Arc::new(Watcher::new(Selector::default(), 0));
            watcher.take(&mut context, 1, &mut Vec::new());
            watcher
        };
        std::iter::repeat_with(make).take(n).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_is_woken_in_waves_and_few_at_once() {
        let (waves, count) = (Waves::default(), Arc::new(Count::default()));
        let woken = || count.0.load(Ordering::SeqCst);
        waves.wake(watchers(CROWD, &count));
        assert_eq!(woken(), CROWD, "nothing is under way: the first wave does not wait");
        waves.wake(watchers(CROWD, &count));
        waves.wake(watchers(CROWD, &count));
        assert_eq!(woken(), CROWD);
        waves.wake(watchers(1, &count));
        assert_eq!(woken(), CROWD + 1);
        tokio::time::sleep(PAUSE_MAX).await;
        assert_eq!(woken(), 3 * CROWD + 1);
    }
}
