//! The clocks of this machine. The store asks them here for each command and each read; nothing deeper does.
//!
//! - [`Clock::now`] follows the machine's clock, but does not go back with it by less than [`CORRECTION`]: what has
//!   expired stays expired. Set back by more, the clock was wrong before, and is followed.
//! - [`Clock::uptime`] counts the time for which the store has been served, over all its restarts. No setting of the
//!   machine's clock moves it. Request ids age by it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::model::Micros;

/// A step back that is followed.
pub const CORRECTION: Duration = Duration::from_secs(60 * 60);

/// See the module.
#[derive(Debug)]
pub struct Clock {
    /// The latest time that was told.
    latest: AtomicI64,
    uptime_at_start: Micros,
    started: Instant,
}

impl Clock {
    /// Goes on where the store left off: with its uptime, and the time of its latest event.
    #[must_use]
    pub fn new(uptime: Micros, latest_event: Option<Micros>) -> Self {
        // Without events, the machine's clock is taken as it is: 1970 is far behind it.
        let latest = AtomicI64::new(latest_event.unwrap_or_default().get());
        Self { latest, uptime_at_start: uptime, started: Instant::now() }
    }

    /// The time of day.
    #[must_use]
    pub fn now(&self) -> Micros {
        self.tell(machine_time().unwrap_or_default())
    }

    /// How long the store has been served in all.
    #[must_use]
    pub fn uptime(&self) -> Micros {
        self.uptime_at_start.plus(self.started.elapsed())
    }

    /// What to say when the machine's clock says `machine`.
    fn tell(&self, machine: Micros) -> Micros {
        let latest = self.latest.load(Ordering::Relaxed);
        if machine.get() < latest && machine.plus(CORRECTION).get() > latest {
            return Micros::new(latest);
        }
        if machine.get() > latest {
            // Another thread may have told a later time meanwhile.
            return Micros::new(self.latest.fetch_max(machine.get(), Ordering::Relaxed).max(machine.get()));
        }
        self.latest.store(machine.get(), Ordering::Relaxed);
        machine
    }
}

/// The clock of the machine; `None` before 1970, which no clock of a machine in order says.
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
