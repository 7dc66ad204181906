//! What to log, and where to serve metrics.

use clap::{Args, ValueEnum};

use super::units::{self, Address};

/// What to log, and where to serve metrics.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logs and metrics")]
pub struct TelemetryConfig {
    /// What to log, in the syntax of `RUST_LOG`: `info`, or `cameo=debug,warn`.
    #[arg(long, env = "CAMEO_LOG", default_value = "info")]
    pub log: String,
    /// What a line of the log looks like: `text` for people, `json` for machines.
    #[arg(long, env = "CAMEO_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Address to serve `/metrics`, `/healthz` and `/readyz` on, over HTTP. Port 0 lets the system choose a port, and
    /// `off` serves none of them.
    #[arg(long, env = "CAMEO_METRICS_ADDR", value_parser = metrics_addr, default_value = "127.0.0.1:9090")]
    pub metrics_addr: std::option::Option<Address>, // clap takes a plain `Option` for a flag without a default.
}

fn metrics_addr(text: &str) -> Result<Option<Address>, String> {
    if text.is_empty() || text == "off" { Ok(None) } else { units::address(text).map(Some) }
}

/// What a line of the log looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}
