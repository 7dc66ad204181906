//! Retention in a storm: how much of the log it leaves, and what a subscriber is told that comes too late.

use cameo::config::Config;
use cameo::proto::v1::LogEnds;
use tonic::Status;
use tonic_types::StatusExt;

use super::log::Log;
use crate::harness::metadata;

/// What retention leaves of the log, and what it leaves if a subscription needs more. A storm writes several times as
/// much.
pub const KEPT_BYTES: u64 = 16 << 10;
pub const HELD_BYTES: u64 = 40 << 10;
/// More than a row of the log has besides its event.
const MOST_ROW_BYTES: u64 = 64;

pub fn settings(config: &mut Config) {
    config.store.retention_bytes = KEPT_BYTES;
    config.store.subscription_hold_bytes = HELD_BYTES;
}

/// `CURSOR_EXPIRED`, as a subscriber was told.
#[derive(Debug, Clone)]
pub struct Expired {
    pub oldest: u64,
    pub head: u64,
    /// Empty if the log held no event.
    pub oldest_time: String,
    /// A floor of the log that was read afterwards.
    pub floor_after: u64,
}

impl Expired {
    pub fn of(status: &Status) -> Option<Self> {
        let said = status.get_details_error_info()?;
        let number = |key| metadata(status, key).parse().expect("a sequence");
        (said.reason == "CURSOR_EXPIRED").then(|| Self {
            oldest: number("oldest_sequence"),
            head: number("head_sequence"),
            oldest_time: metadata(status, "oldest_time"),
            floor_after: u64::MAX,
        })
    }

    /// The sequence of the last event that is gone.
    pub fn floor(&self) -> u64 {
        self.oldest.saturating_sub(1)
    }

    /// Whether the events that are gone made the log larger than so many bytes. It has not shrunk since.
    pub fn exceeds(&self, log: &Log, bytes: u64) -> bool {
        let from_the_last = (self.floor()..=self.head).filter_map(|sequence| log.event(sequence));
        from_the_last.map(|version| encoded_bytes(&version.event) + MOST_ROW_BYTES).sum::<u64>() > bytes
    }
}

fn encoded_bytes(message: &impl prost::Message) -> u64 {
    message.encoded_len() as u64
}

/// The sequence of the last event that is gone.
pub fn floor(ends: &LogEnds) -> u64 {
    ends.oldest_sequence.saturating_sub(1)
}
