//! The span of a commit. It is the root of a trace of its own, as the calls of many traces share it: it links to them, and
//! they link to it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{Link, Span as _, SpanBuilder, SpanContext, SpanKind, TraceState};
use opentelemetry::{Context, KeyValue};

use super::call::CallSpan;
use super::{MOST_LINKS, Traces, Tracing};

/// A batch of writes that is not committed yet.
#[derive(Debug)]
pub struct Commit {
    tracing: Arc<Tracing>,
    begun: SystemTime,
}

/// What was committed.
#[derive(Debug, Clone, Copy)]
pub struct Committed {
    /// The commands of the batch, those without an effect included.
    pub commands: usize,
    /// The events that it made.
    pub events: usize,
    /// Bytes of the pages that it made dirty, as the store reckons them beforehand.
    pub bytes: usize,
    /// Time that the disk took.
    pub sync: Duration,
}

impl Traces {
    /// A batch begins. `None` while traces are off.
    #[must_use]
    pub fn commit(&self) -> Option<Commit> {
        self.0.as_ref().map(|tracing| Commit { tracing: Arc::clone(tracing), begun: SystemTime::now() })
    }
}

impl Commit {
    /// The batch is on disk. `calls` are those whose writes it holds, as often as it holds one.
    pub fn end<'c>(self, committed: Committed, calls: impl Iterator<Item = &'c Arc<CallSpan>>) {
        let mut seen = HashSet::new();
        let calls: Vec<_> = calls.filter(|call| seen.insert(call.context().span_id())).collect();
        let links = calls.iter().take(MOST_LINKS as usize).map(|call| link_to(call.context()));
        let builder = SpanBuilder::from_name("commit")
            .with_kind(SpanKind::Internal)
            .with_start_time(self.begun)
            .with_attributes(committed.attributes())
            .with_links(links.collect());
        let mut span = self.tracing.span(builder, &Context::new());
        let unlinked = calls.len().saturating_sub(MOST_LINKS as usize);
        if unlinked > 0 {
            span.set_attribute(KeyValue::new("cameo.commit.unlinked_calls", count(unlinked)));
        }
        for call in calls {
            call.committed(span.span_context());
        }
        span.end();
    }
}

/// A link without the `tracestate`: that is the caller's own text, and a commit would repeat it for each of its calls.
fn link_to(call: &SpanContext) -> Link {
    let (trace, span, flags) = (call.trace_id(), call.span_id(), call.trace_flags());
    Link::with_context(SpanContext::new(trace, span, flags, call.is_remote(), TraceState::default()))
}

impl Committed {
    fn attributes(self) -> [KeyValue; 4] {
        [
            KeyValue::new("cameo.commit.commands", count(self.commands)),
            KeyValue::new("cameo.commit.events", count(self.events)),
            KeyValue::new("cameo.commit.bytes", count(self.bytes)),
            KeyValue::new("cameo.commit.sync_seconds", self.sync.as_secs_f64()),
        ]
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
