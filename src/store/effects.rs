//! The result of a decision: the rows to write, the events to append and those to trim, for any number of profiles.
//!
//! Everything is already encoded, so writing it cannot fail unless redb does.

use bytes::Bytes;

use super::rows::{AgeKey, Head, IdentityHash};
use super::{EndedStreams, PAGE, WorkspaceId};
use crate::model::{AudienceId, EventKind, Micros, Mpid, Sequence, Workspace};

/// Everything that a command writes, encoded.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// The workspace to write to. `None` if there is nothing to write.
    pub workspace: Option<WorkspaceId>,
    /// The workspace's name, if this command creates it.
    pub born: Option<Workspace>,
    pub profiles: Vec<ProfileWrite>,
    /// Applied in this order: one command may move an identity from one owner to another.
    pub owners: Vec<OwnerWrite>,
    /// In sequence order. The first event follows the current head of the log.
    pub events: Vec<EventWrite>,
    /// The oldest events of the log, whose rows are removed.
    pub trimmed: Vec<Sequence>,
    /// The head of the log after that. `None` if it stays as it is.
    pub head: Option<Head>,
    /// Events that lost values, whose rows are replaced.
    pub rewritten: Vec<(Sequence, Vec<u8>)>,
    /// Rows of other tables, whose keys are bytes.
    pub rows: Vec<RowWrite>,
    pub request: Option<RequestWrite>,
    /// Keys of expired request ids, to remove with the requests that they name.
    pub forgotten: Vec<AgeKey>,
    /// The streams that can acknowledge nothing more. This is told to the feed, not written.
    pub ended: Option<EndedStreams>,
    /// The earliest end of a membership among those that it writes.
    pub next_end: Option<Micros>,
    /// The audiences of which it leaves work to do.
    pub works: Vec<AudienceId>,
    /// Keys of damaged rows of the requests by age. Only these rows are removed: which request such a key names is
    /// uncertain.
    pub damaged_ages: Vec<Vec<u8>>,
}

/// A profile's row.
#[derive(Debug)]
pub(super) struct ProfileWrite {
    pub mpid: Mpid,
    pub row: Vec<u8>,
}

/// The new owner of an identity. `None` removes the identity from the index.
#[derive(Debug)]
pub(super) struct OwnerWrite {
    pub identity: IdentityHash,
    pub owner: Option<Mpid>,
}

/// An event, both as a row and as subscribers receive it.
#[derive(Debug)]
pub(super) struct EventWrite {
    pub sequence: Sequence,
    pub mpid: Mpid,
    pub kind: EventKind,
    pub silent: bool,
    /// The profile that was absorbed, if the event is that of a merge.
    pub other: Option<Mpid>,
    pub row: Bytes,
    /// Encoded `Event`: the last part of the row.
    pub event: Bytes,
}

/// A row of a table that has bytes for keys. `None` removes it.
#[derive(Debug)]
pub(super) struct RowWrite {
    pub table: RowTable,
    pub key: Vec<u8>,
    pub row: Option<Vec<u8>>,
}

/// The tables that have bytes for keys. Requests are here for erasures, which remove what tells of their content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowTable {
    Settings,
    Progress,
    Skipped,
    Audience,
    Member,
    Expiry,
    Merge,
    Absorbed,
    IdentitySettings,
    Remembered,
    Request,
}

/// The result of a request that had an id.
#[derive(Debug)]
pub(super) struct RequestWrite {
    pub key: Vec<u8>,
    pub row: Vec<u8>,
    pub age: AgeKey,
    /// The age key of an earlier request with the same id, to remove.
    pub replaces: Option<AgeKey>,
}

/// The tables that hold a request: one by id, one by age.
const REQUEST_TABLES: usize = 2;
/// The memory of a write beside its row, or of a write with a small row, in bytes.
const WRITE: usize = 128;

impl Effects {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.workspace.is_none()
            && self.profiles.is_empty()
            && self.owners.is_empty()
            && self.events.is_empty()
            && self.rewritten.is_empty()
            && self.rows.is_empty()
            && self.head.is_none()
            && self.request.is_none()
    }

    /// Bytes that the batch keeps in memory until its callers have their results.
    pub fn held_bytes(&self) -> usize {
        self.events.iter().map(|event| event.row.len()).sum()
    }

    /// Estimates the memory that the effects take while a compaction or a backup keeps them, in bytes.
    pub fn kept_bytes(&self) -> usize {
        let Self {
            workspace: _,
            born: _,
            profiles,
            owners,
            events,
            trimmed,
            head: _,
            next_end: _,
            works: _,
            ended: _,
            rewritten,
            rows: others,
            request,
            forgotten,
            damaged_ages,
        } = self;
        let rows = profiles.iter().map(|profile| profile.row.len()).sum::<usize>()
            + events.iter().map(|event| event.row.len()).sum::<usize>()
            + rewritten.iter().map(|(_, row)| row.len()).sum::<usize>()
            + others.iter().map(|write| write.key.len() + write.row.as_ref().map_or(0, Vec::len)).sum::<usize>();
        let small = owners.len() + trimmed.len() + REQUEST_TABLES * usize::from(request.is_some());
        let large = profiles.len() + events.len() + rewritten.len() + others.len();
        let writes = large + small + forgotten.len() + damaged_ages.len();
        size_of::<Self>() + rows + WRITE * writes
    }

    /// Estimates how many bytes of pages these writes make dirty. A row can lie anywhere in its table, so each row
    /// costs at least one page.
    pub fn dirty_bytes(&self) -> usize {
        let profiles = self.profiles.iter().map(|profile| pages(profile.row.len()));
        let events = self.events.iter().map(|event| pages(event.row.len()));
        let requests = REQUEST_TABLES * (usize::from(self.request.is_some()) + self.forgotten.len());
        let rewritten = self.rewritten.iter().map(|(_, row)| pages(row.len()));
        let rows = self.rows.iter().map(|write| pages(write.row.as_ref().map_or(0, Vec::len)));
        let others = self.owners.len() + self.trimmed.len() + requests + self.damaged_ages.len();
        PAGE * (profiles.chain(events).chain(rewritten).chain(rows).sum::<usize>() + others)
    }
}

/// Pages of a row that shares none. redb puts a large row into one page of a power of two.
fn pages(row: usize) -> usize {
    (row / PAGE + 1).next_power_of_two()
}
