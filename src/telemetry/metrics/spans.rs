//! What became of spans.

use prometheus_client::registry::Registry;

use super::tally::{Tally, label};

label! {
    /// What became of a span.
    "outcome" SpanOutcome {
        /// The collector has it.
        Exported = "exported",
        /// The queue of spans was full.
        Overflow = "overflow",
        /// The collector could not be reached, or did not take its batch.
        Failed = "failed",
        /// The collector took its batch, but not this span.
        Rejected = "rejected",
    }
}

/// Counts spans. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct SpanMetrics(Tally<SpanOutcome>);

impl SpanMetrics {
    /// This many spans have come to this.
    pub fn count(&self, outcome: SpanOutcome, spans: usize) {
        self.0.add(outcome, spans);
    }

    /// How many have come to this.
    #[cfg(test)]
    #[must_use]
    pub fn get(&self, outcome: SpanOutcome) -> u64 {
        self.0.get(outcome)
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Spans of traces, by what became of them";
        self.0.register(registry, "cameo_spans", help);
    }
}
