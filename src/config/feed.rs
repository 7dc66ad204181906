//! How streams behave.

use std::time::Duration;

use clap::Args;

use super::units;

/// How streams behave.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Streams")]
pub struct FeedConfig {
    /// Memory for recent events, kept encoded, of all workspaces that have subscribers. The least recently used
    /// workspace gives up its events first. 0 keeps none.
    #[arg(long, env = "CAMEO_RING_BYTES", value_parser = units::size::<usize>, default_value = "64MiB")]
    pub ring_bytes: usize,
    /// How long a subscriber may read nothing while events wait for it. Then its stream is ended and its memory freed.
    #[arg(long, env = "CAMEO_STALL_TIMEOUT", value_parser = units::positive_duration, default_value = "5m")]
    pub stall_timeout: Duration,
}
