//! Traces: spans of calls and of commits, sent to a collector by OTLP. Off unless `--otlp-endpoint` names one.
//!
//! In reading order:
//! - `parent`: the headers of W3C Trace Context, which join the spans of several programs to one trace.
//! - `call`: the span of a call. `commit`: the span of a commit, which links to the calls whose writes it holds.
//!   `delivery`: the span of an attempt to deliver an event.
//! - `sampling`: which traces are recorded.
//! - `export`: the queue of ended spans, and the task that sends them.
//!
//! What always holds:
//! - No span has an identity or an attribute of a profile. What a caller sends is in none but as the ids and the state of
//!   its own trace, and as the name of the workspace.
//! - A span never holds up what it is about: when the queue is full, spans are dropped and counted.
//! - Strangers cannot fill the queue: few of the calls whose callers are not known have spans.
//! - While traces are off, a call costs a look at an `Option`. So does a call that is not sampled, once that is known.

mod call;
mod commit;
mod delivery;
mod export;
mod parent;
mod sampling;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::{SpanBuilder, Tracer, TracerProvider};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span, SpanLimits};

pub use call::{CallEnd, CallSpan, current, scope};
pub use commit::{Commit, Committed};
pub use delivery::{DeliverySpan, Trace};
use export::Exporter;

use super::lines::Lines;
use super::metrics::SpanMetrics;
use crate::config::TraceConfig;

/// The most events of a span: commits of an import. What is dropped is counted in the span.
const MOST_EVENTS: u32 = 128;
/// The most links of a span: calls of a commit, and commits of a call. What is dropped is counted in the span.
const MOST_LINKS: u32 = 128;

/// How long the collector may take for the last spans.
pub const LAST_SPANS: Duration = Duration::from_secs(2);

/// Makes spans, if there is a collector for them. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Arc<Tracing>>);

#[derive(Debug)]
struct Tracing {
    tracer: SdkTracer,
    exporter: Exporter,
    /// Counts the spans of calls whose callers are not known.
    strangers: Lines,
}

/// Why traces cannot begin.
#[derive(Debug, thiserror::Error)]
#[error("--otlp-endpoint: {cause}")]
pub struct TracesError {
    cause: tonic::transport::Error,
}

impl Traces {
    /// Begins as the settings say. The collector is connected to when there are spans for it.
    ///
    /// # Errors
    /// [`TracesError`] if TLS is asked for, and the system has no certificates to trust.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn begin(config: &TraceConfig, service: &'static str, metrics: &SpanMetrics) -> Result<Self, TracesError> {
        let Some(endpoint) = &config.otlp_endpoint else { return Ok(Self::default()) };
        let resource = resource(service);
        let (queue, exporter) =
            export::begin(endpoint, &resource, metrics.clone()).map_err(|cause| TracesError { cause })?;
        let limits =
            SpanLimits { max_events_per_span: MOST_EVENTS, max_links_per_span: MOST_LINKS, ..SpanLimits::default() };
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_sampler(sampling::sampler(config.trace_sample))
            .with_span_limits(limits)
            .with_span_processor(queue)
            .build();
        let scope = InstrumentationScope::builder("cameo").with_version(env!("CARGO_PKG_VERSION")).build();
        let tracer = provider.tracer_with_scope(scope);
        Ok(Self(Some(Arc::new(Tracing { tracer, exporter, strangers: Lines::default() }))))
    }

    /// Sends the spans that wait, and ends. Later spans are dropped. It takes as long as the collector needs: the caller
    /// bounds it, by [`LAST_SPANS`] at the most.
    pub async fn end(&self) {
        if let Some(tracing) = &self.0 {
            tracing.exporter.end().await;
        }
    }
}

impl Tracing {
    fn span(&self, span: SpanBuilder, parent: &Context) -> Span {
        self.tracer.build_with_context(span, parent)
    }
}

/// What is the same for all spans. `OTEL_RESOURCE_ATTRIBUTES` adds to it, as everywhere.
fn resource(service: &'static str) -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    Resource::builder().with_service_name(service).with_attribute(version).build()
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::Instant;

    use http::HeaderMap;

    use super::*;
    use crate::telemetry::metrics::Method;

    const CALLS: u32 = 100_000;

    fn begin(trace_sample: f64) -> Traces {
        let nowhere = Some("http://127.0.0.1:1".parse().unwrap());
        Traces::begin(&TraceConfig { otlp_endpoint: nowhere, trace_sample }, "test", &SpanMetrics::default()).unwrap()
    }

    /// `cargo test --release what_a_call_costs_with_traces -- --ignored --nocapture` prints it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    #[ignore = "a measurement, for those who change what is recorded"]
    async fn what_a_call_costs_with_traces() {
        let method = Method::of_path("/cameo.v1.ProfileService/GetProfile");
        let headers = HeaderMap::new();
        for (name, traces) in [("off", Traces::default()), ("not sampled", begin(0.0)), ("recorded", begin(1.0))] {
            let start = Instant::now();
            for _ in 0..CALLS {
                let span = black_box(&traces).call(method, &http::Method::POST, &headers);
                scope(span.clone(), async { black_box(current()) }).await;
                if let Some(span) = span {
                    span.end(&CallEnd { code: Some("OK"), ..CallEnd::default() });
                }
            }
            println!("{name}: {:?} a call", start.elapsed() / CALLS);
        }
    }

    #[tokio::test]
    async fn a_call_has_its_span_in_scope_while_it_is_recorded() {
        let method = Method::of_path("/cameo.v1.ProfileService/GetProfile");
        let headers = HeaderMap::new();
        for (traces, is_recorded) in [(Traces::default(), false), (begin(0.0), false), (begin(1.0), true)] {
            let span = traces.call(method, &http::Method::POST, &headers);
            assert_eq!(span.is_some(), is_recorded);
            let found = scope(span.clone(), async { current() }).await;
            assert_eq!(found.map(|found| found.context().span_id()), span.map(|span| span.context().span_id()));
            assert!(current().is_none());
        }
    }
}
