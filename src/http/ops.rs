//! What operators and their tools ask for: `/metrics`, `/healthz` and `/readyz`. They have a listener of their own.
//!
//! `/healthz` asks neither the disk nor the store's pages, so it responds while they hang.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio_util::sync::CancellationToken;

use super::problem::Problem;
use crate::config::StoreConfig;
use crate::feed::{Feed, Subscribers};
use crate::store::{LaneUse, LogBounds, Store, StoreError};
use crate::telemetry::metrics::{Format, LogReading, Metrics, QueueReading, Reading, SubscribersReading, WORKSPACES};

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// What the handlers ask.
#[derive(Debug, Clone)]
pub struct Ops {
    /// The store.
    pub store: Arc<Store>,
    /// Its settings.
    pub config: StoreConfig,
    /// The streams.
    pub feed: Feed,
    /// What is counted.
    pub metrics: Metrics,
    /// Cancelled when the server begins to drain.
    pub draining: CancellationToken,
}

/// The routes.
pub fn router(ops: Ops) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .fallback(|| async { Problem::no_such_resource() })
        .with_state(ops)
}

async fn metrics(State(ops): State<Ops>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::accepted(accept);
    // Reading the ends of the logs may touch the disk.
    let exposition = tokio::task::spawn_blocking(move || ops.metrics.expose(format, ops.read())).await;
    match exposition {
        Ok(exposition) => ([(header::CONTENT_TYPE, format.content_type())], exposition).into_response(),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be read"),
    }
}

/// Whether the process should be kept. A store that has failed is recovered by a restart.
async fn healthz(State(ops): State<Ops>) -> Response {
    match ops.failed() {
        Some(problem) => plain(StatusCode::SERVICE_UNAVAILABLE, problem),
        None => plain(StatusCode::OK, "ok"),
    }
}

/// Whether the server should get calls.
async fn readyz(State(ops): State<Ops>) -> Response {
    if let Some(problem) = ops.failed() {
        return plain(StatusCode::SERVICE_UNAVAILABLE, problem);
    }
    if ops.draining.is_cancelled() {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down");
    }
    match tokio::task::spawn_blocking(move || ops.store.disk_full()).await {
        Ok(None) => plain(StatusCode::OK, "ok"),
        Ok(Some(StoreError::DiskFull { free, required })) => {
            let problem = format!("writes are refused: the disk has {free} bytes free, and {required} must stay free");
            plain(StatusCode::SERVICE_UNAVAILABLE, &problem)
        }
        _ => plain(StatusCode::SERVICE_UNAVAILABLE, "the disk could not be asked for its free space"),
    }
}

fn plain(status: StatusCode, line: &str) -> Response {
    (status, [(header::CACHE_CONTROL, NO_STORE)], format!("{line}\n")).into_response()
}

impl Ops {
    fn failed(&self) -> Option<&'static str> {
        self.store.failed().is_cancelled().then_some("the store has failed: restart the server")
    }

    fn read(&self) -> Reading {
        let (usage, cache, scrub) = (self.store.usage(), self.store.cache(), self.store.scrub_report());
        let (ring_bytes, ring_limit_bytes) = self.feed.ring_bytes();
        let mut subscribers = self.feed.subscribers();
        subscribers.truncate(WORKSPACES);
        let subscribed: Vec<_> = subscribers.iter().map(|of| of.workspace.clone()).collect();
        let logs = self.store.logs(&subscribed, WORKSPACES);
        Reading {
            store_failed: self.store.failed().is_cancelled(),
            workspaces: wide(usage.workspaces),
            file_bytes: usage.file_bytes,
            disk_free_bytes: usage.free_bytes,
            disk_required_free_bytes: self.config.min_free_bytes,
            cache_hits: cache.map(|cache| cache.hits),
            cache_misses: cache.map(|cache| cache.misses),
            cache_evictions: cache.map(|cache| cache.evictions),
            cache_bytes: cache.map(|cache| cache.bytes),
            cache_limit_bytes: wide(self.config.cache_bytes),
            ring_bytes: wide(ring_bytes),
            ring_limit_bytes: wide(ring_limit_bytes),
            scrub_passes: scrub.passes,
            scrub_rows: scrub.rows,
            damaged_records: scrub.damaged,
            queues: self.store.queues().into_iter().map(queue).collect(),
            logs: logs.into_iter().map(|(workspace, bounds)| log(workspace.as_str(), bounds)).collect(),
            subscribers: subscribers.iter().map(subscribers_of).collect(),
        }
    }
}

fn queue((lane, used): (&'static str, LaneUse)) -> QueueReading {
    QueueReading {
        lane,
        commands: wide(used.commands),
        bytes: wide(used.bytes),
        limit_commands: wide(used.most_commands),
        limit_bytes: wide(used.most_bytes),
    }
}

fn log(workspace: &str, LogBounds { floor, head, .. }: LogBounds) -> LogReading {
    LogReading { workspace: workspace.to_owned(), oldest: floor.get().saturating_add(1), head: head.get() }
}

fn subscribers_of(of: &Subscribers) -> SubscribersReading {
    SubscribersReading {
        workspace: of.workspace.as_str().to_owned(),
        streams: wide(of.streams),
        lag_max: of.lag_max,
        lag_sum: of.lag_sum,
    }
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::Request;
    use tower::ServiceExt;

    use super::*;
    use crate::config::FeedConfig;
    use crate::telemetry::metrics::{ReloadMetrics, SpanMetrics};

    /// What the handlers ask, of an empty store.
    fn ops(dir: &tempfile::TempDir) -> Ops {
        let config = StoreConfig { data_dir: dir.path().join("data"), ..StoreConfig::default() };
        let store = Arc::new(Store::open(&config, |_, _| {}).unwrap());
        let feed = Feed::new(FeedConfig::default());
        let metrics = Metrics::new(store.metrics(), feed.metrics(), &SpanMetrics::default(), &ReloadMetrics::default());
        Ops { store, config, feed, metrics, draining: CancellationToken::new() }
    }

    async fn get(ops: &Ops, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router(ops.clone()).oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(body.into()).unwrap())
    }

    #[tokio::test]
    async fn a_store_that_failed_is_neither_alive_nor_ready_and_still_has_metrics() {
        let dir = tempfile::TempDir::new().unwrap();
        let ops = ops(&dir);
        assert_eq!(get(&ops, "/healthz").await, (200, "ok\n".into()));
        assert_eq!(get(&ops, "/readyz").await, (200, "ok\n".into()));
        ops.store.failed().cancel();
        for path in ["/healthz", "/readyz"] {
            assert_eq!(get(&ops, path).await, (503, "the store has failed: restart the server\n".into()));
        }
        ops.store.close().await;
        let (status, metrics) = get(&ops, "/metrics").await;
        assert_eq!(status, 200);
        assert!(metrics.contains("cameo_store_failed 1\n"), "{metrics}");
    }

    #[tokio::test]
    async fn a_server_that_drains_is_alive_and_not_ready() {
        let dir = tempfile::TempDir::new().unwrap();
        let ops = ops(&dir);
        ops.draining.cancel();
        assert_eq!(get(&ops, "/healthz").await.0, 200);
        assert_eq!(get(&ops, "/readyz").await, (503, "the server is shutting down\n".into()));
    }
}
