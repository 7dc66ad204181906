//! How far the streams of a workspace are behind its head, for operators.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::{Place, Workspace};

/// The cursors of a channel's open streams.
#[derive(Debug, Default)]
pub(super) struct Cursors(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    by_number: BTreeMap<u64, Arc<AtomicU64>>,
    next: u64,
}

/// The cursor of one stream. It leaves the list when it is dropped.
#[derive(Debug)]
pub(super) struct SharedCursor {
    list: Arc<Cursors>,
    number: u64,
    place: Arc<AtomicU64>,
}

/// The subscribers of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribers {
    /// The workspace.
    pub workspace: Workspace,
    /// Its open streams.
    pub streams: usize,
    /// Events between the cursor and the head, of the stream that is furthest behind.
    pub lag_max: u64,
    /// The same, of all streams together.
    pub lag_sum: u64,
}

impl Cursors {
    /// Adds the cursor of a stream.
    pub fn join(self: &Arc<Self>, place: Place) -> SharedCursor {
        let mut open = self.open();
        let (number, place) = (open.next, Arc::new(AtomicU64::new(place.get())));
        open.next += 1;
        open.by_number.insert(number, Arc::clone(&place));
        SharedCursor { list: Arc::clone(self), number, place }
    }

    /// The subscribers of a workspace whose log ends at `head`.
    pub fn behind(&self, workspace: Workspace, head: Place) -> Subscribers {
        let open = self.open();
        let lags = open.by_number.values().map(|place| head.get().saturating_sub(place.load(Ordering::Relaxed)));
        let (lag_max, lag_sum) = lags.fold((0, 0_u64), |(max, sum), lag| (lag.max(max), sum.saturating_add(lag)));
        Subscribers { workspace, streams: open.by_number.len(), lag_max, lag_sum }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SharedCursor {
    /// The stream has moved. Only operators read it, so relaxed ordering is enough.
    pub fn moved_to(&self, place: Place) {
        self.place.store(place.get(), Ordering::Relaxed);
    }
}

impl Drop for SharedCursor {
    fn drop(&mut self) {
        self.list.open().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_what_lies_between_each_cursor_and_the_head() {
        let workspace = || Workspace::parse("a/b/c").unwrap();
        let cursors = Arc::new(Cursors::default());
        let behind = |head| {
            let Subscribers { streams, lag_max, lag_sum, .. } = cursors.behind(workspace(), Place::after(head));
            (streams, lag_max, lag_sum)
        };
        assert_eq!(behind(10), (0, 0, 0));
        let slow = cursors.join(Place::after(2));
        let fast = cursors.join(Place::after(10));
        assert_eq!(behind(10), (2, 8, 8));
        assert_eq!(behind(11), (2, 9, 10));
        slow.moved_to(Place::after(9));
        assert_eq!(behind(11), (2, 2, 3));
        assert_eq!(behind(8), (2, 0, 0), "a stream may know of a commit before the channel does");
        drop(slow);
        assert_eq!(behind(11), (1, 1, 1));
        drop(fast);
        assert_eq!(behind(11), (0, 0, 0));
    }
}
