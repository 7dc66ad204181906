//! How many imports are open, how many of them take records at a time, and how much memory their records take.
//!
//! - An import has a place while it takes records, and none while it waits for its sender. So senders that are silent
//!   keep no other out.
//! - Imports wait in line for a place. One that takes records without a pause gives its place up after [`TURN`] if others
//!   wait. So each gets its turn, however long the imports are.
//! - When too many imports are open, the one whose sender has been silent for longest makes room.
//! - A record that was read and is not in the queue yet counts with its memory, also while its import waits in line.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

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
    most_open: usize,
    open: AtomicUsize,
    /// The imports whose senders are silent, in the order in which they fell silent.
    silent: Mutex<Silent>,
    taking: Semaphore,
    records: Semaphore,
    /// Imports that wait for a place.
    waiting: AtomicUsize,
    patience: Duration,
}

#[derive(Debug, Default)]
struct Silent {
    by_number: BTreeMap<u64, Arc<Notify>>,
    next: u64,
}

/// Counts an import while it is open.
#[derive(Debug)]
pub(super) struct OpenImport<'a>(&'a Places);

/// The time in which a sender is silent.
#[derive(Debug)]
pub(super) struct Silence<'a> {
    places: &'a Places,
    number: u64,
    broken: Arc<Notify>,
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
        let (taking, records) = (Semaphore::new(taking), Semaphore::new(bytes));
        let (silent, waiting) = (Mutex::default(), AtomicUsize::new(0));
        Self { most_open: open, open: AtomicUsize::new(0), silent, taking, records, waiting, patience }
    }

    /// Opens an import. `None` if too many are open and none of them is silent.
    pub fn open(&self) -> Option<OpenImport<'_>> {
        let open = OpenImport::count(self);
        let is_over = self.open.load(Ordering::Relaxed) > self.most_open;
        (!is_over || self.break_longest_silence()).then_some(open)
    }

    /// The sender of an import is silent, and none of its records is in the queue.
    pub fn fall_silent(&self) -> Silence<'_> {
        let broken = Arc::new(Notify::new());
        let mut silent = self.silent();
        let number = silent.next;
        silent.next += 1;
        silent.by_number.insert(number, Arc::clone(&broken));
        Silence { places: self, number, broken }
    }

    fn break_longest_silence(&self) -> bool {
        let longest = self.silent().by_number.pop_first();
        longest.inspect(|(_, broken)| broken.notify_one()).is_some()
    }

    fn silent(&self) -> MutexGuard<'_, Silent> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
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

impl<'a> OpenImport<'a> {
    fn count(places: &'a Places) -> Self {
        places.open.fetch_add(1, Ordering::Relaxed);
        Self(places)
    }
}

impl Drop for OpenImport<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Silence<'_> {
    /// Completes if the import must end to make room for another.
    pub async fn is_broken(&self) {
        self.broken.notified().await;
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        self.places.silent().by_number.remove(&self.number);
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
    fn the_import_that_is_silent_for_longest_makes_room() {
        let places = Places::of(2, 1, 100, Duration::from_millis(1));
        let (_one, other) = (places.open().unwrap(), places.open().unwrap());
        assert!(places.open().is_none(), "two are open, and none is silent");
        let (first, second, third) = (places.fall_silent(), places.fall_silent(), places.fall_silent());
        drop(first); // Its sender speaks again.
        let _more = places.open().unwrap();
        assert!(second.is_broken().now_or_never().is_some());
        assert!(third.is_broken().now_or_never().is_none());
        drop((second, other));
        let _and_more = places.open().unwrap();
        assert!(third.is_broken().now_or_never().is_some());
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
