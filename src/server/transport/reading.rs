//! Reads connections no faster than the calls that they begin are served.
//!
//! The head of a call takes twenty times in memory what it takes on the wire, or more, until the call is served or
//! refused. HTTP/2 lets a client send as many heads as it likes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use crate::server::connection::Connection;

/// Bytes that are read of a connection before the calls that they begin are passed on.
const STEP: usize = 16 << 10;
/// Calls that may have been passed on and not yet begun before the connections wait: some 10 MiB of large heads.
const MOST_UNSERVED: usize = 512;

/// Calls whose head has arrived, and whose task has not yet run.
#[derive(Debug, Default)]
pub(super) struct Unserved {
    calls: AtomicUsize,
    fewer: Arc<Notify>,
}

/// One such call, until it is dropped.
pub(super) struct Arrived(Arc<Unserved>);

impl Unserved {
    pub fn arrived(self: &Arc<Self>) -> Arrived {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Arrived(Arc::clone(self))
    }

    fn are_many(&self) -> bool {
        self.calls.load(Ordering::SeqCst) >= MOST_UNSERVED
    }
}

impl Drop for Arrived {
    fn drop(&mut self) {
        if self.0.calls.fetch_sub(1, Ordering::SeqCst) == MOST_UNSERVED {
            self.0.fewer.notify_waiters();
        }
    }
}

/// The reading half of a connection, which counts what it reads.
pub(super) struct Reading<S> {
    stream: S,
    connection: Arc<Connection>,
    unserved: Arc<Unserved>,
    /// Bytes read in this step.
    read: usize,
    /// Until fewer calls are unserved.
    wait: Option<Pin<Box<OwnedNotified>>>,
}

impl<S> Reading<S> {
    pub fn new(stream: S, connection: &Arc<Connection>, unserved: &Arc<Unserved>) -> Self {
        Self { stream, connection: Arc::clone(connection), unserved: Arc::clone(unserved), read: 0, wait: None }
    }

    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.wait.is_some() || self.unserved.are_many() {
            let wait = self.wait.get_or_insert_with(|| Box::pin(Arc::clone(&self.unserved.fewer).notified_owned()));
            // The last of the calls may have begun before the wait did.
            if self.unserved.are_many() {
                ready!(wait.as_mut().poll(context));
            }
            self.wait = None;
        }
        if self.read >= STEP {
            self.read = 0;
            context.waker().wake_by_ref(); // Behind the tasks that are ready, among them those of its own calls.
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Reading<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_turn(context));
        let before = buf.filled().len();
        let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(context, buf) else {
            this.read = 0;
            return Poll::Pending;
        };
        let bytes = &buf.filled()[before..];
        this.read += bytes.len();
        this.connection.heard(bytes);
        Poll::Ready(read)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::task::yield_now;
    use tokio::time::timeout;

    use super::*;
    use crate::server::connection::tests::connection;
    use crate::server::transport::tests::{LONG, turns};

    /// Reads so many steps.
    async fn read(steps: usize, unserved: Arc<Unserved>) {
        let mut reading = Reading::new(tokio::io::repeat(0), &connection(false), &unserved);
        let mut buffer = vec![0; STEP];
        for _ in 0..steps {
            reading.read_exact(&mut buffer).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_read_while_many_calls_have_not_begun() {
        let unserved = Arc::<Unserved>::default();
        let mut calls: Vec<_> = (0..=MOST_UNSERVED).map(|_| unserved.arrived()).collect();
        let reads: Vec<_> = (0..2).map(|_| tokio::spawn(read(1, Arc::clone(&unserved)))).collect();
        for _ in 0..2 {
            yield_now().await;
            assert!(reads.iter().all(|read| !read.is_finished()), "{} calls", calls.len());
            calls.pop();
        }
        for read in reads {
            timeout(LONG, read).await.expect("the end of a call wakes all connections").unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_step_is_a_turn() {
        assert_eq!(turns(read(5, Arc::default())).await, 5);
    }
}
