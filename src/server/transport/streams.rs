//! The streams of HTTP/2, each a task of its own, and the time limit on sending a response.
//!
//! A body is not asked for more while the peer's window is closed, so it cannot end itself. Its task can: a response
//! of which nothing could be sent for the time limit is dropped with its task, which resets the stream.
//!
//! Streaming responses have no such limit: a slow subscriber is not an error. `feed` ends those that stall.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::{Instant, Sleep};

use crate::server::progress::Progress;

/// Runs each stream as a task, until its response is sent or takes no progress for too long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streams {
    pub send_timeout: Duration,
}

impl<S> Executor<S> for Streams
where
    S: Future + Send + 'static,
    S::Output: Send,
{
    fn execute(&self, stream: S) {
        tokio::spawn(run(stream, self.send_timeout));
    }
}

async fn run(stream: impl Future, send_timeout: Duration) {
    let progress = Arc::new(Progress::default());
    let mut stream = pin!(progress.clone().watch(stream));
    let mut limit = Limit { send_timeout, seen: 0, timer: None };
    poll_fn(|context| match stream.as_mut().poll(context) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => limit.poll_passed(&progress, context),
    })
    .await;
}

/// The time limit of one response. A response that is never held up needs no timer.
struct Limit {
    send_timeout: Duration,
    /// The pieces at the time when the timer was set.
    seen: usize,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Limit {
    /// Ready if no piece was asked for since the timer was set.
    fn poll_passed(&mut self, progress: &Progress, context: &mut Context<'_>) -> Poll<()> {
        let pieces = progress.pieces();
        if pieces == 0 {
            return Poll::Pending; // The call still runs.
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.send_timeout)));
        if self.seen != pieces {
            self.seen = pieces;
            timer.as_mut().reset(Instant::now() + self.send_timeout);
        }
        timer.as_mut().poll(context)
    }
}
