//! Reads of profiles as they were at a place in the log.
//!
//! Each page reads the latest state, so no reader pins an old one. A profile that has changed since the place is what
//! the first event after the place says that it was before. That event is found by a walk back along the profile's
//! chain, which may take several pages: [`Parts`]. The log must still hold all events after the place.

use std::ops::{Bound, ControlFlow};

use prost::Message;

use super::super::WorkspaceId;
use super::super::error::{Past, StoreError};
use super::super::rows::{Kind, ProfileRow};
use super::super::tables::{self, guarded};
use super::page::Budget;
use super::parts::{Parts, WalkBack};
use super::profiles::served;
use super::{PageSize, Snapshot};
use crate::model::page_token::PageStart;
use crate::model::profile::remove_expired;
use crate::model::{Filter, Micros, Mpid, Place, Position, Transition};
use crate::proto::v1::Profile;

/// Returns a profile before an event of its chain. `None` if there was none, or an erasure has removed what it was: then a
/// later event has it, if it still exists.
fn before(event: Transition, mpid: Mpid) -> Option<Profile> {
    match event.event.merged_profile {
        _ if event.event.mpid == mpid.get() => event.before,
        absorbed => absorbed,
    }
}

/// Which profiles to read, as of when.
#[derive(Debug, Clone, Copy)]
pub struct AsOf<'a> {
    /// The place in the log.
    pub of: Place,
    /// Reading continues after this profile.
    pub after: Option<Mpid>,
    /// Only the profiles that [`Filter::has_profile`] are read.
    pub filter: &'a Filter,
    /// Memberships that have ended by this time are removed.
    pub now: Micros,
}

/// What a page is read from.
#[derive(Clone, Copy)]
struct Source<'a> {
    parts: &'a Parts,
    workspace: WorkspaceId,
    as_of: AsOf<'a>,
}

/// A page while it is read.
struct Page {
    /// The last profile that was read.
    last: Option<Mpid>,
    /// The profile that cannot be read although its row is sound: an event of its chain is damaged.
    broken: Option<Mpid>,
}

impl Snapshot {
    /// Calls `take` with the profiles after one, in the order of their mpids, until the page is full. `take` returns how
    /// many bytes it delivers, or `None` if it delivers nothing. Returns the position that the page has reached: in the
    /// log after the last profile. A page may end before its first profile, if the walk to what that was is long. The next
    /// page goes on with the walk.
    ///
    /// # Errors
    /// [`StoreError::Expired`] if the log no longer holds the events after the place. [`StoreError::Corrupt`] if the
    /// first profile is damaged: its `past` says where to continue.
    pub(in crate::store) fn profiles_as_of(
        &self,
        parts: &Parts,
        workspace: WorkspaceId,
        as_of: AsOf<'_>,
        size: PageSize,
        mut take: impl FnMut(Mpid, &[u8]) -> Result<Option<usize>, StoreError>,
    ) -> Result<Position, StoreError> {
        let AsOf { of, after, .. } = as_of;
        self.check_held(workspace, self.log_bounds(workspace)?, of)?;
        let source = Source { parts, workspace, as_of };
        let mut page = Page { last: after, broken: None };
        let read = if as_of.filter.mpids().is_empty() {
            self.read_all(source, size, &mut page, &mut take)
        } else {
            self.read_some(source, size, &mut page, &mut take)
        };
        match read {
            Ok(true) => Ok(Position::Snapshot { of, after: page.last }),
            Ok(false) => Ok(Position::Log(of)),
            Err(StoreError::Corrupt { .. }) if page.last > after => Ok(Position::Snapshot { of, after: page.last }),
            Err(StoreError::Corrupt { table, .. }) => {
                let past = match page.broken {
                    Some(mpid) => Position::Snapshot { of, after: Some(mpid) },
                    None => self.before_next_sound(workspace, of, after)?,
                };
                Err(StoreError::Corrupt { table, past: Some(Past::Position(past)) })
            }
            Err(other) => Err(other),
        }
    }

    /// Returns whether there are more.
    fn read_all(
        &self,
        source: Source<'_>,
        size: PageSize,
        page: &mut Page,
        take: &mut impl FnMut(Mpid, &[u8]) -> Result<Option<usize>, StoreError>,
    ) -> Result<bool, StoreError> {
        let Source { workspace, as_of: AsOf { after, .. }, .. } = source;
        // A cursor that leads past damage is right before a sound profile. No other lies in between, so the pages that
        // lead there need not be checked. They may be what is damaged.
        let next = after.and_then(Mpid::next).filter(|next| self.is_sound(workspace, *next));
        let from = match (next, after) {
            (Some(next), _) => Bound::Included((workspace.0, next.get())),
            (None, Some(after)) => Bound::Excluded((workspace.0, after.get())),
            (None, None) => Bound::Included((workspace.0, i64::MIN)),
        };
        let Page { last, broken } = page;
        guarded(Kind::Profile, || {
            let start = PageStart { after, over_damage: next.is_some() };
            self.read_profiles(workspace, start, size, from, last, &mut |mpid, row, budget| {
                let read = self.read_as_of(source, mpid, row, budget, take);
                read.inspect_err(|_| *broken = Some(mpid))
            })
        })
    }

    /// Returns whether there are more.
    fn read_some(
        &self,
        source: Source<'_>,
        size: PageSize,
        page: &mut Page,
        take: &mut impl FnMut(Mpid, &[u8]) -> Result<Option<usize>, StoreError>,
    ) -> Result<bool, StoreError> {
        let Source { workspace, as_of: AsOf { filter, after, .. }, .. } = source;
        let mut budget = Budget::new(size);
        let mpids = filter.mpids();
        let first = mpids.partition_point(|mpid| Some(*mpid) <= after);
        for mpid in &mpids[first..] {
            if !budget.take_row() {
                return Ok(true);
            }
            let read = tables::profile(&self.0.profiles, workspace, *mpid, |row| {
                self.read_as_of(source, *mpid, &row, &mut budget, take)
            });
            match read.inspect_err(|_| page.broken = Some(*mpid))? {
                Some(ControlFlow::Continue(bytes)) => budget.deliver(bytes),
                Some(ControlFlow::Break(())) => return Ok(true),
                None => {}
            }
            page.last = Some(*mpid);
        }
        Ok(false)
    }

    /// Breaks if the page has to end before the profile.
    fn read_as_of(
        &self,
        Source { parts, workspace, as_of: AsOf { of, filter, now, .. } }: Source<'_>,
        mpid: Mpid,
        row: &ProfileRow<'_>,
        budget: &mut Budget,
        take: &mut impl FnMut(Mpid, &[u8]) -> Result<Option<usize>, StoreError>,
    ) -> Result<ControlFlow<(), Option<usize>>, StoreError> {
        if !filter.has_profile(mpid) {
            return Ok(ControlFlow::Continue(None)); // Before a walk, which may be long.
        }
        if Place::from(row.last_event) <= of {
            return Ok(ControlFlow::Continue(served(row, now, |profile| take(mpid, profile))?.flatten()));
        }
        let walk = WalkBack { workspace, mpid, of };
        let Some(first) = self.first_change(parts, walk, row.last_event, budget)? else {
            return Ok(ControlFlow::Break(()));
        };
        let first =
            self.event(workspace, first, |event| Transition::decode(event.event).map_err(|_| Kind::Event.corrupt()))?;
        let Some(mut before) = before(first, mpid) else { return Ok(ControlFlow::Continue(None)) };
        remove_expired(&mut before, now);
        take(mpid, &before.encode_to_vec()).map(ControlFlow::Continue)
    }

    fn is_sound(&self, workspace: WorkspaceId, mpid: Mpid) -> bool {
        matches!(tables::profile(&self.0.profiles, workspace, mpid, |_| Ok(())), Ok(Some(())))
    }

    /// Returns the position before the next profile that can be read.
    fn before_next_sound(
        &self,
        workspace: WorkspaceId,
        of: Place,
        after: Option<Mpid>,
    ) -> Result<Position, StoreError> {
        Ok(match self.next_sound(workspace, after)? {
            Some(sound) => Position::Snapshot { of, after: sound.previous().max(after) },
            None => Position::Log(of),
        })
    }
}
