//! Lines of the log that any peer can cause, so that a flood of connections is not a flood of lines.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// Lines a second, and at once after a pause.
const RATE: NonZeroU32 = NonZeroU32::new(10).expect("it is not 0");

/// Counts the lines of one kind.
#[derive(Debug)]
pub(super) struct Lines<C: Clock = MonotonicClock> {
    rate: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
    unlogged: AtomicU64,
}

impl Default for Lines {
    fn default() -> Self {
        Self::with_clock(MonotonicClock)
    }
}

impl<C: Clock> Lines<C> {
    fn with_clock(clock: C) -> Self {
        let rate = RateLimiter::direct_with_clock(Quota::per_second(RATE), clock);
        Self { rate, unlogged: AtomicU64::new(0) }
    }

    /// Whether there may be a line. If so, returns how many there would have been since the last one.
    pub fn next(&self) -> Option<u64> {
        if self.rate.check().is_ok() {
            return Some(self.unlogged.swap(0, Ordering::Relaxed));
        }
        self.unlogged.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn ten_lines_a_second_are_logged_and_the_others_are_counted() {
        let clock = FakeRelativeClock::default();
        let lines = Lines::with_clock(clock.clone());
        let logged = (0..25).filter(|_| lines.next() == Some(0)).count();
        assert_eq!(logged, 10);
        clock.advance(Duration::from_millis(100));
        assert_eq!(lines.next(), Some(15));
        assert_eq!(lines.next(), None);
        clock.advance(Duration::from_secs(1));
        assert_eq!(lines.next(), Some(1));
    }
}
