//! What to log.

use clap::{Args, ValueEnum};

/// What to log.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logs")]
pub struct TelemetryConfig {
    /// What to log, in the syntax of `RUST_LOG`: `info`, or `cameo=debug,warn`.
    #[arg(long, env = "CAMEO_LOG", default_value = "info")]
    pub log: String,
    /// What a line of the log looks like: `text` for people, `json` for machines.
    #[arg(long, env = "CAMEO_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

/// What a line of the log looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}
