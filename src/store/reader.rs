//! Reads of the latest committed state.
//!
//! The tables of a snapshot are opened once, after each commit, and shared by all readers: a lookup is one descent of
//! a B-tree, and what it finds is copied once, from the page into the answer. A snapshot pins the pages that later
//! commits replace, so nobody keeps one for longer than a page of work, and no answer refers to one: a client that does
//! not read could otherwise keep it for ever.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use prost::Message;
use redb::{ReadOnlyTable, ReadTransaction};
use tokio_util::sync::CancellationToken;

use super::WorkspaceId;
use super::error::StoreError;
use super::rows::{EventRow, ProfileRow, read_owner, stored_mpid};
use super::tables::{EVENTS, IDENTITIES, PROFILES};
use crate::model::profile::is_expired;
use crate::model::{EventKind, Filter, IdentityKey, Micros, Mpid, ProfileKey, Sequence};
use crate::proto::v1::Profile;

/// Rows read for one page, matching or not: what bounds a call whose filter matches little.
const PAGE_ROWS: usize = 10_000;

/// The open tables of one committed state.
pub(super) struct SnapshotTables {
    profiles: ReadOnlyTable<(u32, i64), &'static [u8]>,
    identities: ReadOnlyTable<(u32, &'static [u8]), (i64, u64)>,
    events: ReadOnlyTable<(u32, u64), &'static [u8]>,
    /// Cancelled when redb cannot read: after that it reads nothing more until it is opened anew.
    failed: CancellationToken,
}

impl SnapshotTables {
    pub fn open(transaction: &ReadTransaction, failed: CancellationToken) -> Result<Self, redb::TableError> {
        Ok(Self {
            failed,
            profiles: transaction.open_table(PROFILES)?,
            identities: transaction.open_table(IDENTITIES)?,
            events: transaction.open_table(EVENTS)?,
        })
    }
}

impl fmt::Debug for SnapshotTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SnapshotTables")
    }
}

/// One committed state. Short-lived: see the module.
#[derive(Debug, Clone)]
pub struct Snapshot(Arc<SnapshotTables>);

/// The first and the last event of a log. Both 0 if it is empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogBounds {
    /// The oldest event that is still held.
    pub oldest: Sequence,
    /// The latest.
    pub head: Sequence,
    /// When the oldest happened.
    pub oldest_time: Micros,
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

/// What a page of the log came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventPage {
    /// Nothing matching at or before this is unread.
    pub through: Sequence,
    /// Whether that is the end of what was asked for.
    pub complete: bool,
}

impl Snapshot {
    pub(super) fn new(tables: Arc<SnapshotTables>) -> Self {
        Self(tables)
    }

    /// Gives `read` the wire bytes of a profile as of `now`: a membership that has expired is not in it. What it
    /// answers must not refer to them, for then it would keep the snapshot.
    ///
    /// # Errors
    /// [`StoreError`] if the row cannot be read.
    pub fn profile<T>(
        &self,
        workspace: WorkspaceId,
        mpid: Mpid,
        now: Micros,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, StoreError> {
        let Some(guard) = self.checked(self.0.profiles.get((workspace.0, mpid.get())))? else { return Ok(None) };
        let row = ProfileRow::read(workspace, mpid, guard.value())?;
        served(row, now, read)
    }

    /// The same for whoever names it by mpid or by identity.
    ///
    /// # Errors
    /// [`StoreError::ProfileNotFound`], or another if a row cannot be read.
    pub fn find<T>(
        &self,
        workspace: WorkspaceId,
        key: &ProfileKey,
        now: Micros,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, StoreError> {
        let mpid = match key {
            ProfileKey::Mpid(mpid) => Some(*mpid),
            ProfileKey::Identity(identity) => self.owner(workspace, &identity.key)?,
        };
        let found = match mpid {
            Some(mpid) => self.profile(workspace, mpid, now, read)?,
            None => None,
        };
        found.ok_or_else(|| StoreError::not_found(key))
    }

    /// Gives `take` the profiles after one, or from the first on, by mpid, until it has enough and says `false`.
    /// Answers the profile after which the next page begins; `None` if there is none.
    ///
    /// # Errors
    /// [`StoreError`] if a row cannot be read.
    pub fn profiles(
        &self,
        workspace: WorkspaceId,
        after: Option<Mpid>,
        now: Micros,
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<Option<Mpid>, StoreError> {
        let first = match after {
            Some(after) => Bound::Excluded((workspace.0, after.get())),
            None => Bound::Included((workspace.0, i64::MIN)),
        };
        let mut rows = self.checked(self.0.profiles.range((first, Bound::Included((workspace.0, i64::MAX)))))?;
        let mut last = None;
        for row in rows.by_ref().take(PAGE_ROWS) {
            let (key, row) = self.checked(row)?;
            let mpid = stored_mpid(key.value().1)?;
            last = Some(mpid);
            let room = served(ProfileRow::read(workspace, mpid, row.value())?, now, &mut take)?;
            if room == Some(false) {
                break;
            }
        }
        let more = self.checked(rows.next().transpose())?.is_some();
        Ok(last.filter(|_| more))
    }

    /// The profile that owns an identity.
    ///
    /// # Errors
    /// [`StoreError`] if the row cannot be read.
    pub fn owner(&self, workspace: WorkspaceId, key: &IdentityKey) -> Result<Option<Mpid>, StoreError> {
        let owner = self.checked(self.0.identities.get((workspace.0, key.as_bytes())))?;
        owner.map(|owner| read_owner(workspace, key, owner.value())).transpose()
    }

    /// The ends of a workspace's log.
    ///
    /// # Errors
    /// [`StoreError`] if a row cannot be read.
    pub fn log_bounds(&self, workspace: WorkspaceId) -> Result<LogBounds, StoreError> {
        let mut range = self.checked(self.0.events.range((workspace.0, 0)..=(workspace.0, u64::MAX)))?;
        let Some((key, row)) = self.checked(range.next().transpose())? else { return Ok(LogBounds::default()) };
        let oldest = key.value().1;
        let oldest_time = EventRow::read(workspace, oldest, row.value())?.time;
        let head = self.checked(range.next_back().transpose())?.map_or(oldest, |(key, _)| key.value().1);
        Ok(LogBounds { oldest, head, oldest_time })
    }

    /// Gives `take` the matching events after one and up to another, in order, until it has enough and says `false`.
    ///
    /// # Errors
    /// [`StoreError::Expired`] if the first of them is no longer held, or what a row that cannot be read gives.
    pub fn events(
        &self,
        workspace: WorkspaceId,
        after: Sequence,
        through: Sequence,
        filter: &Filter,
        mut take: impl FnMut(EventRef<'_>) -> bool,
    ) -> Result<EventPage, StoreError> {
        let mut last = after;
        if after >= through {
            return Ok(EventPage { through: after, complete: true });
        }
        let rows = self.checked(self.0.events.range((workspace.0, after + 1)..=(workspace.0, through)))?;
        for row in rows.take(PAGE_ROWS) {
            let (key, row) = self.checked(row)?;
            let sequence = key.value().1;
            if sequence != last + 1 {
                return Err(self.expired(workspace)?);
            }
            last = sequence;
            let row = EventRow::read(workspace, sequence, row.value())?;
            if filter.matches(row.kind, row.mpid, row.silent) && !take(EventRef::new(sequence, &row)) {
                break;
            }
        }
        if last == after {
            return Err(self.expired(workspace)?);
        }
        Ok(EventPage { through: last, complete: last == through })
    }

    /// The numbers of a profile's events after one and up to another, in order: a walk along the chain that links them,
    /// from its end. `None` if the walk would be longer than reading a page of the log.
    ///
    /// # Errors
    /// [`StoreError`] if a row cannot be read.
    pub fn history(
        &self,
        workspace: WorkspaceId,
        mpid: Mpid,
        after: Sequence,
        through: Sequence,
    ) -> Result<Option<Vec<Sequence>>, StoreError> {
        let mut chain = Vec::new();
        let mut next = match self.checked(self.0.profiles.get((workspace.0, mpid.get())))? {
            Some(row) => ProfileRow::read(workspace, mpid, row.value())?.last_event,
            None => 0,
        };
        while next > after {
            if chain.len() == PAGE_ROWS {
                return Ok(None);
            }
            let Some(row) = self.checked(self.0.events.get((workspace.0, next)))? else { break };
            if next <= through {
                chain.push(next);
            }
            next = EventRow::read(workspace, next, row.value())?.previous;
        }
        chain.reverse();
        Ok(Some(chain))
    }

    /// Reads one event.
    ///
    /// # Errors
    /// [`StoreError`] if the row cannot be read or is not there.
    pub fn event<T>(
        &self,
        workspace: WorkspaceId,
        sequence: Sequence,
        read: impl FnOnce(EventRef<'_>) -> T,
    ) -> Result<T, StoreError> {
        let row =
            self.checked(self.0.events.get((workspace.0, sequence)))?.ok_or(StoreError::Corrupt { table: "event" })?;
        let row = EventRow::read(workspace, sequence, row.value())?;
        Ok(read(EventRef::new(sequence, &row)))
    }

    /// Every read goes through here.
    fn checked<T>(&self, read: Result<T, redb::StorageError>) -> Result<T, StoreError> {
        read.map_err(|error| {
            self.0.failed.cancel();
            error.into()
        })
    }

    fn expired(&self, workspace: WorkspaceId) -> Result<StoreError, StoreError> {
        Ok(self.log_bounds(workspace)?.expired())
    }
}

/// Gives `read` what is served of a profile as of `now`; `None` if it was deleted.
fn served<T>(row: ProfileRow<'_>, now: Micros, read: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, StoreError> {
    if row.profile.is_empty() {
        return Ok(None);
    }
    if row.next_expiry > now {
        return Ok(Some(read(row.profile)));
    }
    let mut profile = Profile::decode(row.profile).map_err(|_| StoreError::Corrupt { table: "profile" })?;
    profile.audience_memberships.retain(|membership| !is_expired(membership, now));
    Ok(Some(read(&profile.encode_to_vec())))
}

impl<'a> EventRef<'a> {
    fn new(sequence: Sequence, row: &EventRow<'a>) -> Self {
        Self { sequence, mpid: row.mpid, kind: row.kind, silent: row.silent, event: row.event }
    }
}

impl LogBounds {
    /// Refuses a place whose next event is no longer held.
    ///
    /// # Errors
    /// [`StoreError::Expired`].
    pub fn check_held(&self, after: Sequence) -> Result<(), StoreError> {
        if after + 1 < self.oldest { Err(self.expired()) } else { Ok(()) }
    }

    fn expired(&self) -> StoreError {
        let Self { oldest, head, oldest_time } = *self;
        StoreError::Expired { oldest, head, oldest_time }
    }
}
