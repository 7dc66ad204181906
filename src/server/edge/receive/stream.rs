//! The messages of a client's stream.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::Sleep;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::Bounds;
use super::message::{Message, size_of_message};
use crate::compression::Encoding;
use crate::grpc::{large, status};
use crate::refusal::Refusal;
use crate::server::budget::{Account, Hold};
use crate::server::edge::inflate::{HEADER, inflate, is_compressed};

/// The messages of a client's stream, each handed on when it is complete. The client may pause between messages.
pub(in crate::server::edge) struct Messages<B> {
    body: Pin<Box<B>>,
    account: Arc<Account>,
    bounds: Bounds,
    message: Message,
    encoding: Option<Encoding>,
    /// A large message that waits for its turn, and what it holds.
    waiting: Option<(Bytes, Hold)>,
    /// The largest message so far, and what it holds.
    largest: usize,
    buffer: Hold,
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
        let (body, waiting, largest, timer) = (Box::pin(body), None, 0, None);
        Self { body, account, bounds, message, encoding, waiting, largest, buffer, timer, stopped }
    }

    /// The next message, if it is complete. A large one waits for its turn.
    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Refusal>> {
        let (frame, hold) = match self.waiting.take() {
            Some((frame, hold)) => (frame, Some(hold)),
            None => match self.next_message() {
                Ok(Some(frame)) => (frame, None),
                none => return Poll::Ready(none),
            },
        };
        // Other services read their messages in a task of their own, where a turn would not end.
        if self.stopped.is_none() && large::poll_turn(frame.len(), context).is_pending() {
            let hold = hold.unwrap_or_else(|| self.account.take(frame.len()));
            self.waiting = Some((frame, hold));
            return Poll::Pending;
        }
        Poll::Ready(Ok(Some(frame)))
    }

    fn next_message(&mut self) -> Result<Option<Bytes>, Refusal> {
        let (limit, length) = (self.bounds.message, self.message.frame_len());
        if let Some(length) = length.map(|length| length - HEADER).filter(|length| *length > limit) {
            return Err(Refusal::request_too_large(limit, length));
        }
        let Some(frame) = self.message.take_frame(&self.account) else { return Ok(None) };
        self.timer = None;
        self.plain(frame).map(Some)
    }

    /// The message as tonic is to see it. tonic keeps a buffer as large as the largest message so far.
    fn plain(&mut self, frame: Bytes) -> Result<Bytes, Refusal> {
        let frame = match self.encoding.filter(|_| is_compressed(&frame)) {
            Some(encoding) => inflate(encoding, &frame, self.bounds.message)?,
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

    fn poll_time(&mut self, context: &mut Context<'_>) -> Poll<Refusal> {
        if self.stopped.as_mut().is_some_and(|stopped| stopped.as_mut().poll(context).is_ready()) {
            return Poll::Ready(Refusal::draining());
        }
        if self.message.arrived() == 0 {
            return Poll::Pending;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.bounds.time)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Refusal::deadline_exceeded("a message did not arrive in time"))
    }
}

impl<B> Body for Messages<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>> + Send,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            if let Some(message) = ready!(this.poll_message(context)).transpose() {
                return Poll::Ready(Some(message.map(Frame::data).map_err(status::carry)));
            }
            match this.body.as_mut().poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(chunk) = frame.into_data() else { continue };
                    if let Err(refusal) = this.message.push(chunk, &this.account) {
                        return Poll::Ready(Some(Err(status::carry(refusal))));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(Status::from_error(error.into())))),
                // What is left is the beginning of a message: tonic refuses it as cut short.
                Poll::Ready(None) => return Poll::Ready(this.message.pop_last().map(|chunk| Ok(Frame::data(chunk)))),
                Poll::Pending => return this.poll_time(context).map(|refusal| Some(Err(status::carry(refusal)))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::time::Duration;

    use futures_util::{poll, stream};
    use http_body_util::{Full, StreamBody};
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::server::budget::Budget;
    use crate::server::edge::inflate::frames::{compressed, plain};
    use crate::telemetry::metrics;

    const LIMIT: usize = 1 << 20;

    fn whole(body: Vec<u8>) -> Full<Bytes> {
        Full::new(body.into())
    }

    /// The messages of an import, and what it holds.
    fn import<B: Body<Data = Bytes>>(body: B) -> (Messages<B>, Arc<Account>) {
        let account = Budget::new(1 << 30, metrics::Budget::default()).account();
        let bounds = Bounds { message: LIMIT, time: Duration::MAX, stop: CancellationToken::new() };
        (Messages::new(body, Some(Encoding::Gzip), &account, bounds, false), account)
    }

    async fn next<B: Body<Data = Bytes, Error = Infallible>>(messages: &mut Messages<B>) -> Result<Bytes, Status> {
        let frame = large::serve(poll_fn(|context| Pin::new(&mut *messages).poll_frame(context))).await;
        frame.expect("the stream goes on").map(|frame| frame.into_data().unwrap())
    }

    #[tokio::test]
    async fn a_small_message_waits_for_no_turn_although_it_is_compressed() {
        let _all = large::all_turns().await;
        let (mut messages, _) = import(whole([compressed(Encoding::Gzip, &[7; 100]), plain(&[8; 100])].concat()));
        for byte in [7, 8] {
            let mut next = pin!(next(&mut messages));
            let Poll::Ready(message) = poll!(next.as_mut()) else { panic!("it waits") };
            assert_eq!(message.unwrap(), plain(&[byte; 100]));
        }
    }

    #[tokio::test]
    async fn a_large_message_waits_for_its_turn_and_counts_meanwhile() {
        const LARGE: usize = 100 << 10;
        let message = vec![7; LARGE];
        for body in [plain(&message), compressed(Encoding::Gzip, &message)] {
            let all = large::all_turns().await;
            let (mut messages, account) = import(whole(body));
            {
                let mut next = pin!(next(&mut messages));
                assert!(poll!(next.as_mut()).is_pending());
                assert_eq!(account.held(), 2 * (HEADER + LARGE), "the message, and the buffer of tonic");
                drop(all);
                assert_eq!(next.await.unwrap(), plain(&message));
            }
            assert_eq!(account.held(), HEADER + LARGE, "the buffer of tonic");
        }
    }

    #[tokio::test]
    async fn a_message_that_is_too_large_is_refused_before_it_has_arrived() {
        let header = u32::try_from(LIMIT + 1).unwrap().to_be_bytes();
        let (mut messages, account) = import(whole([&[0][..], &header, &[7; 100]].concat()));
        let refusal = status::carried(&next(&mut messages).await.unwrap_err()).unwrap();
        assert_eq!((refusal.reason_name(), account.held()), ("LIMIT_EXCEEDED", HEADER + 100));
    }

    /// Otherwise a client that sends message after message would be cut off.
    #[tokio::test]
    async fn the_time_for_a_message_ends_with_it() {
        let (send, mut chunks) = mpsc::unbounded_channel();
        let (mut messages, _) = import(StreamBody::new(stream::poll_fn(move |context| chunks.poll_recv(context))));
        let frame = Bytes::from(plain(&[7; 9]));
        send.send(Ok(Frame::data(frame.slice(..HEADER)))).unwrap();
        assert!(poll!(pin!(next(&mut messages))).is_pending());
        assert!(messages.timer.is_some());
        send.send(Ok(Frame::data(frame.slice(HEADER..)))).unwrap();
        assert_eq!(next(&mut messages).await.unwrap(), frame);
        assert!(messages.timer.is_none());
    }
}
