//! The work of the feed: streams, and what they send.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::tally::{Tally, label};

label! {
    /// Why a stream ended.
    "reason" StreamEnd {
        /// It had reached the head, and was to end there.
        CaughtUp = "caught_up",
        /// The subscriber went away.
        Client = "client",
        /// The subscriber read nothing for too long.
        Stalled = "stalled",
        /// The server shut down.
        Drained = "drained",
        /// It had been open for as long as streams may be.
        TooOld = "too_old",
        /// The credential of the subscriber expired or was withdrawn.
        Unauthenticated = "unauthenticated",
        /// A newer stream took over its subscription, or the subscription was changed or deleted.
        TakenOver = "taken_over",
        /// The log no longer held the next event.
        Expired = "expired",
        /// The next event is damaged.
        Corrupt = "corrupt",
        /// The log could not be read.
        Failed = "failed",
    }
}

label! {
    /// Where a stream found its next events.
    "source" Load {
        /// In memory, where a recent event is encoded once for all subscribers of its workspace.
        Ring = "ring",
        /// In the store.
        Log = "log",
    }
}

/// Counts the work of a feed. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct FeedMetrics(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    open: Gauge,
    opened: Counter,
    ended: Tally<StreamEnd>,
    events: Counter,
    heartbeats: Counter,
    loads: Tally<Load>,
}

/// An open stream. Dropped without [`OpenStream::end`], it was ended by its subscriber.
#[derive(Debug)]
#[must_use]
pub struct OpenStream {
    metrics: FeedMetrics,
    end: StreamEnd,
}

impl FeedMetrics {
    /// A stream was opened.
    pub fn open(&self) -> OpenStream {
        self.0.open.inc();
        self.0.opened.inc();
        OpenStream { metrics: self.clone(), end: StreamEnd::Client }
    }

    /// A stream got its next events.
    pub fn loaded(&self, source: Load) {
        self.0.loads.count(source);
    }

    /// Events were handed to a subscriber's connection.
    pub fn events(&self, count: usize) {
        self.0.events.inc_by(count as u64);
    }

    /// A heartbeat was handed to a subscriber's connection.
    pub fn heartbeat(&self) {
        self.0.heartbeats.inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let Inner { open, opened, ended, events, heartbeats, loads } = &*self.0;
        registry.register("cameo_streams", "Open streams of events", open.clone());
        registry.register("cameo_streams_opened", "Streams that were opened", opened.clone());
        ended.register(registry, "cameo_streams_ended", "Streams that ended");
        registry.register("cameo_stream_events_sent", "Events that were handed to connections", events.clone());
        registry.register(
            "cameo_stream_heartbeats_sent",
            "Heartbeats that were handed to connections",
            heartbeats.clone(),
        );
        loads.register(
            registry,
            "cameo_stream_loads",
            "Runs of events that streams took from memory or from the store",
        );
    }
}

impl OpenStream {
    /// Why the stream is about to end.
    pub fn end(&mut self, end: StreamEnd) {
        self.end = end;
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.metrics.0.open.dec();
        self.metrics.0.ended.count(self.end);
    }
}
