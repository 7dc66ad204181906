//! Reads of a workspace's log.
//!
//! Events are numbered without holes, so a missing event is damage like any other. A page ends before the damage, and
//! the error of the next page says where the log can be read again.

use super::super::WorkspaceId;
use super::super::error::{Past, StoreError};
use super::super::rows::{EventRow, Head, Kind};
use super::super::tables::{self, guarded};
use super::Snapshot;
use super::page::{Budget, PageSize};
use crate::model::cursor::{KnownCursors, Start};
use crate::model::{EventKind, Filter, Invalid, Micros, Mpid, Place, Position, Sequence};

/// The ends of a log, which holds the events after `floor` and up to `head`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogBounds {
    /// The place before the oldest event that the log holds.
    pub floor: Place,
    /// The place after the latest event.
    pub head: Place,
    /// The size of these events in the store.
    pub bytes: u64,
}

impl From<Head> for LogBounds {
    fn from(head: Head) -> Self {
        Self { floor: head.floor, head: head.place, bytes: head.bytes }
    }
}

/// An event in the log.
#[derive(Debug, Clone, Copy)]
pub struct EventRef<'a> {
    /// The event's number in the log.
    pub sequence: Sequence,
    /// The profile that changed.
    pub mpid: Mpid,
    /// What happened to the profile.
    pub kind: EventKind,
    /// See `Event.silent`.
    pub silent: bool,
    /// The profile that was absorbed, if the event is that of a merge.
    pub other: Option<Mpid>,
    /// Encoded `Event`.
    pub event: &'a [u8],
}

/// Behind damage, this many events are tried one by one before larger leaps. Most pages hold fewer events.
const ONE_BY_ONE: u64 = 64;

/// How far a page of the log has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventPage {
    /// Every matching event of the range up to this place has been delivered.
    pub through: Place,
    /// Whether this is the end of the range that the caller asked for.
    pub complete: bool,
}

/// Returns the position where a reader starts in a log that has no events yet.
///
/// # Errors
/// [`Invalid`] if it is a cursor and not at the start of this log.
pub fn begin_unborn(cursors: &KnownCursors, start: &Start) -> Result<Position, Invalid> {
    match start {
        Start::Now | Start::Earliest | Start::At(_) => Ok(Place::START.into()),
        Start::After(cursor) => cursors.parse("cursor", cursor, Place::START),
        Start::Snapshot => Ok(Position::Snapshot { of: Place::START, after: None }),
        Start::From(position) => Ok(*position),
        Start::Since(place, _) => Ok((*place).into()),
    }
}

impl Snapshot {
    /// Calls `take` with the events after `after` and up to `through` whose headers match, in order, until the page is
    /// full. `take` returns how many bytes it delivers of an event, or `None` if it leaves it out.
    ///
    /// # Errors
    /// [`StoreError::Expired`] if the log no longer holds the first of these events. [`StoreError::Corrupt`] if the
    /// first of them is damaged or missing. Its `past` says where to continue.
    pub fn events(
        &self,
        workspace: WorkspaceId,
        after: Place,
        through: Place,
        filter: &Filter,
        size: PageSize,
        mut take: impl FnMut(EventRef<'_>) -> Result<Option<usize>, StoreError>,
    ) -> Result<EventPage, StoreError> {
        self.every_event(workspace, after, through, size, |event| {
            if filter.matches(event.kind, event.mpid, event.other, event.silent) { take(event) } else { Ok(None) }
        })
    }

    /// Does the same as [`Self::events`] without a filter.
    pub(super) fn every_event(
        &self,
        workspace: WorkspaceId,
        after: Place,
        through: Place,
        size: PageSize,
        mut take: impl FnMut(EventRef<'_>) -> Result<Option<usize>, StoreError>,
    ) -> Result<EventPage, StoreError> {
        let (mut last, mut budget) = (after, Budget::new(size));
        match guarded(Kind::Event, || self.read_events(workspace, &mut last, through, &mut budget, &mut take)) {
            Err(StoreError::Corrupt { .. }) if last == after => Err(self.damaged_after(workspace, after, through)?),
            Ok(()) | Err(StoreError::Corrupt { .. }) => Ok(EventPage { through: last, complete: last >= through }),
            Err(other) => Err(other),
        }
    }

    /// Reads events after `last`, and moves `last` to each that was read.
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

    /// Returns the error to report if the event after a place cannot be read.
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
        let past = Past::Position(self.before_next_sound_event(workspace, after, through).into());
        Ok(StoreError::Corrupt { table: Kind::Event.name(), past: Some(past) })
    }

    /// Returns the place before the next event that can be read, or `through` if there is none. A damaged page may hold
    /// many events, so the search leaps ahead and then narrows down.
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
        let leaps = (ONE_BY_ONE.ilog2()..u64::BITS).map(|power| 1 << power);
        let leap = leaps.into_iter().find(|distance| is_past(*distance)).unwrap_or(u64::MAX);
        let (mut too_near, mut far_enough) = (leap / 2, leap);
        while far_enough - too_near > 1 {
            let middle = too_near + (far_enough - too_near) / 2;
            if is_past(middle) { far_enough = middle } else { too_near = middle }
        }
        at(far_enough)
    }

    /// Returns the bounds of a log, and the position where a reader starts in it.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if the start is not in the log, [`StoreError::Expired`] if the log no longer holds what
    /// follows it, or [`StoreError::Corrupt`].
    pub fn begin(
        &self,
        workspace: WorkspaceId,
        cursors: &KnownCursors,
        start: &Start,
    ) -> Result<(LogBounds, Position), StoreError> {
        let bounds = self.log_bounds(workspace)?;
        let LogBounds { floor, head, .. } = bounds;
        let position = match start {
            Start::Now => head.into(),
            Start::Earliest => floor.into(),
            Start::After(cursor) => cursors.parse("cursor", cursor, head)?,
            Start::At(time) => self.place_before(workspace, bounds, *time)?.into(),
            Start::Snapshot => Position::Snapshot { of: head, after: None },
            Start::From(position) => *position,
            Start::Since(place, time) => self.place_since(workspace, bounds, *place, *time)?.into(),
        };
        self.check_held(workspace, bounds, position.place())?;
        Ok((bounds, position))
    }

    /// Returns the place before the first event at or after a time, which was searched for before. The search has ended
    /// before that event, or at the end of the log, and little has come since.
    fn place_since(
        &self,
        workspace: WorkspaceId,
        bounds: LogBounds,
        found: Place,
        time: Micros,
    ) -> Result<Place, StoreError> {
        let found = found.max(bounds.floor);
        let next = if found < bounds.head { self.next_sound_time(workspace, found, bounds.head)? } else { None };
        match next {
            Some((_, at)) if at < time => self.place_before(workspace, LogBounds { floor: found, ..bounds }, time),
            _ => Ok(found),
        }
    }

    /// Returns the place before the first event at or after a time: event times never go back. A damaged event has the
    /// time of the next sound one.
    fn place_before(&self, workspace: WorkspaceId, bounds: LogBounds, time: Micros) -> Result<Place, StoreError> {
        let LogBounds { floor: mut earlier, head: mut found, .. } = bounds; // The event after `found` is late enough.
        while earlier < found {
            let middle = Place::after(earlier.get() + (found.get() - earlier.get()) / 2);
            match self.next_sound_time(workspace, middle, bounds.head)? {
                Some((sequence, at)) if at < time => earlier = sequence.into(),
                _ => found = middle,
            }
        }
        Ok(found)
    }

    /// Returns the next sound event after a place, and its time.
    fn next_sound_time(
        &self,
        workspace: WorkspaceId,
        after: Place,
        head: Place,
    ) -> Result<Option<(Sequence, Micros)>, StoreError> {
        let read = |sequence| tables::event(&self.0.events, workspace, sequence, |row| Ok((sequence, row.time)));
        match read(after.next()) {
            Ok(Some(found)) => Ok(Some(found)),
            Ok(None) | Err(StoreError::Corrupt { .. }) => {
                let sound = self.before_next_sound_event(workspace, after, head);
                if sound < head { read(sound.next()) } else { Ok(None) }
            }
            Err(other) => Err(other),
        }
    }

    /// Refuses a place if the log no longer holds the event after it.
    ///
    /// # Errors
    /// [`StoreError::Expired`].
    pub fn check_held(&self, workspace: WorkspaceId, bounds: LogBounds, after: Place) -> Result<(), StoreError> {
        if after < bounds.floor { Err(self.expired(workspace, bounds)) } else { Ok(()) }
    }

    fn expired(&self, workspace: WorkspaceId, LogBounds { floor, head, .. }: LogBounds) -> StoreError {
        let oldest = floor.checked_next().filter(|_| floor < head);
        let oldest_time = oldest.and_then(|oldest| self.event_time(workspace, oldest));
        StoreError::Expired { floor, head, oldest_time }
    }

    /// Returns the time of an event. `None` if it is damaged or missing.
    pub(in crate::store) fn event_time(&self, workspace: WorkspaceId, sequence: Sequence) -> Option<Micros> {
        tables::event(&self.0.events, workspace, sequence, |row| Ok(row.time)).ok().flatten()
    }

    /// Reads one event.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if it is damaged or missing.
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
        let other = row.other.map(|other| other.mpid);
        Self { sequence, mpid: row.mpid, kind: row.kind, silent: row.silent, other, event: row.event }
    }
}
