//! Wires the parts, and is the only module that does.
//!
//! - `listen`: the address to listen on.
//! - `routes`: which service responds at which path.
//! - `edge`: what holds for every request and response.
//! - `transport`: connections, HTTP/2 and its bounds. `budget` is the memory that connections share.
//! - `drain`: health, and an orderly shutdown.

mod budget;
mod drain;
mod edge;
mod listen;
mod routes;
mod transport;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::config::units::Address;
use crate::feed::Feed;
use crate::model::Micros;
use crate::store::{OpenError, Store};
use budget::Budget;
use drain::Health;
use edge::Edge;
pub use listen::resolve;
use transport::Connections;

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
#[allow(missing_docs)] // The messages explain the fields.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The host of the address cannot be found.
    #[error("cannot find the host of {addr}: {cause}. Correct --addr, or use an IP address in it")]
    Resolve { addr: Address, cause: std::io::Error },
    /// An address is not a loopback one, and the settings do not allow that.
    #[error(
        "{addr} can be reached from other machines, as {found}, and there is no authentication: pass --insecure to \
         allow this"
    )]
    Reachable { addr: Address, found: SocketAddr },
    /// The address cannot be bound.
    #[error("cannot listen on {addr}: {cause}. {advice}")]
    Bind { addr: Address, cause: std::io::Error, advice: &'static str },
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
        let addrs = listen::addresses(&config.server).await?;
        let feed = Feed::new(config.feed);
        let publisher = feed.clone();
        let store = Store::open(&config.store, move |log, events| publisher.publish(log, events))?;
        // After the store: a client that connects is served.
        let listener = listen::bind(&config.server.addr, &addrs).await?;
        let start = store.now();
        Ok(Self { listener, store: Arc::new(store), feed, config, start })
    }

    /// The address that it listens on.
    ///
    /// # Panics
    /// If the system does not know a bound socket's address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound socket has an address")
    }

    /// Serves until `shutdown` completes or the store fails. Then it drains within the configured time: health says
    /// `NOT_SERVING`, streams end with their cursors, calls in flight get their responses, and the store is closed.
    ///
    /// # Errors
    /// [`ServerError`] if the store failed.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        let Self { listener, store, feed, config, start } = self;
        let stop = CancellationToken::new();
        let (mut health, health_service) = Health::serving().await;
        let services = routes::build(health_service, &store, &feed, &config, start, &stop)?;
        let (receiving, sending) = (Budget::new(config.server.receive_bytes), Budget::new(config.server.send_bytes));
        let connections = Connections::new(config.server.max_connections, receiving, sending);
        let is_loopback = listener.local_addr().is_ok_and(|addr| addr.ip().is_loopback());
        let edge = Edge::new(services, connections, &config, is_loopback, stop.clone());
        let serve = transport::serve(listener, Arc::new(edge), &config.server, stop.clone());
        tokio::pin!(serve);
        let watched = feed.clone();
        tokio::spawn(async move { watched.watch().await }); // `Feed::drain` ends it.

        tokio::select! {
            () = &mut serve => {} // It serves until `stop` is cancelled.
            () = shutdown => {}
            () = store.failed().cancelled() => {}
        }
        health.not_serving().await;
        stop.cancel();
        feed.drain();
        drain::close(&store, serve, config.server.drain_timeout).await
    }
}
