//! The log of a workspace.

use super::super::WorkspaceId;
use super::super::error::{Past, StoreError};
use super::super::rows::{EventRow, Kind};
use super::super::tables::{self, guarded};
use super::Snapshot;
use super::page::{Budget, PageSize};
use crate::model::{EventKind, Filter, Micros, Mpid, Place, Sequence};

/// The ends of a log: it holds the events after `floor`, up to `head`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogBounds {
    /// Before the oldest event that is held.
    pub floor: Place,
    /// After the latest event.
    pub head: Place,
}

/// An event as it lies in the log.
#[derive(Debug, Clone, Copy)]
pub struct EventRef<'a> {
    /// Its number.
    pub sequence: Sequence,
    /// Of which profile.
    pub mpid: Mpid,
    /// What happened to it.
    pub kind: EventKind,
    /// See `Event.silent`.
    pub silent: bool,
    /// Encoded `Event`.
    pub event: &'a [u8],
}

/// Events that are tried one by one behind damage, before leaps are taken: more than most pages hold.
const ONE_BY_ONE: u64 = 64;

/// What a page of the log came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventPage {
    /// Nothing matching at or before this is unread.
    pub through: Place,
    /// Whether that is the end of what was asked for.
    pub complete: bool,
}

impl Snapshot {
    /// Gives `take` the matching events after one place and up to another, in order, until the page is full; `take`
    /// returns the bytes that it delivers of one.
    ///
    /// # Errors
    /// [`StoreError::Expired`] if the first of them is no longer held. [`StoreError::Corrupt`] if the very next event is
    /// damaged or missing; its `past` says where to go on.
    pub fn events(
        &self,
        workspace: WorkspaceId,
        after: Place,
        through: Place,
        filter: &Filter,
        size: PageSize,
        mut take: impl FnMut(EventRef<'_>) -> Result<usize, StoreError>,
    ) -> Result<EventPage, StoreError> {
        let mut last = after;
        let mut budget = Budget::new(size);
        let mut deliver = |event: EventRef<'_>| {
            if filter.matches(event.kind, event.mpid, event.silent) { take(event).map(Some) } else { Ok(None) }
        };
        match guarded(Kind::Event, || self.read_events(workspace, &mut last, through, &mut budget, &mut deliver)) {
            Err(StoreError::Corrupt { .. }) if last == after => Err(self.damaged_after(workspace, after, through)?),
            Ok(()) | Err(StoreError::Corrupt { .. }) => Ok(EventPage { through: last, complete: last >= through }),
            Err(other) => Err(other),
        }
    }

    /// Moves `last` as it goes. Events are numbered without holes, so one that is missing is damage too.
    fn read_events(
        &self,
        workspace: WorkspaceId,
        last: &mut Place,
        through: Place,
        budget: &mut Budget,
        deliver: &mut impl FnMut(EventRef<'_>) -> Result<Option<usize>, StoreError>,
    ) -> Result<(), StoreError> {
        if *last >= through {
            return Ok(());
        }
        for row in self.0.events.range((workspace.0, last.next().get())..=(workspace.0, through.get()))? {
            if !budget.take_row() {
                return Ok(());
            }
            let (key, row) = row?;
            let sequence = last.next();
            if key.value() != (workspace.0, sequence.get()) {
                return Err(Kind::Event.corrupt());
            }
            let row = EventRow::read(workspace, sequence, row.value())?;
            budget.deliver(deliver(EventRef::new(sequence, &row))?);
            *last = sequence.into();
        }
        if *last < through { Err(Kind::Event.corrupt()) } else { Ok(()) }
    }

    /// What to say where the event after a place cannot be read.
    pub(super) fn damaged_after(
        &self,
        workspace: WorkspaceId,
        after: Place,
        through: Place,
    ) -> Result<StoreError, StoreError> {
        let bounds = self.log_bounds(workspace)?;
        if after < bounds.floor {
            return Ok(self.expired(workspace, bounds));
        }
        let past = Past::Event(self.before_next_sound_event(workspace, after, through));
        Ok(StoreError::Corrupt { table: Kind::Event.name(), past: Some(past) })
    }

    /// The place before the next event that can be read; the end if there is none. It is sought by leaps, as a page of
    /// many events may be damaged.
    fn before_next_sound_event(&self, workspace: WorkspaceId, after: Place, through: Place) -> Place {
        let at = |distance: u64| Place::after(after.get().saturating_add(distance).min(through.get()));
        let is_past = |distance: u64| {
            let place = at(distance);
            let read = || tables::event(&self.0.events, workspace, place.next(), |_| Ok(()));
            place >= through || matches!(read(), Ok(Some(())))
        };
        if let Some(near) = (1..=ONE_BY_ONE).find(|distance| is_past(*distance)) {
            return at(near);
        }
        let leap = (6..u64::BITS).map(|power| 1 << power).find(|distance| is_past(*distance)).unwrap_or(u64::MAX);
        let (mut too_near, mut far_enough) = (leap / 2, leap);
        while far_enough - too_near > 1 {
            let middle = too_near + (far_enough - too_near) / 2;
            if is_past(middle) { far_enough = middle } else { too_near = middle }
        }
        at(far_enough)
    }

    /// Refuses a place whose next event is no longer held.
    ///
    /// # Errors
    /// [`StoreError::Expired`].
    pub fn check_held(&self, workspace: WorkspaceId, bounds: LogBounds, after: Place) -> Result<(), StoreError> {
        if after < bounds.floor { Err(self.expired(workspace, bounds)) } else { Ok(()) }
    }

    fn expired(&self, workspace: WorkspaceId, LogBounds { floor, head }: LogBounds) -> StoreError {
        let oldest = floor.checked_next().filter(|_| floor < head);
        let oldest_time = oldest.and_then(|oldest| self.event_time(workspace, oldest));
        StoreError::Expired { floor, head, oldest_time }
    }

    fn event_time(&self, workspace: WorkspaceId, sequence: Sequence) -> Option<Micros> {
        tables::event(&self.0.events, workspace, sequence, |row| Ok(row.time)).ok().flatten()
    }

    /// Reads one event.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], also if it is not there.
    pub fn event<T>(
        &self,
        workspace: WorkspaceId,
        sequence: Sequence,
        read: impl FnOnce(EventRef<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let found = tables::event(&self.0.events, workspace, sequence, |row| read(EventRef::new(sequence, &row)))?;
        found.ok_or(Kind::Event.corrupt())
    }
}

impl<'a> EventRef<'a> {
    fn new(sequence: Sequence, row: &EventRow<'a>) -> Self {
        Self { sequence, mpid: row.mpid, kind: row.kind, silent: row.silent, event: row.event }
    }
}
