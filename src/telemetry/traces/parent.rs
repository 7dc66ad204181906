//! The headers of [W3C Trace Context](https://www.w3.org/TR/trace-context/).
//!
//! The parser of `opentelemetry_sdk` takes ids of any length and signs in them, so `traceparent` is parsed here.

use std::str::FromStr;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The length of `traceparent` in version 00. Later versions may append to it.
const LENGTH: usize = 55;
/// The longest `tracestate` that is passed on: as many bytes as everyone must pass on. A longer one is dropped as a whole,
/// which leaves the trace as it is.
const TRACESTATE_BYTES: usize = 512;

/// The span that a request says it comes from. `None` if it names none, or not as the standard says.
pub(super) fn parent(headers: &HeaderMap) -> Option<SpanContext> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (trace, span, flags) = parse(value.as_bytes().trim_ascii())?;
    let parent = SpanContext::new(trace, span, flags, true, state(headers));
    parent.is_valid().then_some(parent) // Ids of zeros are invalid.
}

/// The header that names a span as the parent of what a request causes.
pub(super) fn traceparent(span: &SpanContext) -> HeaderValue {
    let flags = (span.trace_flags() & TraceFlags::SAMPLED).to_u8();
    let text = format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id());
    HeaderValue::try_from(text).expect("it is hexadecimal")
}

/// `00-{trace id}-{span id}-{flags}`, in lower case.
fn parse(value: &[u8]) -> Option<(TraceId, SpanId, TraceFlags)> {
    let (known, more) = value.split_at_checked(LENGTH)?;
    let is_of_a_later_version = !known.starts_with(b"00") && more.starts_with(b"-");
    if known.starts_with(b"ff") || !(more.is_empty() || is_of_a_later_version) {
        return None;
    }
    let digits = |from: usize, to: usize| {
        let are_digits = known[from..to].iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        std::str::from_utf8(&known[from..to]).ok().filter(|_| are_digits)
    };
    let are_apart = [2, 35, 52].iter().all(|at| known[*at] == b'-');
    digits(0, 2).filter(|_| are_apart)?;
    let trace = TraceId::from_hex(digits(3, 35)?).ok()?;
    let span = SpanId::from_hex(digits(36, 52)?).ok()?;
    let flags = u8::from_str_radix(digits(53, 55)?, 16).ok()?;
    Some((trace, span, TraceFlags::new(flags) & TraceFlags::SAMPLED)) // Other flags are not for us to pass on.
}

/// The state of the trace, which is for other programs to read. It may be in several headers.
fn state(headers: &HeaderMap) -> TraceState {
    let mut state = String::new();
    for value in headers.get_all(TRACESTATE) {
        let Ok(value) = value.to_str() else { return TraceState::default() };
        if !state.is_empty() {
            state.push(',');
        }
        state += value;
        if state.len() > TRACESTATE_BYTES {
            return TraceState::default();
        }
    }
    TraceState::from_str(&state).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn of(headers: &[(HeaderName, &str)]) -> Option<SpanContext> {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        parent(&headers.collect())
    }

    #[test]
    fn a_parent_is_what_its_header_says() {
        for (flags, is_sampled) in [("00", false), ("01", true), ("02", false), ("03", true), ("ff", true)] {
            let parent = of(&[(TRACEPARENT, &format!("00-{TRACE}-{SPAN}-{flags}"))]).unwrap();
            assert_eq!((parent.trace_id().to_string(), parent.span_id().to_string()), (TRACE.into(), SPAN.into()));
            assert_eq!((parent.is_sampled(), parent.is_remote()), (is_sampled, true), "{flags}");
            let written = traceparent(&parent);
            assert_eq!(written.to_str().unwrap(), format!("00-{TRACE}-{SPAN}-0{}", u8::from(is_sampled)));
        }
    }

    #[test]
    fn a_later_version_may_say_more() {
        for good in ["cc", "01"] {
            assert!(of(&[(TRACEPARENT, &format!("{good}-{TRACE}-{SPAN}-01"))]).is_some(), "{good}");
            assert!(of(&[(TRACEPARENT, &format!("{good}-{TRACE}-{SPAN}-01-what-else"))]).is_some(), "{good}");
            assert!(of(&[(TRACEPARENT, &format!("{good}-{TRACE}-{SPAN}-01.what"))]).is_none(), "{good}");
        }
    }

    #[test]
    fn a_malformed_parent_is_none() {
        let (trace, span) = ("0".repeat(32), "0".repeat(16));
        for bad in [
            String::new(),
            "00".into(),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("0-{TRACE}-{SPAN}-01"),
            format!("+0-{TRACE}-{SPAN}-01"),
            format!("00-{trace}-{SPAN}-01"),
            format!("00-{TRACE}-{span}-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", SPAN.to_uppercase()),
            format!("00-+{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{TRACE}0-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-0g"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00_{TRACE}_{SPAN}_01"),
            "é".repeat(LENGTH / 2) + "x",
        ] {
            assert_eq!(of(&[(TRACEPARENT, &bad)]), None, "{bad}");
        }
        let good = format!("00-{TRACE}-{SPAN}-01");
        assert_eq!(of(&[(TRACEPARENT, &good), (TRACEPARENT, &good)]), None, "there are two");
        assert_eq!(of(&[(TRACESTATE, "a=1")]), None);
    }

    #[test]
    fn the_state_of_a_trace_goes_with_it_if_it_is_well_formed() {
        let good = format!("00-{TRACE}-{SPAN}-01");
        // The value of one member may have up to 256 characters.
        let [first, second] = [format!("a={}", "1".repeat(253)), format!("b={}", "2".repeat(254))];
        let longest = format!("{first},{second}");
        assert_eq!(longest.len(), TRACESTATE_BYTES);
        for (states, expected) in [
            (&["a=1,b=2"][..], "a=1,b=2"),
            (&["a=1", "b=2"], "a=1,b=2"),
            (&["no state"], ""),
            (&["a=1", "é=1"], ""),
            (&[&longest], &longest),
            (&[&first, &second], &longest),
            (&[&first, &second, "c=3"], ""),
            (&[&format!("{longest}2")], ""),
        ] {
            let states = states.iter().map(|state| (TRACESTATE, *state));
            let headers: Vec<_> = [(TRACEPARENT, &*good)].into_iter().chain(states).collect();
            assert_eq!(of(&headers).unwrap().trace_state().header(), expected, "{headers:?}");
        }
    }
}
