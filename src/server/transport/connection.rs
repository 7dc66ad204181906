//! Serves one connection.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::streams::{Streams, UNREAD_AT_STOP};
use crate::server::connection::{Connection, TimeLimits, Verdict};
use crate::server::edge::Outgoing;
use crate::telemetry::metrics::Closed;

/// How often the limits of an open connection are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a connection without calls may take to close by itself.
const FAREWELL: Duration = Duration::from_millis(100);

/// Serves a connection until the peer closes it, a time limit passes, or `stop` is cancelled and its calls have ended.
/// Returns why it ended.
pub(super) async fn serve<S>(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    connection: &Arc<Connection>,
    http: &Builder<Streams>,
    service: S,
    limits: TimeLimits,
    stop: &CancellationToken,
) -> Closed
where
    S: Service<Request<Incoming>, Response = Response<Outgoing>>,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut served = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let (mut closing, mut since) = (None, connection.start());
    let mut check = std::pin::pin!(sleep_until(connection.start() + limits.handshake.min(CHECK_INTERVAL)));
    loop {
        let close = tokio::select! {
            biased;
            why = connection.until_cut() => return why,
            ended = served.as_mut() => return closing.unwrap_or_else(|| ended.map_or_else(fault, |()| Closed::Client)),
            () = stop.cancelled(), if closing.is_none() => Some(Closed::Drained),
            () = check.as_mut() => match connection.verdict(&limits) {
                Verdict::Cut(why) => return why,
                Verdict::Close => Some(Closed::Idle),
                Verdict::Keep => None,
            },
        };
        if let Some(why) = closing.filter(|_| is_over(connection, since)) {
            return why;
        }
        if close.is_some() && closing.is_none() {
            (closing, since) = (close, Instant::now());
            served.as_mut().graceful_shutdown();
        }
        check.as_mut().reset(Instant::now() + closing.map_or(CHECK_INTERVAL, |_| FAREWELL));
    }
}

/// Whether a connection that has been closing for a while is not worth waiting for. A peer that does not close, has sent
/// half of a head or does not read must not hold a shutdown.
fn is_over(connection: &Connection, since: Instant) -> bool {
    connection.is_idle() && connection.sending.held() == 0
        || connection.waits_for_readers() && since.elapsed() >= UNREAD_AT_STOP
}

/// Why a connection failed: the peer broke the protocol, or the connection.
#[allow(clippy::needless_pass_by_value)] // For `map_or_else`.
fn fault(error: Box<dyn std::error::Error + Send + Sync>) -> Closed {
    match error.downcast_ref::<hyper::Error>() {
        Some(error) if error.is_timeout() => Closed::Silent,
        Some(error) if error.is_parse() => Closed::Protocol,
        _ => Closed::Client,
    }
}

#[cfg(test)]
mod tests {
    use http::Version;
    use tokio::time::advance;

    use super::*;
    use crate::server::connection::tests::connection;

    /// A slow reader may be far away.
    #[tokio::test(start_paused = true)]
    async fn the_readers_of_a_connection_that_closes_have_a_moment() {
        let (connection, since) = (connection(false), Instant::now());
        assert!(is_over(&connection, since));
        let call = connection.begin_call(Version::HTTP_2);
        let left = connection.begin_call(Version::HTTP_2).leave_to_transport();
        advance(UNREAD_AT_STOP).await;
        assert!(!is_over(&connection, since), "a call still runs");
        drop(call);
        assert!(is_over(&connection, since));
        assert!(!is_over(&connection, Instant::now()));
        drop(left);
        assert!(is_over(&connection, Instant::now()));
    }
}
