//! Receives requests: whole messages only, within the memory and the time that a request may take.
//!
//! tonic makes room for a message as soon as its length is known. A client could declare many large messages and send
//! none of them. So a message is collected here, at the cost of what has arrived, and handed on when it is complete.
//!
//! - `message`: one message as it arrives.
//! - `stream`: the messages of a client's stream.
//! - `counted`: bodies of HTTP.

mod counted;
mod message;
mod stream;

use std::collections::VecDeque;
use std::error::Error;
use std::future::poll_fn;
use std::iter::successors;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::poll;
use http_body::{Body, Frame, SizeHint};
use tokio_util::sync::CancellationToken;
use tonic::Status;

pub(super) use counted::Counted;
use message::Message;
pub(super) use stream::Messages;

use super::inflate::HEADER;
use crate::compression::Encoding;
use crate::refusal::Refusal;
use crate::server::budget::{Account, Hold, Size};

/// What hyper says of a body that breaks off. tonic-web keeps only the text of an error.
const BROKEN_OFF: &str = "error reading a body from connection";

/// What a call counts for while its message is waited for: a client may begin many and send none of their messages.
const CALL_COST: usize = 4 << 10;

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

/// Receives the one message of a unary call, within this time.
///
/// # Errors
/// The refusal of a message that is too large, too slow, malformed, or not the only one. `None` if the client has given
/// the call up.
pub(super) async fn one_message<B>(
    body: B,
    encoding: Option<Encoding>,
    account: &Arc<Account>,
    bounds: &Bounds,
    time: Duration,
) -> Result<Option<Whole>, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>> + Send,
{
    let mut collect = pin!(collect(body, account, bounds.message));
    let message = match poll!(collect.as_mut()) {
        Poll::Ready(message) => message?, // Most requests are here already, and need no timer.
        // Boxed: most requests need none of it.
        Poll::Pending => Box::pin(wait_for(collect, account, bounds, time)).await?,
    };
    let Some(mut message) = message else { return Ok(None) };
    if let Some(encoding) = encoding {
        message.inflate(encoding, account, bounds.message)?;
    }
    Ok(Some(Whole::from(message)))
}

/// Collects the chunks of a message. `None` if the client has given the call up.
async fn collect<B>(body: B, account: &Arc<Account>, limit: usize) -> Result<Option<Message>, Refusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>> + Send,
{
    let mut message = Message::new(account);
    let mut body = pin!(body);
    while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
        let frame = match frame.map_err(Into::<Box<dyn Error + Send + Sync>>::into) {
            Ok(frame) => frame,
            Err(error) if has_broken_off(&*error) => return Ok(None),
            Err(_) => return Err(Refusal::undecodable()),
        };
        let Ok(chunk) = frame.into_data() else { continue }; // Trailers of a request have no meaning.
        message.push(chunk, account)?;
        check_length(&message, limit)?;
    }
    Ok(Some(message))
}

/// Waits for a message that is not here yet.
async fn wait_for(
    message: impl Future<Output = Result<Option<Message>, Refusal>>,
    account: &Arc<Account>,
    bounds: &Bounds,
    time: Duration,
) -> Result<Option<Message>, Refusal> {
    if !account.may_receive(CALL_COST, Size::Small) {
        return Err(Refusal::too_much_received());
    }
    let _call = account.take(CALL_COST);
    tokio::select! {
        biased;
        message = message => message,
        () = bounds.stop.cancelled() => Err(Refusal::draining()),
        () = tokio::time::sleep(time) => Err(Refusal::deadline_exceeded("the request did not arrive in time")),
    }
}

/// Whether a body ended early because its stream was reset or its connection broke. Otherwise it is malformed: a text of
/// gRPC-Web may not be base64.
fn has_broken_off(error: &(dyn Error + 'static)) -> bool {
    successors(Some(error), |error| (**error).source()).any(|error| match error.downcast_ref::<Status>() {
        Some(status) => status.message().contains(BROKEN_OFF),
        None => error.is::<hyper::Error>(),
    })
}

fn check_length(message: &Message, limit: usize) -> Result<(), Refusal> {
    let Some(length) = message.frame_len() else { return Ok(()) };
    if length - HEADER > limit {
        return Err(Refusal::request_too_large(limit, length - HEADER));
    }
    if message.arrived() > length { Err(Refusal::more_than_one_message()) } else { Ok(()) }
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
        let (chunks, hold) = message.into_parts();
        Self { chunks, hold: Some(hold) }
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
