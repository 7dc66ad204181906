//! How many imports are open, how many of them take records at a time, and how much memory their records take.
//!
//! - An import has a place while it takes records, and none while it waits for its sender. So senders that are silent
//!   keep no other out.
//! - Imports wait in line for a place. One that takes records without a pause gives its place up after [`TURN`] if others
//!   wait. So each gets its turn, however long the imports are.
//! - A record that was read and is not in the queue yet counts with its memory, also while its import waits in line.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::model::limits::IMPORTS;

/// The most open imports. Each may have a flow-control window full of records waiting.
pub(super) const OPEN_IMPORTS: usize = 1_000;
/// How long an import may have its place while others wait.
const TURN: Duration = Duration::from_secs(1);
/// How long an import that has just begun waits for a place: as long as the turns of 160 imports.
const PATIENCE: Duration = Duration::from_secs(10);
/// The memory of records that were read and are not in the queue yet: as much as the queue of calls has by default.
const RECORD_BYTES: usize = 64 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Places {
    open: Semaphore,
    taking: Semaphore,
    records: Semaphore,
    /// Imports that wait for a place.
    waiting: AtomicUsize,
    patience: Duration,
}

/// The right to take records.
#[derive(Debug)]
pub(super) struct Place<'a> {
    places: &'a Places,
    since: Instant,
    _permit: SemaphorePermit<'a>,
}

/// Counts an import while it waits.
struct InLine<'a>(&'a AtomicUsize);

impl Places {
    pub fn new() -> Self {
        Self::of(OPEN_IMPORTS, IMPORTS, RECORD_BYTES, PATIENCE)
    }

    fn of(open: usize, taking: usize, bytes: usize, patience: Duration) -> Self {
        let (open, taking, records) = (Semaphore::new(open), Semaphore::new(taking), Semaphore::new(bytes));
        Self { open, taking, records, waiting: AtomicUsize::new(0), patience }
    }

    /// Opens an import. `None` if too many are open.
    pub fn open(&self) -> Option<SemaphorePermit<'_>> {
        self.open.try_acquire().ok()
    }

    /// Takes a place for an import that has none of its records in the queue yet. `None` if the wait is too long.
    pub async fn begin(&self) -> Option<Place<'_>> {
        tokio::time::timeout(self.patience, self.take()).await.ok()
    }

    /// Takes a place for an import that has begun. It waits as long as it takes.
    pub async fn take(&self) -> Place<'_> {
        let _line = InLine::join(&self.waiting);
        let permit = self.taking.acquire().await.expect("it is never closed");
        Place { places: self, since: Instant::now(), _permit: permit }
    }

    /// Counts a record that takes this many bytes. `None` if all records take too much.
    pub fn hold(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        let bytes = u32::try_from(bytes.min(RECORD_BYTES)).unwrap_or(u32::MAX);
        self.records.try_acquire_many(bytes).ok()
    }
}

impl Place<'_> {
    /// Whether to give it up, because others have waited for long enough.
    pub fn is_over(&self) -> bool {
        self.places.waiting.load(Ordering::Relaxed) > 0 && self.since.elapsed() >= TURN
    }
}

impl<'a> InLine<'a> {
    fn join(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    fn places(taking: usize) -> Places {
        Places::of(1, taking, 100, Duration::from_millis(1))
    }

    #[tokio::test]
    async fn imports_get_a_place_in_the_order_in_which_they_asked() {
        let places = places(1);
        let place = places.take().await;
        let (mut first, mut second) = (pin!(places.take()), pin!(places.take()));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        drop(place);
        assert!(second.as_mut().now_or_never().is_none());
        drop(first.await);
        second.await;
    }

    #[tokio::test]
    async fn a_turn_is_over_only_after_a_while_and_if_others_wait() {
        let places = places(1);
        let mut place = places.take().await;
        {
            let mut next = pin!(places.take());
            assert!(next.as_mut().now_or_never().is_none());
            assert!(!place.is_over(), "it has just begun");
            place.since -= TURN;
            assert!(place.is_over());
        }
        assert!(!place.is_over(), "the other has left the line");
    }

    #[tokio::test]
    async fn an_import_that_begins_does_not_wait_for_ever() {
        let places = places(1);
        let place = places.take().await;
        assert!(places.begin().await.is_none());
        drop(place);
        assert!(places.begin().await.is_some());
    }

    #[test]
    fn open_imports_and_their_records_are_bounded() {
        let places = places(1);
        let open = places.open();
        assert!(open.is_some() && places.open().is_none());
        drop(open);
        assert!(places.open().is_some());
        let (first, second) = (places.hold(60), places.hold(40));
        assert!(first.is_some() && second.is_some() && places.hold(1).is_none());
        drop(second);
        assert!(places.hold(40).is_some() && places.hold(41).is_none());
    }
}
