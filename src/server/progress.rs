//! How far a response has got. The body and the task that sends it share it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::task::futures::TaskLocalFuture;

tokio::task_local! {
    static PROGRESS: Arc<Progress>;
}

/// How far a response has got.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The pieces that the transport has asked for.
    pieces: AtomicUsize,
    is_stream: AtomicBool,
    waits_for_reader: AtomicBool,
}

impl Progress {
    /// The progress of the response that this task sends. `None` over HTTP/1.1, where the connection has the limit.
    pub fn of_this_task() -> Option<Arc<Self>> {
        PROGRESS.try_with(Arc::clone).ok()
    }

    /// Runs the task that sends a response.
    pub fn watch<S: Future>(self: Arc<Self>, stream: S) -> TaskLocalFuture<Arc<Self>, S> {
        PROGRESS.scope(self, stream)
    }

    /// The pieces that the transport has asked for.
    pub fn pieces(&self) -> usize {
        self.pieces.load(Ordering::Relaxed)
    }

    /// The response is a stream. It has time, and may have nothing to send.
    pub fn of_a_stream(&self) {
        self.is_stream.store(true, Ordering::Relaxed);
    }

    /// Whether it is a stream.
    pub fn is_stream(&self) -> bool {
        self.is_stream.load(Ordering::Relaxed)
    }

    /// The transport has asked for a piece, and there is one or not.
    pub fn advance(&self, has_piece: bool) {
        self.pieces.fetch_add(1, Ordering::Relaxed);
        self.waits_for_reader.store(has_piece, Ordering::Relaxed);
    }

    /// Whether the transport waits for the reader of a piece, not for the response. `false` until the response begins.
    pub fn waits_for_reader(&self) -> bool {
        self.waits_for_reader.load(Ordering::Relaxed)
    }
}
