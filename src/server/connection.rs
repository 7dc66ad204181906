//! One connection while it is open: what it holds, and when it must end.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::budget::{Account, Budget};
use super::in_flight::{InFlight, Kind};
use super::tls::ClientCertificate;
use crate::telemetry::metrics::Closed;

/// Bytes after which a client has said which protocol it speaks: the preface of HTTP/2 and the header of its first
/// frame. A request head of HTTP/1.1 has a time limit of its own.
const GREETING: usize = 24 + 9;

/// The first byte of a TLS connection: the type of a record with a message of a handshake. No protocol that is spoken
/// here begins with it.
const TLS_RECORD: u8 = 0x16;

/// How long a connection beyond the limit may be without a call.
const EXTRA_IDLE: Duration = Duration::from_secs(1);

/// The time limits of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeLimits {
    /// From the connection to the greeting, and from the first byte of an HTTP/1.1 head to its last.
    pub handshake: Duration,
    /// Without a call. `None` for no limit.
    pub idle: Option<Duration>,
    /// See `--stall-timeout`.
    pub stall: Duration,
    /// On sending a response of HTTP/1.1 without progress, or the end of one of HTTP/2.
    pub send: Duration,
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    /// The budget of requests that are being received.
    pub receiving: Arc<Budget>,
    /// The budget of responses that wait to be read.
    pub sending: Arc<Budget>,
    pub in_flight: Arc<InFlight>,
}

/// What is known of a connection while it is open.
#[derive(Debug)]
pub(super) struct Connection {
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Bytes of requests that are being received.
    pub receiving: Arc<Account>,
    /// Bytes of responses that wait to be read.
    pub sending: Arc<Account>,
    /// The certificate that the peer presented in the TLS handshake, if it presented one. It was verified.
    pub certificate: OnceLock<ClientCertificate>,
    /// Whether the only calls that are served are health checks: there are as many connections as there may be.
    is_extra: AtomicBool,
    calls: AtomicUsize,
    left: Left,
    in_flight: Arc<InFlight>,
    start: Instant,
    /// When it last began or ended a call, in milliseconds since `start`.
    used: AtomicU64,
    heard: AtomicUsize,
    /// Whether the peer speaks TLS to a port without TLS.
    speaks_tls: AtomicBool,
    is_http1: AtomicBool,
    /// Whether the response over HTTP/1.1 is a stream, which may be read slowly.
    is_streaming: AtomicBool,
    cut: CancellationToken,
    /// Why it is being cut.
    why: OnceLock<Closed>,
}

/// The calls whose responses the transport holds to their last byte. No task waits for their readers, so the connection
/// does, in turns that last as long as a response may make no progress.
#[derive(Debug, Default)]
struct Left {
    /// By the turn in which they were left: those of even turns, and those of odd ones.
    by_turn: [AtomicUsize; 2],
    turn: AtomicUsize,
    /// When the turn began, in milliseconds since the connection's start.
    began: AtomicU64,
}

impl Left {
    fn all(&self) -> usize {
        self.by_turn.iter().map(|left| left.load(Ordering::Relaxed)).sum()
    }

    /// Whether one was left longer than `limit` ago. The next turn begins if this one has lasted so long.
    fn is_late(&self, now: u64, limit: Duration) -> bool {
        if u128::from(now.saturating_sub(self.began.load(Ordering::Relaxed))) < limit.as_millis() {
            return false;
        }
        let next = self.turn.load(Ordering::Relaxed) + 1;
        self.began.store(now, Ordering::Relaxed);
        self.turn.store(next, Ordering::Relaxed);
        self.by_turn[next % 2].load(Ordering::Relaxed) > 0
    }
}

/// A call in flight on a connection.
#[derive(Debug)]
pub(super) struct CallInFlight {
    connection: Arc<Connection>,
    /// What it counts as among the calls of all connections.
    counts_as: Option<Kind>,
    /// Whether it was left to the transport in a turn with an odd number.
    left_in: Option<bool>,
}

impl Connection {
    /// A connection that was just accepted.
    pub fn new(peer: SocketAddr, shared: &Shared, is_extra: bool) -> Arc<Self> {
        Arc::new(Self {
            peer,
            receiving: shared.receiving.account(),
            sending: shared.sending.account(),
            is_extra: AtomicBool::new(is_extra),
            calls: AtomicUsize::new(0),
            left: Left::default(),
            in_flight: Arc::clone(&shared.in_flight),
            start: Instant::now(),
            used: AtomicU64::new(0),
            heard: AtomicUsize::new(0),
            speaks_tls: AtomicBool::new(false),
            certificate: OnceLock::new(),
            is_http1: AtomicBool::new(false),
            is_streaming: AtomicBool::new(false),
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
        CallInFlight { connection: Arc::clone(self), counts_as: None, left_in: None }
    }

    /// See the field.
    pub fn is_extra(&self) -> bool {
        self.is_extra.load(Ordering::Relaxed)
    }

    /// There is room for it now.
    pub fn promote(&self) {
        self.is_extra.store(false, Ordering::Relaxed);
    }

    /// Whether it has no call in flight.
    pub fn is_idle(&self) -> bool {
        self.calls.load(Ordering::Relaxed) == 0
    }

    /// Whether it has made a call.
    pub fn was_used(&self) -> bool {
        self.used.load(Ordering::Relaxed) > 0 || !self.is_idle()
    }

    /// When it last began or ended a call.
    pub fn last_use(&self) -> Instant {
        self.start + Duration::from_millis(self.used.load(Ordering::Relaxed))
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

    /// Counts bytes that were read from it, after TLS if there is TLS.
    pub fn heard(&self, bytes: &[u8]) {
        let is_first = self.heard.fetch_add(bytes.len(), Ordering::Relaxed) == 0;
        if is_first && bytes.first() == Some(&TLS_RECORD) {
            self.speaks_tls.store(true, Ordering::Relaxed);
        }
    }

    /// See the field.
    pub fn speaks_tls(&self) -> bool {
        self.speaks_tls.load(Ordering::Relaxed)
    }

    /// When it was accepted.
    pub fn start(&self) -> Instant {
        self.start
    }

    /// Completes when it is to be ended, with the reason.
    pub async fn until_cut(&self) -> Closed {
        self.cut.cancelled().await;
        self.why.get().copied().unwrap_or(Closed::Client)
    }

    /// Whether nothing is in flight but responses that the transport holds to their last byte.
    pub fn waits_for_readers(&self) -> bool {
        let left = self.left.all();
        left > 0 && left == self.calls.load(Ordering::Relaxed)
    }

    fn touch(&self) {
        self.used.store(self.now(), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn has_greeted(&self) -> bool {
        self.heard.load(Ordering::Relaxed) >= GREETING || self.was_used()
    }

    /// Why it should end now, or not.
    pub fn verdict(&self, limits: &TimeLimits) -> Verdict {
        let is_http1 = self.is_http1.load(Ordering::Relaxed);
        let stall = if self.is_streaming.load(Ordering::Relaxed) { limits.stall } else { Duration::ZERO };
        let idle = if self.is_extra() { Some(EXTRA_IDLE) } else { limits.idle };
        self.receiving.look();
        self.sending.look();
        let is_unread = is_http1 && self.sending.held() > 0 && self.sending.still_for() >= limits.send + stall;
        if !self.has_greeted() && self.start.elapsed() >= limits.handshake {
            Verdict::Cut(Closed::Handshake)
        } else if is_unread || self.left.is_late(self.now(), limits.send) {
            Verdict::Cut(Closed::Sending)
        } else if self.is_idle() && idle.is_some_and(|idle| self.last_use().elapsed() >= idle) {
            Verdict::Close
        } else {
            Verdict::Keep
        }
    }
}

/// What its time limits say of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    Close,
    Cut(Closed),
}

impl CallInFlight {
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Counts it among the calls of this kind, and no longer among others, unless `most` are in flight. Returns whether
    /// it counts.
    pub fn count(&mut self, kind: Kind, most: usize) -> bool {
        let has_room = self.connection.in_flight.enter(kind, most);
        if has_room {
            self.count_no_longer();
            self.counts_as = Some(kind);
        }
        has_room
    }

    /// It takes no room of other calls any more.
    pub fn count_no_longer(&mut self) {
        if let Some(kind) = self.counts_as.take() {
            self.connection.in_flight.leave(kind);
        }
    }

    /// The transport has the last byte of its response. It counts until this is dropped with that byte.
    pub fn leave_to_transport(mut self) -> Self {
        let left = &self.connection.left;
        let is_odd = left.turn.load(Ordering::Relaxed) % 2 == 1;
        left.by_turn[usize::from(is_odd)].fetch_add(1, Ordering::Relaxed);
        self.left_in = Some(is_odd);
        self
    }

    /// Its response is a stream.
    pub fn begin_stream(&self) {
        self.connection.is_streaming.store(true, Ordering::Relaxed);
    }
}

impl Drop for CallInFlight {
    fn drop(&mut self) {
        self.connection.touch();
        if let Some(is_odd) = self.left_in {
            self.connection.left.by_turn[usize::from(is_odd)].fetch_sub(1, Ordering::Relaxed);
        }
        self.connection.calls.fetch_sub(1, Ordering::Relaxed);
        self.connection.is_streaming.store(false, Ordering::Relaxed); // Over HTTP/1.1 there is no other call.
        self.count_no_longer();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use http::Version;
    use tokio::time::advance;

    use super::*;
    use crate::telemetry::metrics;

    const SECOND: Duration = Duration::from_secs(1);
    const LIMITS: TimeLimits = TimeLimits {
        handshake: Duration::from_secs(10),
        idle: Some(Duration::from_secs(60)),
        stall: Duration::from_secs(300),
        send: Duration::from_secs(30),
    };

    /// What the connections of a test share.
    pub fn shared() -> Shared {
        let budget = || Budget::new(1 << 20, metrics::Budget::default());
        Shared { receiving: budget(), sending: budget(), in_flight: Arc::default() }
    }

    /// A connection that was just accepted.
    pub fn connection(is_extra: bool) -> Arc<Connection> {
        Connection::new(SocketAddr::from(([127, 0, 0, 1], 1)), &shared(), is_extra)
    }

    /// A connection whose peer has said that it speaks HTTP/2.
    fn greeted() -> Arc<Connection> {
        let connection = connection(false);
        connection.heard(&[0; GREETING]);
        connection
    }

    /// Passes this many seconds, and checks what the limits say just before their end and at it.
    async fn assert_ends(connection: &Connection, after: u32, with: Verdict) {
        const MOMENT: Duration = Duration::from_millis(1);
        advance((after * SECOND).saturating_sub(MOMENT)).await;
        assert_eq!(connection.verdict(&LIMITS), Verdict::Keep);
        advance(MOMENT).await;
        assert_eq!(connection.verdict(&LIMITS), with);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_must_say_in_time_which_protocol_it_speaks() {
        let connection = connection(false);
        connection.heard(&[0; GREETING - 1]);
        assert_ends(&connection, 10, Verdict::Cut(Closed::Handshake)).await;
        connection.heard(&[0]);
        assert_eq!(connection.verdict(&LIMITS), Verdict::Keep);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_the_end_of_its_last_call() {
        let connection = greeted();
        let call = connection.begin_call(Version::HTTP_2);
        advance(100 * SECOND).await;
        assert_eq!(connection.verdict(&LIMITS), Verdict::Keep);
        drop(call);
        assert_ends(&connection, 60, Verdict::Close).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_beyond_the_limit_is_idle_after_a_second() {
        let connection = connection(true);
        assert_ends(&connection, 1, Verdict::Close).await;
        connection.promote();
        assert_eq!(connection.verdict(&LIMITS), Verdict::Keep);
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_over_http1_must_be_read_in_time() {
        let connection = greeted();
        let _call = connection.begin_call(Version::HTTP_11);
        let response = connection.sending.take(100);
        assert_eq!(connection.verdict(&LIMITS), Verdict::Keep);
        assert_ends(&connection, 30, Verdict::Cut(Closed::Sending)).await;
        drop(response);
        assert_eq!(connection.verdict(&LIMITS), Verdict::Keep);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_over_http1_also_has_the_time_of_a_stalled_subscriber() {
        let connection = greeted();
        let stream = connection.begin_call(Version::HTTP_11);
        stream.begin_stream();
        let _message = connection.sending.take(100);
        assert_eq!(connection.verdict(&LIMITS), Verdict::Keep);
        advance(30 * SECOND).await;
        assert_ends(&connection, 300, Verdict::Cut(Closed::Sending)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_after_a_stream_has_the_time_of_a_response() {
        let connection = greeted();
        connection.begin_call(Version::HTTP_11).begin_stream();
        let _call = connection.begin_call(Version::HTTP_11);
        let _response = connection.sending.take(100);
        assert_eq!(connection.verdict(&LIMITS), Verdict::Keep);
        assert_ends(&connection, 30, Verdict::Cut(Closed::Sending)).await;
    }

    #[test]
    fn a_peer_that_begins_with_a_record_of_tls_speaks_tls() {
        for (first, speaks_tls) in [(&[TLS_RECORD, 3, 1][..], true), (b"PRI * ", false), (b"", false)] {
            let connection = connection(false);
            connection.heard(first);
            connection.heard(b"x");
            connection.heard(&[TLS_RECORD]);
            assert_eq!(connection.speaks_tls(), speaks_tls, "{first:?}");
        }
    }

    /// It has at least the time limit, and at most twice as long. A stream beside it changes nothing.
    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_response_that_is_left_to_the_transport_must_be_read_in_time() {
        let connection = greeted();
        let _stream = connection.begin_call(Version::HTTP_2);
        advance(29 * SECOND).await;
        let read = connection.begin_call(Version::HTTP_2).leave_to_transport();
        advance(SECOND).await;
        assert_eq!(connection.verdict(&LIMITS), Verdict::Keep);
        let unread = connection.begin_call(Version::HTTP_2).leave_to_transport();
        drop(read);
        advance(29 * SECOND).await;
        assert_eq!(connection.verdict(&LIMITS), Verdict::Keep);
        advance(SECOND).await;
        assert_eq!(connection.verdict(&LIMITS), Verdict::Keep);
        advance(30 * SECOND).await;
        assert_eq!(connection.verdict(&LIMITS), Verdict::Cut(Closed::Sending));
        drop(unread);
        assert_eq!(connection.verdict(&LIMITS), Verdict::Keep);
    }

    #[test]
    fn a_connection_waits_for_readers_if_nothing_else_is_in_flight() {
        let connection = greeted();
        assert!(!connection.waits_for_readers());
        let call = connection.begin_call(Version::HTTP_2);
        let left = connection.begin_call(Version::HTTP_2).leave_to_transport();
        assert!(!connection.waits_for_readers() && !connection.is_idle());
        drop(call);
        assert!(connection.waits_for_readers() && !connection.is_idle());
        drop(left);
        assert!(!connection.waits_for_readers() && connection.is_idle());
    }

    /// There each stream has its own time.
    #[tokio::test(start_paused = true)]
    async fn a_connection_of_http2_is_not_cut_for_what_is_unread() {
        let connection = greeted();
        let _call = connection.begin_call(Version::HTTP_2);
        let _response = connection.sending.take(100);
        assert_eq!(connection.verdict(&LIMITS), Verdict::Keep);
        advance(1_000 * SECOND).await;
        assert_eq!(connection.verdict(&LIMITS), Verdict::Keep);
    }
}
