//! Reads of the latest committed state.
//!
//! In reading order:
//! - `profiles`: lookups and lists of profiles. `as_of`: profiles as they were at a place in the log. `parts`: the walks
//!   that this takes.
//! - `page`: the bounds of one page of a list.
//! - `pool`: how many reads run at a time, and whose turn it is.
//! - `log`: the events of a workspace. `history`: the events of one profile. `workspaces`: the list of workspaces.
//!   `subscriptions`: durable subscriptions. `audiences`: audiences and their members, in pages of
//!   `numbered` rows.
//! - `people`: who owns which identities, and what an erasure would remove.
//! - `listing`: all reads of one page of a list, in one state.
//!
//! What always holds:
//! - A snapshot's tables are opened once, after each commit, and shared by all readers. A lookup is one descent of a
//!   B-tree, and its result is copied once, from the page into the response.
//! - A snapshot pins the pages that later commits replace. So no reader keeps one for longer than a page of work, and
//!   no response refers to one: a client that stops reading could otherwise keep it forever.
//! - A row that does not verify is [`StoreError::Corrupt`] for that read alone. A list delivers what comes before the
//!   damage, and says where it can continue.
//!
//! Deliberately absent: a cache of pages or profiles, because redb has one.

mod as_of;
mod audiences;
mod history;
mod listing;
mod log;
mod numbered;
mod page;
mod parts;
mod people;
mod pool;
mod profiles;
mod subscriptions;
mod workspaces;

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use redb::{ReadOnlyTable, ReadTransaction};

pub use as_of::AsOf;
pub(super) use history::{History, Walks};
pub use listing::{ListedEvents, Listing};
pub use log::{EventPage, EventRef, LogBounds};
pub use page::PageSize;
#[cfg(test)]
pub(super) use page::ROWS;
pub(super) use parts::Parts;
pub use people::{Identified, Subject};
pub(super) use pool::Pool;
pub use pool::ReadClass;
pub use profiles::{Found, Lookups};
pub use subscriptions::SubscriptionView;

use super::WorkspaceId;
use super::error::StoreError;
use super::rows::{OwnerRow, Secret};
use super::tables::{
    self, ABSORBED, AUDIENCES, EVENTS, EXPIRIES, HEADS, IDENTITIES, IDENTITY_SETTINGS, MEMBERS, MERGES, PROFILES,
    PROGRESS, SKIPPED, SUBSCRIPTIONS, WORKSPACES,
};

/// The open tables of one committed state.
pub(super) struct SnapshotTables {
    profiles: ReadOnlyTable<(u32, i64), &'static [u8]>,
    identities: ReadOnlyTable<&'static [u8; 20], &'static [u8; OwnerRow::LENGTH]>,
    events: ReadOnlyTable<(u32, u64), &'static [u8]>,
    heads: ReadOnlyTable<u32, &'static [u8]>,
    workspaces: ReadOnlyTable<&'static [u8], &'static [u8]>,
    subscriptions: ReadOnlyTable<&'static [u8], &'static [u8]>,
    progress: ReadOnlyTable<&'static [u8], &'static [u8]>,
    skipped: ReadOnlyTable<&'static [u8], &'static [u8]>,
    audiences: ReadOnlyTable<&'static [u8], &'static [u8]>,
    members: ReadOnlyTable<&'static [u8], &'static [u8]>,
    expiries: ReadOnlyTable<&'static [u8], &'static [u8]>,
    merges: ReadOnlyTable<&'static [u8], &'static [u8]>,
    absorbed: ReadOnlyTable<&'static [u8], &'static [u8]>,
    identity_settings: ReadOnlyTable<&'static [u8], &'static [u8]>,
    secret: Secret,
    /// Keeps the file open. Dropped last.
    _reader: Reader,
}

/// Held by every snapshot of a database. It carries nothing: that the last one is dropped is the message.
#[derive(Debug, Clone)]
pub(super) struct Reader(#[allow(dead_code)] Sender<Infallible>); // Only its drop matters.

impl Reader {
    /// The receiver is disconnected once the reader and its clones are gone.
    pub fn first() -> (Self, Receiver<Infallible>) {
        let (reader, readers) = channel();
        (Self(reader), readers)
    }
}

impl SnapshotTables {
    pub fn open(transaction: &ReadTransaction, secret: Secret, reader: Reader) -> Result<Self, redb::TableError> {
        Ok(Self {
            profiles: transaction.open_table(PROFILES)?,
            identities: transaction.open_table(IDENTITIES)?,
            events: transaction.open_table(EVENTS)?,
            heads: transaction.open_table(HEADS)?,
            workspaces: transaction.open_table(WORKSPACES)?,
            subscriptions: transaction.open_table(SUBSCRIPTIONS)?,
            progress: transaction.open_table(PROGRESS)?,
            skipped: transaction.open_table(SKIPPED)?,
            audiences: transaction.open_table(AUDIENCES)?,
            members: transaction.open_table(MEMBERS)?,
            expiries: transaction.open_table(EXPIRIES)?,
            merges: transaction.open_table(MERGES)?,
            absorbed: transaction.open_table(ABSORBED)?,
            identity_settings: transaction.open_table(IDENTITY_SETTINGS)?,
            secret,
            _reader: reader,
        })
    }
}

impl fmt::Debug for SnapshotTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SnapshotTables")
    }
}

/// One committed state. It pins pages of the file, so it must not be kept: see the module.
#[derive(Debug, Clone)]
pub struct Snapshot(Arc<SnapshotTables>);

impl Snapshot {
    pub(super) fn new(tables: Arc<SnapshotTables>) -> Self {
        Self(tables)
    }

    /// Returns the ends of a workspace's log.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn log_bounds(&self, workspace: WorkspaceId) -> Result<LogBounds, StoreError> {
        tables::head(&self.0.heads, workspace).map(LogBounds::from)
    }
}
