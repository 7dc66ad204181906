//! `cameo forward` and `cameo listen`: the events of a subscription as webhooks, for receivers that cannot hold a stream.
//!
//! In reading order:
//! - [`ledger`]: what is delivered and what may be acknowledged.
//! - [`json`], [`event`]: changes as CloudEvents.
//! - [`sign`]: signatures of Standard Webhooks.
//! - [`retry`]: attempts until one succeeds.
//! - [`deliver`]: one attempt.
//! - [`stream`]: the stream of the subscription, opened again whenever it breaks.
//! - [`lanes`]: reads the stream, delivers, acknowledges.
//! - [`server`]: the calls of the server.
//!
//! An event is acknowledged only after the receiver confirmed it, or after it was given up. So it is delivered at least
//! once, and again only if a request or an acknowledgement was lost. `docs/forward.md` is for those who run it.

mod deliver;
mod event;
mod lanes;
mod ledger;
mod retry;
mod server;
mod sign;
mod stream;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use std::io::{Write, stdout};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use http::Uri;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::connect::Connect;
use super::signals;
use crate::config::units::{self, Address};
use crate::config::{LogFormat, TelemetryConfig, TraceConfig};
use crate::telemetry;
use crate::telemetry::metrics::SpanMetrics;
use crate::telemetry::traces::{LAST_SPANS, Traces};
use deliver::Receiver;
use event::{CloudEvents, Mode};
use lanes::Lanes;
use retry::Policy;
use server::Server;
use sign::Secrets;

/// The variable with a secret, for those who have no file.
pub(super) const SECRET: &str = "CAMEO_WEBHOOK_SECRET";

/// The name of the service in traces.
const SERVICE: &str = "cameo-forward";

#[derive(Debug, Args)]
pub(super) struct Forward {
    /// Name of the subscription, which must exist.
    #[arg(long, required_unless_present = "new_secret")]
    subscription: Option<String>,
    /// URL of the receiver, which gets each event as a POST.
    #[arg(long, value_name = "URL", value_parser = deliver::url, required_unless_present = "new_secret")]
    to: Option<Uri>,
    /// Workspace of the subscription.
    #[arg(long, required_unless_present = "new_secret")]
    workspace: Option<String>,
    /// Print a new secret, and do nothing else.
    #[arg(long, exclusive = true)]
    new_secret: bool,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
pub(super) struct Listen {
    /// URL of the receiver, which gets each event as a POST.
    #[arg(long, value_name = "URL", value_parser = deliver::url)]
    forward_to: Uri,
    /// Workspace whose events to forward.
    #[arg(long)]
    workspace: String,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
struct Options {
    /// Address of the server: a host name or an IP address, and a port.
    #[arg(long, env = "CAMEO_ADDR", value_parser = units::address, default_value = "127.0.0.1:50051")]
    addr: Address,
    #[command(flatten)]
    connect: Connect,
    /// How an event is sent: `structured`, a CloudEvent as JSON, or `binary`, the change as JSON and the rest in headers.
    #[arg(long, value_enum, default_value = "structured")]
    mode: Mode,
    /// File with the secrets that sign requests, one in a line, the newest first. It is read again when it changes. The
    /// variable `CAMEO_WEBHOOK_SECRET` holds a single secret instead.
    #[arg(long, value_name = "FILE")]
    secrets_file: Option<PathBuf>,
    /// Send requests without a signature.
    #[arg(long, conflicts_with = "secrets_file")]
    unsigned: bool,
    /// Number of requests at a time. The events of one profile stay in order; with 1 all do.
    #[arg(long, value_name = "N", value_parser = concurrency, default_value = "1")]
    concurrency: usize,
    /// Time to wait for a response.
    #[arg(long, value_parser = units::positive_duration, default_value = "15s")]
    timeout: Duration,
    /// Longest wait after the first failure of an event. It doubles with each further failure.
    #[arg(long, value_name = "TIME", value_parser = units::positive_duration, default_value = "1s")]
    retry_min: Duration,
    /// Longest wait after any failure, unless the receiver asks for more with `Retry-After`.
    #[arg(long, value_name = "TIME", value_parser = units::positive_duration, default_value = "5m")]
    retry_max: Duration,
    /// What to do with an event that the receiver does not take: `wait` tries for ever, `skip` gives it up.
    #[arg(long, value_enum, default_value = "wait")]
    on_failure: OnFailure,
    /// With `--on-failure skip`: number of attempts before an event is given up.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), default_value = "10")]
    attempts: u32,
    /// What to log, in the syntax of `RUST_LOG`: `info`, or `cameo=debug,warn`.
    #[arg(long, env = "CAMEO_LOG", default_value = "info")]
    log: String,
    /// What a line of the log looks like: `text` for people, `json` for machines.
    #[arg(long, env = "CAMEO_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
    #[command(flatten)]
    traces: TraceConfig,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnFailure {
    /// Try for ever.
    Wait,
    /// Give the event up: it is listed among the skipped events of the subscription.
    Skip,
}

fn concurrency(text: &str) -> Result<usize, String> {
    units::count(text).ok().filter(|count| *count <= 256).ok_or_else(|| "it must be 1 to 256".to_owned())
}

pub(super) fn forward(forward: Forward) -> anyhow::Result<()> {
    let Forward { subscription: Some(subscription), to: Some(to), workspace: Some(workspace), options, .. } = forward
    else {
        return writeln!(stdout(), "{}", sign::fresh()).context("cannot print the secret");
    };
    run(&options, to, async |server, lanes, ending| forward_from(server, lanes, ending, &subscription).await, workspace)
}

pub(super) fn listen(Listen { forward_to, workspace, options }: Listen) -> anyhow::Result<()> {
    let name = format!("listen-{:016x}", rand::random::<u64>());
    let listen = async |server: &Server, lanes: Lanes, ending: &CancellationToken| {
        server.create(&name).await?;
        let forwarded = forward_from(server, lanes, ending, &name).await;
        forwarded.and(server.delete(&name).await)
    };
    run(&options, forward_to, listen, workspace)
}

fn run(
    options: &Options,
    to: Uri,
    forward: impl AsyncFnOnce(&Server, Lanes, &CancellationToken) -> anyhow::Result<()>,
    workspace: String,
) -> anyhow::Result<()> {
    let (log, log_format) = (options.log.clone(), options.log_format);
    let _none = telemetry::init(&TelemetryConfig { log, log_format, audit_log: None, metrics_addr: None })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let traces = {
        let _inside = runtime.enter();
        Traces::begin(&options.traces, SERVICE, &SpanMetrics::default())?
    };
    let lanes = options.lanes(to, workspace.clone(), traces.clone())?;
    let ended = runtime.block_on(async {
        let signal = signals::catch()?;
        let ending = CancellationToken::new();
        let end = ending.clone();
        tokio::spawn(async move {
            let signal = signal.await;
            tracing::info!(signal, "ending");
            end.cancel();
        });
        let ended = forward(&Server::new(&options.addr, &options.connect, workspace)?, lanes, &ending).await;
        if tokio::time::timeout(LAST_SPANS, traces.end()).await.is_err() {
            tracing::warn!("the collector did not take the last spans in time");
        }
        ended
    });
    runtime.shutdown_background(); // What did not end in time is given up.
    ended
}

/// Forwards until `ending` is cancelled or the subscription or the receiver ends it.
async fn forward_from(
    server: &Server,
    lanes: Lanes,
    ending: &CancellationToken,
    subscription: &str,
) -> anyhow::Result<()> {
    let (sender, news) = mpsc::unbounded_channel();
    let passes_damage = lanes.policy.attempts.is_some(); // As it gives up events.
    let follow = stream::follow(async || server.subscribe(subscription).await, sender, passes_damage);
    let acknowledge = |acknowledgement| server.acknowledge(subscription, acknowledgement);
    tracing::info!(subscription, "forwarding");
    let (followed, (summary, ended)) = tokio::join!(follow, lanes.run(news, acknowledge, ending));
    let lanes::Summary { delivered, skipped, failed_attempts, .. } = summary;
    tracing::info!(delivered, skipped, failed_attempts, "ended");
    followed.and(ended)
}

impl Options {
    fn lanes(&self, to: Uri, workspace: String, traces: Traces) -> anyhow::Result<Lanes> {
        let receiver = Receiver::new(to, self.secrets()?, self.timeout, traces)?;
        let attempts = (self.on_failure == OnFailure::Skip).then_some(self.attempts);
        Ok(Lanes {
            receiver: Arc::new(receiver),
            cloud_events: CloudEvents { workspace, mode: self.mode },
            policy: Policy { min: self.retry_min, max: self.retry_max, attempts },
            concurrency: self.concurrency,
        })
    }

    fn secrets(&self) -> anyhow::Result<Secrets> {
        if self.unsigned {
            return Ok(Secrets::none());
        }
        if let Some(file) = &self.secrets_file {
            return Secrets::of_file(file.clone());
        }
        match std::env::var(SECRET).unwrap_or_default() {
            none if none.is_empty() => bail!(
                "requests are signed with a secret: name a file with --secrets-file, or set {SECRET}. \
                 `cameo forward --new-secret` prints a new one, and --unsigned does without"
            ),
            secret => Secrets::one(&secret).map_err(|cause| cause.context(SECRET)),
        }
    }
}
