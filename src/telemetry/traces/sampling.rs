//! Which traces are recorded.

use opentelemetry::trace::{Link, SpanKind, TraceId};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{ParentBasedSampler, Sampler, SamplingResult, ShouldSample};

/// A span with a parent is recorded if its parent is. Of the others, a part of the traces is, by their ids.
pub(super) fn sampler(part: f64) -> ParentBasedSampler {
    Sampler::parent_based(Root(Sampler::TraceIdRatioBased(part)))
}

/// Samples spans without a parent. A commit has none, and is recorded whenever one of its calls is: the trace of that
/// call would lack it.
#[derive(Debug, Clone)]
struct Root(Sampler);

impl ShouldSample for Root {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let is_linked = links.iter().any(|link| link.span_context.is_sampled());
        let sampler = if is_linked { &Sampler::AlwaysOn } else { &self.0 };
        sampler.should_sample(parent, trace, name, kind, attributes, links)
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceState};
    use opentelemetry_sdk::trace::SamplingDecision;

    use super::*;

    fn span(is_sampled: bool) -> SpanContext {
        let flags = TraceFlags::default().with_sampled(is_sampled);
        SpanContext::new(TraceId::from(1), SpanId::from(1), flags, true, TraceState::default())
    }

    fn is_sampled(part: f64, trace: u128, parent: Option<SpanContext>, links: &[Link]) -> bool {
        let parent = parent.map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
        let kind = SpanKind::Server;
        let result = sampler(part).should_sample(Some(&parent), TraceId::from(trace), "", &kind, &[], links);
        result.decision == SamplingDecision::RecordAndSample
    }

    #[test]
    fn a_root_is_recorded_by_its_id_and_a_child_as_its_parent_is() {
        let (low, high) = (1, u128::MAX);
        assert!(is_sampled(1.0, high, None, &[]) && !is_sampled(0.0, low, None, &[]));
        assert!(is_sampled(0.5, low, None, &[]) && !is_sampled(0.5, high, None, &[]));
        for part in [0.0, 1.0] {
            assert!(is_sampled(part, high, Some(span(true)), &[]) && !is_sampled(part, low, Some(span(false)), &[]));
        }
    }

    #[test]
    fn a_commit_is_recorded_if_one_of_its_calls_is() {
        let links = |sampled: &[bool]| -> Vec<_> { sampled.iter().map(|is| Link::with_context(span(*is))).collect() };
        assert!(is_sampled(0.0, 1, None, &links(&[false, true])) && !is_sampled(0.0, 1, None, &links(&[false])));
    }
}
