//! The streams of HTTP/2, each a task of its own, and the time limit on sending a response.
//!
//! A body is not asked for more while the peer's window is closed, so it cannot end itself. Its task can: a response
//! of which nothing could be sent for the time limit is dropped with its task, which resets the stream.
//!
//! Streaming responses have no such limit: a slow subscriber is not an error. `feed` ends those that stall.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::Executor;
use pin_project_lite::pin_project;
use tokio::task::futures::TaskLocalFuture;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use crate::server::progress::Progress;

/// How long a response may make no progress once the server shuts down.
pub(super) const UNREAD_AT_STOP: Duration = Duration::from_secs(2);

/// Runs each stream as a task, until its response is sent or makes no progress for too long.
#[derive(Debug, Clone)]
pub(super) struct Streams(Arc<Limits>);

#[derive(Debug)]
struct Limits {
    send_timeout: Duration,
    stall_timeout: Duration,
    /// Cancelled when the server shuts down.
    stop: CancellationToken,
}

impl Streams {
    pub fn new(send_timeout: Duration, stall_timeout: Duration, stop: CancellationToken) -> Self {
        Self(Arc::new(Limits { send_timeout, stall_timeout, stop }))
    }
}

impl<S> Executor<S> for Streams
where
    S: Future + Send + 'static,
    S::Output: Send,
{
    fn execute(&self, stream: S) {
        let progress = Arc::new(Progress::default());
        let served = progress.clone().watch(stream);
        tokio::spawn(Stream { served, progress, limits: Arc::clone(&self.0), unread: None });
    }
}

pin_project! {
    /// One stream. Not an `async fn`, which would take three times the memory for each call.
    struct Stream<S> {
        #[pin]
        served: TaskLocalFuture<Arc<Progress>, S>,
        progress: Arc<Progress>,
        limits: Arc<Limits>,
        // Completes when the response is left unread. `None` until the transport first waits for the reader, which for
        // most responses and for idle streams is never.
        unread: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    }
}

impl<S: Future> Future for Stream<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.served.poll(context).is_ready() {
            return Poll::Ready(());
        }
        if this.unread.is_none() && !this.progress.waits_for_reader() {
            return Poll::Pending;
        }
        let (progress, limits) = (&*this.progress, &*this.limits);
        let unread = || Box::pin(until_left_unread(Arc::clone(progress), Arc::clone(limits))) as _;
        this.unread.get_or_insert_with(unread).as_mut().poll(context)
    }
}

/// Completes when nothing of a response could be sent for the time limit, or for a moment once the server has begun to
/// shut down.
async fn until_left_unread(progress: Arc<Progress>, limits: Arc<Limits>) {
    let mut limit = Limit { limits: &limits, seen: 0, timer: None };
    tokio::select! {
        biased;
        () = poll_fn(|context| limit.poll_passed(&progress, context)) => {}
        () = until_left_at_stop(&progress, &limits.stop) => {}
    }
}

/// Completes after the server has begun to shut down, once a response that has begun makes no progress for a moment: its
/// reader must not hold the shutdown.
async fn until_left_at_stop(progress: &Progress, stop: &CancellationToken) {
    stop.cancelled().await;
    loop {
        let before = progress.pieces();
        tokio::time::sleep(UNREAD_AT_STOP).await;
        if progress.pieces() == before && progress.waits_for_reader() {
            return;
        }
    }
}

/// The time limit of one response. A response that is never held up needs no timer.
struct Limit<'a> {
    limits: &'a Limits,
    /// The pieces at the time when the timer was set.
    seen: usize,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Limit<'_> {
    /// Ready if no piece was asked for since the timer was set.
    fn poll_passed(&mut self, progress: &Progress, context: &mut Context<'_>) -> Poll<()> {
        let pieces = progress.pieces();
        if !progress.waits_for_reader() {
            return Poll::Pending; // There is nothing to read.
        }
        // A subscriber is ended after the stall timeout, and then has as long as others to read that.
        let stall = if progress.is_stream() { self.limits.stall_timeout } else { Duration::ZERO };
        let time = self.limits.send_timeout + stall;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
        if self.seen != pieces {
            self.seen = pieces;
            timer.as_mut().reset(Instant::now() + time);
        }
        timer.as_mut().poll(context)
    }
}
