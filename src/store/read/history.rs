//! The events of one profile.
//!
//! They are linked, each to the one before, so they are found by a walk from the latest back to where a page begins.
//! What a walk has found is kept for the pages that follow, so that a long history is walked once and not once a page.
//! A walk that would be longer than reading a page of the log is given up for that.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::super::rows::Kind;
use super::super::tables;
use super::page::{Budget, PageSize, ROWS};
use super::{EventPage, EventRef, Snapshot};
use crate::model::{Filter, Mpid, Place, Sequence};

/// Walks that are kept. Each has at most as many numbers as a page has rows, so they take 5 MiB in all.
const WALKS: usize = 64;

/// The walks of late, the latest last.
#[derive(Debug, Default)]
pub(in crate::store) struct Walks(Mutex<VecDeque<Arc<Walk>>>);

/// Part of a profile's chain.
#[derive(Debug)]
struct Walk {
    workspace: WorkspaceId,
    mpid: Mpid,
    /// It has all of the profile's events after this, up to the latest when it was walked.
    from: Place,
    /// In order.
    events: Vec<Sequence>,
}

/// Which events of a profile to read.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct History<'a> {
    pub workspace: WorkspaceId,
    pub mpid: Mpid,
    pub after: Place,
    pub through: Place,
    pub filter: &'a Filter,
}

impl Walks {
    /// The walk of a profile that goes back to `after`.
    fn get(&self, workspace: WorkspaceId, mpid: Mpid, after: Place) -> Option<Arc<Walk>> {
        let walks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |walk: &&Arc<Walk>| walk.workspace == workspace && walk.mpid == mpid && walk.from <= after;
        walks.iter().find(known).cloned()
    }

    fn keep(&self, walk: Walk) {
        if walk.events.len() > ROWS {
            return;
        }
        let walk = Arc::new(walk);
        let mut walks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        walks.retain(|other| other.workspace != walk.workspace || other.mpid != walk.mpid);
        if walks.len() == WALKS {
            walks.pop_front();
        }
        walks.push_back(walk);
    }
}

impl Snapshot {
    /// As [`Snapshot::events`] with a filter of one profile: by its chain, or through the log where that is shorter.
    pub(in crate::store) fn history(
        &self,
        walks: &Walks,
        history: History<'_>,
        size: PageSize,
        mut take: impl FnMut(EventRef<'_>) -> Result<usize, StoreError>,
    ) -> Result<EventPage, StoreError> {
        let History { workspace, after, through, filter, .. } = history;
        let Ok(Some(walk)) = self.walk(walks, history, &mut Budget::new(size)) else {
            // Too long, or damaged: the log tells what can be read.
            return self.events(workspace, after, through, filter, size, take);
        };
        let mut budget = Budget::new(size); // Of its own: however long the walk was, the page makes some way.
        let mut last = after;
        for event in walk.between(after, through) {
            if !budget.take_row() {
                walks.keep(walk.after(last));
                return Ok(EventPage { through: last, complete: false });
            }
            let delivered = self.event(workspace, event, |event| {
                if filter.matches(event.kind, event.mpid, event.silent) { take(event).map(Some) } else { Ok(None) }
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

    /// The profile's events after a place. `None` if the walk would be longer than reading a page of the log.
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
            Some(walk) => (walk.from, walk.events.clone()),
            None => (after, Vec::new()),
        };
        let until = events.last().map_or(from, |latest| Place::from(*latest));
        let Some(newer) = self.walk_back(workspace, mpid, latest, until, budget)? else { return Ok(None) };
        events.extend(newer);
        Ok(Some(Arc::new(Walk { workspace, mpid, from, events })))
    }

    /// The chain from its latest event back to a place, in order.
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
            next = tables::event(&self.0.events, workspace, sequence, |row| {
                let linked = row.mpid == mpid && row.previous.is_none_or(|previous| previous < sequence);
                if linked { Ok(row.previous) } else { Err(Kind::Event.corrupt()) }
            })?
            .ok_or(Kind::Event.corrupt())?;
        }
        chain.reverse();
        Ok(Some(chain))
    }
}

impl Walk {
    /// What is left of it for the pages after a place.
    fn after(&self, place: Place) -> Self {
        let events = self.events.iter().copied().filter(|event| Place::from(*event) > place).collect();
        Self { workspace: self.workspace, mpid: self.mpid, from: place, events }
    }

    fn between(&self, after: Place, through: Place) -> impl Iterator<Item = Sequence> {
        let first = self.events.partition_point(|event| Place::from(*event) <= after);
        self.events[first..].iter().copied().take_while(move |event| Place::from(*event) <= through)
    }
}
