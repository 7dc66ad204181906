//! Receives requests: whole messages only, within the memory and the time that a request may take.
//!
//! tonic makes room for a message as soon as its length is known. A client could declare many large messages and send
//! none of them. So a message is collected here, at the cost of what has arrived, and handed on when it is complete.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::poll;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use super::inflate::{Encoding, HEADER, inflate, is_compressed};
use crate::grpc::large::Turns;
use crate::grpc::status;
use crate::http::NoRoomForBody;
use crate::refusal::Refusal;
use crate::server::budget::{Account, Hold, Size};

/// Chunks that are smaller are copied while a message is incomplete: each would keep the buffer that it was cut from.
const COPIED: usize = 4 << 10;
/// A message that is larger may not use the reserve for small ones.
const SMALL: usize = 64 << 10;

/// What receiving a message may take.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    /// Size of a message.
    pub message: usize,
    /// Time from when a message is waited for, or from its first byte if the stream may pause between messages.
    pub time: Duration,
    /// Cancelled when the server shuts down.
    pub stop: CancellationToken,
}

/// The chunks of one message as they arrive.
#[derive(Debug)]
struct Message {
    chunks: VecDeque<Bytes>,
    /// The bytes of all chunks.
    arrived: usize,
    hold: Hold,
}

impl Message {
    fn new(account: &Arc<Account>) -> Self {
        Self { chunks: VecDeque::new(), arrived: 0, hold: account.take(0) }
    }

    fn push(&mut self, chunk: Bytes, account: &Account) -> Result<(), Refusal> {
        let size = size_of_message(self.arrived + chunk.len());
        if !account.may_receive(chunk.len(), size) {
            return Err(Refusal::too_much_received());
        }
        self.hold.grow(chunk.len());
        self.arrived += chunk.len();
        let is_small = chunk.len() < COPIED;
        self.chunks.push_back(chunk);
        if is_small && !self.is_complete() {
            let copy = self.chunks.pop_back().map(|chunk| Bytes::copy_from_slice(&chunk));
            self.chunks.extend(copy);
        }
        Ok(())
    }

    /// The length of the frame, once its header has arrived.
    fn frame_len(&self) -> Option<usize> {
        let mut bytes = self.chunks.iter().flat_map(|chunk| chunk.iter().copied());
        let mut header = [0; HEADER];
        for byte in &mut header {
            *byte = bytes.next()?;
        }
        let [_, length @ ..] = header;
        usize::try_from(u32::from_be_bytes(length)).ok().map(|length| HEADER + length)
    }

    /// Decompresses a complete message, if it is compressed. It counts with what it comes to.
    fn inflate(&mut self, encoding: Encoding, account: &Account, limit: usize) -> Result<(), Refusal> {
        let Some(length) = self.frame_len().filter(|length| self.arrived >= *length) else { return Ok(()) };
        let frame = gather(&mut self.chunks, length);
        let frame = if is_compressed(&frame) { inflate(encoding, &frame, limit)? } else { frame };
        self.arrived = 0;
        self.push(frame, account)
    }

    fn is_complete(&self) -> bool {
        self.frame_len().is_some_and(|length| self.arrived >= length)
    }
}

/// Receives the one message of a unary call.
///
/// # Errors
/// The refusal of a message that is too large, too slow, or not the only one. `None` if the client has given the call
/// up.
pub(super) async fn one_message<B>(
    body: B,
    encoding: Option<Encoding>,
    account: &Arc<Account>,
    bounds: &Bounds,
) -> Result<Option<Whole>, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let collect = async {
        let mut message = Message::new(account);
        let mut body = pin!(body);
        while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
            let Ok(frame) = frame else { return Ok(None) };
            let Ok(chunk) = frame.into_data() else { continue }; // Trailers of a request have no meaning.
            message.push(chunk, account)?;
            check_length(&message, bounds.message)?;
        }
        Ok::<_, Refusal>(Some(message))
    };
    let mut collect = pin!(collect);
    let message = match poll!(collect.as_mut()) {
        Poll::Ready(message) => message?, // Most requests are here already, and need no timer.
        Poll::Pending => tokio::select! {
            biased;
            message = collect => message?,
            () = bounds.stop.cancelled() => return Err(Refusal::draining()),
            () = tokio::time::sleep(bounds.time) => {
                return Err(Refusal::deadline_exceeded("the request did not arrive in time"));
            }
        },
    };
    let Some(mut message) = message else { return Ok(None) };
    if let Some(encoding) = encoding {
        message.inflate(encoding, account, bounds.message)?;
    }
    Ok(Some(Whole::from(message)))
}

fn size_of_message(bytes: usize) -> Size {
    if bytes > SMALL { Size::Large } else { Size::Small }
}

/// Takes the first `length` bytes out of the chunks, or all if there are fewer. They are copied only if they came in
/// several chunks.
fn gather(chunks: &mut VecDeque<Bytes>, length: usize) -> Bytes {
    let mut first = chunks.pop_front().unwrap_or_default();
    if first.len() >= length {
        let rest = first.split_off(length);
        if !rest.is_empty() {
            chunks.push_front(rest);
        }
        return first;
    }
    let mut whole = first.to_vec();
    while whole.len() < length
        && let Some(mut chunk) = chunks.pop_front()
    {
        let missing = chunk.len().min(length - whole.len());
        whole.extend_from_slice(&chunk.split_to(missing));
        if !chunk.is_empty() {
            chunks.push_front(chunk);
        }
    }
    whole.into()
}

fn check_length(message: &Message, limit: usize) -> Result<(), Refusal> {
    let Some(length) = message.frame_len() else { return Ok(()) };
    if length - HEADER > limit {
        return Err(Refusal::request_too_large(limit, length - HEADER));
    }
    if message.arrived > length { Err(Refusal::more_than_one_message()) } else { Ok(()) }
}

/// A request with one message, which has arrived.
#[derive(Debug)]
pub(in crate::server) struct Whole {
    chunks: VecDeque<Bytes>,
    /// The memory that the request takes. The call holds it until it ends, because what is parsed lives as long.
    pub hold: Option<Hold>,
}

impl From<Message> for Whole {
    fn from(message: Message) -> Self {
        Self { chunks: message.chunks, hold: Some(message.hold) }
    }
}

impl Whole {
    /// The bytes of the message and its header.
    pub fn len(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.chunks.pop_front().map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len() as u64)
    }
}

/// The messages of a client's stream, each handed on when it is complete. The client may pause between messages.
pub(super) struct Messages<B> {
    body: Pin<Box<B>>,
    account: Arc<Account>,
    bounds: Bounds,
    message: Message,
    encoding: Option<Encoding>,
    /// The largest message so far, and what it holds.
    largest: usize,
    buffer: Hold,
    turns: Turns,
    /// Runs while a message is incomplete.
    timer: Option<Pin<Box<Sleep>>>,
    stopped: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl<B: Body<Data = Bytes>> Messages<B> {
    /// `ends_at_stop` is for services that know nothing of a shutdown: their stream ends when the server stops.
    pub fn new(
        body: B,
        encoding: Option<Encoding>,
        account: &Arc<Account>,
        bounds: Bounds,
        ends_at_stop: bool,
    ) -> Self {
        let stopped = ends_at_stop.then(|| Box::pin(bounds.stop.clone().cancelled_owned()));
        let (message, buffer, account) = (Message::new(account), account.take(0), Arc::clone(account));
        let (body, largest, timer) = (Box::pin(body), 0, None);
        Self { body, account, bounds, message, encoding, largest, buffer, turns: Turns::default(), timer, stopped }
    }

    /// The next chunk of what is to be handed on. A message that is too large is handed on as it comes: tonic refuses
    /// it by its length.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Refusal>>> {
        let Some(length) = self.message.frame_len() else { return Poll::Ready(None) };
        if self.message.arrived < length && length - HEADER <= self.bounds.message {
            return Poll::Ready(None);
        }
        self.timer = None;
        let is_compressed = self.encoding.is_some() && self.message.chunks.front().is_some_and(|c| is_compressed(c));
        if self.stopped.is_none() {
            // Other services read their messages in a task of their own, where a turn would not end.
            ready!(self.turns.poll(if is_compressed { self.bounds.message } else { length }, context));
        }
        let chunk = gather(&mut self.message.chunks, length);
        let (chunks, arrived) = (std::mem::take(&mut self.message.chunks), self.message.arrived - chunk.len());
        self.message = Message { chunks, arrived, hold: self.account.take(arrived) };
        Poll::Ready(Some(self.plain(chunk)))
    }

    /// The chunk as tonic is to see it. tonic keeps a buffer as large as the largest message so far.
    fn plain(&mut self, frame: Bytes) -> Result<Bytes, Refusal> {
        let limit = self.bounds.message;
        let frame = match self.encoding.filter(|_| is_compressed(&frame)) {
            Some(encoding) => inflate(encoding, &frame, limit)?,
            None => frame,
        };
        let more = frame.len().saturating_sub(self.largest);
        if more > 0 {
            if !self.account.may_receive(more, size_of_message(frame.len())) {
                return Err(Refusal::too_much_received());
            }
            self.largest += more;
            self.buffer.grow(more);
        }
        Ok(frame)
    }

    fn poll_time(&mut self, context: &mut Context<'_>) -> Poll<Status> {
        if self.stopped.as_mut().is_some_and(|stopped| stopped.as_mut().poll(context).is_ready()) {
            return Poll::Ready(status::carry(Refusal::draining()));
        }
        if self.message.arrived == 0 {
            return Poll::Pending;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.bounds.time)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(status::carry(Refusal::deadline_exceeded("a message did not arrive in time")))
    }
}

impl<B> Body for Messages<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            if let Some(chunk) = ready!(this.poll_ready(context)) {
                return Poll::Ready(Some(chunk.map(Frame::data).map_err(status::carry)));
            }
            match this.body.as_mut().poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(chunk) = frame.into_data() else { continue };
                    let account = Arc::clone(&this.account);
                    if let Err(refusal) = this.message.push(chunk, &account) {
                        return Poll::Ready(Some(Err(status::carry(refusal))));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(Status::from_error(error.into())))),
                // What is left is the beginning of a message: tonic refuses it as cut short.
                Poll::Ready(None) => return Poll::Ready(this.message.chunks.pop_front().map(|c| Ok(Frame::data(c)))),
                Poll::Pending => return this.poll_time(context).map(|status| Some(Err(status))),
            }
        }
    }
}

/// A body that counts what has arrived of it. The Profile API bounds its size and its time.
pub(super) struct Counted<B> {
    body: Pin<Box<B>>,
    account: Arc<Account>,
    hold: Hold,
}

impl<B> Counted<B> {
    pub fn new(body: B, account: &Arc<Account>) -> Self {
        Self { body: Box::pin(body), account: Arc::clone(account), hold: account.take(0) }
    }
}

impl<B> Body for Counted<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(self.body.as_mut().poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            if !self.account.may_receive(bytes, Size::Small) {
                return Poll::Ready(Some(Err(NoRoomForBody.into())));
            }
            self.hold.grow(bytes);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
