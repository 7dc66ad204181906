//! The queue of ended spans, and the task that sends them to the collector: OTLP over gRPC.
//!
//! - Spans enter the queue if there is room for them. No call and no commit waits.
//! - Batches are sent one after the other. One that the collector does not take is dropped: while the collector is down,
//!   newer spans are worth more than older ones.
//! - Every span is counted by what became of it.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::Uri;
use opentelemetry::Context;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};

use crate::telemetry::metrics::{SpanMetrics, SpanOutcome};

/// The most spans in a batch.
const BATCH: usize = 512;
/// The most spans that wait. The span of a call takes one or two kilobytes, one with all its links and events about 25.
const WAITING: usize = 16 * BATCH;
/// How long the first span of a batch waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// How long the collector may take for a batch, and for a connection.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is logged that the collector takes no spans, while that lasts.
const LASTING: Duration = Duration::from_secs(60);

/// The name of a span that is not to be sent.
pub(super) const DISCARDED: &str = "";

/// Where spans go when they end.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    metrics: SpanMetrics,
}

/// The task that sends spans.
#[derive(Debug)]
pub(super) struct Exporter {
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Sender {
    spans: mpsc::Receiver<SpanData>,
    client: TraceServiceClient<Channel>,
    resource: ResourceAttributesWithSchema,
    metrics: SpanMetrics,
    stop: CancellationToken,
    /// When it was last logged that the collector takes no spans. `None` while it takes them.
    failing: Option<Instant>,
}

/// Why a batch was dropped.
enum Failure {
    Refused(Status),
    Late,
}

/// Starts the task.
///
/// # Errors
/// If TLS is asked for, and the system has no certificates to trust.
pub(super) fn begin(
    endpoint: &Uri,
    resource: &Resource,
    metrics: SpanMetrics,
) -> Result<(Queue, Exporter), tonic::transport::Error> {
    let is_tls = endpoint.scheme_str() == Some("https");
    let mut endpoint = Endpoint::from(endpoint.clone()).connect_timeout(EXPORT_TIMEOUT);
    if is_tls {
        endpoint = endpoint.tls_config(ClientTlsConfig::new().with_native_roots())?;
    }
    let client = TraceServiceClient::new(endpoint.connect_lazy());
    let (sender, spans) = mpsc::channel(WAITING);
    let stop = CancellationToken::new();
    let task = Sender {
        spans,
        client,
        resource: resource.into(),
        metrics: metrics.clone(),
        stop: stop.clone(),
        failing: None,
    };
    let task = Mutex::new(Some(tokio::spawn(task.run())));
    Ok((Queue { spans: sender, metrics }, Exporter { stop, task }))
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.name != DISCARDED && self.spans.try_send(span).is_err() {
            self.metrics.count(SpanOutcome::Overflow, 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(()) // `Exporter::end` does, and does not block.
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Exporter {
    /// Sends what waits, and ends the task.
    pub async fn end(&self) {
        self.stop.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await; // An error means that it panicked, and that is on standard error.
        }
    }
}

impl Sender {
    async fn run(mut self) {
        while let Some(batch) = self.gather().await {
            self.send(batch).await;
        }
    }

    /// Returns the next batch; `None` once no more can come.
    async fn gather(&mut self) -> Option<Vec<SpanData>> {
        let (mut batch, mut deadline) = (Vec::new(), Instant::now());
        while batch.len() < BATCH {
            let (is_first, room) = (batch.is_empty(), BATCH - batch.len());
            tokio::select! {
                biased;
                () = self.stop.cancelled(), if !self.spans.is_closed() => self.spans.close(), // What waits is still received.
                received = self.spans.recv_many(&mut batch, room) => match received {
                    0 => break,
                    _ if is_first => deadline = Instant::now() + GATHER,
                    _ => {}
                },
                () = sleep_until(deadline), if !is_first => break,
            }
        }
        (!batch.is_empty()).then_some(batch)
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len();
        let request =
            ExportTraceServiceRequest { resource_spans: group_spans_by_resource_and_scope(batch, &self.resource) };
        match timeout(EXPORT_TIMEOUT, self.client.export(request)).await {
            Ok(Ok(response)) => {
                let partly = response.into_inner().partial_success.unwrap_or_default();
                let rejected = usize::try_from(partly.rejected_spans).unwrap_or_default().min(spans);
                self.metrics.count(SpanOutcome::Rejected, rejected);
                self.metrics.count(SpanOutcome::Exported, spans - rejected);
                self.recovered();
            }
            Ok(Err(status)) => self.failed(spans, &Failure::Refused(status)),
            Err(_) => self.failed(spans, &Failure::Late),
        }
    }

    fn failed(&mut self, spans: usize, failure: &Failure) {
        self.metrics.count(SpanOutcome::Failed, spans);
        let now = Instant::now();
        if self.failing.is_none_or(|logged| now.duration_since(logged) >= LASTING) {
            self.failing = Some(now);
            tracing::warn!(%failure, "the collector takes no spans; logged once a minute while this lasts");
        }
    }

    fn recovered(&mut self) {
        if self.failing.take().is_some() {
            tracing::info!("the collector takes spans again");
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late => formatter.write_str("no response in time"),
            Self::Refused(status) if status.code() == Code::Unavailable => formatter.write_str("it cannot be reached"),
            Self::Refused(status) => write!(formatter, "{:?}", status.code()), // Its message may say anything.
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Tracer, TracerProvider};
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;

    #[test]
    fn spans_that_find_no_room_are_dropped_and_counted() {
        let (metrics, (sender, mut spans)) = (SpanMetrics::default(), mpsc::channel(2));
        let queue = Queue { spans: sender, metrics: metrics.clone() };
        let tracer = SdkTracerProvider::builder().with_span_processor(queue).build().tracer("test");
        for name in ["a", "b", "c", "d"] {
            drop(tracer.start(name));
        }
        assert_eq!(metrics.get(SpanOutcome::Overflow), 2);
        let kept: Vec<_> = std::iter::from_fn(|| spans.try_recv().ok()).map(|span| span.name).collect();
        assert_eq!(kept, ["a", "b"]);
    }
}
