//! Where and how to listen.

use std::net::SocketAddr;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};

use super::units;

/// Where and how to listen.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server")]
pub struct ServerConfig {
    /// Address to listen on. Port 0 lets the system choose a port.
    #[arg(long, env = "CAMEO_ADDR", value_parser = units::address, default_value = "127.0.0.1:50051")]
    pub addr: SocketAddr,
    /// Listen on an address that other machines can reach, although there is no authentication and no encryption.
    #[arg(long, env = "CAMEO_INSECURE")]
    #[arg(value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    pub insecure: bool,
    /// Time that a shutdown may take before open calls are cut off.
    #[arg(long, env = "CAMEO_DRAIN_TIMEOUT", value_parser = units::duration, default_value = "10s")]
    pub drain_timeout: Duration,
    /// HTTP requests per second that a workspace may send, which is also the size of a burst. 0 sets no limit.
    #[arg(long, env = "CAMEO_HTTP_RATE", default_value = "0")]
    pub http_rate: u32,
}
