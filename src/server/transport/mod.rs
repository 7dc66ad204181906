//! Accepts connections and speaks HTTP on them, within the bounds of HTTP/2 and of time. With TLS, a connection begins
//! with its handshake, in its own task.
//!
//! - `connection` serves one of them, and ends it when a time limit passes.
//! - `reading` holds back what arrives faster than calls are served.
//! - `writing` lets connections take turns.
//! - `streams` runs the calls of HTTP/2, and ends a response that is not read.
//!
//! tonic has a transport too. It bounds neither connections nor the time that they may take.

mod connection;
mod reading;
mod streams;
mod writing;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{Connection, TimeLimits};
use super::connections::{Connections, OpenConnection};
use super::edge::Edge;
use super::tls::{self, Tls};
use crate::config::{Config, ServerConfig};
use crate::model::limits::IMPORTS;
use crate::telemetry::lines::Lines;
use crate::telemetry::metrics::{Closed, HandshakeFailure};
use reading::{Reading, Unserved};
use streams::Streams;
use writing::Writing;

/// Resets that a client may provoke before its connection is closed. hyper itself allows the same number.
const RESETS_PER_CONNECTION: usize = 1024;
/// Bytes that a client may send on a stream before the server reads them. This holds back an import that waits for
/// room.
const STREAM_WINDOW: u32 = 64 << 10;
/// The length of a gRPC frame's header: the size of the smallest message.
const FRAME_HEADER: u32 = 5;
/// What h2 charges for each waiting message, in addition to its size.
const MESSAGE_COST: u32 = 256;
/// Bytes that a client may send on a connection before the server reads them. The windows of its streams bound it
/// already. But h2 ends a connection on which the small messages that wait cost more than half of it. So it has room
/// for as many imports as may run, each with a window full of the smallest message.
#[allow(clippy::cast_possible_truncation)] // They are few.
const CONNECTION_WINDOW: u32 = 2 * MESSAGE_COST * (STREAM_WINDOW / FRAME_HEADER) * IMPORTS as u32;
/// Bytes of the head of a request over HTTP/2, with 32 more for each header. gRPC's own default is the same.
const HEAD_BYTES: u32 = 8 << 10;
/// Headers of a request over HTTP/1.1. hyper itself allows the same number.
const HEADERS: usize = 100;
/// The most bytes read ahead of an HTTP/1.1 request: its head, most of which may be the URL.
const HTTP1_BUFFER: usize = 128 << 10;
/// How often a silent connection is pinged.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long it has to respond before it is closed.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait after a failed accept, for example when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all connections share.
struct Transport {
    http: Builder<Streams>,
    limits: TimeLimits,
    edge: Arc<Edge>,
    connections: Arc<Connections>,
    unserved: Arc<Unserved>,
    /// `None` for plaintext.
    tls: Option<Arc<Tls>>,
    /// Lines on connections that speak TLS to a port without it.
    wrong_port: Lines,
    stop: CancellationToken,
}

/// What the calls of one connection share. The connections do not share its count of references, so that cores which
/// serve different ones do not wait for each other.
struct Endpoint {
    edge: Arc<Edge>,
    connection: Arc<Connection>,
}

/// Accepts connections until `stop` is cancelled, and returns when every call on them has ended.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    edge: Arc<Edge>,
    config: &Config,
    stop: CancellationToken,
) {
    let (config, stall) = (&config.server, config.feed.stall_timeout);
    let limits = TimeLimits {
        handshake: config.handshake_timeout,
        idle: (!config.idle_timeout.is_zero()).then_some(config.idle_timeout),
        send: config.send_timeout,
        stall,
    };
    let connections = Arc::clone(edge.connections());
    let (http, unserved) = (http(config, Streams::new(config.send_timeout, stall, stop.clone())), Arc::default());
    let wrong_port = Lines::default();
    let transport = Transport { http, limits, edge, connections, unserved, tls, wrong_port, stop: stop.clone() };
    let transport = Arc::new(transport);
    let tasks = TaskTracker::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    transport.connections.wait_for_room().await;
                    transport.admit(stream, peer, &tasks);
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    transport.connections.not_accepted();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            () = stop.cancelled() => break,
        }
    }
    drop(listener); // Clients are then refused at once, and do not wait for an accept that never comes.
    tasks.close();
    tasks.wait().await;
}

fn http(config: &ServerConfig, streams: Streams) -> Builder<Streams> {
    let mut http = Builder::new(streams);
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.handshake_timeout)
        .max_headers(HEADERS)
        .max_buf_size(HTTP1_BUFFER);
    http.http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(config.max_calls_per_connection)
        .max_header_list_size(HEAD_BYTES)
        .max_local_error_reset_streams(RESETS_PER_CONNECTION)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    http
}

impl Transport {
    fn admit(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, tasks: &TaskTracker) {
        let Some(open) = self.connections.admit(peer) else { return }; // Dropping the stream closes it.
        let _ = stream.set_nodelay(true); // An error means that the peer has gone; the first read says so.
        let transport = Arc::clone(self);
        // Two kinds of tasks, so that a connection without TLS does not have the size of one with it.
        match &self.tls {
            None => tasks.spawn(transport.serve_plaintext(stream, open)),
            Some(tls) => tasks.spawn(transport.serve_tls(Arc::clone(tls), stream, open)),
        };
    }

    async fn serve_plaintext(self: Arc<Self>, stream: TcpStream, mut open: OpenConnection) {
        let (reader, writer) = stream.into_split();
        let mut closed = self.serve_http(reader, writer, &open.connection).await;
        if closed == Closed::Protocol && open.connection.speaks_tls() {
            closed = Closed::SpokeTls;
            let (peer, unlogged) = (open.connection.peer, self.wrong_port.next());
            if let Some(unlogged) = unlogged {
                tracing::info!(%peer, unlogged, "closed a connection that spoke TLS: this port has no TLS");
            }
        }
        open.counted.close(closed);
    }

    async fn serve_tls(self: Arc<Self>, tls: Arc<Tls>, stream: TcpStream, mut open: OpenConnection) {
        let closed = match self.handshake(&tls, stream, &open.connection).await {
            Ok(stream) => {
                let (reader, writer) = tokio::io::split(stream);
                self.serve_http(reader, writer, &open.connection).await
            }
            Err(closed) => closed,
        };
        open.counted.close(closed);
    }

    /// The TLS handshake and the greeting of HTTP share one time limit.
    async fn handshake(
        &self,
        tls: &Tls,
        stream: TcpStream,
        connection: &Connection,
    ) -> Result<TlsStream<TcpStream>, Closed> {
        let deadline = connection.start() + self.limits.handshake;
        let accepted = tokio::select! {
            biased;
            why = connection.until_cut() => return Err(why),
            () = self.stop.cancelled() => return Err(Closed::Drained),
            accepted = tls.accept(stream, connection.peer, deadline) => accepted,
        };
        let stream = accepted.map_err(|failed| match failed.reason {
            HandshakeFailure::Timeout => Closed::Handshake,
            HandshakeFailure::MadeRoom => Closed::MadeRoom,
            _ => Closed::Tls,
        })?;
        if let Some(certificate) = tls::certificate_of(&stream) {
            connection.certificate.get_or_init(|| certificate);
        }
        Ok(stream)
    }

    /// Returns why the connection ended.
    async fn serve_http(
        &self,
        reader: impl AsyncRead + Unpin + 'static,
        writer: impl AsyncWrite + Unpin + 'static,
        connection: &Arc<Connection>,
    ) -> Closed {
        let Transport { http, limits, stop, unserved, .. } = self;
        let endpoint = Arc::new(Endpoint { edge: Arc::clone(&self.edge), connection: Arc::clone(connection) });
        let service = service_fn(|request| {
            let (endpoint, arrived) = (Arc::clone(&endpoint), unserved.arrived());
            // Boxed: it is moved several times before its task runs it.
            Box::pin(async move {
                drop(arrived);
                Ok::<_, Infallible>(endpoint.edge.serve(&endpoint.connection, request).await)
            })
        });
        let reader = Reading::new(reader, connection, unserved);
        let stream = tokio::io::join(reader, Writing::new(writer));
        connection::serve(stream, connection, http, service, *limits, stop).await
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use tokio::time::timeout;

    /// Longer than anything takes. It passes at once if nothing else is to be done.
    pub const LONG: super::Duration = super::Duration::from_secs(3_600);

    /// In how many turns this work is done. Other tasks have theirs between them.
    pub async fn turns(work: impl Future<Output = ()>) -> usize {
        let (mut work, mut turns) = (pin!(work), 0);
        let counted = poll_fn(|context| {
            turns += 1;
            work.as_mut().poll(context)
        });
        timeout(LONG, counted).await.expect("each turn wakes the next");
        turns
    }
}
