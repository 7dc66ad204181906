//! The memory that the rings of all workspaces share.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// How much memory the rings take together, and how much they may take.
///
/// - Only the writer adds to the rings. Afterwards it sheds what is over the capacity.
/// - A ring gives back what it has taken, when a segment leaves it or when the ring is dropped.
/// - The counters protect no other memory, so relaxed ordering is enough.
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

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether the capacity is 0. Encoding an event for a ring would then be wasted work.
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

    /// Whether to continue shedding. Shedding stops at 7/8 of the capacity, so that the search for the least recently
    /// used channels happens once for each eighth of the capacity rather than once for each event.
    pub fn must_shed(&self) -> bool {
        self.taken() > self.capacity - self.capacity / 8
    }

    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// The number of publications so far. It serves as a clock that tells which channel was used before which.
    pub fn now(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    /// Advances the clock by one publication. Readers only read the clock, so they do not contend for it.
    pub fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed) + 1
    }
}
