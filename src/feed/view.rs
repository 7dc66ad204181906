//! What some subscribers see of a workspace: a filter that tests changes, or a mask.
//!
//! Subscribers with an equal filter and an equal mask share one view, which makes the frames that they see once for each
//! segment. Views with equal masks share the events that they cut, and all views of a workspace share the events that
//! they decode. What is shared is that of the latest segment alone, because the subscribers that are near the head all
//! read that. It is dropped when nothing has used it for a while, or if there is no room for it: [`Room`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use bytes::Bytes;

use super::segment::{Filling, Segment};
use crate::model::cursor::CursorSpace;
use crate::model::{Filter, Mask, Place, Transition, Workspace};
use crate::store::{EventRef, PageSize, Store, StoreError};

/// Views of a channel at which dropped ones are swept, or twice as many as the last sweep left.
const SWEEP_AT: usize = 64;
/// The memory for what views share, of all workspaces together.
const ROOM: usize = 32 << 20;
/// How much larger a decoded event is than an encoded one, at most: see `model::weight`.
const DECODED: usize = 16;

/// The memory that everything shared by views may take.
#[derive(Debug, Default)]
pub(super) struct Room(AtomicUsize);

/// The views of one channel.
#[derive(Debug)]
pub(super) struct Views {
    of: Mutex<Shared>,
    changes: Arc<Derived<Changes>>,
    room: Arc<Room>,
}

#[derive(Debug)]
struct Shared {
    views: HashMap<(Filter, Mask), Weak<View>>,
    cuts: HashMap<Mask, Weak<Derived<Cuts>>>,
    sweep_at: usize,
}

/// The events of a segment, each decoded when it is first asked for. `None` for a malformed one.
type Changes = Vec<OnceLock<Option<Transition>>>;
/// The events of a segment, each cut by a mask when it is first asked for. `None` for a malformed one.
type Cuts = Vec<OnceLock<Option<Bytes>>>;

/// A filter and a mask.
#[derive(Debug)]
pub(super) struct View {
    pub filter: Filter,
    mask: Mask,
    cuts: Arc<Derived<Cuts>>,
    changes: Arc<Derived<Changes>>,
    seen: Derived<Segment>,
}

/// What was made of the latest segment.
#[derive(Debug)]
struct Derived<T> {
    latest: Mutex<Option<Latest<T>>>,
    is_used: AtomicBool,
    room: Arc<Room>,
}

#[derive(Debug)]
struct Latest<T> {
    source: Arc<Segment>,
    made: Arc<T>,
    weight: usize,
}

impl Views {
    pub fn new(room: &Arc<Room>) -> Self {
        let shared = Shared { views: HashMap::new(), cuts: HashMap::new(), sweep_at: SWEEP_AT };
        Self { of: Mutex::new(shared), changes: Arc::new(Derived::new(room)), room: Arc::clone(room) }
    }

    /// The view with this filter and this mask.
    pub fn join(&self, filter: Filter, mask: Mask) -> Arc<View> {
        let mut shared = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (filter, mask);
        if let Some(view) = shared.views.get(&key).and_then(Weak::upgrade) {
            return view;
        }
        shared.sweep();
        let cuts = shared.cuts.get(&key.1).and_then(Weak::upgrade);
        let cuts = cuts.unwrap_or_else(|| Arc::new(Derived::new(&self.room)));
        shared.cuts.insert(key.1.clone(), Arc::downgrade(&cuts));
        let (filter, mask) = key.clone();
        let seen = Derived::new(&self.room);
        let view = Arc::new(View { filter, mask, cuts, changes: Arc::clone(&self.changes), seen });
        shared.views.insert(key, Arc::downgrade(&view));
        view
    }

    /// Drops what nothing has used since the last call.
    pub fn look(&self) {
        let shared = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        shared.views.values().filter_map(Weak::upgrade).for_each(|view| view.seen.look());
        shared.cuts.values().filter_map(Weak::upgrade).for_each(|cuts| cuts.look());
        drop(shared);
        self.changes.look();
    }
}

impl Shared {
    /// Removes the entries of dropped views, after as many new ones as the last sweep left.
    fn sweep(&mut self) {
        if self.views.len() < self.sweep_at {
            return;
        }
        self.views.retain(|_, view| view.strong_count() > 0);
        self.cuts.retain(|_, cuts| cuts.strong_count() > 0);
        self.sweep_at = SWEEP_AT.max(2 * self.views.len());
    }
}

impl View {
    /// Whether its subscribers see the frames of a segment as they are, except those that the filter leaves out by
    /// their headers. Of the event of a merge, some are told that the survivor is not one of theirs.
    pub fn is_plain(&self, segment: &Segment) -> bool {
        self.mask.is_all() && !self.filter.tests_changes() && !(self.filter.selects_mpids() && segment.has_merges())
    }

    /// Whether to make frames on a thread that may take its time.
    pub fn is_costly(&self) -> bool {
        self.filter.tests_changes()
    }

    /// What its subscribers see of a segment. It ends before an event that is malformed.
    pub fn of(&self, cursors: CursorSpace, source: &Arc<Segment>) -> Arc<Segment> {
        self.seen.of(source, 1, || self.see(cursors, source))
    }

    fn see(&self, cursors: CursorSpace, source: &Arc<Segment>) -> Segment {
        let events = source.entries.len();
        let changes = self.filter.tests_changes().then(|| self.changes.of(source, DECODED, || unmade(events)));
        let cuts = (!self.mask.is_all()).then(|| self.cuts.of(source, 1, || unmade(events)));
        let mut filling = Filling::new(cursors);
        for at in 0..events {
            let event = source.reference(at);
            let change = changes.as_ref().map(|changes| &changes[at]);
            let cut = cuts.as_ref().map(|cuts| &cuts[at]);
            if self.see_event(event, &mut filling, change, cut).is_none() {
                return filling.finish(Place::after(event.sequence.get() - 1));
            }
        }
        filling.finish(source.through)
    }

    /// Adds an event if its subscribers see it. `None` if it is malformed.
    fn see_event(
        &self,
        event: EventRef<'_>,
        filling: &mut Filling,
        change: Option<&OnceLock<Option<Transition>>>,
        cut: Option<&OnceLock<Option<Bytes>>>,
    ) -> Option<usize> {
        #[cfg(feature = "planted")]
        let event = EventRef { other: super::planted::other(event.other), ..event };
        if !self.filter.matches(event.kind, event.mpid, event.other, event.silent) {
            return Some(0);
        }
        #[cfg(feature = "planted")]
        let decoded = change;
        let matched = match change {
            None => self.filter.match_of(event.mpid),
            Some(change) => {
                let change = change.get_or_init(|| Transition::decode(event.event).ok()).as_ref()?;
                let Some(matched) = self.filter.judge(change) else { return Some(0) };
                matched
            }
        };
        #[cfg(feature = "planted")]
        if super::planted::forgets(event.kind, matched, decoded.and_then(|change| change.get()?.as_ref())) {
            return Some(0);
        }
        let cut = match cut {
            None => event.event,
            Some(cut) => {
                let mask = || self.mask.event(event.event).ok().map(|cut| Bytes::from(cut.into_owned()));
                cut.get_or_init(mask).as_deref()?
            }
        };
        Some(filling.push_matched(EventRef { event: cut, ..event }, matched))
    }

    /// Reads from the log what its subscribers see of the events after a place and up to the head.
    ///
    /// # Errors
    /// Those of [`crate::store::Snapshot::events`].
    pub fn read(
        &self,
        store: &Store,
        workspace: &Workspace,
        cursors: CursorSpace,
        after: Place,
        head: Place,
        size: PageSize,
    ) -> Result<Arc<Segment>, StoreError> {
        let id = store.workspace_id(workspace).ok_or(StoreError::Closed)?;
        let mut filling = Filling::new(cursors);
        let take = |event: EventRef<'_>| self.take(event, &mut filling);
        let page = store.snapshot()?.events(id, after, head, &self.filter, size, take)?;
        Ok(Arc::new(filling.finish(page.through)))
    }

    /// Adds an event of the log if its subscribers see it, and returns the bytes of its frame: `None` if they do not.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if it is malformed.
    fn take(&self, event: EventRef<'_>, filling: &mut Filling) -> Result<Option<usize>, StoreError> {
        let (change, cut) = (OnceLock::new(), OnceLock::new());
        let change = self.filter.tests_changes().then_some(&change);
        let cut = (!self.mask.is_all()).then_some(&cut);
        let bytes = self.see_event(event, filling, change, cut).ok_or_else(|| StoreError::corrupt("event"))?;
        Ok((bytes > 0).then_some(bytes))
    }

    pub fn mask(&self) -> &Mask {
        &self.mask
    }
}

fn unmade<T>(count: usize) -> Vec<OnceLock<T>> {
    std::iter::repeat_with(OnceLock::new).take(count).collect()
}

impl<T> Derived<T> {
    fn new(room: &Arc<Room>) -> Self {
        Self { latest: Mutex::new(None), is_used: AtomicBool::new(true), room: Arc::clone(room) }
    }

    /// What `make` makes of a segment, made once while it is the latest. The result is so many times as large as the
    /// segment.
    fn of(&self, source: &Arc<Segment>, times: usize, make: impl FnOnce() -> T) -> Arc<T> {
        self.is_used.store(true, Ordering::Relaxed);
        // Others wait for the lock rather than make the same.
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(latest) = &*latest
            && Arc::ptr_eq(&latest.source, source)
        {
            return Arc::clone(&latest.made);
        }
        let made = Arc::new(make());
        self.forget(&mut latest);
        let weight = source.weight() * (1 + times); // It keeps the segment too.
        if self.room.take(weight) {
            *latest = Some(Latest { source: Arc::clone(source), made: Arc::clone(&made), weight });
        }
        made
    }

    fn look(&self) {
        if !self.is_used.swap(false, Ordering::Relaxed) {
            self.forget(&mut self.latest.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn forget(&self, latest: &mut Option<Latest<T>>) {
        if let Some(Latest { weight, .. }) = latest.take() {
            self.room.give_back(weight);
        }
    }
}

impl<T> Drop for Derived<T> {
    fn drop(&mut self) {
        let latest = self.latest.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        self.room.give_back(latest.map_or(0, |latest| latest.weight));
    }
}

impl Room {
    /// Takes memory, if there is as much.
    fn take(&self, bytes: usize) -> bool {
        let taken = |taken: usize| taken.checked_add(bytes).filter(|sum| *sum <= ROOM);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
