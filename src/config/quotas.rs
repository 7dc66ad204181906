//! How much one client may ask for.

use clap::Args;

use super::units;

/// How much one client may ask for. A client is a caller by its name. On a server without authentication it is an IP
/// address.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Quotas")]
pub struct QuotaConfig {
    /// Calls per second that one client may begin, which is also the size of a burst. One more is refused as
    /// `RATE_LIMITED`. Each 16 KiB of a request or a response counts as another call. The size of streams does not count.
    /// 0 sets no limit.
    #[arg(long, env = "CAMEO_MAX_CALL_RATE_PER_CLIENT", default_value = "0")]
    pub max_call_rate_per_client: u32,
    /// Writes that one client may have in flight. One more is refused as `RATE_LIMITED`. An import counts as one. What
    /// the client gives up counts until the store has written what is queued of it. 0 sets no limit.
    #[arg(long, env = "CAMEO_MAX_WRITES_PER_CLIENT", default_value = "0")]
    pub max_writes_per_client: usize,
    /// Bytes per second that one client may import, at most 1GB. The server reads its records no faster. 0 sets no
    /// limit.
    #[arg(long, env = "CAMEO_MAX_IMPORT_RATE_PER_CLIENT", value_parser = import_rate, default_value = "0")]
    pub max_import_rate_per_client: u32,
}

/// A rate above one byte in a nanosecond cannot be told from none.
fn import_rate(text: &str) -> Result<u32, String> {
    let rate = units::size(text)?;
    if rate > 1_000_000_000 { Err("it must be at most 1GB".to_owned()) } else { Ok(rate) }
}
