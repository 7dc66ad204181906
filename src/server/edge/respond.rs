//! Sends responses, at the cost of the memory that they take.
//!
//! - A message is handed to the transport in small pieces, as fast as the peer reads, and counts in the budget until
//!   the transport has dropped the last of them.
//! - What makes a response takes memory: a compressor, a translator. So such a response is read to its end before any
//!   of it is sent, and what made it is gone.
//! - A stream is not asked for its next message while there is no room for one: slow readers cost no more.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tonic::Status;

use super::compress::compress;
use crate::call::Call;
use crate::compression::Encoding;
use crate::grpc::status;
use crate::refusal::Refusal;
use crate::server::budget::{Account, Hold, Size};
use crate::server::connection::{CallInFlight, Connection};
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
    /// `None` once it has been read to its end.
    body: Option<tonic::body::Body>,
    /// If the response is read to its end before it is sent.
    whole: Option<Box<Whole>>,
    /// What the transport has not taken yet of the current message.
    rest: Option<Rest>,
    /// How the messages are compressed, if they are.
    encoding: Option<Encoding>,
    progress: Option<Arc<Progress>>,
    /// Runs while a stream waits for room.
    paused: Option<Pin<Box<tokio::time::Sleep>>>,
    /// If the response is a stream: the connections of which one may have to make room.
    stream: Option<Arc<Connections>>,
    call: Arc<Call>,
    held: Held,
    connection: Arc<Connection>,
    /// `None` once the transport has the whole response.
    in_flight: Option<CallInFlight>,
}

/// What was read of a response and is not sent yet.
#[derive(Default)]
struct Whole {
    message: Bytes,
    trailers: Option<Frame<Bytes>>,
}

/// The rest of a message, which holds the memory of the whole.
struct Rest {
    bytes: Bytes,
    hold: Arc<Hold>,
}

/// Bytes that hold something until the transport drops them: the memory of their message, or a share in it.
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
    /// A response to one request, or a stream of responses. `is_plain` says that its body holds no more than the message.
    pub fn new(
        body: tonic::body::Body,
        is_plain: bool,
        encoding: Option<Encoding>,
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
        let (connection, in_flight) = (Arc::clone(in_flight.connection()), Some(in_flight));
        let whole = (stream.is_none() && !(is_plain && encoding.is_none())).then(Box::default);
        let (body, rest, paused) = (Some(body), None, None);
        Self { body, whole, rest, encoding, progress, paused, stream, call, held, connection, in_flight }
    }

    fn next_piece(&mut self) -> Option<Bytes> {
        let rest = self.rest.as_mut()?;
        let (bytes, hold) = (rest.bytes.split_to(rest.bytes.len().min(PIECE)), Arc::clone(&rest.hold));
        if rest.bytes.is_empty() {
            self.rest = None;
        }
        Some(self.piece(bytes, hold))
    }

    /// Bytes for the transport. No task of HTTP/2 waits for the reader of the last ones, so they hold the call
    /// themselves.
    fn piece(&mut self, bytes: Bytes, hold: impl Send + 'static) -> Bytes {
        let is_last = self.is_sent();
        match self.in_flight.take_if(|_| is_last) {
            Some(in_flight) => Bytes::from_owner(Piece { bytes, _hold: (hold, in_flight.leave_to_transport()) }),
            None => Bytes::from_owner(Piece { bytes, _hold: hold }),
        }
    }

    /// Waits for the peer to read, if its connection holds its share.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(connections) = &self.stream else { return Poll::Ready(()) };
        while !self.connection.sending.has_room_for_stream() {
            if self.connection.sending.has_share() {
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
        while let Some(body) = &mut self.body {
            let frame = ready!(Pin::new(body).poll_frame(context)).transpose()?.map(Frame::into_data);
            match (frame, &mut self.whole) {
                (Some(Ok(message)), None) if message.is_empty() => return Poll::Ready(Some(Ok(Frame::data(message)))),
                (Some(Ok(message)), None) => {
                    return Poll::Ready(self.take(message).map(|piece| Ok(Frame::data(piece))));
                }
                (Some(Err(trailers)), None) => {
                    end(&trailers, &self.call);
                    return Poll::Ready(Some(Ok(trailers)));
                }
                (Some(Ok(part)), Some(whole)) => whole.add(part),
                (Some(Err(trailers)), Some(whole)) => (whole.trailers, self.body) = (Some(trailers), None),
                (None, _) => self.body = None,
            }
        }
        // What made the response is gone now, before anybody reads it.
        let Some(whole) = &mut self.whole else { return Poll::Ready(None) };
        if !whole.message.is_empty() {
            let message = std::mem::take(&mut whole.message);
            return Poll::Ready(self.take(message).map(|piece| Ok(Frame::data(piece))));
        }
        let trailers = whole.trailers.take().inspect(|trailers| end(trailers, &self.call));
        Poll::Ready(trailers.map(Ok))
    }

    /// Takes a message in, and returns its first piece.
    fn take(&mut self, message: Bytes) -> Option<Bytes> {
        let plain = message.len();
        let message = match self.encoding {
            Some(encoding) => compress(encoding, message),
            None => message,
        };
        self.call.sent(message.len());
        if self.stream.is_none() {
            self.call.counts(plain);
        }
        self.held.response = None;
        if self.connection.sending.is_far_over() {
            self.connection.cut(Closed::Sending); // It writes and writes, and reads none of the responses.
        }
        let sending = &self.connection.sending;
        if self.stream.is_none() && message.len() <= PIECE {
            let hold = sending.take(message.len());
            return Some(self.piece(message, hold));
        }
        let hold = match (&self.stream, self.encoding) {
            (None, _) => Arc::new(sending.take(message.len())),
            (Some(_), None) => sending.take_shared(&message),
            // The service keeps the plain message until it has another.
            (Some(_), Some(_)) => Arc::new(sending.take(plain.max(message.len()))),
        };
        if message.len() <= PIECE {
            return Some(self.piece(message, hold));
        }
        self.rest = Some(Rest { bytes: message, hold });
        self.next_piece()
    }

    /// Whether nothing more will come.
    fn is_sent(&self) -> bool {
        let is_read = self.body.as_ref().is_none_or(Body::is_end_stream);
        is_read && self.rest.is_none() && self.whole.as_ref().is_none_or(|whole| whole.is_empty())
    }
}

impl Whole {
    /// Adds a part of the message. Most have one part.
    fn add(&mut self, part: Bytes) {
        if self.message.is_empty() {
            self.message = part;
        } else {
            let mut message = BytesMut::from(std::mem::take(&mut self.message)); // It copies nothing.
            message.extend_from_slice(&part);
            self.message = message.freeze();
        }
    }

    fn is_empty(&self) -> bool {
        self.message.is_empty() && self.trailers.is_none()
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let polled = this.poll_next(context);
        if let Some(progress) = &this.progress {
            progress.advance(polled.is_ready());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.is_sent()
    }

    fn size_hint(&self) -> SizeHint {
        // It is asked for before anything is read.
        self.body.as_ref().filter(|_| self.rest.is_none()).map_or_else(SizeHint::default, Body::size_hint)
    }
}

/// Compresses the message, and counts the call when its trailers pass. gRPC-Web makes data of both before they get to
/// [`Outgoing`].
pub(super) fn before_translation(
    body: tonic::body::Body,
    encoding: Option<Encoding>,
    call: Arc<Call>,
) -> tonic::body::Body {
    tonic::body::Body::new(body.map_frame(move |frame| {
        end(&frame, &call);
        let Some(encoding) = encoding else { return frame };
        frame.map_data(|plain| {
            let bytes = plain.len();
            let compressed = compress(encoding, plain);
            call.counts(bytes.saturating_sub(compressed.len())); // The rest counts when it is sent.
            compressed
        })
    }))
}

/// Counts the call with the code in its trailers, if the frame is that.
fn end(frame: &Frame<Bytes>, call: &Call) {
    if let Some(code) = frame.trailers_ref().and_then(status::code_name) {
        call.end(code);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http::{HeaderMap, Version};
    use http_body_util::BodyExt;

    use super::*;
    use crate::server::connection::tests::{connection, shared};
    use crate::server::edge::inflate::frames::plain;
    use crate::server::edge::inflate::is_compressed;
    use crate::telemetry::metrics::{Calls, Method, Metrics};

    /// A body with these frames. It has the token until it is dropped.
    struct Frames(VecDeque<Frame<Bytes>>, #[allow(dead_code)] Arc<()>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    /// A response of these frames, and the token of its body.
    fn response(
        connection: &Arc<Connection>,
        encoding: Option<Encoding>,
        stream: Option<Arc<Connections>>,
        frames: impl IntoIterator<Item = Frame<Bytes>>,
    ) -> (Outgoing, Arc<()>) {
        let (is_plain, token) = (encoding.is_some(), Arc::new(()));
        let body = tonic::body::Body::new(Frames(frames.into_iter().collect(), Arc::clone(&token)));
        let call = Call::begin(&Calls::default(), Method::unknown(), false, connection.peer, None);
        let in_flight = connection.begin_call(Version::HTTP_2);
        (Outgoing::new(body, is_plain, encoding, stream, call, Held::default(), in_flight), token)
    }

    fn data(bytes: &[u8]) -> Frame<Bytes> {
        Frame::data(Bytes::copy_from_slice(bytes))
    }

    /// To compress takes a megabyte, and tonic keeps the plain message.
    #[tokio::test]
    async fn what_made_a_response_is_gone_before_any_of_it_is_read() {
        let trailers = HeaderMap::from_iter([(http::header::ETAG, "1".parse().unwrap())]);
        let connection = connection(false);
        let frames = [data(&[1; PIECE]), data(&[]), data(&[2; 5]), Frame::trailers(trailers.clone())];
        let (mut response, token) = response(&connection, None, None, frames);
        let first = response.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!((Arc::strong_count(&token), first.len()), (1, PIECE));
        assert_eq!(connection.sending.held(), PIECE + 5);
        assert_eq!(response.frame().await.unwrap().unwrap().into_data().unwrap(), [2; 5][..]);
        assert!(!response.is_end_stream());
        assert_eq!(response.frame().await.unwrap().unwrap().into_trailers().unwrap(), trailers);
        assert!(response.frame().await.is_none() && response.is_end_stream());
        drop(first);
        assert_eq!(connection.sending.held(), 0);
    }

    #[tokio::test]
    async fn what_made_a_compressed_message_is_gone_unless_it_is_a_stream() {
        let (connection, message) = (connection(false), plain(&[7; 10_000]));
        let connections = Connections::new(1, shared(), &Metrics::default());
        for (stream, holders) in [(None, 1), (Some(connections), 2)] {
            let (mut response, token) = response(&connection, Some(Encoding::Gzip), stream, [data(&message)]);
            let sent = response.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(is_compressed(&sent) && sent.len() < 1_000);
            assert_eq!(Arc::strong_count(&token), holders);
            let held = if holders == 1 { sent.len() } else { message.len() };
            assert_eq!(connection.sending.held(), held, "the service of a stream keeps its message");
        }
    }

    #[tokio::test]
    async fn streams_of_a_connection_hold_the_message_that_they_share_once() {
        let (connection, message) = (connection(false), Bytes::from(vec![7; PIECE + 1]));
        let metrics = Metrics::default();
        let connections = Connections::new(1, shared(), &metrics);
        let mut pieces = Vec::new();
        for _ in 0..3 {
            let stream = Some(Arc::clone(&connections));
            let (mut response, _) = response(&connection, None, stream, [Frame::data(message.clone())]);
            pieces.push(response.frame().await.unwrap().unwrap().into_data().unwrap());
            pieces.push(response.frame().await.unwrap().unwrap().into_data().unwrap());
            assert_eq!(connection.sending.held(), message.len());
        }
        while let Some(piece) = pieces.pop() {
            drop(piece);
            assert_eq!(connection.sending.held(), if pieces.is_empty() { 0 } else { message.len() });
        }
    }

    /// hyper asks for nothing more once it has the last piece of a response without trailers.
    #[tokio::test]
    async fn the_last_piece_holds_the_call() {
        let connection = connection(false);
        for (length, trailers) in [(1, false), (PIECE + 1, false), (1, true)] {
            let trailers = trailers.then(|| Frame::trailers(HeaderMap::new()));
            let frames = [data(&vec![1; length])].into_iter().chain(trailers);
            let (mut response, _) = response(&connection, None, None, frames);
            let (mut last, mut sent) = (None, 0);
            while !response.is_end_stream() {
                last = response.frame().await.unwrap().unwrap().into_data().ok();
                sent += last.as_ref().map_or(0, Bytes::len);
            }
            assert_eq!(sent, length);
            drop(response);
            assert_eq!(connection.waits_for_readers(), last.is_some(), "{length}");
            drop(last);
            assert!(connection.is_idle());
        }
    }
}
