//! The span of a call.
//!
//! Names and attributes are those of OpenTelemetry's conventions for RPC and HTTP, and a few of our own, which begin with
//! `cameo.`.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use opentelemetry::trace::{Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::Span;

use super::export::DISCARDED;
use super::{Traces, Tracing, parent};
use crate::telemetry::metrics::Method;

/// The codes of gRPC, in the order of their numbers, and whether one says that the server has failed.
const CODES: [(&str, bool); 17] = [
    ("OK", false),
    ("CANCELLED", false),
    ("UNKNOWN", true),
    ("INVALID_ARGUMENT", false),
    ("DEADLINE_EXCEEDED", true),
    ("NOT_FOUND", false),
    ("ALREADY_EXISTS", false),
    ("PERMISSION_DENIED", false),
    ("RESOURCE_EXHAUSTED", false),
    ("FAILED_PRECONDITION", false),
    ("ABORTED", false),
    ("OUT_OF_RANGE", false),
    ("UNIMPLEMENTED", true),
    ("INTERNAL", true),
    ("UNAVAILABLE", true),
    ("DATA_LOSS", true),
    ("UNAUTHENTICATED", false),
];
/// The code of a call that its caller gave up.
const CANCELLED: &str = "CANCELLED";

static NUMBERS: LazyLock<HashMap<&str, (i64, bool)>> =
    LazyLock::new(|| (0..).zip(CODES).map(|(number, (name, is_failure))| (name, (number, is_failure))).collect());

tokio::task_local! {
    /// The call that the current task serves, if it is recorded.
    static CURRENT: Arc<CallSpan>;
}

/// The span of a call, while it is served.
#[derive(Debug)]
pub struct CallSpan {
    tracing: Arc<Tracing>,
    span: Mutex<Span>,
    context: SpanContext,
    is_rpc: bool,
    /// Whether a write of the call has been queued.
    queued: AtomicBool,
}

/// What is known of a call when it has ended.
#[derive(Debug, Default)]
pub struct CallEnd<'a> {
    /// The name of a gRPC code, or an HTTP status. `None` if the caller has gone away before.
    pub code: Option<&'static str>,
    /// The workspace of the call.
    pub workspace: Option<&'a str>,
    /// The name of the caller.
    pub caller: Option<&'a str>,
    /// Whether it ended before it was known who makes it, or needed no caller.
    pub is_of_stranger: bool,
    /// Why it was refused.
    pub reason: Option<&'static str>,
}

impl Traces {
    /// Begins the span of a call with these headers. `None` if it is not recorded.
    #[must_use]
    pub fn call(&self, method: Method, verb: &http::Method, headers: &HeaderMap) -> Option<Arc<CallSpan>> {
        let tracing = self.0.as_ref()?;
        let parent = match parent::parent(headers) {
            Some(parent) => Context::new().with_remote_span_context(parent),
            None => Context::new(),
        };
        let span = tracing.span(describe(method, verb), &parent);
        let context = span.span_context().clone();
        let (is_rpc, queued) = (method.rpc().is_some(), AtomicBool::default());
        span.is_recording().then(|| {
            let tracing = Arc::clone(tracing);
            Arc::new(CallSpan { tracing, span: Mutex::new(span), context, is_rpc, queued })
        })
    }
}

impl CallSpan {
    /// A write of the call is about to be queued. The first one is an event of the span: an import queues thousands.
    pub fn queued(&self) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.span().add_event("queued", Vec::new());
        }
    }

    /// Writes of the call are on disk, with the commit of this span if that is recorded.
    pub(super) fn committed(&self, commit: &SpanContext) {
        let mut span = self.span();
        span.add_event("committed", Vec::new());
        if commit.is_sampled() {
            span.add_link(commit.clone(), Vec::new());
        }
    }

    pub(super) fn context(&self) -> &SpanContext {
        &self.context
    }

    /// Ends the span. Anybody can make calls without a credential, and ask for their spans: most of them are discarded.
    pub fn end(&self, call: &CallEnd<'_>) {
        let mut span = self.span();
        let CallEnd { code, workspace, caller, is_of_stranger, reason } = *call;
        if is_of_stranger && self.tracing.strangers.next().is_none() {
            span.update_name(DISCARDED);
            return span.end();
        }
        let code = code.or(self.is_rpc.then_some(CANCELLED));
        let is_failure = code.is_some_and(|code| set_code(&mut span, code));
        let named = [("cameo.workspace", workspace), ("enduser.id", caller), ("cameo.reason", reason)];
        for (name, value) in named {
            if let Some(value) = value {
                span.set_attribute(KeyValue::new(name, value.to_owned()));
            }
        }
        if is_failure {
            span.set_status(Status::error(reason.unwrap_or_default()));
        }
        span.end();
    }

    fn span(&self) -> MutexGuard<'_, Span> {
        self.span.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves a call, so that the store finds its span in [`current`].
pub async fn scope<T>(span: Option<Arc<CallSpan>>, served: impl Future<Output = T>) -> T {
    let mut served = std::pin::pin!(served);
    match span {
        None => served.await,
        Some(span) => CURRENT.scope(span, served.as_mut()).await,
    }
}

/// The span of the call that the current task serves, if it is recorded.
#[must_use]
pub fn current() -> Option<Arc<CallSpan>> {
    CURRENT.try_with(Arc::clone).ok()
}

fn describe(method: Method, verb: &http::Method) -> SpanBuilder {
    let span = |name: String| SpanBuilder::from_name(name).with_kind(SpanKind::Server);
    if let Some((rpc, (service, name))) = method.rpc().and_then(|rpc| Some((rpc, rpc.split_once('/')?))) {
        let system = [("rpc.system", "grpc"), ("rpc.service", service), ("rpc.method", name)];
        let attributes = system.map(|(name, value)| KeyValue::new(name, value)).into();
        return SpanBuilder::from_name(rpc).with_kind(SpanKind::Server).with_attributes::<Vec<_>>(attributes);
    }
    let verb = known(verb);
    let attributes = [Some(("http.request.method", verb)), method.route().map(|route| ("http.route", route))];
    let attributes = attributes.into_iter().flatten().map(|(name, value)| KeyValue::new(name, value));
    let name = method.route().map_or_else(|| verb.to_owned(), |route| format!("{verb} {route}"));
    span(name).with_attributes(attributes.collect::<Vec<_>>())
}

/// The verbs that are known. Whatever else a caller makes up has the name that the conventions give it.
fn known(verb: &http::Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.into_iter().find(|known| verb == *known).unwrap_or("_OTHER")
}

/// Sets the attribute with the code. Returns whether the code says that the server has failed.
fn set_code(span: &mut Span, code: &'static str) -> bool {
    if let Ok(status) = code.parse::<i64>() {
        span.set_attribute(KeyValue::new("http.response.status_code", status));
        return status >= 500;
    }
    let (number, is_failure) = NUMBERS.get(code).copied().unwrap_or((2, true));
    span.set_attribute(KeyValue::new("rpc.grpc.status_code", number));
    is_failure
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They stand in the order of their numbers, which are those of tonic.
    #[test]
    fn the_codes_are_those_of_grpc() {
        for (number, (name, _)) in (0..).zip(CODES) {
            let code = format!("{:?}", tonic::Code::from_i32(number)).to_uppercase();
            let code = if code == "OK" { code } else { code.replace('_', "") };
            assert_eq!(name.replace('_', ""), code, "{number}");
        }
        assert_eq!(tonic::Code::from_i32(17), tonic::Code::Unknown, "there are no more");
    }
}
