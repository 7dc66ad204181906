//! One connection: what it holds, and when it is closed.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use tokio_util::io::InspectReader;
use tokio_util::sync::CancellationToken;

use super::streams::Streams;
use crate::server::budget::{Account, Budget};
use crate::server::edge::Outgoing;
use crate::telemetry::metrics::Closed;

/// Bytes after which a client has said which protocol it speaks: the preface of HTTP/2 and the header of its first
/// frame. A request head of HTTP/1.1 has a time limit of its own.
const GREETING: usize = 24 + 9;
/// How often the limits of an open connection are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a connection without calls has to say goodbye before it is closed.
const FAREWELL: Duration = Duration::from_millis(100);

/// The time limits of a connection.
#[derive(Debug, Clone, Copy)]
pub(in crate::server) struct TimeLimits {
    /// From the connection to the greeting, and from the first byte of an HTTP/1.1 head to its last.
    pub handshake: Duration,
    /// Without a call. `None` for no limit.
    pub idle: Option<Duration>,
    /// On sending a response of HTTP/1.1 without progress.
    pub send: Duration,
}

/// What is known of a connection while it is open.
#[derive(Debug)]
pub(in crate::server) struct Connection {
    /// Bytes of requests that are being received.
    pub receiving: Arc<Account>,
    /// Bytes of responses that wait to be read.
    pub sending: Arc<Account>,
    /// Whether the only calls that are served are health checks: there are as many connections as there may be.
    pub is_extra: bool,
    calls: AtomicUsize,
    start: Instant,
    /// When it last began or ended a call, in milliseconds since `start`.
    used: AtomicU64,
    heard: AtomicUsize,
    is_http1: AtomicBool,
    cut: CancellationToken,
    /// Why it is being cut.
    why: OnceLock<Closed>,
}

/// A call in flight on a connection.
#[derive(Debug)]
pub(in crate::server) struct CallInFlight(Arc<Connection>);

impl Connection {
    pub fn new(receiving: &Arc<Budget>, sending: &Arc<Budget>, is_extra: bool) -> Arc<Self> {
        Arc::new(Self {
            receiving: receiving.account(),
            sending: sending.account(),
            is_extra,
            calls: AtomicUsize::new(0),
            start: Instant::now(),
            used: AtomicU64::new(0),
            heard: AtomicUsize::new(0),
            is_http1: AtomicBool::new(false),
            cut: CancellationToken::new(),
            why: OnceLock::new(),
        })
    }

    /// Counts a call until the result is dropped.
    pub fn begin_call(self: &Arc<Self>, version: http::Version) -> CallInFlight {
        if version < http::Version::HTTP_2 {
            self.is_http1.store(true, Ordering::Relaxed);
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.touch();
        CallInFlight(Arc::clone(self))
    }

    /// Whether it has no call in flight.
    pub fn is_idle(&self) -> bool {
        self.calls.load(Ordering::Relaxed) == 0
    }

    /// When it last began or ended a call.
    pub fn last_use(&self) -> Instant {
        self.start + Duration::from_millis(self.used.load(Ordering::Relaxed))
    }

    /// The bytes that it holds, of requests and of responses.
    pub fn held(&self) -> usize {
        self.receiving.held() + self.sending.held()
    }

    /// Whether it has given back no bytes for this long, of requests or of responses.
    pub fn is_still_for(&self, time: Duration) -> bool {
        let still = |account: &Account| account.held() > 0 && Duration::from_millis(account.still_for()) >= time;
        still(&self.receiving) || still(&self.sending)
    }

    /// Ends the connection and its calls at once.
    pub fn cut(&self, why: Closed) {
        let _ = self.why.set(why); // An error means that it is being cut already.
        self.cut.cancel();
    }

    /// Whether it is being ended.
    pub fn is_cut(&self) -> bool {
        self.cut.is_cancelled()
    }

    fn touch(&self) {
        let used = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.used.store(used, Ordering::Relaxed);
    }

    fn has_greeted(&self) -> bool {
        self.heard.load(Ordering::Relaxed) >= GREETING || self.used.load(Ordering::Relaxed) > 0
    }

    /// Why it should end now, or not.
    fn verdict(&self, limits: &TimeLimits) -> Verdict {
        let http1 = self.is_http1.load(Ordering::Relaxed);
        let still = Duration::from_millis(self.sending.still_for());
        if !self.has_greeted() && self.start.elapsed() >= limits.handshake {
            Verdict::Cut(Closed::Handshake)
        } else if http1 && self.sending.held() > 0 && still >= limits.send {
            Verdict::Cut(Closed::Sending)
        } else if self.is_idle() && limits.idle.is_some_and(|idle| self.last_use().elapsed() >= idle) {
            Verdict::Close
        } else {
            Verdict::Keep
        }
    }
}

enum Verdict {
    Keep,
    Close,
    Cut(Closed),
}

impl CallInFlight {
    pub fn connection(&self) -> &Arc<Connection> {
        &self.0
    }
}

impl Drop for CallInFlight {
    fn drop(&mut self) {
        self.0.touch();
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves a connection, and returns why it ended, until the peer closes it, a time limit passes, or `stop` is cancelled and its calls have ended.
pub(super) async fn serve<S>(
    stream: TcpStream,
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
    let listener = Arc::clone(connection);
    let stream = InspectReader::new(stream, move |bytes: &[u8]| {
        listener.heard.fetch_add(bytes.len(), Ordering::Relaxed);
    });
    let mut served = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let mut closing = None;
    let mut check = std::pin::pin!(sleep_until(connection.start + limits.handshake.min(CHECK_INTERVAL)));
    loop {
        let close = tokio::select! {
            biased;
            () = connection.cut.cancelled() => return connection.why.get().copied().unwrap_or(Closed::Client),
            ended = served.as_mut() => return closing.unwrap_or_else(|| ended.map_or_else(fault, |()| Closed::Client)),
            () = stop.cancelled(), if closing.is_none() => Some(Closed::Drained),
            () = check.as_mut() => match connection.verdict(&limits) {
                Verdict::Cut(why) => return why,
                Verdict::Close => Some(Closed::Idle),
                Verdict::Keep => None,
            },
        };
        // A peer that does not say goodbye, or has sent half of a head, must not hold a shutdown.
        if let Some(why) = closing.filter(|_| connection.is_idle() && connection.sending.held() == 0) {
            return why;
        }
        if close.is_some() && closing.is_none() {
            closing = close;
            served.as_mut().graceful_shutdown();
        }
        check.as_mut().reset(Instant::now() + closing.map_or(CHECK_INTERVAL, |_| FAREWELL));
    }
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
