//! Work on large messages, apart from the threads that serve the other calls, and few at a time.
//!
//! A request of 1 MiB may hold 250,000 values, or 500,000 keys. To decode and check it takes 20 to 100 ms and fifty
//! times its size. A few callers that send nothing else would keep every worker of the runtime busy, and fill the
//! memory.
//!
//! So a large message is decoded in its turn. A call has its turn for one poll: it uses the turn in that poll, or gives
//! it back. A call that waits may have other things to do, and it would hold up all others if it could keep a turn that
//! it does not use.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// The most bytes of a message that a worker decodes itself. That takes a few milliseconds at most.
pub const SMALL: usize = 64 << 10;

/// The bytes of large messages that are decoded at a time: one of 1 MiB, or several smaller ones.
const AT_ONCE: u32 = 1 << 20;

static TURNS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(AT_ONCE as usize)));

thread_local! {
    /// The turn of the call that this thread polls.
    static TURN: Cell<Turn> = const { Cell::new(Turn::None) };
}

/// What a call has of a turn.
#[derive(Default)]
enum Turn {
    /// It has not asked for one.
    #[default]
    None,
    Waits(Wait),
    /// It waited, and its turn has come.
    Granted(OwnedSemaphorePermit),
    /// It decodes a message.
    Taken {
        _permit: OwnedSemaphorePermit,
    },
}

/// A place in the line of those that wait for a turn of so many bytes.
struct Wait {
    bytes: u32,
    granted: Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>,
}

/// Does the work for a message of this many bytes. If they are many, the worker first hands its other calls to another
/// thread, and the system shares the processor between the two.
pub fn apart<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let has_workers = || Handle::try_current().is_ok_and(|on| on.runtime_flavor() == RuntimeFlavor::MultiThread);
    if bytes > SMALL && has_workers() { tokio::task::block_in_place(work) } else { work() }
}

/// Serves a call. A turn that it has while it is polled ends with that poll: by then, what was decoded is checked and
/// dropped.
pub fn serve<T>(mut call: impl Future<Output = T> + Unpin) -> impl Future<Output = T> + Unpin {
    let mut wait = None;
    poll_fn(move |context| {
        let _poll = OnePoll::begin(&mut wait, context);
        Pin::new(&mut call).poll(context)
    })
}

/// Ready when a message of this many bytes may be decoded, in the same poll of [`serve`].
pub fn poll_turn(bytes: usize, context: &mut Context<'_>) -> Poll<()> {
    if bytes <= SMALL {
        return Poll::Ready(());
    }
    let bytes = u32::try_from(bytes).map_or(AT_ONCE, |bytes| bytes.min(AT_ONCE));
    let turn = match TURN.take() {
        Turn::Granted(permit) if permit.num_permits() == bytes as usize => Turn::Granted(permit),
        Turn::Waits(wait) if wait.bytes == bytes => wait.poll(context),
        other => {
            drop(other); // It was for another message.
            Wait::begin(bytes, context)
        }
    };
    if let Turn::Granted(permit) = turn {
        TURN.set(Turn::Taken { _permit: permit });
        return Poll::Ready(());
    }
    TURN.set(turn);
    Poll::Pending
}

impl Wait {
    fn begin(bytes: u32, context: &mut Context<'_>) -> Turn {
        match Arc::clone(&TURNS).try_acquire_many_owned(bytes) {
            Ok(permit) => Turn::Granted(permit),
            Err(_) => Self { bytes, granted: Box::pin(Arc::clone(&TURNS).acquire_many_owned(bytes)) }.poll(context),
        }
    }

    fn poll(mut self, context: &mut Context<'_>) -> Turn {
        match self.granted.as_mut().poll(context) {
            Poll::Ready(permit) => Turn::Granted(permit.expect("the semaphore is never closed")),
            Poll::Pending => Turn::Waits(self),
        }
    }
}

/// One poll of a call. When it is dropped, also after a panic, the turn ends. A call that still waits keeps its place in
/// the line.
struct OnePoll<'a>(&'a mut Option<Wait>);

impl<'a> OnePoll<'a> {
    fn begin(wait: &'a mut Option<Wait>, context: &mut Context<'_>) -> Self {
        if let Some(wait) = wait.take() {
            TURN.set(wait.poll(context));
        }
        Self(wait)
    }
}

impl Drop for OnePoll<'_> {
    fn drop(&mut self) {
        if let Turn::Waits(wait) = TURN.take() {
            *self.0 = Some(wait);
        }
    }
}

/// Takes all turns, so that others wait.
#[cfg(test)]
pub async fn all_turns() -> impl Drop {
    Arc::clone(&TURNS).acquire_many_owned(AT_ONCE).await.expect("the semaphore is never closed")
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::ready;
    use std::time::Duration;

    use futures_util::poll;
    use tokio::sync::{mpsc, oneshot};
    use tokio::time::timeout;

    use super::*;

    const LARGE: usize = SMALL + 1;
    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn only_a_large_message_needs_a_turn() {
        let _all = all_turns().await;
        let mut small = pin!(serve(poll_fn(|context| poll_turn(SMALL, context))));
        assert!(poll!(small.as_mut()).is_ready());
        let mut large = pin!(serve(poll_fn(|context| poll_turn(LARGE, context))));
        assert!(poll!(large.as_mut()).is_pending());
    }

    #[tokio::test]
    async fn calls_have_their_turns_in_the_order_in_which_they_asked() {
        let all = all_turns().await;
        let (done, mut order) = mpsc::unbounded_channel();
        let mut calls = Vec::new();
        for number in 0..3 {
            let (ask, has_asked) = oneshot::channel();
            let (mut ask, done) = (Some(ask), done.clone());
            calls.push(tokio::spawn(serve(poll_fn(move |context| {
                let turn = poll_turn(AT_ONCE as usize, context);
                ask.take().into_iter().for_each(|ask| ask.send(()).unwrap());
                turn.map(|()| done.send(number).unwrap())
            }))));
            has_asked.await.unwrap();
        }
        drop(all);
        for number in 0..3 {
            assert_eq!(timeout(PATIENCE, order.recv()).await.expect("it is woken"), Some(number));
        }
    }

    /// A message is decoded and dropped before the call asks for its next turn.
    #[tokio::test]
    async fn a_call_that_had_its_turn_waits_behind_the_others() {
        let (mut others, mut had_one) = (pin!(all_turns()), false);
        let call = serve(poll_fn(|context| {
            if !had_one {
                ready!(poll_turn(LARGE, context));
                had_one = true;
                assert!(others.as_mut().poll(context).is_pending());
                assert!(poll_turn(LARGE, context).is_pending());
            }
            Poll::Ready(())
        }));
        timeout(PATIENCE, call).await.unwrap();
    }

    #[tokio::test]
    async fn a_turn_ends_with_its_poll() {
        let (took, has_taken) = oneshot::channel();
        let mut took = Some(took);
        let call = tokio::spawn(serve(poll_fn(move |context| {
            if took.is_some() {
                ready!(poll_turn(LARGE, context));
                took.take().into_iter().for_each(|took| took.send(()).unwrap());
            }
            Poll::<()>::Pending
        })));
        timeout(PATIENCE, has_taken).await.expect("it is woken in its turn").unwrap();
        timeout(PATIENCE, all_turns()).await.expect("its turn is over");
        call.abort();
    }

    /// An import, for example, takes no records while its writes wait for the disk.
    #[tokio::test]
    async fn a_turn_that_is_not_used_goes_to_the_next_call() {
        let all = all_turns().await;
        let (ask, has_asked) = oneshot::channel();
        let mut ask = Some(ask);
        let busy = tokio::spawn(serve(poll_fn(move |context| {
            if let Some(ask) = ask.take() {
                assert!(poll_turn(LARGE, context).is_pending());
                ask.send(()).unwrap();
            }
            Poll::<()>::Pending
        })));
        has_asked.await.unwrap();
        drop(all);
        timeout(PATIENCE, all_turns()).await.expect("the busy call gives its turn back");
        busy.abort();
    }
}
