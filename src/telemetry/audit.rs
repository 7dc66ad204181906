//! The audit log: who wrote what, who was refused what, and whom the server let in. Each line is one JSON object.
//!
//! - A line tells of a call: its caller, its peer, its method, its workspace, its outcome, and the sequence of the event
//!   that it made. The event has everything else. No line has an identity or an attribute.
//! - A line also tells of each file or key set that was reloaded: it changes who may call, or whom clients trust. Of the
//!   callers file, there is one for each credential that was added, changed or removed.
//! - Lines are events of `tracing` with this target. Without an audit log they are not written, and cost almost nothing.
//! - The lines wait in a bounded queue for a thread that writes them. When it is full, calls wait: only lines
//!   about refusals are ever left out, when there are too many: see `call.rs`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::Context;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

use crate::config::telemetry::AuditLog;

/// The target of the lines.
pub const TARGET: &str = "cameo::audit";
/// The lines that may wait to be written: some 10 MB.
const WAITING: usize = 32_768;

/// The layer that writes the lines, and what writes the last of them when it is dropped.
pub(super) fn layer<S>(log: &AuditLog) -> anyhow::Result<(impl Layer<S> + use<S>, WorkerGuard)>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(false)
        .buffered_lines_limit(WAITING)
        .thread_name("audit")
        .finish(open(log)?);
    let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_target(false).with_level(false);
    let only_these = Targets::new().with_target(TARGET, LevelFilter::INFO);
    Ok((lines.with_writer(writer).with_filter(only_these), guard))
}

fn open(log: &AuditLog) -> anyhow::Result<Box<dyn Write + Send>> {
    let path = match log {
        AuditLog::Stdout => return Ok(Box::new(io::stdout())),
        AuditLog::File(path) => path,
    };
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    Ok(Box::new(opened.with_context(|| format!("--audit-log {} cannot be written to", path.display()))?))
}
