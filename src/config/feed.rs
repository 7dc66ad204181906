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
    /// How long a stream may be open, give or take a tenth. Then it ends with its cursor, and the client opens a new
    /// one: so streams spread over servers behind a load balancer. 0 means without end.
    #[arg(long, env = "CAMEO_MAX_STREAM_AGE", value_parser = units::duration, default_value = "0s")]
    pub max_stream_age: Duration,
    /// Streams that one client may have open: a caller, or an IP address on a server without authentication. One more is
    /// refused as `QUOTA_EXCEEDED`.
    #[arg(long, env = "CAMEO_MAX_STREAMS_PER_CLIENT", value_parser = units::count, default_value = "20000")]
    pub max_streams_per_client: usize,
}
