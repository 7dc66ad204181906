//! Reads of one profile's events.
//!
//! - Each event links to the previous event of its profile. So a page is found by a walk from the latest event back to
//!   where the page begins.
//! - The result of a walk is kept for the pages that follow, so that a long history is walked once, not once per page.
//! - A walk that takes longer than reading a page of the log is abandoned, and the page is read from the log instead.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::super::rows::Kind;
use super::super::tables;
use super::page::{Budget, PageSize, ROWS};
use super::{EventPage, EventRef, Parts, Snapshot};
use crate::model::{Filter, Mpid, Place, Sequence};

/// The most walks that are kept. Each has at most as many sequences as a page has rows, so all together take 5 MiB.
const WALKS: usize = 64;

/// What was walked of chains.
#[derive(Debug, Default)]
pub(in crate::store) struct Walks {
    /// The most recent walks of histories, oldest first.
    histories: Mutex<VecDeque<Arc<Walk>>>,
    /// The walks of snapshots.
    pub parts: Parts,
}

/// Part of a profile's chain.
#[derive(Debug)]
struct Walk {
    workspace: WorkspaceId,
    mpid: Mpid,
    /// `events` has all of the profile's events after this place, up to the latest when it was walked.
    from: Place,
    /// In sequence order.
    events: Vec<Sequence>,
}

/// The events of a profile to read: after one place and up to another.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct History<'a> {
    pub workspace: WorkspaceId,
    pub mpid: Mpid,
    pub after: Place,
    pub through: Place,
    pub filter: &'a Filter,
}

/// A page of a profile's history.
#[derive(Debug)]
pub(in crate::store) struct HistoryPage {
    pub page: EventPage,
    /// The first event of the profile after the place where the page begins, if the page has found one.
    pub first: Option<Sequence>,
}

impl Walks {
    /// Returns a walk of the profile that goes back to `after` or further.
    fn get(&self, workspace: WorkspaceId, mpid: Mpid, after: Place) -> Option<Arc<Walk>> {
        let walks = self.histories.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |walk: &&Arc<Walk>| walk.workspace == workspace && walk.mpid == mpid && walk.from <= after;
        walks.iter().find(known).cloned()
    }

    fn keep(&self, walk: Walk) {
        if walk.events.len() > ROWS {
            return;
        }
        let walk = Arc::new(walk);
        let mut walks = self.histories.lock().unwrap_or_else(PoisonError::into_inner);
        walks.retain(|other| other.workspace != walk.workspace || other.mpid != walk.mpid);
        if walks.len() == WALKS {
            walks.pop_front();
        }
        walks.push_back(walk);
    }
}

impl Snapshot {
    /// Does the same as [`Snapshot::events`] with a filter that names one profile. It follows the profile's chain, or
    /// reads the log if that is shorter.
    pub(in crate::store) fn history(
        &self,
        walks: &Walks,
        history: History<'_>,
        size: PageSize,
        take: impl FnMut(EventRef<'_>) -> Result<Option<usize>, StoreError>,
    ) -> Result<HistoryPage, StoreError> {
        let Ok(Some(walk)) = self.walk(walks, history, &mut Budget::new(size)) else {
            return self.history_in_log(history, size, take); // The chain is too long or damaged.
        };
        let first = walk.between(history.after, history.through).next();
        Ok(HistoryPage { page: self.walked_history(walks, &walk, history, size, take)?, first })
    }

    fn history_in_log(
        &self,
        History { workspace, mpid, after, through, filter }: History<'_>,
        size: PageSize,
        mut take: impl FnMut(EventRef<'_>) -> Result<Option<usize>, StoreError>,
    ) -> Result<HistoryPage, StoreError> {
        let mut first = None;
        let page = self.every_event(workspace, after, through, size, |event| {
            if event.mpid == mpid || event.other == Some(mpid) {
                first.get_or_insert(event.sequence);
            }
            if filter.matches(event.kind, event.mpid, event.other, event.silent) { take(event) } else { Ok(None) }
        })?;
        Ok(HistoryPage { page, first })
    }

    fn walked_history(
        &self,
        walks: &Walks,
        walk: &Walk,
        History { workspace, after, through, filter, .. }: History<'_>,
        size: PageSize,
        mut take: impl FnMut(EventRef<'_>) -> Result<Option<usize>, StoreError>,
    ) -> Result<EventPage, StoreError> {
        let mut budget = Budget::new(size); // Not the walk's, so that the page makes progress after a long walk.
        let mut last = after;
        for event in walk.between(after, through) {
            if !budget.take_row() {
                walks.keep(walk.after(last));
                return Ok(EventPage { through: last, complete: false });
            }
            let delivered = self.event(workspace, event, |event| {
                if filter.matches(event.kind, event.mpid, event.other, event.silent) { take(event) } else { Ok(None) }
            });
            match delivered {
                Ok(bytes) => budget.deliver(bytes),
                Err(StoreError::Corrupt { .. }) if last > after => break,
                Err(StoreError::Corrupt { .. }) => {
                    return Err(self.damaged_after(workspace, Place::after(event.get() - 1), through)?);
                }
                Err(other) => return Err(other),
            }
            last = event.into();
        }
        let complete = walk.between(last, through).next().is_none();
        Ok(EventPage { through: if complete { through } else { last }, complete })
    }

    /// Returns whether a profile had events at or before a place. `first` is its first event after the place, if that
    /// has been found. If not, the profile may have begun later, and is said to have had earlier events.
    pub(super) fn began_by(&self, workspace: WorkspaceId, mpid: Mpid, first: Option<Sequence>) -> bool {
        let earlier = match first {
            Some(first) => self.link(workspace, mpid, first),
            None => tables::profile(&self.0.profiles, workspace, mpid, |row| Ok(row.last_event)),
        };
        !matches!(earlier, Ok(None))
    }

    /// Returns the profile's events after a place. `None` if the walk exceeds the budget.
    fn walk(
        &self,
        walks: &Walks,
        History { workspace, mpid, after, .. }: History<'_>,
        budget: &mut Budget,
    ) -> Result<Option<Arc<Walk>>, StoreError> {
        let latest = tables::profile(&self.0.profiles, workspace, mpid, |row| Ok(row.last_event))?;
        let known = walks.get(workspace, mpid, after);
        let (from, mut events) = match &known {
            Some(walk) if walk.events.last().copied() == latest => return Ok(known),
            Some(walk) if walk.events.last().is_some_and(|known| Place::from(*known) > after) => {
                (walk.from, walk.events.clone())
            }
            // The way back to an older walk may lead over events that the log no longer holds.
            Some(_) | None => (after, Vec::new()),
        };
        let until = events.last().map_or(from, |latest| Place::from(*latest));
        let Some(newer) = self.walk_back(workspace, mpid, latest, until, budget)? else { return Ok(None) };
        events.extend(newer);
        Ok(Some(Arc::new(Walk { workspace, mpid, from, events })))
    }

    /// Follows the chain from the latest event back to a place. Returns the events in sequence order, or `None` if the
    /// walk exceeds the budget.
    fn walk_back(
        &self,
        workspace: WorkspaceId,
        mpid: Mpid,
        latest: Option<Sequence>,
        until: Place,
        budget: &mut Budget,
    ) -> Result<Option<Vec<Sequence>>, StoreError> {
        let mut chain = Vec::new();
        let mut next = latest;
        while let Some(sequence) = next.filter(|sequence| Place::from(*sequence) > until) {
            if !budget.take_row() {
                return Ok(None);
            }
            chain.push(sequence);
            next = self.link(workspace, mpid, sequence)?;
        }
        chain.reverse();
        Ok(Some(chain))
    }

    /// Returns the profile's event before one. `None` if it is the first.
    pub(super) fn link(
        &self,
        workspace: WorkspaceId,
        mpid: Mpid,
        sequence: Sequence,
    ) -> Result<Option<Sequence>, StoreError> {
        let previous = tables::event(&self.0.events, workspace, sequence, |row| row.before(mpid, sequence))?;
        previous.ok_or(Kind::Event.corrupt())
    }
}

impl Walk {
    /// Returns the part that the pages after a place need.
    fn after(&self, place: Place) -> Self {
        let events = self.events.iter().copied().filter(|event| Place::from(*event) > place).collect();
        Self { workspace: self.workspace, mpid: self.mpid, from: place, events }
    }

    fn between(&self, after: Place, through: Place) -> impl Iterator<Item = Sequence> {
        let first = self.events.partition_point(|event| Place::from(*event) <= after);
        self.events[first..].iter().copied().take_while(move |event| Place::from(*event) <= through)
    }
}
