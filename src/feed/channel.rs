//! What the subscribers of one workspace share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, ready};

use tokio::sync::watch;
use tokio_util::sync::ReusableBoxFuture;

use super::budget::Budget;
use super::lag::Cursors;
use super::ring::Ring;
use super::segment::Segment;
use super::view::{Room, Views};
use crate::model::Place;

/// The head of a workspace's log, and its recent events. A channel lives as long as it has subscribers.
#[derive(Debug)]
pub(super) struct Channel {
    pub head: watch::Sender<Place>,
    pub cursors: Arc<Cursors>,
    pub views: Views,
    ring: RwLock<Ring>,
    budget: Arc<Budget>,
    /// When it was last used, by the budget's clock.
    used: AtomicU64,
    /// Whether a subscriber has read since the last publication.
    is_read: AtomicBool,
    /// See [`Self::erasures`].
    erasures: AtomicU64,
}

impl Channel {
    pub fn new(budget: &Arc<Budget>, room: &Arc<Room>) -> Self {
        Self {
            head: watch::Sender::new(Place::START),
            cursors: Arc::default(),
            views: Views::new(room),
            ring: RwLock::new(Ring::new(Arc::clone(budget))),
            budget: Arc::clone(budget),
            used: AtomicU64::new(budget.now()),
            erasures: AtomicU64::new(0),
            is_read: AtomicBool::new(true), // Its first subscriber is about to read.
        }
    }

    /// Appends events. This counts as a use only if a subscriber has read since the last publication. Otherwise a busy
    /// workspace whose subscribers have all stopped reading would push out workspaces that are being read.
    pub fn append(&self, segments: Vec<Segment>) {
        let now = self.budget.tick();
        if self.is_read.swap(false, Ordering::Relaxed) {
            self.used.store(now, Ordering::Relaxed);
        }
        self.ring.write().unwrap_or_else(PoisonError::into_inner).extend(segments);
    }

    /// The segment with the event after this place, if it is in the ring. The call counts as a use even if it is not:
    /// otherwise a workspace that was shed once would be the first to be shed again.
    pub fn segment_after(&self, place: Place) -> Option<Arc<Segment>> {
        self.used.store(self.budget.now(), Ordering::Relaxed);
        self.is_read.store(true, Ordering::Relaxed);
        self.ring.read().unwrap_or_else(PoisonError::into_inner).after(place)
    }

    pub fn last_use(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Drops the oldest segments until the rings fit the budget again or this ring is empty.
    pub fn shed(&self) {
        let shed = self.ring.write().unwrap_or_else(PoisonError::into_inner).shed();
        drop(shed); // Outside the lock, which subscribers wait for: there may be thousands of frames.
    }

    /// Forgets the recent events, and makes what subscribers have read before this invalid.
    pub fn erase(&self) {
        #[cfg(feature = "planted")]
        if super::planted::keeps_erased() {
            return;
        }
        let erased = self.ring.write().unwrap_or_else(PoisonError::into_inner).clear();
        // After the ring: who sees the new number finds nothing old in the ring.
        self.erasures.fetch_add(1, Ordering::SeqCst);
        drop(erased);
        self.views.look();
        self.views.look(); // Twice: the first only notes that nothing was used since.
    }

    /// The number of erasures so far. What was read before the last one may hold values that are gone.
    pub fn erasures(&self) -> u64 {
        self.erasures.load(Ordering::SeqCst)
    }

    /// Advances the head. It never goes back, because a subscriber may learn of a commit before it is published here.
    pub fn advance(&self, head: Place) {
        self.head.send_if_modified(|current| {
            let newer = head > *current;
            *current = head.max(*current);
            newer
        });
    }
}

/// Waits for the head of the log to move.
pub(super) struct Changes(ReusableBoxFuture<'static, watch::Receiver<Place>>);

impl Changes {
    pub fn of(head: watch::Receiver<Place>) -> Self {
        Self(ReusableBoxFuture::new(change(head)))
    }

    /// The new head.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Place> {
        let mut head = ready!(self.0.poll(context));
        let place = *head.borrow_and_update();
        self.0.set(change(head));
        Poll::Ready(place)
    }
}

async fn change(mut head: watch::Receiver<Place>) -> watch::Receiver<Place> {
    head.changed().await.expect("the subscriber holds the channel");
    head
}
