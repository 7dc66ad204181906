//! The body of a stream: frames as the feed encodes them.
//!
//! tonic would copy each message into a buffer of the stream. So the method leaves the stream in the extensions of its
//! response, and [`opened`] makes it the body.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::{self, Empty};
use http::{HeaderMap, Response};
use http_body::{Body, Frame};
use tonic::Status;

use crate::call::Call;
use crate::feed::Frames;

/// A stream on its way through tonic.
#[derive(Debug, Clone)]
struct Opened(Arc<Mutex<Option<Events>>>);

/// The body of a stream.
#[derive(Debug)]
struct Events {
    /// `None` once it has ended.
    frames: Option<Frames>,
    call: Arc<Call>,
}

/// The response of a method that has opened a stream. Its own stream of messages is empty.
pub(super) fn response<T>(frames: Frames, call: Arc<Call>) -> tonic::Response<Empty<T>> {
    let mut response = tonic::Response::new(stream::empty());
    let events = Events { frames: Some(frames), call };
    response.extensions_mut().insert(Opened(Arc::new(Mutex::new(Some(events)))));
    response
}

/// Gives a response the stream that its method has opened, if it has.
#[must_use]
pub fn opened(mut response: Response<tonic::body::Body>) -> Response<tonic::body::Body> {
    let opened = response.extensions_mut().remove::<Opened>();
    match opened.and_then(|opened| opened.0.lock().unwrap_or_else(PoisonError::into_inner).take()) {
        Some(events) => response.map(|_| tonic::body::Body::new(events)),
        None => response,
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(frames) = &mut self.frames else { return Poll::Ready(None) };
        let end = match ready!(Pin::new(frames).poll_next(context)) {
            Some(Ok(frames)) => return Poll::Ready(Some(Ok(Frame::data(frames)))),
            Some(Err(error)) => self.call.refuse(error).into(),
            None => Status::ok(""),
        };
        self.frames = None;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(end.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_none()
    }
}
