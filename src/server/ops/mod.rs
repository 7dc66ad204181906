//! The listener for operators: `/metrics`, `/healthz` and `/readyz`.
//!
//! It has a thread and a runtime of its own, so it responds while calls keep the server's threads busy. Its bounds are
//! its own too: a connection serves one request, within [`DEADLINE`], and at most [`CONNECTIONS`] are open ([`places`]).
//! It has TLS if the API has.

mod places;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::{Extension, Router};
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::places::Places;
use super::ServerError;
use super::edge::Hosts;
use super::listen::{self, Exposure, Place};
use super::tls::{Tls, certificate_of};
use crate::config::Config;

/// The most connections.
const CONNECTIONS: usize = 16;
/// Time that a connection may take, from when it is accepted until the response is sent.
const DEADLINE: Duration = Duration::from_secs(10);
/// Time that a TLS handshake may take, and then the head of a request.
const HEAD_DEADLINE: Duration = Duration::from_secs(2);
/// Time to wait after a failed accept, for example when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The most threads that wait for the disk.
const READ_THREADS: usize = 4;

/// The bound socket.
#[derive(Debug)]
pub(super) struct OpsListener(std::net::TcpListener);

/// The running listener. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct OpsServer {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl OpsListener {
    pub async fn bind(place: Place, exposure: Exposure) -> Result<Self, ServerError> {
        let addrs = listen::addresses(&place, exposure).await?;
        let listener = listen::bind(&place, &addrs)?;
        Ok(Self(listener.into_std().map_err(|source| ServerError::Metrics { source })?))
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.0.local_addr().expect("a bound socket has an address")
    }

    /// The hosts that requests may name.
    pub fn hosts(&self, config: &Config) -> Hosts {
        let allowed = config.server.allowed_hosts.clone();
        if self.local_addr().ip().to_canonical().is_loopback() { Hosts::LoopbackAnd(allowed) } else { Hosts::Any }
    }

    /// Serves the routes on a thread of its own.
    pub fn serve(self, tls: Option<Arc<Tls>>, routes: Router) -> std::io::Result<OpsServer> {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(READ_THREADS).build()?;
        let thread = std::thread::Builder::new().name("ops".into()).spawn(move || {
            runtime.block_on(async { stopped.run_until_cancelled(accept(self.0, tls, routes)).await });
            runtime.shutdown_background(); // A read that hangs in the disk must not keep the process alive.
        })?;
        Ok(OpsServer { stop, thread: Some(thread) })
    }
}

impl Drop for OpsServer {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = self.thread.take().map(JoinHandle::join); // If it panicked, that is in the log.
    }
}

async fn accept(listener: std::net::TcpListener, tls: Option<Arc<Tls>>, routes: Router) {
    let listener = TcpListener::from_std(listener).expect("the runtime takes a socket that does not block");
    let places = Places::new(CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((connection, peer)) => {
                let (place, tls, routes) = (places.take(peer.ip()).await, tls.clone(), routes.clone());
                tokio::spawn(async move {
                    let _ = timeout(DEADLINE, serve(connection, peer, tls.as_deref(), routes, &place)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one request, after the handshake if there is TLS.
async fn serve(connection: TcpStream, peer: SocketAddr, tls: Option<&Tls>, routes: Router, place: &places::Place) {
    let Some(tls) = tls else { return respond(connection, peer, routes, place).await };
    let deadline = Instant::now() + HEAD_DEADLINE;
    if let Ok(connection) = tls.accept_operator(connection, peer, deadline, place.is_wanted()).await {
        let routes = match certificate_of(&connection) {
            Some(certificate) => routes.layer(Extension(Arc::new(certificate))),
            None => routes,
        };
        respond(connection, peer, routes, place).await;
    }
}

/// Errors are the client's: it has sent something else than a request, or has gone away.
async fn respond(
    connection: impl AsyncRead + AsyncWrite + Unpin + 'static,
    peer: SocketAddr,
    routes: Router,
    place: &places::Place,
) {
    let routes = TowerToHyperService::new(routes);
    let requests = service_fn(|mut request: Request<Incoming>| {
        place.serves();
        request.extensions_mut().insert(peer);
        let response = routes.call(request);
        async move {
            let response = response.await;
            place.responds();
            response
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE).keep_alive(false);
    tokio::select! {
        biased; // A place that is wanted takes no request any more, and sends no more of a response.
        () = place.is_wanted() => {}
        _ = http.serve_connection(TokioIo::new(connection), requests) => {}
    }
}
