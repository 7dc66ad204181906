//! Time as it is stored: microseconds since 1970, UTC.

use std::time::Duration;

use prost_types::Timestamp;

const PER_SECOND: i64 = 1_000_000;

/// Microseconds since 1970, UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(i64);

impl Micros {
    /// Microseconds since 1970, UTC.
    #[must_use]
    pub const fn new(micros: i64) -> Self {
        Self(micros)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The whole microseconds of a duration.
    #[must_use]
    pub fn of(duration: Duration) -> Self {
        Self(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX))
    }

    /// The time after a duration has passed.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(Self::of(duration).0))
    }

    /// The time as a message holds it.
    #[must_use]
    pub fn to_timestamp(self) -> Timestamp {
        let nanos = i32::try_from(self.0.rem_euclid(PER_SECOND) * 1_000).expect("below a second");
        Timestamp { seconds: self.0.div_euclid(PER_SECOND), nanos }
    }

    /// Rounds up, so that nothing expires too early. Times outside the range become its first or last time.
    #[must_use]
    pub fn from_timestamp(timestamp: &Timestamp) -> Self {
        let micros = (i64::from(timestamp.nanos) + 999).div_euclid(1_000);
        Self(timestamp.seconds.saturating_mul(PER_SECOND).saturating_add(micros))
    }
}

/// Whole milliseconds since 1970, UTC.
#[must_use]
pub fn millis(timestamp: &Timestamp) -> i64 {
    timestamp.seconds.saturating_mul(1_000).saturating_add(i64::from(timestamp.nanos).div_euclid(1_000_000))
}

/// Whether protobuf allows the timestamp: years 1 to 9999, and nanoseconds below a second.
#[must_use]
pub fn is_valid(timestamp: &Timestamp) -> bool {
    (-62_135_596_800..=253_402_300_799).contains(&timestamp.seconds) && (0..1_000_000_000).contains(&timestamp.nanos)
}
