//! Connections, and the bounds of HTTP/2.

use std::future::Future;
use std::time::Duration;

use axum::Router;
use futures_util::{Stream, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Error;
use tonic::transport::server::TcpIncoming;

use crate::grpc::layer::RefusalLayer;
use crate::model::limits::IMPORTS;

/// Calls and streams on one connection at a time. tonic itself sets no limit.
const STREAMS_PER_CONNECTION: u32 = 200;
/// Resets that a client may provoke before its connection is closed. tonic itself sets no limit.
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
/// How often a silent connection is pinged.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long it has to respond before it is closed.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait after a failed accept, for example when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the routes until `stop` is cancelled and every call has ended.
pub(super) fn serve(
    listener: TcpListener,
    routes: Router,
    stop: CancellationToken,
) -> impl Future<Output = Result<(), Error>> {
    tonic::transport::Server::builder()
        .accept_http1(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_max_local_error_reset_streams(Some(RESETS_PER_CONNECTION))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(RefusalLayer)
        .add_routes(routes.into())
        .serve_with_incoming_shutdown(connections(listener), stop.cancelled_owned())
}

fn connections(listener: TcpListener) -> impl Stream<Item = std::io::Result<TcpStream>> {
    TcpIncoming::from(listener).with_nodelay(Some(true)).then(|accepted| async {
        if let Err(error) = &accepted {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
        accepted
    })
}
