//! The clocks of this machine. The store reads them for each command and each read; no code below the store does.
//!
//! - [`Clock::now`] follows the machine's clock, but ignores steps back of less than [`CORRECTION`], so that what has
//!   expired stays expired. A larger step back is followed: it means that the clock was wrong before.
//! - [`Clock::uptime`] is the total time for which the store has been served, over all restarts. It does not depend on
//!   the machine's wall clock. It determines the age of request ids.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::model::Micros;

/// The smallest step back that is followed.
pub const CORRECTION: Duration = Duration::from_secs(60 * 60);

/// See the module.
#[derive(Debug)]
pub struct Clock {
    /// The latest time that was returned.
    latest: AtomicI64,
    uptime_at_start: Micros,
    started: Instant,
}

impl Clock {
    /// Continues from the uptime of the store and the time of its latest event.
    #[must_use]
    pub fn new(uptime: Micros, latest_event: Option<Micros>) -> Self {
        // Without events, this is 1970. Any machine's clock is later, so it is followed.
        let latest = AtomicI64::new(latest_event.unwrap_or_default().get());
        Self { latest, uptime_at_start: uptime, started: Instant::now() }
    }

    /// The time of day.
    #[must_use]
    pub fn now(&self) -> Micros {
        self.tell(machine_time().unwrap_or_default())
    }

    /// How long the store has been served in total.
    #[must_use]
    pub fn uptime(&self) -> Micros {
        self.uptime_at_start.plus(self.started.elapsed())
    }

    /// The time to return when the machine's clock shows `machine`.
    fn tell(&self, machine: Micros) -> Micros {
        let latest = self.latest.load(Ordering::Relaxed);
        if machine.get() < latest && machine.plus(CORRECTION).get() > latest {
            return Micros::new(latest);
        }
        if machine.get() > latest {
            // Another thread may have returned a later time in the meantime.
            return Micros::new(self.latest.fetch_max(machine.get(), Ordering::Relaxed).max(machine.get()));
        }
        self.latest.store(machine.get(), Ordering::Relaxed);
        machine
    }
}

/// The machine's clock; `None` before 1970, which a working clock never shows.
#[must_use]
pub fn machine_time() -> Option<Micros> {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().map(Micros::of)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;

    fn told(clock: &Clock, machine: i64) -> i64 {
        clock.tell(Micros::new(machine)).get()
    }

    #[test]
    fn a_small_step_back_is_waited_out_and_a_large_one_is_followed() {
        let clock = Clock::new(Micros::default(), None);
        assert_eq!(told(&clock, 10 * HOUR), 10 * HOUR);
        assert_eq!(told(&clock, 9 * HOUR + 1), 10 * HOUR, "by less than an hour");
        assert_eq!(told(&clock, 10 * HOUR + 5), 10 * HOUR + 5);
        assert_eq!(told(&clock, 9 * HOUR + 5), 9 * HOUR + 5, "by an hour");
        assert_eq!(told(&clock, 9 * HOUR + 4), 9 * HOUR + 5);
    }

    #[test]
    fn a_small_step_back_over_a_restart_is_waited_out_too() {
        let clock = Clock::new(Micros::default(), Some(Micros::new(10 * HOUR)));
        assert_eq!(told(&clock, 10 * HOUR - 1), 10 * HOUR);
        let five_years_ahead = Some(Micros::new(5 * 365 * 24 * HOUR));
        assert_eq!(told(&Clock::new(Micros::default(), five_years_ahead), HOUR), HOUR);
    }

    #[test]
    fn uptime_goes_on_where_it_was() {
        let clock = Clock::new(Micros::new(7), None);
        let first = clock.uptime();
        assert!(first.get() >= 7 && first <= clock.uptime());
        assert!(first.get() < HOUR);
    }
}
