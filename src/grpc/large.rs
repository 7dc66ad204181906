//! Work on large messages, apart from the threads that serve the other calls.
//!
//! A request of 1 MiB may hold 250,000 values. To decode and check it takes 20 to 100 ms, and a few callers that send
//! nothing else would keep every worker of the runtime busy.

use std::num::NonZero;
use std::sync::{Condvar, LazyLock, Mutex, PoisonError};

use tokio::runtime::{Handle, RuntimeFlavor};

/// The most bytes of a message that a worker decodes itself. That takes a few milliseconds at most.
const SMALL: usize = 64 << 10;

/// Does the work for a message of this many bytes. If they are many, the worker first hands its other calls to another
/// thread, and the system shares the processor between the two.
pub(super) fn apart<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let has_workers = || Handle::try_current().is_ok_and(|on| on.runtime_flavor() == RuntimeFlavor::MultiThread);
    if bytes <= SMALL {
        work()
    } else if has_workers() {
        tokio::task::block_in_place(|| AT_ONCE.run(work))
    } else {
        AT_ONCE.run(work)
    }
}

/// As many large messages are decoded at a time as there are processors: each may take fifty times its size.
static AT_ONCE: LazyLock<Turns> = LazyLock::new(|| {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    Turns { free: Mutex::new(processors), freed: Condvar::new() }
});

/// Threads that wait for their turn.
struct Turns {
    free: Mutex<usize>,
    freed: Condvar,
}

/// Gives the turn back, also after a panic.
struct Turn<'a>(&'a Turns);

impl Turns {
    fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.freed.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        drop(free);
        let _turn = Turn(self);
        work()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}
