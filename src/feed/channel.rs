//! What the subscribers of one workspace share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use super::budget::Budget;
use super::ring::{Ring, Segment};
use crate::model::Place;

/// The head of a workspace's log and its recent events. It lives as long as its subscribers do.
#[derive(Debug)]
pub(super) struct Channel {
    pub head: watch::Sender<Place>,
    ring: RwLock<Ring>,
    budget: Arc<Budget>,
    /// The time of its last use, by the budget's clock.
    used: AtomicU64,
    /// Whether a subscriber has read since the last publication.
    is_read: AtomicBool,
}

impl Channel {
    pub fn new(budget: &Arc<Budget>) -> Self {
        Self {
            head: watch::Sender::new(Place::START),
            ring: RwLock::new(Ring::new(Arc::clone(budget))),
            budget: Arc::clone(budget),
            used: AtomicU64::new(budget.now()),
            is_read: AtomicBool::new(true), // It was made for a subscriber, which is about to read.
        }
    }

    /// Appends events. It counts as a use only if somebody has read since the last time: otherwise a busy workspace
    /// whose subscribers have all stopped reading would push out those whose subscribers have not.
    pub fn append(&self, segments: Vec<Segment>) {
        let now = self.budget.tick();
        if self.is_read.swap(false, Ordering::Relaxed) {
            self.used.store(now, Ordering::Relaxed);
        }
        self.ring.write().unwrap_or_else(PoisonError::into_inner).extend(segments);
    }

    /// The segment that holds the event after this place, if it is in the ring. To ask is a use even if it is not:
    /// otherwise a workspace once shed would be the first to be shed again.
    pub fn segment_after(&self, place: Place) -> Option<Arc<Segment>> {
        self.used.store(self.budget.now(), Ordering::Relaxed);
        self.is_read.store(true, Ordering::Relaxed);
        self.ring.read().unwrap_or_else(PoisonError::into_inner).after(place)
    }

    pub fn last_use(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Drops the oldest segments until the budget is content or the ring is empty.
    pub fn shed(&self) {
        let shed = self.ring.write().unwrap_or_else(PoisonError::into_inner).shed();
        drop(shed); // After the lock, for which subscribers wait: there may be thousands of frames.
    }

    /// The head never goes back: a subscriber may know of a commit before it is published here.
    pub fn advance(&self, head: Place) {
        self.head.send_if_modified(|current| {
            let newer = head > *current;
            *current = head.max(*current);
            newer
        });
    }
}
