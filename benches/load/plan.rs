//! How long a measurement takes.

use std::time::Duration;

/// How long a turn is, and how many rounds there are.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub duration: Duration,
    pub rounds: u32,
}
