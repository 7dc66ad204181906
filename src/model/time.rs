//! Time as it is stored: microseconds since 1970, UTC.

use std::time::{SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

/// Microseconds since 1970, UTC.
pub type Micros = i64;

const PER_SECOND: i64 = 1_000_000;

/// The clock of this machine. Only whoever makes a command or serves a read asks it; nothing deeper does.
#[must_use]
pub fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros::try_from(since.as_micros()).unwrap_or(Micros::MAX)
}

/// As a message says it.
#[must_use]
pub fn to_timestamp(micros: Micros) -> Timestamp {
    let nanos = i32::try_from(micros.rem_euclid(PER_SECOND) * 1_000).expect("below a second");
    Timestamp { seconds: micros.div_euclid(PER_SECOND), nanos }
}

/// Whole milliseconds since 1970, UTC.
#[must_use]
pub fn millis(timestamp: &Timestamp) -> i64 {
    timestamp.seconds.saturating_mul(1_000).saturating_add(i64::from(timestamp.nanos).div_euclid(1_000_000))
}

/// Rounded up, so that whoever compares with it never acts too early; times past the range count as its ends.
#[must_use]
pub fn from_timestamp(timestamp: &Timestamp) -> Micros {
    let micros = (i64::from(timestamp.nanos) + 999).div_euclid(1_000);
    timestamp.seconds.saturating_mul(PER_SECOND).saturating_add(micros)
}

/// Whether protobuf allows it: years 1 to 9999, and nanoseconds below a second.
#[must_use]
pub fn is_valid(timestamp: &Timestamp) -> bool {
    (-62_135_596_800..=253_402_300_799).contains(&timestamp.seconds) && (0..1_000_000_000).contains(&timestamp.nanos)
}
