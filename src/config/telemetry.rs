//! What to log, and where to serve metrics.

use std::path::PathBuf;

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
    /// File that gets a line of JSON for each write, each call that is refused for want of rights, and each change of the
    /// credentials. `-` is standard output, and `off` writes none.
    #[arg(long, env = "CAMEO_AUDIT_LOG", value_name = "FILE", value_parser = audit_log, default_value = "off")]
    pub audit_log: std::option::Option<AuditLog>, // clap takes a plain `Option` for a flag without a default.
    /// Address to serve `/metrics`, `/healthz` and `/readyz` on, over HTTP. Port 0 lets the system choose a port, and
    /// `off` serves none of them.
    #[arg(long, env = "CAMEO_METRICS_ADDR", value_parser = metrics_addr, default_value = "127.0.0.1:9090")]
    pub metrics_addr: std::option::Option<Address>, // clap takes a plain `Option` for a flag without a default.
}

fn metrics_addr(text: &str) -> Result<Option<Address>, String> {
    if text.is_empty() || text == "off" { Ok(None) } else { units::address(text).map(Some) }
}

/// Where the audit log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditLog {
    /// To standard output.
    Stdout,
    /// To the end of a file.
    File(PathBuf),
}

fn audit_log(text: &str) -> Result<Option<AuditLog>, String> {
    match text {
        "" => Err("it is a file, `-` for standard output, or `off`".to_owned()),
        "off" => Ok(None),
        "-" => Ok(Some(AuditLog::Stdout)),
        path => Ok(Some(AuditLog::File(path.into()))),
    }
}

/// What a line of the log looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}
