//! Health, and an orderly shutdown.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{self, HealthServer};
use tonic_health::server::HealthReporter;

use super::ServerError;
use crate::grpc::admin_service::Admin;
use crate::grpc::audience_service::Audiences;
use crate::grpc::event_service::Events;
use crate::grpc::identity_service::Identities;
use crate::grpc::profile_service::Profiles;
use crate::grpc::server::admin_service_server::AdminServiceServer;
use crate::grpc::server::audience_service_server::AudienceServiceServer;
use crate::grpc::server::event_service_server::EventServiceServer;
use crate::grpc::server::identity_service_server::IdentityServiceServer;
use crate::grpc::server::profile_service_server::ProfileServiceServer;
use crate::store::Store;
use crate::telemetry::traces::{LAST_SPANS, Traces};

/// The server as a whole, and each service.
const SERVICES: [&str; 6] = [
    "",
    ProfileServiceServer::<Profiles>::NAME,
    IdentityServiceServer::<Identities>::NAME,
    AudienceServiceServer::<Audiences>::NAME,
    EventServiceServer::<Events>::NAME,
    AdminServiceServer::<Admin>::NAME,
];
/// Time that a hanging disk may add to the drain timeout.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What `grpc.health.v1` says of the server.
pub(super) struct Health(HealthReporter);

impl Health {
    /// Every service is `SERVING`.
    pub async fn serving() -> (Self, HealthServer<impl health_server::Health>) {
        let (reporter, service) = tonic_health::server::health_reporter();
        let health = Self(reporter);
        health.set(ServingStatus::Serving).await;
        (health, service)
    }

    /// Every service is `NOT_SERVING`. Watchers receive it, and then their streams end: an open stream would
    /// keep its connection open.
    pub async fn not_serving(&mut self) {
        self.set(ServingStatus::NotServing).await;
        for service in SERVICES {
            self.0.clear_service_status(service).await;
        }
    }

    async fn set(&self, status: ServingStatus) {
        for service in SERVICES {
            self.0.set_service_status(service, status).await;
        }
    }
}

/// Waits until the calls in flight have ended, then closes the store and sends the last spans, which takes no longer than
/// [`LAST_SPANS`]. All together take no longer than `timeout`.
pub(super) async fn close(
    store: &Store,
    traces: &Traces,
    served: impl Future<Output = ()>,
    timeout: Duration,
) -> Result<(), ServerError> {
    let drained = async {
        served.await;
        store.close().await;
    };
    let deadline = Instant::now() + timeout;
    let ended = timeout_at(deadline, drained).await;
    let has_failed = store.failed().is_cancelled();
    if ended.is_ok() || has_failed {
        send_spans(traces, deadline).await;
        return if has_failed { Err(ServerError::StoreFailed) } else { Ok(()) };
    }
    tracing::warn!("calls were still open when the drain timeout ended");
    let deadline = Instant::now() + CLOSE_TIMEOUT;
    let (closed, ()) = tokio::join!(timeout_at(deadline, store.close()), send_spans(traces, deadline));
    if closed.is_err() {
        tracing::warn!("the store did not close in time; every confirmed write is on disk");
    }
    Ok(())
}

/// Sends the spans that wait, as far as there is time.
async fn send_spans(traces: &Traces, deadline: Instant) {
    if timeout_at(deadline.min(Instant::now() + LAST_SPANS), traces.end()).await.is_err() {
        tracing::warn!("the collector did not take the last spans in time");
    }
}
