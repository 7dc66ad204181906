//! Logs. No line holds an identity value or an attribute value.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::panic::{self, PanicHookInfo};
use std::thread;

use anyhow::anyhow;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::audit;
use crate::config::{LogFormat, TelemetryConfig};

/// Sends logs to standard error, panics among them, and the audit log to its file. What it returns writes the last lines
/// of that when it is dropped.
///
/// # Errors
/// If the filter is malformed, or the file cannot be written to.
pub(crate) fn init(config: &TelemetryConfig) -> anyhow::Result<Option<WorkerGuard>> {
    let filter = filter(&config.log)?;
    let audit = config.audit_log.as_ref().map(audit::layer).transpose()?;
    let (audit, guard) = audit.unzip();
    let colours = std::io::stderr().is_terminal();
    let logs = tracing_subscriber::fmt::layer().with_ansi(colours).with_writer(std::io::stderr);
    let logs = match config.log_format {
        LogFormat::Text => logs.boxed(),
        LogFormat::Json => logs.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(logs.with_filter(filter)).with(audit).init();
    panic::set_hook(Box::new(log_panic));
    Ok(guard)
}

/// What the log shows: never lines of the audit log, whatever its filter says.
fn filter(directives: &str) -> anyhow::Result<EnvFilter> {
    let filter = EnvFilter::try_new(directives);
    let filter =
        filter.map_err(|cause| anyhow!("--log {directives:?} is not a filter for logs, such as info: {cause}"))?;
    Ok(filter.add_directive(format!("{}=off", audit::TARGET).parse()?))
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let backtrace = Backtrace::capture(); // Only under RUST_BACKTRACE. It names functions and holds no values.
    tracing::error!(
        thread = thread.name().unwrap_or("unnamed"),
        location = panic.location().map(tracing::field::display),
        panic = literal(panic.payload()),
        backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(&backtrace)),
        "a thread panicked"
    );
}

/// The message of a panic, if it is a literal. A message that is formatted at run time may hold what a caller sent.
fn literal(payload: &(dyn Any + Send)) -> Option<&'static str> {
    payload.downcast_ref().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload_of(panic: impl FnOnce() + panic::UnwindSafe) -> Box<dyn Any + Send> {
        panic::catch_unwind(panic).unwrap_err()
    }

    #[test]
    fn only_the_literal_message_of_a_panic_is_logged() {
        let email = std::hint::black_box("ada@x.com");
        assert_eq!(literal(&*payload_of(|| panic!("the queue is gone"))), Some("the queue is gone"));
        assert_eq!(literal(&*payload_of(|| panic!("no {email}"))), None);
        assert_eq!(literal(&*payload_of(|| assert_eq!(email, "bob@x.com"))), None);
        assert_eq!(literal(&*payload_of(|| panic::panic_any(email.to_owned()))), None);
    }
}
