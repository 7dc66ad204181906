//! The memory that the rings of all workspaces share.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// How much memory the rings take together, and how much they may take.
///
/// - Only the writer adds, and after it has added it sheds whatever is over the capacity.
/// - What a ring has taken it gives back: when a segment leaves it, or when the ring itself is dropped.
/// - The numbers guard no other memory, so relaxed ordering is enough.
#[derive(Debug)]
pub(super) struct Budget {
    capacity: usize,
    taken: AtomicUsize,
    clock: AtomicU64,
}

impl Budget {
    pub fn new(capacity: usize) -> Self {
        Self { capacity, taken: AtomicUsize::new(0), clock: AtomicU64::new(0) }
    }

    /// Whether there is no memory at all, so that encoding an event for a ring would be wasted work.
    pub fn is_nothing(&self) -> bool {
        self.capacity == 0
    }

    pub fn take(&self, bytes: usize) {
        self.taken.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn give_back(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub fn is_over(&self) -> bool {
        self.taken() > self.capacity
    }

    /// Whether to go on shedding. It stops at 7/8 of the capacity, so that finding the least recently used channels
    /// is paid for once per eighth of it and not once per event.
    pub fn must_shed(&self) -> bool {
        self.taken() > self.capacity - self.capacity / 8
    }

    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// The number of publications so far: time enough to tell which channel was used before which.
    pub fn now(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    /// Moves the clock on by a publication. Readers only look at it, so they do not contend for it.
    pub fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed) + 1
    }
}
