//! What a call keeps for as long as a command of it is in the queue.
//!
//! A caller that gives its call up does not take back what the call has queued: the writer writes it all the same. So what
//! bounds the writes of a caller must last as long as its commands, and not only as long as its calls.

use std::any::Any;
use std::sync::Arc;

tokio::task_local! {
    /// What the call that the current task serves keeps.
    static KEPT: Kept;
}

/// Dropped when the call has ended and each of its commands has its outcome. The store does not look at what it is.
pub type Kept = Arc<dyn Any + Send + Sync>;

/// Serves a call. Each command that it queues keeps `kept` until its outcome is known, also if the call is dropped first.
pub async fn keep<T>(kept: Option<Kept>, served: impl Future<Output = T>) -> T {
    let mut served = std::pin::pin!(served);
    match kept {
        None => served.await,
        Some(kept) => KEPT.scope(kept, served.as_mut()).await,
    }
}

/// What the call that the current task serves keeps, if it keeps anything.
pub(super) fn kept() -> Option<Kept> {
    KEPT.try_with(Arc::clone).ok()
}
