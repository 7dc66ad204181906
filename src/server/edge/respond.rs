//! Sends responses, at the cost of the memory that they take.
//!
//! - A message is handed to the transport in small pieces, as fast as the peer reads, and counts in the budget until
//!   the transport has dropped the last of them.
//! - A stream is not asked for its next message while there is no room for one: slow readers cost no more.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tonic::Status;

use crate::call::Call;
use crate::grpc::status;
use crate::refusal::Refusal;
use crate::server::budget::{Account, Hold, Size};
use crate::server::connection::CallInFlight;
use crate::server::connections::Connections;
use crate::server::progress::Progress;
use crate::telemetry::metrics::Closed;

/// The most bytes that the transport has of a response which is not read: the size of a DATA frame.
const PIECE: usize = 16 << 10;
/// How often a call asks again whether there is room, if its own connection gives nothing back.
const ROOM_INTERVAL: Duration = Duration::from_millis(100);

/// Waits until the connection may hold one more response. A page or a batch then holds as many bytes as it may come to,
/// `largest`, until its size is known. Otherwise calls that begin together would all find room.
///
/// # Errors
/// OVERLOADED after `wait`.
pub(super) async fn room(
    account: &Arc<Account>,
    size: Size,
    largest: usize,
    wait: Duration,
    reclaim: impl Fn(),
) -> Result<Option<Hold>, Refusal> {
    if !account.has_room(size) {
        let wait_for_room = async {
            while !account.has_room(size) {
                if account.has_share() {
                    reclaim(); // Others hold the memory.
                }
                let _ = tokio::time::timeout(ROOM_INTERVAL, account.freed(size)).await;
            }
            account.wake_next(); // There may be room for another call too.
        };
        // Boxed: most calls find room at once.
        Box::pin(tokio::time::timeout(wait, wait_for_room)).await.map_err(|_| Refusal::responses_unread())?;
    }
    Ok((size != Size::Small).then(|| account.take(largest)))
}

/// Memory that a call holds beside its response.
#[derive(Default)]
pub(in crate::server) struct Held {
    /// What the headers of the request take, until the call ends.
    _head: Option<Hold>,
    /// What the message of the request takes, until the call ends.
    _request: Option<Hold>,
    /// What the response may take, until its size is known.
    response: Option<Hold>,
}

impl Held {
    pub fn new(request: Option<Hold>, response: Option<Hold>) -> Self {
        Self { _head: None, _request: request, response }
    }

    /// And what the headers of the request take.
    pub fn with_head(self, head: Option<Hold>) -> Self {
        Self { _head: head, ..self }
    }
}

/// The body of every response.
pub(in crate::server) struct Outgoing {
    body: tonic::body::Body,
    /// What the transport has not taken yet of the current message.
    rest: Option<Rest>,
    progress: Option<Arc<Progress>>,
    /// Runs while a stream waits for room.
    paused: Option<Pin<Box<tokio::time::Sleep>>>,
    /// If the response is a stream: the connections of which one may have to make room.
    stream: Option<Arc<Connections>>,
    call: Arc<Call>,
    held: Held,
    in_flight: CallInFlight,
}

/// The rest of a message, which holds the memory of the whole.
struct Rest {
    bytes: Bytes,
    hold: Arc<Hold>,
}

/// Bytes that hold the memory of a message until the transport drops them: a [`Hold`], or a share in one.
struct Piece<H> {
    bytes: Bytes,
    _hold: H,
}

impl<H> AsRef<[u8]> for Piece<H> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Outgoing {
    /// A response to one request, or a stream of responses.
    pub fn new(
        body: tonic::body::Body,
        stream: Option<Arc<Connections>>,
        call: Arc<Call>,
        held: Held,
        in_flight: CallInFlight,
    ) -> Self {
        let progress = Progress::of_this_task();
        if stream.is_some() {
            progress.as_ref().inspect(|progress| progress.of_a_stream());
            in_flight.begin_stream();
        }
        let (rest, paused) = (None, None);
        Self { body, rest, progress, paused, stream, call, held, in_flight }
    }

    fn next_piece(&mut self) -> Option<Bytes> {
        let rest = self.rest.as_mut()?;
        let piece = Piece { bytes: rest.bytes.split_to(rest.bytes.len().min(PIECE)), _hold: Arc::clone(&rest.hold) };
        if rest.bytes.is_empty() {
            self.rest = None;
        }
        Some(Bytes::from_owner(piece))
    }

    /// Waits for the peer to read, if its connection holds its share.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(connections) = &self.stream else { return Poll::Ready(()) };
        while !self.in_flight.connection().sending.has_room_for_stream() {
            if self.in_flight.connection().sending.has_share() {
                connections.reclaim(|connection| &connection.sending); // Others hold the memory.
            }
            let sleep = || Box::pin(tokio::time::sleep(ROOM_INTERVAL));
            ready!(self.paused.get_or_insert_with(sleep).as_mut().poll(context));
            self.paused = None;
        }
        Poll::Ready(())
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(piece) = self.next_piece() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        ready!(self.poll_room(context));
        match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(message) if message.is_empty() => Poll::Ready(Some(Ok(Frame::data(message)))),
                Ok(message) => Poll::Ready(self.take(message).map(|piece| Ok(Frame::data(piece)))),
                Err(trailers) => {
                    end(&trailers, &self.call);
                    Poll::Ready(Some(Ok(trailers)))
                }
            },
            Some(Err(status)) => Poll::Ready(Some(Err(status))),
            None => Poll::Ready(None),
        }
    }

    /// Takes a message in, and returns its first piece.
    fn take(&mut self, message: Bytes) -> Option<Bytes> {
        let connection = self.in_flight.connection();
        self.call.sent(message.len());
        self.held.response = None;
        if connection.sending.is_far_over() {
            connection.cut(Closed::Sending); // It writes and writes, and reads none of the responses.
        }
        let hold = connection.sending.take(message.len());
        if message.len() <= PIECE {
            return Some(Bytes::from_owner(Piece { bytes: message, _hold: hold }));
        }
        self.rest = Some(Rest { bytes: message, hold: Arc::new(hold) });
        self.next_piece()
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let polled = this.poll_next(context);
        if let Some(progress) = &this.progress {
            progress.advance(polled.is_pending());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.rest.is_none() { self.body.size_hint() } else { SizeHint::default() }
    }
}

/// Counts the call when its trailers pass. gRPC-Web makes data of them before they get to [`Outgoing`].
pub(super) fn watch_trailers(body: tonic::body::Body, call: Arc<Call>) -> tonic::body::Body {
    tonic::body::Body::new(body.map_frame(move |frame| {
        end(&frame, &call);
        frame
    }))
}

/// Counts the call with the code in its trailers, if the frame is that.
fn end(frame: &Frame<Bytes>, call: &Call) {
    if let Some(code) = frame.trailers_ref().and_then(status::code_name) {
        call.end(code);
    }
}
