//! Work on large messages, apart from the threads that serve the other calls.
//!
//! A request of 1 MiB may hold 250,000 values. To decode and check it takes 20 to 100 ms, and a few callers that send
//! nothing else would keep every worker of the runtime busy.

use tokio::runtime::{Handle, RuntimeFlavor};

/// The most bytes of a message that a worker decodes itself. That takes a few milliseconds at most.
const SMALL: usize = 64 << 10;

/// Does the work for a message of this many bytes. If they are many, the worker first hands its other calls to another
/// thread, and the system shares the processor between the two.
pub(super) fn apart<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let has_workers = || Handle::try_current().is_ok_and(|on| on.runtime_flavor() == RuntimeFlavor::MultiThread);
    if bytes > SMALL && has_workers() { tokio::task::block_in_place(work) } else { work() }
}
