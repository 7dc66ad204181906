//! How long a measurement takes.

use std::time::Duration;

/// The length of a turn and the number of rounds.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub duration: Duration,
    pub rounds: u32,
}
