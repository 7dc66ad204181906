//! Every table of the file. A change of layout is a new name here, and a new [`FORMAT`].

use std::collections::HashMap;

use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError, WriteTransaction,
};

use super::error::{OpenError, StoreError};
use super::rows::{EventRow, ProfileRow, RequestRow};
use super::{WorkspaceId, rows};
use crate::model::{IdentityKey, LogId, Micros, Mpid, Sequence, Workspace};

/// 2: identities are keyed by the first of their type's names.
const FORMAT: u64 = 2;
/// Rows in memory while a file is brought to it.
const RENAMED_AT_ONCE: usize = 10_000;

/// Facts about the file itself: `format`, `log_id`.
pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta_v1");
/// Name to id. Rows are never removed, so the next id is the number of rows and one.
pub(super) const WORKSPACES: TableDefinition<&str, u32> = TableDefinition::new("workspaces_v1");
/// (workspace, mpid) to `ProfileRow`.
pub(super) const PROFILES: TableDefinition<(u32, i64), &[u8]> = TableDefinition::new("profiles_v1");
/// (workspace, `IdentityKey`) to the mpid of its owner, and a checksum.
pub(super) const IDENTITIES: TableDefinition<(u32, &[u8]), (i64, u64)> = TableDefinition::new("identities_v1");
/// (workspace, sequence) to `EventRow`. The newest row of a workspace is never removed: it is the head of the log.
pub(super) const EVENTS: TableDefinition<(u32, u64), &[u8]> = TableDefinition::new("events_v1");
/// (workspace, `request_id`) to `RequestRow`.
pub(super) const REQUESTS: TableDefinition<(u32, &str), &[u8]> = TableDefinition::new("requests_v1");
/// (time, workspace, `request_id`): the same by age, so that the oldest can be forgotten.
pub(super) const REQUEST_AGES: TableDefinition<(i64, u32, &str), ()> = TableDefinition::new("request_ages_v1");

/// The end of a workspace's log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// `None` until the first write.
    pub workspace: Option<WorkspaceId>,
    pub sequence: Sequence,
    pub time: Micros,
}

/// Makes the tables of a new file, and answers the id of its log.
pub(super) fn initialize(database: &Database) -> Result<LogId, OpenError> {
    let transaction = database.begin_read()?;
    match transaction.open_table(META) {
        Ok(meta) => {
            let found = meta.get("format")?.map_or(0, |value| value.value());
            let log = meta.get("log_id")?.map(|value| value.value());
            match log {
                Some(log) if found == FORMAT => Ok(LogId(log)),
                Some(log) if found == 1 => migrate_from_1(database).map(|()| LogId(log)),
                _ => Err(OpenError::Format { found, expected: FORMAT }),
            }
        }
        Err(TableError::TableDoesNotExist(_)) => create(database),
        Err(error) => Err(error.into()),
    }
}

fn create(database: &Database) -> Result<LogId, OpenError> {
    let log = LogId(rand::random());
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert("format", FORMAT)?;
        meta.insert("log_id", log.0)?;
        Tables::open(&transaction).map_err(|error| match error {
            StoreError::Storage(error) => OpenError::Storage(error),
            _ => unreachable!("opening tables fails only in redb"),
        })?;
    }
    transaction.commit()?;
    Ok(log)
}

/// Keys the identities by the first of their types' names: all of them or, if this is broken off, none.
fn migrate_from_1(database: &Database) -> Result<(), OpenError> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    {
        let workspaces = transaction.open_table(WORKSPACES)?;
        let ids = workspaces.iter()?.map(|row| row.map(|(_, id)| id.value())).collect::<Result<Vec<_>, _>>()?;
        let mut identities = transaction.open_table(IDENTITIES)?;
        for (id, former) in ids.iter().flat_map(|id| IdentityKey::former_types().map(|former| (*id, former))) {
            while rename(&mut identities, WorkspaceId(id), former)? > 0 {}
        }
        transaction.open_table(META)?.insert("format", FORMAT)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Renames some of the identities of a type, and answers how many. Where another profile owns the same identity by the
/// name that stays, that one keeps it.
fn rename(
    identities: &mut Table<'_, (u32, &'static [u8]), (i64, u64)>,
    id: WorkspaceId,
    former: &str,
) -> Result<usize, OpenError> {
    let (first, end) = ([former.as_bytes(), b"\0"].concat(), [former.as_bytes(), b"\x01"].concat());
    let mut rows = Vec::new();
    for row in identities.range((id.0, &*first)..(id.0, &*end))?.take(RENAMED_AT_ONCE) {
        let (key, owner) = row?;
        rows.push((key.value().1.to_vec(), owner.value()));
    }
    for (former, owner) in &rows {
        let corrupt = || OpenError::Corrupt { table: "identity" };
        let (former, key) = IdentityKey::renamed(former).ok_or_else(corrupt)?;
        let owner = rows::read_owner(id, &former, *owner).map_err(|_| corrupt())?;
        identities.remove((id.0, former.as_bytes()))?;
        if identities.get((id.0, key.as_bytes()))?.is_none() {
            identities.insert((id.0, key.as_bytes()), rows::owner_row(id, &key, owner))?;
        }
    }
    Ok(rows.len())
}

/// All workspaces of the file.
pub(super) fn workspaces(transaction: &ReadTransaction) -> Result<HashMap<Workspace, WorkspaceId>, OpenError> {
    let mut all = HashMap::new();
    for row in transaction.open_table(WORKSPACES)?.iter()? {
        let (name, id) = row?;
        let name = Workspace::parse(name.value()).map_err(|_| OpenError::Format { found: 0, expected: FORMAT })?;
        all.insert(name, WorkspaceId(id.value()));
    }
    Ok(all)
}

/// The tables of one write transaction, with the few things that are done to them.
pub(super) struct Tables<'txn> {
    workspaces: Table<'txn, &'static str, u32>,
    profiles: Table<'txn, (u32, i64), &'static [u8]>,
    identities: Table<'txn, (u32, &'static [u8]), (i64, u64)>,
    events: Table<'txn, (u32, u64), &'static [u8]>,
    requests: Table<'txn, (u32, &'static str), &'static [u8]>,
    request_ages: Table<'txn, (i64, u32, &'static str), ()>,
}

impl<'txn> Tables<'txn> {
    pub fn open(transaction: &'txn WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            workspaces: transaction.open_table(WORKSPACES)?,
            profiles: transaction.open_table(PROFILES)?,
            identities: transaction.open_table(IDENTITIES)?,
            events: transaction.open_table(EVENTS)?,
            requests: transaction.open_table(REQUESTS)?,
            request_ages: transaction.open_table(REQUEST_AGES)?,
        })
    }

    pub fn head(&self, workspace: &Workspace) -> Result<Head, StoreError> {
        let Some(id) = self.workspaces.get(workspace.as_str())?.map(|id| id.value()) else {
            return Ok(Head::default());
        };
        let newest = self.events.range((id, 0)..=(id, u64::MAX))?.next_back().transpose()?;
        // Without events if a request that changed nothing is remembered in it.
        let Some((key, row)) = newest else { return Ok(Head { workspace: Some(WorkspaceId(id)), ..Head::default() }) };
        let sequence = key.value().1;
        let time = EventRow::read(WorkspaceId(id), sequence, row.value())?.time;
        Ok(Head { workspace: Some(WorkspaceId(id)), sequence, time })
    }

    pub fn intern(&mut self, workspace: &Workspace) -> Result<WorkspaceId, StoreError> {
        use redb::ReadableTableMetadata;
        let id = u32::try_from(self.workspaces.len()? + 1).map_err(|_| StoreError::Overloaded)?;
        self.workspaces.insert(workspace.as_str(), id)?;
        Ok(WorkspaceId(id))
    }

    /// The row of a profile, of a deleted one too.
    pub fn profile<T>(
        &self,
        workspace: WorkspaceId,
        mpid: Mpid,
        read: impl FnOnce(ProfileRow<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let Some(row) = self.profiles.get((workspace.0, mpid.get()))? else { return Ok(None) };
        read(ProfileRow::read(workspace, mpid, row.value())?).map(Some)
    }

    pub fn set_profile(&mut self, workspace: WorkspaceId, mpid: Mpid, row: &[u8]) -> Result<(), StoreError> {
        self.profiles.insert((workspace.0, mpid.get()), row)?;
        Ok(())
    }

    pub fn owner(&self, workspace: WorkspaceId, key: &IdentityKey) -> Result<Option<Mpid>, StoreError> {
        let owner = self.identities.get((workspace.0, key.as_bytes()))?;
        owner.map(|owner| rows::read_owner(workspace, key, owner.value())).transpose()
    }

    pub fn set_owner(&mut self, workspace: WorkspaceId, key: &IdentityKey, owner: Mpid) -> Result<(), StoreError> {
        self.identities.insert((workspace.0, key.as_bytes()), rows::owner_row(workspace, key, owner))?;
        Ok(())
    }

    /// Only from this owner: a profile of a file of format 1 may name an identity that another owns by another name.
    pub fn remove_owner(&mut self, workspace: WorkspaceId, key: &IdentityKey, of: Mpid) -> Result<(), StoreError> {
        if self.owner(workspace, key)? == Some(of) {
            self.identities.remove((workspace.0, key.as_bytes()))?;
        }
        Ok(())
    }

    pub fn event<T>(
        &self,
        workspace: WorkspaceId,
        sequence: Sequence,
        read: impl FnOnce(EventRow<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let Some(row) = self.events.get((workspace.0, sequence))? else { return Ok(None) };
        read(EventRow::read(workspace, sequence, row.value())?).map(Some)
    }

    pub fn append_event(&mut self, workspace: WorkspaceId, sequence: Sequence, row: &[u8]) -> Result<(), StoreError> {
        self.events.insert((workspace.0, sequence), row)?;
        Ok(())
    }

    pub fn request(&self, workspace: WorkspaceId, id: &str) -> Result<Option<RequestRow>, StoreError> {
        self.requests.get((workspace.0, id))?.map(|row| RequestRow::read(workspace, id, row.value())).transpose()
    }

    pub fn set_request(&mut self, workspace: WorkspaceId, id: &str, row: &RequestRow) -> Result<(), StoreError> {
        if let Some(old) = self.request(workspace, id)? {
            self.request_ages.remove((old.time, workspace.0, id))?;
        }
        self.requests.insert((workspace.0, id), row.encode(workspace, id).as_slice())?;
        self.request_ages.insert((row.time, workspace.0, id), ())?;
        Ok(())
    }

    /// Forgets at most `limit` of the requests that are older than `time`.
    pub fn forget_requests(&mut self, time: Micros, limit: usize) -> Result<(), StoreError> {
        for _ in 0..limit {
            let oldest = self.request_ages.first()?.map(|(key, _)| {
                let (time, workspace, id) = key.value();
                (time, workspace, id.to_owned())
            });
            match oldest {
                Some((age, workspace, id)) if age < time => {
                    self.request_ages.remove((age, workspace, id.as_str()))?;
                    self.requests.remove((workspace, id.as_str()))?;
                }
                _ => break,
            }
        }
        Ok(())
    }
}
