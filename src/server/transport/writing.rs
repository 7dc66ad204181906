//! Writes to connections in turns, so that large responses do not hold up small ones.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

/// Bytes that one connection writes before others have their turn. The system takes some 20 µs for them.
const STEP: usize = 64 << 10;

/// The writing half of a connection.
pub(super) struct Writing<S> {
    stream: S,
    /// Bytes written in this turn.
    written: usize,
}

impl<S: AsyncWrite + Unpin> Writing<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, written: 0 }
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.written >= STEP {
            self.written = 0;
            context.waker().wake_by_ref(); // Behind the tasks that are ready.
            return Poll::Pending;
        }
        let bytes = ready!(write(Pin::new(&mut self.stream), context))?;
        self.written += bytes;
        Poll::Ready(Ok(bytes))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Writing<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll(context, |stream, context| stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::server::transport::tests::turns;

    #[tokio::test(start_paused = true)]
    async fn each_step_is_a_turn() {
        let mut writing = Writing::new(tokio::io::sink());
        let write = async {
            let bytes = vec![0; STEP];
            for _ in 0..5 {
                writing.write_all(&bytes).await.unwrap();
            }
        };
        assert_eq!(turns(write).await, 5);
    }
}
