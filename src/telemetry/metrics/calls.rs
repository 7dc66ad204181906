//! Calls, by method.
//!
//! The layer around the services counts them. It finds the [`Method`] once, from the path, and then either holds an
//! [`OpenCall`]:
//!
//! ```ignore
//! let call = metrics.calls.begin(Method::of_path(request.uri().path()), Instant::now());
//! // …
//! call.end("NOT_FOUND", "PROFILE_NOT_FOUND");
//! ```
//!
//! or calls [`Calls::observe`] when the call has ended. A code is the name of a gRPC code, or an HTTP status over HTTP. A
//! reason is the name of an `ErrorReason`, as `Refusal::reason_name` returns it, and empty for a call that succeeds.
//! Both are `&'static str`, so text of a caller cannot become a label.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::SECONDS;
use super::method::Method;
use super::tally::Labels;
use crate::telemetry::code::CANCELLED;

/// Counts calls. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Calls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    outcomes: Family<Labels<3>, Counter>,
    seconds: Family<Labels<1>, Histogram, fn() -> Histogram>,
    in_flight: Family<Labels<1>, Gauge>,
    /// The series of each method that its calls need, by the method's number.
    by_method: Vec<OfMethod>,
}

#[derive(Debug)]
struct OfMethod {
    succeeded: Counter,
    in_flight: Gauge,
    /// `None` for a stream.
    seconds: Option<Histogram>,
}

/// A call that has not ended. If it is dropped before [`OpenCall::end`], its caller has gone away, and it counts as
/// `CANCELLED`.
#[derive(Debug)]
#[must_use]
pub struct OpenCall {
    calls: Calls,
    method: Method,
    start: Instant,
    ended: bool,
}

impl Default for Calls {
    fn default() -> Self {
        let outcomes = Family::<Labels<3>, Counter>::default();
        let seconds = Family::new_with_constructor(latencies as fn() -> Histogram);
        let in_flight = Family::<Labels<1>, Gauge>::default();
        let of_method = |method: Method| {
            let label = [("method", method.name())];
            OfMethod {
                succeeded: outcomes.get_or_create_owned(&outcome(method, method.success(), "")),
                in_flight: in_flight.get_or_create_owned(&label),
                seconds: method.has_latency().then(|| seconds.get_or_create_owned(&label)),
            }
        };
        let by_method = Method::all().map(of_method).collect();
        Self(Arc::new(Inner { outcomes, seconds, in_flight, by_method }))
    }
}

impl Calls {
    /// A call begins, at `start`.
    pub fn begin(&self, method: Method, start: Instant) -> OpenCall {
        self.0.by_method[method.index()].in_flight.inc();
        OpenCall { calls: self.clone(), method, start, ended: false }
    }

    /// Counts a call that has ended.
    pub fn observe(&self, method: Method, code: &'static str, reason: &'static str, duration: Duration) {
        let of_method = &self.0.by_method[method.index()];
        if code == method.success() && reason.is_empty() {
            of_method.succeeded.inc();
        } else {
            self.0.outcomes.get_or_create(&outcome(method, code, reason)).inc();
        }
        if let Some(seconds) = &of_method.seconds {
            seconds.observe(duration.as_secs_f64());
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let Inner { outcomes, seconds, in_flight, .. } = &*self.0;
        registry.register("cameo_calls", "Calls that have ended", outcomes.clone());
        let help = "Time from the head of a request to the end of its response. Streams have none";
        registry.register("cameo_call_duration_seconds", help, seconds.clone());
        registry.register("cameo_calls_in_flight", "Calls and streams that are open", in_flight.clone());
    }
}

impl OpenCall {
    /// The call has ended.
    pub fn end(mut self, code: &'static str, reason: &'static str) {
        self.ended = true;
        self.calls.observe(self.method, code, reason, self.start.elapsed());
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.calls.0.by_method[self.method.index()].in_flight.dec();
        if !self.ended {
            self.calls.observe(self.method, CANCELLED, "", self.start.elapsed());
        }
    }
}

fn latencies() -> Histogram {
    Histogram::new(SECONDS)
}

fn outcome(method: Method, code: &'static str, reason: &'static str) -> Labels<3> {
    [("method", method.name()), ("code", code), ("reason", reason)]
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Metrics, Reading};
    use super::*;

    const GET: &str = "/cameo.v1.ProfileService/GetProfile";
    const SUBSCRIBE: &str = "/cameo.v1.EventService/Subscribe";

    fn metrics() -> Metrics {
        Metrics::default()
    }

    #[track_caller]
    fn assert_exposed(metrics: &Metrics, line: &str) {
        let exposed = metrics.expose(Format::Prometheus, Reading::default());
        assert!(exposed.lines().any(|exposed| exposed == line), "no {line} in {exposed}");
    }

    #[test]
    fn calls_are_counted_by_method_code_and_reason() {
        let metrics = metrics();
        let get = Method::of_path(GET);
        for _ in 0..3 {
            metrics.calls.begin(get, Instant::now()).end("OK", "");
        }
        metrics.calls.begin(get, Instant::now()).end("NOT_FOUND", "PROFILE_NOT_FOUND");
        metrics.calls.begin(Method::of_path("/made/up"), Instant::now()).end("UNIMPLEMENTED", "METHOD_UNKNOWN");
        let lookup = Method::of_path("/userprofile/v1/a/b/c/1");
        metrics.calls.begin(lookup, Instant::now()).end("200", "");

        let name = "ProfileService/GetProfile";
        let of_get = |rest: &str| format!("cameo_calls_total{{method=\"{name}\",{rest}");
        assert_exposed(&metrics, &of_get("code=\"OK\",reason=\"\"} 3"));
        assert_exposed(&metrics, &of_get("code=\"NOT_FOUND\",reason=\"PROFILE_NOT_FOUND\"} 1"));
        let unknown = "{method=\"unknown\",code=\"UNIMPLEMENTED\",reason=\"METHOD_UNKNOWN\"} 1";
        assert_exposed(&metrics, &format!("cameo_calls_total{unknown}"));
        assert_exposed(&metrics, &format!("cameo_call_duration_seconds_count{{method=\"{name}\"}} 4"));
        let route = "/userprofile/v1/{org}/{account}/{workspace}/{mpid}";
        assert_exposed(&metrics, &format!("cameo_calls_total{{method=\"{route}\",code=\"200\",reason=\"\"}} 1"));
        assert_exposed(&metrics, "cameo_calls_total{method=\"EventService/ListEvents\",code=\"OK\",reason=\"\"} 0");
    }

    #[test]
    fn a_call_is_in_flight_until_it_ends_and_cancelled_if_it_is_dropped() {
        let metrics = metrics();
        let open = metrics.calls.begin(Method::of_path(SUBSCRIBE), Instant::now());
        let in_flight = |n| format!("cameo_calls_in_flight{{method=\"EventService/Subscribe\"}} {n}");
        assert_exposed(&metrics, &in_flight(1));
        drop(open);
        assert_exposed(&metrics, &in_flight(0));
        let cancelled = "cameo_calls_total{method=\"EventService/Subscribe\",code=\"CANCELLED\",reason=\"\"} 1";
        assert_exposed(&metrics, cancelled);
        metrics.calls.begin(Method::of_path(SUBSCRIBE), Instant::now()).end("OK", "");
        assert_exposed(&metrics, &in_flight(0));
        assert_exposed(&metrics, cancelled);
    }

    #[test]
    fn a_stream_has_no_latency() {
        let metrics = metrics();
        metrics.calls.begin(Method::of_path(SUBSCRIBE), Instant::now()).end("OK", "");
        let exposed = metrics.expose(Format::Prometheus, Reading::default());
        assert!(!exposed.contains("cameo_call_duration_seconds_count{method=\"EventService/Subscribe\"}"), "{exposed}");
    }

    #[test]
    fn a_duration_falls_into_its_bucket() {
        let metrics = metrics();
        metrics.calls.observe(Method::of_path(GET), "OK", "", Duration::from_millis(3));
        let bucket = |le: &str, n| {
            format!("cameo_call_duration_seconds_bucket{{method=\"ProfileService/GetProfile\",le=\"{le}\"}} {n}")
        };
        assert_exposed(&metrics, &bucket("0.0025", 0));
        assert_exposed(&metrics, &bucket("0.005", 1));
    }

    /// `cargo test --release what_a_call_costs -- --ignored --nocapture` prints it.
    #[test]
    #[ignore = "a measurement, for those who change what is counted"]
    fn what_a_call_costs() {
        const CALLS: u32 = 1_000_000;
        let calls = Calls::default();
        for (code, reason) in [("OK", ""), ("NOT_FOUND", "PROFILE_NOT_FOUND")] {
            let start = Instant::now();
            for _ in 0..CALLS {
                calls.begin(Method::of_path(std::hint::black_box(GET)), Instant::now()).end(code, reason);
            }
            println!("{code}: {:?} a call", start.elapsed() / CALLS);
        }
    }
}
