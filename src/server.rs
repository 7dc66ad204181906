//! Wires the parts, and is the only place that does: bind, local address, shutdown.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::config::Config;
use crate::feed::Feed;
use crate::grpc::admin_service::Admin;
use crate::grpc::event_service::Events;
use crate::grpc::layer::{RefusalLayer, is_grpc};
use crate::grpc::profile_service::Profiles;
use crate::grpc::server::admin_service_server::AdminServiceServer;
use crate::grpc::server::event_service_server::EventServiceServer;
use crate::grpc::server::profile_service_server::ProfileServiceServer;
use crate::http;
use crate::model::Micros;
use crate::model::limits::IMPORTS;
use crate::proto::DESCRIPTORS;
use crate::store::{OpenError, Store};

/// Calls and streams on one connection at a time. tonic sets no limit by itself.
const STREAMS_PER_CONNECTION: u32 = 200;
/// Resets that a client may provoke before its connection is closed. tonic sets no limit by itself.
const RESETS_PER_CONNECTION: usize = 1024;
/// What a client may send on a stream before it is read. Here an import that waits for room is held back.
const STREAM_WINDOW: u32 = 64 << 10;
/// The same of a connection. It bounds no more than the windows of its streams do; but h2 ends a connection on which
/// the small messages that wait cost more than half of it, at 256 bytes less its size each. So many imports full of the
/// smallest message, of 5 bytes, cost less.
#[allow(clippy::cast_possible_truncation)] // They are few.
const CONNECTION_WINDOW: u32 = 2 * 256 * (STREAM_WINDOW / 5) * IMPORTS as u32;
/// A connection that answers no ping in time is closed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The server as a whole, and each service.
const HEALTH_SERVICES: [&str; 4] =
    ["", ProfileServiceServer::<Profiles>::NAME, EventServiceServer::<Events>::NAME, AdminServiceServer::<Admin>::NAME];
/// What a hanging disk may add to the drain timeout.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Before the next attempt where a connection could not be accepted, for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A server that is bound and ready to run.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    store: Arc<Store>,
    feed: Feed,
    config: Config,
    start: Micros,
}

/// Why a server did not start, or did not end well.
#[allow(missing_docs)] // The fields stand in the messages.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The address cannot be bound.
    #[error("cannot listen on {addr}")]
    Bind { addr: SocketAddr, source: std::io::Error },
    /// The transport failed.
    #[error("the transport failed")]
    Transport(#[from] tonic::transport::Error),
    /// The descriptors do not decode.
    #[error("the descriptors of the API do not decode")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The store failed for good; a restart recovers it.
    #[error("the store failed; see the log")]
    StoreFailed,
}

impl Server {
    /// Opens the store and binds the address. When this returns, clients can connect; they are served by
    /// [`Server::run`].
    ///
    /// # Errors
    /// [`ServerError`] if the store cannot be opened or the address not be bound.
    pub async fn bind(config: Config) -> Result<Self, ServerError> {
        let feed = Feed::new(config.feed);
        let publisher = feed.clone();
        let store = Store::open(&config.store, move |log, events| publisher.publish(log, events))?;
        // Afterwards: a client that connects is served.
        let addr = config.server.addr;
        let listener = TcpListener::bind(addr).await.map_err(|source| ServerError::Bind { addr, source })?;
        let start = store.now();
        Ok(Self { listener, store: Arc::new(store), feed, config, start })
    }

    /// Where it listens.
    ///
    /// # Panics
    /// If the system does not know a bound socket's address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound socket has an address")
    }

    /// Serves until `shutdown` is done or the store fails; then drains within the configured bound: health says
    /// `NOT_SERVING`, streams end with their cursors, calls in flight are answered, the store is closed.
    ///
    /// # Errors
    /// [`ServerError`] if the store or the transport failed.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        let Self { listener, store, feed, config, start } = self;
        let (mut health, health_service) = tonic_health::server::health_reporter();
        set_health(&health, ServingStatus::Serving).await;

        let stop = CancellationToken::new();
        let profiles = Profiles::new(Arc::clone(&store), config.limits, stop.clone());
        let profiles = ProfileServiceServer::new(profiles);
        let events = EventServiceServer::new(Events::new(Arc::clone(&store), feed.clone(), config.limits));
        let admin = AdminServiceServer::new(Admin::new(Arc::clone(&store), &config, start));
        let routes = Routes::new(health_service)
            .add_service(profiles.max_decoding_message_size(config.limits.request_bytes))
            .add_service(events.max_decoding_message_size(config.limits.request_bytes))
            .add_service(admin.max_decoding_message_size(config.limits.request_bytes))
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?);
        let http = http::router(Arc::clone(&store), config.limits, config.server.http_rate, stop.clone());
        let routes = routes.into_axum_router().fallback(not_found).merge(http);

        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).then(|accepted| async {
            if let Err(error) = &accepted {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            accepted
        });
        let stopped = stop.clone();
        let serve = tonic::transport::Server::builder()
            .accept_http1(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            .http2_max_local_error_reset_streams(Some(RESETS_PER_CONNECTION))
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .layer(RefusalLayer)
            .add_routes(routes.into())
            .serve_with_incoming_shutdown(incoming, async move { stopped.cancelled().await });
        tokio::pin!(serve);

        let ended = tokio::select! {
            ended = &mut serve => Some(ended),
            () = shutdown => None,
            () = store.failed().cancelled() => None,
        };
        set_health(&health, ServingStatus::NotServing).await;
        stop.cancel();
        feed.drain();
        end_health_watches(&mut health).await;
        let drained = async {
            let ended = match ended {
                Some(ended) => ended,
                None => serve.await,
            };
            store.close().await;
            ended
        };
        let ended = tokio::time::timeout(config.server.drain_timeout, drained).await;
        if store.failed().is_cancelled() {
            return Err(ServerError::StoreFailed);
        }
        if let Ok(ended) = ended {
            return Ok(ended?);
        }
        tracing::warn!("calls were still open when the drain timeout ended");
        if tokio::time::timeout(CLOSE_TIMEOUT, store.close()).await.is_err() {
            tracing::warn!("the store did not close in time; what was answered is on disk");
        }
        Ok(())
    }
}

async fn not_found(request: axum::extract::Request) -> axum::response::Response {
    if is_grpc(request.headers()) {
        return tonic::Status::unimplemented("").into_http(); // `RefusalLayer` gives it its reason.
    }
    http::not_found()
}

/// The watchers know by now. Without this, their open watches would keep the connections open.
async fn end_health_watches(health: &mut HealthReporter) {
    for service in HEALTH_SERVICES {
        health.clear_service_status(service).await;
    }
}

async fn set_health(health: &HealthReporter, status: ServingStatus) {
    for service in HEALTH_SERVICES {
        health.set_service_status(service, status).await;
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
