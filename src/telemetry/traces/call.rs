//! The span of a call.
//!
//! Names and attributes are those of OpenTelemetry's conventions for RPC and HTTP, and a few of our own, which begin with
//! `cameo.`.

use std::borrow::Cow;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use opentelemetry::trace::{Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::Span;

use super::export::DISCARDED;
use super::{Traces, Tracing, parent};
use crate::telemetry::code::{CANCELLED, GRPC_CODES};
use crate::telemetry::metrics::Method;

/// The codes of gRPC that say that the server has failed.
const FAILURES: [&str; 6] = ["UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"];

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
        let mut span = tracing.span(named(method, verb), &parent);
        if !span.is_recording() {
            return None;
        }
        describe(&mut span, method, verb);
        let context = span.span_context().clone();
        let (is_rpc, queued) = (method.rpc().is_some(), AtomicBool::default());
        let (tracing, span) = (Arc::clone(tracing), Mutex::new(span));
        Some(Arc::new(CallSpan { tracing, span, context, is_rpc, queued }))
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

fn named(method: Method, verb: &http::Method) -> SpanBuilder {
    let name = match (method.rpc(), method.route()) {
        (Some(rpc), _) => Cow::from(rpc),
        (None, Some(route)) => Cow::from(format!("{} {route}", known(verb))),
        (None, None) => Cow::from(known(verb)),
    };
    SpanBuilder::from_name(name).with_kind(SpanKind::Server)
}

fn describe(span: &mut Span, method: Method, verb: &http::Method) {
    let mut set = |name, value: &'static str| span.set_attribute(KeyValue::new(name, value));
    if let Some((service, rpc)) = method.rpc().and_then(|rpc| rpc.split_once('/')) {
        set("rpc.system", "grpc");
        set("rpc.service", service);
        set("rpc.method", rpc);
        return;
    }
    set("http.request.method", known(verb));
    if let Some(route) = method.route() {
        set("http.route", route);
    }
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
    if let Some((number, _)) = (0_i64..).zip(GRPC_CODES).find(|(_, name)| *name == code) {
        span.set_attribute(KeyValue::new("rpc.grpc.status_code", number));
    }
    FAILURES.contains(&code)
}
