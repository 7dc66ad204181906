//! The span of an attempt to deliver an event to a receiver of webhooks, which is told of it.

use std::sync::OnceLock;

use http::{HeaderMap, Uri};
use opentelemetry::trace::{Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::Span;

use super::parent::{TRACEPARENT, traceparent};
use super::{Traces, Tracing};

/// The trace of a delivery, which all its attempts belong to: the first is the root of the others.
#[derive(Debug, Clone, Default)]
pub struct Trace(OnceLock<SpanContext>);

/// An attempt.
#[derive(Debug)]
pub struct DeliverySpan(Option<Span>);

impl Traces {
    /// Begins an attempt, with its number from 1. `id` is that of the event, as the receiver gets it.
    #[must_use]
    pub fn delivery(&self, trace: &Trace, to: &Uri, id: &str, attempt: u32) -> DeliverySpan {
        let Some(tracing) = &self.0 else { return DeliverySpan(None) };
        let parent = match trace.0.get() {
            Some(first) => Context::new().with_remote_span_context(first.clone()),
            None => Context::new(),
        };
        let span = begin(tracing, &parent, to, id, attempt);
        trace.0.get_or_init(|| span.span_context().clone());
        DeliverySpan(Some(span))
    }
}

fn begin(tracing: &Tracing, parent: &Context, to: &Uri, id: &str, attempt: u32) -> Span {
    let mut attributes = vec![
        KeyValue::new("http.request.method", "POST"),
        KeyValue::new("cloudevents.event_id", id.to_owned()),
        KeyValue::new("server.address", to.host().unwrap_or_default().to_owned()), // Not the rest: it may hold a secret.
    ];
    attributes.extend(to.port_u16().map(|port| KeyValue::new("server.port", i64::from(port))));
    if attempt > 1 {
        attributes.push(KeyValue::new("http.request.resend_count", i64::from(attempt - 1)));
    }
    let builder = SpanBuilder::from_name("POST").with_kind(SpanKind::Client).with_attributes(attributes);
    tracing.span(builder, parent)
}

impl DeliverySpan {
    /// Tells the receiver, also if the attempt is not recorded: then it need not record what follows from it.
    pub fn propagate(&self, headers: &mut HeaderMap) {
        if let Some(span) = &self.0 {
            headers.insert(TRACEPARENT, traceparent(span.span_context()));
        }
    }

    /// The receiver has responded.
    pub fn status(&mut self, status: u16) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        }
    }

    /// Ends the span: with an error, if the attempt failed.
    pub fn end(mut self, failure: Option<&str>) {
        let Some(span) = &mut self.0 else { return };
        if let Some(failure) = failure {
            span.set_status(Status::error(failure.to_owned()));
        }
        span.end();
    }
}
