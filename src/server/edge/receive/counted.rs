//! Bodies of HTTP, which the Profile API collects.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::CALL_COST;
use super::message::Chunks;
use crate::http::NoRoomForBody;
use crate::server::budget::{Account, Hold, Size};

/// A body that counts what has arrived of it, and merges small chunks. The Profile API bounds its size and its time.
pub(in crate::server::edge) struct Counted<B> {
    /// `None` once it has ended.
    body: Option<Pin<Box<B>>>,
    account: Arc<Account>,
    hold: Hold,
    /// What a request takes while its body is waited for.
    wait: Option<Hold>,
    /// What is not handed on yet.
    chunks: Chunks,
}

impl<B: Body<Data = Bytes>> Counted<B> {
    pub fn new(body: B, account: &Arc<Account>) -> Self {
        let (account, hold) = (Arc::clone(account), account.take(0));
        Self { body: Some(Box::pin(body)), account, hold, wait: None, chunks: Chunks::default() }
    }

    /// Counts the request while its body is waited for. A client may begin many, and send nothing of their bodies.
    fn wait(&mut self) -> Result<(), NoRoomForBody> {
        if self.wait.is_none() {
            if !self.account.may_receive(CALL_COST, Size::Small) {
                return Err(NoRoomForBody);
            }
            self.wait = Some(self.account.take(CALL_COST));
        }
        Ok(())
    }

    fn take(&mut self, chunk: Bytes) -> Result<(), NoRoomForBody> {
        if chunk.is_empty() {
            return Ok(()); // It may be the end of the body, and needs no room.
        }
        if !self.account.may_receive(chunk.len(), Size::Small) {
            return Err(NoRoomForBody);
        }
        self.hold.grow(chunk.len());
        let is_last = self.chunks.len() == 0 && self.has_ended();
        if is_last {
            self.chunks.push(chunk);
        } else {
            self.chunks.merge(chunk);
        }
        Ok(())
    }

    /// Whether nothing more will come.
    fn has_ended(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }
}

impl<B> Body for Counted<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        loop {
            if let Some(chunk) = this.chunks.pop() {
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            let Some(body) = &mut this.body else {
                return Poll::Ready(this.chunks.pop_last().map(|chunk| Ok(Frame::data(chunk))));
            };
            let Poll::Ready(frame) = body.as_mut().poll_frame(context) else {
                return this.wait().map_or_else(|error| Poll::Ready(Some(Err(error.into()))), |()| Poll::Pending);
            };
            let Some(frame) = frame.transpose().map_err(Into::into)? else {
                (this.body, this.wait) = (None, None);
                continue;
            };
            let Ok(chunk) = frame.into_data() else { continue }; // Trailers of a request have no meaning.
            this.take(chunk)?;
        }
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.len() == 0 && self.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        let here = self.chunks.len() as u64;
        let Some(rest) = self.body.as_ref().map(Body::size_hint) else { return SizeHint::with_exact(here) };
        let mut hint = SizeHint::new();
        hint.set_lower(here + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(here + upper);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt, poll, stream};
    use http_body_util::{BodyExt, Full, StreamBody};
    use tokio::sync::oneshot;

    use super::*;
    use crate::server::budget::Budget;
    use crate::telemetry::metrics;

    /// The share of a connection.
    const SHARE: usize = 128 << 10;

    fn account() -> Arc<Account> {
        Budget::new(8 * SHARE, metrics::Budget::default()).account()
    }

    /// The chunks of a body, as they are handed on.
    async fn chunks(mut body: Counted<impl Body<Data = Bytes, Error = Infallible>>) -> Vec<Bytes> {
        let mut chunks = Vec::new();
        while let Some(frame) = body.frame().await {
            chunks.push(frame.unwrap().into_data().unwrap());
        }
        assert!(body.is_end_stream() && body.size_hint().exact() == Some(0));
        chunks
    }

    #[tokio::test]
    async fn chunks_of_one_byte_are_merged() {
        const BYTES: usize = 20_000;
        let (account, source) = (account(), Bytes::from(vec![7; BYTES]));
        let bytes = source.clone();
        let bytes = stream::iter((0..BYTES).map(move |at| Ok(Frame::data(bytes.slice(at..=at)))));
        let chunks = chunks(Counted::new(StreamBody::new(bytes), &account)).await;
        assert_eq!(chunks.concat(), source);
        assert!(chunks.len() <= 5, "{}", chunks.len());
    }

    #[tokio::test]
    async fn a_body_in_one_chunk_is_not_copied() {
        let source = Bytes::from_static(b"{}");
        let chunks = chunks(Counted::new(Full::new(source.clone()), &account())).await;
        assert_eq!((chunks.len(), chunks[0].as_ptr()), (1, source.as_ptr()));
    }

    #[tokio::test]
    async fn a_body_beyond_the_share_is_refused_but_for_its_end() {
        let body = |last| {
            let frames = [Bytes::from(vec![7; SHARE]), last].map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)));
            Counted::new(StreamBody::new(stream::iter(frames)), &account())
        };
        assert_eq!(chunks(body(Bytes::new())).await.concat().len(), SHARE);
        let mut refused = body(Bytes::from_static(b"}"));
        refused.frame().await.unwrap().unwrap();
        assert!(refused.frame().await.unwrap().unwrap_err().is::<NoRoomForBody>());
    }

    #[tokio::test]
    async fn a_body_that_is_waited_for_counts_until_its_end() {
        let account = account();
        let (end, is_ended) = oneshot::channel::<()>();
        let frames = stream::once(is_ended).filter_map(async |_| None::<Result<_, Infallible>>);
        let mut body = Counted::new(StreamBody::new(Box::pin(frames)), &account);
        for _ in 0..2 {
            assert!(poll!(body.frame()).is_pending());
            assert_eq!(account.held(), CALL_COST);
        }
        end.send(()).unwrap();
        assert!(body.frame().await.is_none());
        assert_eq!(account.held(), 0);
        let _others = account.take(SHARE);
        let mut refused = Counted::new(StreamBody::new(stream::pending::<Result<_, Infallible>>()), &account);
        assert!(refused.frame().await.unwrap().unwrap_err().is::<NoRoomForBody>());
    }

    #[tokio::test]
    async fn what_is_merged_counts_and_is_no_end() {
        let account = account();
        let mut body = Counted::new(StreamBody::new(stream::empty::<Result<_, Infallible>>()), &account);
        for chunk in ["a", "b"] {
            body.take(Bytes::from(chunk)).unwrap();
        }
        body.body = None;
        assert_eq!((account.held(), body.is_end_stream(), body.size_hint().exact()), (2, false, Some(2)));
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
        assert!(body.is_end_stream());
    }
}
