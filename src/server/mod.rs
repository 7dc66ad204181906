//! Wires the parts, and is the only module that does.
//!
//! - `listen`: the address to listen on.
//! - `tls`: the certificate, and handshakes.
//! - `routes`: which service responds at which path.
//! - `edge`: what holds for every request and response.
//! - `transport`: accepts connections and speaks HTTP on them.
//! - `connections`: those that are open, and which of them makes room. `connection` is one of them, `budget` the memory
//!   that they share, and `descriptors` says how many there may be. `progress` is how far a response has got.
//! - `drain`: health, and an orderly shutdown.
//! - `ops`: the listener for operators. `guard`: who may ask it what.

mod budget;
mod connection;
mod connections;
mod descriptors;
mod drain;
mod edge;
mod guard;
mod in_flight;
mod listen;
mod ops;
mod progress;
mod routes;
mod tls;
mod transport;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::auth::{AuthError, Authenticator};
use crate::config::Config;
use crate::feed::Feed;
use crate::http;
use crate::http::ops::Ops;
use crate::model::Micros;
pub use crate::store::{
    BackupProgress, BackupSummary, CheckError, CheckReport, Compacted, Finding, backup_offline, check, check_backup,
    compact_offline, restore, verify_backup,
};
use crate::store::{Commit, OpenError, Store};
use crate::telemetry::metrics::{Metrics, SpanMetrics};
use crate::telemetry::traces::{Traces, TracesError};
use budget::Budget;
use connection::Shared;
use connections::Connections;
use drain::Health;
use edge::Edge;
use guard::Guard;
use listen::Exposure;
pub use listen::{Place, Unprotected, resolve};
use ops::{OpsListener, OpsServer};
pub use tls::TlsError;
use tls::{Loaded, Tls};

/// The name of the service in traces.
const SERVICE: &str = "cameo";

/// A server that is bound and ready to run.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    ops: Option<OpsListener>,
    tls: Option<Loaded>,
    auth: Arc<Authenticator>,
    metrics: Metrics,
    traces: Traces,
    store: Arc<Store>,
    feed: Feed,
    config: Config,
    start: Micros,
}

/// Why a server did not start, or did not end well.
#[allow(missing_docs)] // The messages explain the fields.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The host of the address cannot be found.
    #[error("cannot find the host of {place}: {cause}. Correct it, or use an IP address")]
    Resolve { place: Place, cause: std::io::Error },
    /// An address is not a loopback one, and the settings do not allow that.
    #[error(
        "{place} can be reached from other machines, as {found}, and there is {missing}: {}, or pass --insecure to \
         allow this", missing.remedy()
    )]
    Reachable { place: Place, found: SocketAddr, missing: Unprotected },
    /// TLS cannot begin.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Callers cannot be authenticated as the settings say.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// Traces cannot be sent.
    #[error(transparent)]
    Traces(#[from] TracesError),
    /// The address cannot be bound.
    #[error("cannot listen on {place}: {cause}. {advice}{}", place.otherwise)]
    Bind { place: Place, cause: std::io::Error, advice: &'static str },
    /// The thread that serves operators cannot be started.
    #[error("cannot serve /metrics: {source}. `--metrics-addr off` turns it off")]
    Metrics { source: std::io::Error },
    /// The descriptors do not decode.
    #[error("the descriptors of the API do not decode")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The store failed for good. A restart recovers it.
    #[error("the store failed: see the log, check the disk, and start the server again")]
    StoreFailed,
}

impl Server {
    /// Opens the store and binds the address. From then on clients can connect; [`Server::run`] serves them.
    ///
    /// # Errors
    /// [`ServerError`] if the store cannot be opened, the address cannot be bound, or other machines can reach it and
    /// the settings do not allow that.
    pub async fn bind(config: Config) -> Result<Self, ServerError> {
        let auth = Authenticator::open(&config.auth)?;
        let exposure = Exposure::of(&config, &auth);
        let api = Place { flag: "--addr", addr: config.server.addr.clone(), otherwise: "" };
        let addrs = listen::addresses(&api, exposure).await?;
        let tls = Loaded::of(&config.tls).await?;
        let feed = Feed::new(config.feed);
        let publisher = feed.clone();
        let spans = SpanMetrics::default();
        let traces = Traces::begin(&config.traces, SERVICE, &spans)?;
        let publish = move |log, commit: Commit<'_>| publisher.publish(log, commit);
        let store = Store::open_traced(&config.store, traces.clone(), publish)?;
        // After the store: a client that connects is served.
        let listener = listen::bind(&api, &addrs)?;
        let ops = match config.telemetry.metrics_addr.clone() {
            Some(addr) => {
                let otherwise = ", or turn it off with `--metrics-addr off`";
                Some(OpsListener::bind(Place { flag: "--metrics-addr", addr, otherwise }, exposure).await?)
            }
            None => None,
        };
        let start = store.now();
        let metrics = Metrics::new(store.metrics(), feed.metrics(), &spans, auth.reloads());
        Ok(Self { listener, ops, tls, auth, metrics, traces, store: Arc::new(store), feed, config, start })
    }

    /// The address that it listens on.
    ///
    /// # Panics
    /// If the system does not know a bound socket's address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound socket has an address")
    }

    /// The address of `/metrics`, `/healthz` and `/readyz`. `None` if they are turned off.
    #[must_use]
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.ops.as_ref().map(OpsListener::local_addr)
    }

    /// Serves until `shutdown` completes or the store fails. Then it drains within the configured time: health says
    /// `NOT_SERVING`, streams end with their cursors, calls in flight get their responses, and the store is closed.
    ///
    /// # Errors
    /// [`ServerError`] if the store failed.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        let Self { listener, ops, tls, auth, metrics, traces, store, feed, config, start } = self;
        let stop = CancellationToken::new();
        let tls = tls.map(|loaded| serve_tls(loaded, &metrics, &stop));
        tokio::spawn(Arc::clone(&auth).keep_fresh(stop.clone()));
        let asked = Ops {
            store: Arc::clone(&store),
            config: config.store.clone(),
            feed: feed.clone(),
            metrics: metrics.clone(),
            draining: stop.clone(),
        };
        let serve_ops = |listener: OpsListener| {
            let guard = Guard::new(listener.hosts(&config), Arc::clone(&auth), config.auth.metrics_open);
            serve_ops(listener, tls.clone(), guard, asked)
        };
        let _ops = ops.map(serve_ops).transpose()?;
        let (mut health, health_service) = Health::serving().await;
        let services = routes::build(health_service, &store, &feed, &config, start, &stop)?;
        let receiving = Budget::new(config.server.receive_bytes, metrics.budgets.requests.clone());
        let sending = Budget::new(config.server.send_bytes, metrics.budgets.responses.clone());
        let shared = Shared { receiving, sending, in_flight: Arc::default() };
        let connections = Connections::new(config.server.max_connections, shared, &metrics);
        let is_loopback = listener.local_addr().is_ok_and(|addr| addr.ip().to_canonical().is_loopback());
        let edge = Edge::new(services, connections, auth, &config, is_loopback, stop.clone(), metrics.clone());
        let edge = edge.traced(traces.clone());
        let serve = transport::serve(listener, tls, Arc::new(edge), &config, stop.clone());
        tokio::pin!(serve);
        let watched = feed.clone();
        tokio::spawn(async move { watched.watch().await }); // `Feed::drain` ends it.
        tokio::spawn(Arc::clone(&store).retain(config.store.clone(), stop.clone()));
        tokio::spawn(Arc::clone(&store).keep_up(stop.clone()));

        tokio::select! {
            () = &mut serve => {} // It serves until `stop` is cancelled.
            () = shutdown => {}
            () = store.failed().cancelled() => {}
        }
        health.not_serving().await;
        stop.cancel();
        feed.drain();
        drain::close(&store, &traces, serve, config.server.drain_timeout).await
    }
}

/// Puts TLS in force, and follows its files until the shutdown.
fn serve_tls(loaded: Loaded, metrics: &Metrics, stop: &CancellationToken) -> Arc<Tls> {
    let (tls, files) = loaded.serve(metrics.tls.clone(), metrics.reloads.clone());
    tokio::spawn(Arc::clone(&tls).follow(files, stop.clone()));
    tls
}

/// Serves operators until the end of the drain.
fn serve_ops(listener: OpsListener, tls: Option<Arc<Tls>>, guard: Guard, ops: Ops) -> Result<OpsServer, ServerError> {
    let (routes, guard) = (http::ops::router(ops), Arc::new(guard));
    let routes = routes.layer(from_fn(move |request: Request, next: Next| {
        let guard = Arc::clone(&guard);
        async move {
            let (head, body) = request.into_parts(); // The body is not to be shared between threads.
            let head = Request::from_parts(head, ());
            match guard.check(&head).await {
                Ok(()) => next.run(head.map(|()| body)).await,
                Err(refusal) => http::refused(refusal, None),
            }
        }
    }));
    listener.serve(tls, routes).map_err(|source| ServerError::Metrics { source })
}
