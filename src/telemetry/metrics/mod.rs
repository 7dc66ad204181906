//! Metrics, in the formats of Prometheus. `docs/operations.md` lists them, and a test holds the list to this module.
//!
//! In reading order:
//! - `method` is the fixed list of methods. `calls` counts the calls, and `transport` the connections under them.
//! - `store` and `feed` count the work of the store and the streams.
//! - `spans` counts what became of the spans of traces.
//! - `reloads` shows which files and keys could not be read again.
//! - `reading` holds values that are read only when they are scraped, such as the free space of the disk.
//! - `tally` is a counter for each value of a label.
//!
//! What always holds:
//! - Every label is one of a fixed list or a workspace. At most [`WORKSPACES`] workspaces are labels at a time.
//! - To count is to add to an atomic number that was found beforehand. A refused call also costs one look into a map.
//! - This module knows neither the store nor the feed. They own their metrics, and [`Metrics::new`] joins them.
//!
//! A metric is declared in `register` of its struct, and a value that is read at a scrape in `reading`. Names follow the
//! rules of Prometheus: `cameo_`, then what is measured, then the unit in the plural. Counters end with `_total`, which
//! the library adds.

mod calls;
mod feed;
mod method;
mod reading;
mod reloads;
mod spans;
mod store;
mod tally;
mod transport;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub use calls::{Calls, OpenCall};
pub use feed::{FeedMetrics, Load, OpenStream, StreamEnd};
pub use method::{Method, Streams};
pub use reading::{LogReading, QueueReading, Reading, SubscribersReading};
pub use reloads::{ReloadMetrics, Reloaded};
pub use spans::{SpanMetrics, SpanOutcome};
pub use store::{CommandOutcome, RunningRead, StoreMetrics};
pub use tally::{LabelValue, Tally};
pub use transport::{
    Budget, Budgets, Closed, Connections, HandshakeFailure, OpenConnection, RefusedConnection, TlsMetrics,
};

/// The most workspaces that are labels at a time.
pub const WORKSPACES: usize = 1_000;

/// Upper bounds of durations in seconds: from a lookup that is served from memory to a disk that hangs.
const SECONDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// All metrics of a server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Calls, by method.
    pub calls: Calls,
    /// Connections to the API.
    pub connections: Connections,
    /// TLS handshakes, and the server's certificate.
    pub tls: TlsMetrics,
    /// Files and keys that are read again.
    pub reloads: ReloadMetrics,
    /// Memory for requests that are received, and for responses that wait for slow readers.
    pub budgets: Budgets,
    registry: Arc<Registry>,
}

/// The metrics of no store and no feed.
#[cfg(test)]
impl Default for Metrics {
    fn default() -> Self {
        let (store, feed) = (StoreMetrics::default(), FeedMetrics::default());
        Self::new(&store, &feed, &SpanMetrics::default(), &ReloadMetrics::default())
    }
}

/// A format that Prometheus reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own text format, which every tool reads.
    Prometheus,
    /// `OpenMetrics`, for those who ask for it.
    OpenMetrics,
}

impl Metrics {
    /// The metrics of a server with this store, this feed, these traces and these files.
    #[must_use]
    pub fn new(store: &StoreMetrics, feed: &FeedMetrics, spans: &SpanMetrics, reloads: &ReloadMetrics) -> Self {
        let mut registry = Registry::default();
        let (calls, connections, tls, budgets): (Calls, Connections, TlsMetrics, Budgets) = Default::default();
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("cameo_build", "The version that runs", build);
        let start = Gauge::<f64, AtomicU64>::default();
        start.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        registry.register("cameo_start_time_seconds", "When the server was started, since 1970", start);
        calls.register(&mut registry);
        connections.register(&mut registry);
        tls.register(&mut registry);
        budgets.register(&mut registry);
        store.register(&mut registry);
        feed.register(&mut registry);
        spans.register(&mut registry);
        reloads.register(&mut registry);
        Self { calls, connections, tls, reloads: reloads.clone(), budgets, registry: Arc::new(registry) }
    }

    /// Writes all metrics, with the values that were read for this scrape.
    #[must_use]
    pub fn expose(&self, format: Format, reading: Reading) -> String {
        let mut read = Registry::default();
        read.register_collector(Box::new(reading));
        let mut exposition = String::new();
        let written = [&*self.registry, &read].into_iter().try_for_each(|registry| match format {
            Format::Prometheus => prometheus_text::encode(&mut exposition, registry),
            Format::OpenMetrics => text::encode_registry(&mut exposition, registry),
        });
        let ended = match format {
            Format::Prometheus => Ok(()),
            Format::OpenMetrics => text::encode_eof(&mut exposition),
        };
        written.and(ended).expect("a String takes any text");
        exposition
    }
}

impl Format {
    /// The format that an `Accept` header asks for. Prometheus names `OpenMetrics` there, and curl nothing.
    #[must_use]
    pub fn accepted(accept: Option<&str>) -> Self {
        let asks = accept.is_some_and(|accept| accept.contains("application/openmetrics-text"));
        if asks { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// Its content type.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}
