//! Work on large messages, apart from the threads that serve the other calls, and few at a time.
//!
//! A request of 1 MiB may hold 250,000 values, or 500,000 keys. To decode and check it takes 20 to 100 ms and fifty
//! times its size. A few callers that send nothing else would keep every worker of the runtime busy, and fill the
//! memory.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

/// The most bytes of a message that a worker decodes itself. That takes a few milliseconds at most.
const SMALL: usize = 64 << 10;

/// The bytes of large messages that are decoded at a time: one of 1 MiB, or several smaller ones.
const AT_ONCE: u32 = 1 << 20;

static TURNS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(AT_ONCE as usize)));

thread_local! {
    /// The turn of the call that this thread polls.
    static TURN: Cell<Option<OwnedSemaphorePermit>> = const { Cell::new(None) };
}

/// Does the work for a message of this many bytes. If they are many, the worker first hands its other calls to another
/// thread, and the system shares the processor between the two.
pub(super) fn apart<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let has_workers = || Handle::try_current().is_ok_and(|on| on.runtime_flavor() == RuntimeFlavor::MultiThread);
    if bytes > SMALL && has_workers() { tokio::task::block_in_place(work) } else { work() }
}

/// Serves a call. A turn that it takes while it is polled ends with that poll: by then, what was decoded is checked and
/// dropped.
pub async fn serve<T>(call: impl Future<Output = T>) -> T {
    let mut call = pin!(call);
    poll_fn(|context| {
        let _end = EndOfTurn;
        call.as_mut().poll(context)
    })
    .await
}

/// A call that waits for its turns.
#[derive(Debug, Default)]
pub struct Turns(Option<PollSemaphore>);

impl Turns {
    /// Ready when a message of this many bytes may be decoded, in the same poll of [`serve`].
    pub fn poll(&mut self, bytes: usize, context: &mut Context<'_>) -> Poll<()> {
        if bytes > SMALL {
            EndOfTurn::end(); // Of the message before this one.
            let turns = self.0.get_or_insert_with(|| PollSemaphore::new(Arc::clone(&TURNS)));
            let bytes = u32::try_from(bytes).map_or(AT_ONCE, |bytes| bytes.min(AT_ONCE));
            TURN.set(ready!(turns.poll_acquire_many(context, bytes)));
        }
        Poll::Ready(())
    }
}

/// Ends the turn of this thread when it is dropped, also after a panic.
struct EndOfTurn;

impl EndOfTurn {
    fn end() {
        TURN.take();
    }
}

impl Drop for EndOfTurn {
    fn drop(&mut self) {
        Self::end();
    }
}
