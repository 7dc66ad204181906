//! Every table of the file, and how its rows are looked up and written.
//!
//! - A table whose keys change gets a new name here. A table whose values change gets a new format: see `rows`.
//! - A lookup returns `None` only if the row is truly absent. If damage could hide the row, the lookup fails.
//!
//! Deliberately absent: walks over a range of rows, which are in `read` and `scrub`.

use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};

use redb::{
    AccessGuard, Key, ReadTransaction, ReadableTable, StorageError, Table, TableDefinition, TableError, Value,
    WriteTransaction,
};

use super::WorkspaceId;
use super::effects::{Effects, RequestWrite, RowTable, RowWrite};
use super::error::StoreError;
use super::rows::{
    AgeKey, AgeRow, EventRow, FormatsRow, Head, HeadRow, IdentityHash, Kind, LogRow, Origin, OwnerKey, OwnerRow,
    ProfileRow, ProgressRow, RequestRow, SecretRow, SettingsRow, WorkspaceRow, stored_mpid,
};
use crate::model::{Mpid, Sequence, Workspace};
use crate::proto::v1::Subscription;

/// Facts about the file itself, by name: see `rows::meta`.
pub(super) const META: TableDefinition<&[u8], &[u8]> = TableDefinition::new("meta_v2");
/// Workspace name to its number: `WorkspaceRow`. Rows are never removed, and the numbers have no holes.
pub(super) const WORKSPACES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("workspaces_v2");
/// Workspace number to the ends of its log: `HeadRow`.
pub(super) const HEADS: TableDefinition<u32, &[u8]> = TableDefinition::new("heads_v1");
/// (workspace, mpid) to `ProfileRow`.
pub(super) const PROFILES: TableDefinition<(u32, i64), &[u8]> = TableDefinition::new("profiles_v1");
/// Workspace and hash of an identity to the identity's owner: `OwnerRow`.
pub(super) const IDENTITIES: TableDefinition<&OwnerKey, &[u8; OwnerRow::LENGTH]> =
    TableDefinition::new("identities_v2");
/// (workspace, sequence) to `EventRow`.
pub(super) const EVENTS: TableDefinition<(u32, u64), &[u8]> = TableDefinition::new("events_v1");
/// Workspace and request id to `RequestRow`.
pub(super) const REQUESTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("requests_v2");
/// `AgeKey` to `AgeRow`: the same requests by age, so that the oldest can be forgotten first.
pub(super) const REQUEST_AGES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("request_ages_v2");

/// Workspace and name of a subscription to `SettingsRow`.
pub(super) const SUBSCRIPTIONS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("subscriptions_v1");
/// The same to `ProgressRow`. Every subscription has both.
pub(super) const PROGRESS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("progress_v1");
/// Workspace, subscription and sequence to `SkippedRow`.
pub(super) const SKIPPED: TableDefinition<&[u8], &[u8]> = TableDefinition::new("skipped_v1");

/// Workspace and audience to `AudienceRow`.
pub(super) const AUDIENCES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("audiences_v1");
/// Workspace, audience and mpid to `MemberRow`.
pub(super) const MEMBERS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("members_v1");
/// Workspace, time and mpid to `ExpiryRow`: the profiles of which a membership ends, by the earliest end of each.
pub(super) const EXPIRIES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("expiries_v1");
/// Workspace and absorbed mpid to `MergeRow`.
pub(super) const MERGES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("merges_v1");
/// Workspace, surviving mpid and absorbed mpid to `AbsorbedRow`: the profiles whose rows redirect to the survivor.
pub(super) const ABSORBED: TableDefinition<&[u8], &[u8]> = TableDefinition::new("absorbed_v1");
/// Workspace to `IdentitySettingsRow`.
pub(super) const IDENTITY_SETTINGS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("identity_settings_v1");
/// Workspace, hash of an identity and absorbed mpid to `RememberedRow`: the identities in the rows of `MERGES`.
pub(super) const REMEMBERED: TableDefinition<&[u8], &[u8]> = TableDefinition::new("remembered_v1");

/// Short names for the tables in which both readers and the writer look rows up.
pub(super) trait Profiles: ReadableTable<(u32, i64), &'static [u8]> {}
impl<T: ReadableTable<(u32, i64), &'static [u8]>> Profiles for T {}
pub(super) trait Identities: ReadableTable<&'static OwnerKey, &'static [u8; OwnerRow::LENGTH]> {}
impl<T: ReadableTable<&'static OwnerKey, &'static [u8; OwnerRow::LENGTH]>> Identities for T {}
pub(super) trait Events: ReadableTable<(u32, u64), &'static [u8]> {}
impl<T: ReadableTable<(u32, u64), &'static [u8]>> Events for T {}

/// Runs a read of a table. A panic of redb means that the file is damaged there, and fails this read alone.
pub(super) fn guarded<T>(kind: Kind, read: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err(kind.corrupt()))
}

/// Calls `read` with the row of an mpid. Returns `None` only if the rows beside the missing one are sound.
pub(super) fn profile<T>(
    profiles: &impl Profiles,
    workspace: WorkspaceId,
    mpid: Mpid,
    read: impl FnOnce(ProfileRow<'_>) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    let key = (workspace.0, mpid.get());
    guarded(Kind::Profile, || match profiles.get(key)? {
        Some(row) => read(ProfileRow::read(workspace, mpid, row.value())?).map(Some),
        None => absent(profiles, Kind::Profile, &key, verify_profile).map(|()| None),
    })
}

/// Checks that a row that was not found is truly absent. A row whose key is damaged stays where it was, beside the
/// place where the lookup ended. So both neighbours of that place must be sound and in order.
fn absent<'k, K: Key + 'static, V: Value + 'static>(
    table: &impl ReadableTable<K, V>,
    kind: Kind,
    key: &'k K::SelfType<'k>,
    verify: impl for<'a> Fn(K::SelfType<'a>, V::SelfType<'a>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let before = table.range::<&K::SelfType<'k>>(..key)?.next_back().transpose()?;
    let after = table.range::<&K::SelfType<'k>>(key..)?.next().transpose()?;
    for (neighbour, row) in before.iter().chain(&after) {
        verify(neighbour.value(), row.value())?;
    }
    let to_key =
        |other: AccessGuard<'_, K>| K::compare(K::as_bytes(&other.value()).as_ref(), K::as_bytes(key).as_ref());
    let in_order =
        before.is_none_or(|(before, _)| to_key(before).is_lt()) && after.is_none_or(|(after, _)| to_key(after).is_gt());
    if in_order { Ok(()) } else { Err(kind.corrupt()) }
}

fn verify_profile((workspace, mpid): (u32, i64), row: &[u8]) -> Result<(), StoreError> {
    ProfileRow::read(WorkspaceId(workspace), stored_mpid(mpid, Kind::Profile)?, row).map(|_| ())
}

/// Returns the owner of an identity. `None` only if the rows beside the missing one are sound.
pub(super) fn owner(
    identities: &impl Identities,
    workspace: WorkspaceId,
    identity: IdentityHash,
) -> Result<Option<Mpid>, StoreError> {
    let key = OwnerRow::key(workspace, identity);
    guarded(Kind::Identity, || match identities.get(&key)? {
        Some(row) => OwnerRow::read(&key, row.value()).map(Some),
        None => {
            absent(identities, Kind::Identity, &&key, |key, row| OwnerRow::read(key, row).map(|_| ())).map(|()| None)
        }
    })
}

/// Calls `read` with the row of an event.
pub(super) fn event<T>(
    events: &impl Events,
    workspace: WorkspaceId,
    sequence: Sequence,
    read: impl FnOnce(EventRow<'_>) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    guarded(Kind::Event, || {
        let Some(row) = events.get((workspace.0, sequence.get()))? else { return Ok(None) };
        read(EventRow::read(workspace, sequence, row.value())?).map(Some)
    })
}

/// Returns the settings and the progress of a subscription, by its key. `None` only if the rows beside the missing one
/// are sound.
pub(super) fn subscription(
    subscriptions: &impl ReadableTable<&'static [u8], &'static [u8]>,
    all_progress: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &[u8],
) -> Result<Option<(Subscription, ProgressRow)>, StoreError> {
    let settings = guarded(Kind::Subscription, || {
        if let Some(row) = subscriptions.get(key)? {
            return SettingsRow::read(key, row.value()).map(Some);
        }
        let verify = |key: &[u8], row: &[u8]| SettingsRow::read(key, row).map(|_| ());
        absent(subscriptions, Kind::Subscription, &key, verify).map(|()| None)
    })?;
    let Some(settings) = settings else { return Ok(None) };
    let progress = guarded(Kind::Progress, || {
        let row = all_progress.get(key)?.ok_or(Kind::Progress.corrupt())?;
        ProgressRow::read(key, row.value())
    })?;
    Ok(Some((settings, progress)))
}

/// A table whose keys and values are bytes.
pub(super) trait Bytes: ReadableTable<&'static [u8], &'static [u8]> {}
impl<T: ReadableTable<&'static [u8], &'static [u8]>> Bytes for T {}

/// Reads a row by its key. `None` only if the rows beside the missing one are sound.
pub(super) fn row<T>(
    table: &impl Bytes,
    kind: Kind,
    key: &[u8],
    read: impl Fn(&[u8], &[u8]) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    guarded(kind, || {
        if let Some(row) = table.get(key)? {
            return read(key, row.value()).map(Some);
        }
        absent(table, kind, &key, |key: &[u8], row: &[u8]| read(key, row).map(|_| ())).map(|()| None)
    })
}

/// Reads the rows of a range, at most so many.
pub(super) fn rows<T>(
    table: &impl Bytes,
    kind: Kind,
    range: &KeyRange,
    most: usize,
    read: impl Fn(&[u8], &[u8]) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    guarded(kind, || {
        let rows = table.range::<&[u8]>(borrowed(range))?.take(most);
        rows.map(|row| row.map_err(StoreError::from).and_then(|(key, row)| read(key.value(), row.value()))).collect()
    })
}

/// A range of keys.
pub(super) type KeyRange = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// The range as redb takes it.
pub(super) fn borrowed((from, to): &KeyRange) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice))
}

/// The keys that begin with a prefix: the keys of a workspace's subscriptions, or of a subscription's skipped events.
pub(super) fn with_prefix(prefix: &[u8], after: Option<&[u8]>) -> KeyRange {
    let from = after.map_or_else(|| Bound::Included(prefix.to_vec()), |after| Bound::Excluded(after.to_vec()));
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return (from, Bound::Excluded(end));
        }
    }
    (from, Bound::Unbounded)
}

/// Returns the ends of a workspace's log. Every workspace has this row, so a missing one is damage.
pub(super) fn head(heads: &impl ReadableTable<u32, &'static [u8]>, workspace: WorkspaceId) -> Result<Head, StoreError> {
    guarded(Kind::Head, || {
        let row = heads.get(workspace.0)?.ok_or(Kind::Head.corrupt())?;
        HeadRow::read(workspace, row.value())
    })
}

/// Writes the facts about the file.
pub(super) fn write_meta(
    meta: &mut Table<'_, &'static [u8], &'static [u8]>,
    Origin { log, secret }: Origin,
) -> Result<(), StoreError> {
    meta.insert(LogRow::KEY, &*LogRow::encode(log))?;
    meta.insert(SecretRow::KEY, &*SecretRow::encode(&secret))?;
    meta.insert(FormatsRow::KEY, &*FormatsRow::encode())?;
    Ok(())
}

/// Opens these tables. Fails if one is missing.
pub(super) fn open_all(transaction: &ReadTransaction, kinds: impl Iterator<Item = Kind>) -> Result<(), TableError> {
    for kind in kinds {
        match kind {
            Kind::Meta => drop(transaction.open_table(META)?),
            Kind::Workspace => drop(transaction.open_table(WORKSPACES)?),
            Kind::Head => drop(transaction.open_table(HEADS)?),
            Kind::Profile => drop(transaction.open_table(PROFILES)?),
            Kind::Identity => drop(transaction.open_table(IDENTITIES)?),
            Kind::Event => drop(transaction.open_table(EVENTS)?),
            Kind::Request => drop(transaction.open_table(REQUESTS)?),
            Kind::RequestAge => drop(transaction.open_table(REQUEST_AGES)?),
            Kind::Subscription => drop(transaction.open_table(SUBSCRIPTIONS)?),
            Kind::Progress => drop(transaction.open_table(PROGRESS)?),
            Kind::Skipped => drop(transaction.open_table(SKIPPED)?),
            Kind::Audience => drop(transaction.open_table(AUDIENCES)?),
            Kind::Member => drop(transaction.open_table(MEMBERS)?),
            Kind::Expiry => drop(transaction.open_table(EXPIRIES)?),
            Kind::Merge => drop(transaction.open_table(MERGES)?),
            Kind::Absorbed => drop(transaction.open_table(ABSORBED)?),
            Kind::IdentitySettings => drop(transaction.open_table(IDENTITY_SETTINGS)?),
            Kind::Remembered => drop(transaction.open_table(REMEMBERED)?),
        }
    }
    Ok(())
}

/// The tables of one write transaction.
pub(super) struct Tables<'txn> {
    pub workspaces: Table<'txn, &'static [u8], &'static [u8]>,
    pub heads: Table<'txn, u32, &'static [u8]>,
    pub profiles: Table<'txn, (u32, i64), &'static [u8]>,
    pub identities: Table<'txn, &'static OwnerKey, &'static [u8; OwnerRow::LENGTH]>,
    pub events: Table<'txn, (u32, u64), &'static [u8]>,
    pub requests: Table<'txn, &'static [u8], &'static [u8]>,
    pub request_ages: Table<'txn, &'static [u8], &'static [u8]>,
    pub subscriptions: Table<'txn, &'static [u8], &'static [u8]>,
    pub progress: Table<'txn, &'static [u8], &'static [u8]>,
    pub skipped: Table<'txn, &'static [u8], &'static [u8]>,
    pub audiences: Table<'txn, &'static [u8], &'static [u8]>,
    pub members: Table<'txn, &'static [u8], &'static [u8]>,
    pub expiries: Table<'txn, &'static [u8], &'static [u8]>,
    pub merges: Table<'txn, &'static [u8], &'static [u8]>,
    pub absorbed: Table<'txn, &'static [u8], &'static [u8]>,
    pub identity_settings: Table<'txn, &'static [u8], &'static [u8]>,
    pub remembered: Table<'txn, &'static [u8], &'static [u8]>,
}

impl<'txn> Tables<'txn> {
    /// Opens all tables, and creates those that are missing.
    pub fn open(transaction: &'txn WriteTransaction) -> Result<Self, TableError> {
        Ok(Self {
            workspaces: transaction.open_table(WORKSPACES)?,
            heads: transaction.open_table(HEADS)?,
            profiles: transaction.open_table(PROFILES)?,
            identities: transaction.open_table(IDENTITIES)?,
            events: transaction.open_table(EVENTS)?,
            requests: transaction.open_table(REQUESTS)?,
            request_ages: transaction.open_table(REQUEST_AGES)?,
            subscriptions: transaction.open_table(SUBSCRIPTIONS)?,
            progress: transaction.open_table(PROGRESS)?,
            skipped: transaction.open_table(SKIPPED)?,
            audiences: transaction.open_table(AUDIENCES)?,
            members: transaction.open_table(MEMBERS)?,
            expiries: transaction.open_table(EXPIRIES)?,
            merges: transaction.open_table(MERGES)?,
            absorbed: transaction.open_table(ABSORBED)?,
            identity_settings: transaction.open_table(IDENTITY_SETTINGS)?,
            remembered: transaction.open_table(REMEMBERED)?,
        })
    }

    /// Calls `read` with the row of an mpid: see [`profile`].
    pub fn profile<T>(
        &self,
        workspace: WorkspaceId,
        mpid: Mpid,
        read: impl FnOnce(ProfileRow<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        profile(&self.profiles, workspace, mpid, read)
    }

    /// Returns the owner of an identity: see [`owner`].
    pub fn owner(&self, workspace: WorkspaceId, identity: IdentityHash) -> Result<Option<Mpid>, StoreError> {
        owner(&self.identities, workspace, identity)
    }

    /// Calls `read` with the row of an event.
    pub fn event<T>(
        &self,
        workspace: WorkspaceId,
        sequence: Sequence,
        read: impl FnOnce(EventRow<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        event(&self.events, workspace, sequence, read)
    }

    pub fn request(&self, key: &[u8]) -> Result<Option<RequestRow>, StoreError> {
        guarded(Kind::Request, || {
            if let Some(row) = self.requests.get(key)? {
                return RequestRow::read(key, row.value()).map(Some);
            }
            // If damage hid the row of a request that was applied, a retry would apply it again.
            let verify = |key: &[u8], row: &[u8]| RequestRow::read(key, row).map(|_| ());
            absent(&self.requests, Kind::Request, &key, verify).map(|()| None)
        })
    }

    /// Returns the keys of the oldest requests, and whether each row is sound.
    pub fn oldest_requests(&self, count: usize) -> Result<Vec<(Vec<u8>, bool)>, StoreError> {
        guarded(Kind::RequestAge, || {
            let rows = self.request_ages.iter()?.take(count);
            rows.map(|row| {
                let (key, row) = row?;
                Ok((key.value().to_vec(), AgeRow::check(key.value(), row.value()).is_ok()))
            })
            .collect()
        })
    }

    /// Writes the effects of a decision, except the head of the log: the batch writes each head once.
    pub fn write(&mut self, effects: &Effects) -> Result<(), StorageError> {
        let Some(workspace) = effects.workspace else { return Ok(()) };
        if let Some(name) = &effects.born {
            self.set_workspace(name, workspace)?;
        }
        for write in &effects.owners {
            let key = OwnerRow::key(workspace, write.identity);
            match write.owner {
                Some(owner) => self.identities.insert(&key, &OwnerRow::encode(&key, owner))?,
                None => self.identities.remove(&key)?,
            };
        }
        for write in &effects.profiles {
            self.profiles.insert((workspace.0, write.mpid.get()), &*write.row)?;
        }
        for write in &effects.events {
            self.events.insert((workspace.0, write.sequence.get()), &*write.row)?;
        }
        for (sequence, row) in &effects.rewritten {
            self.events.insert((workspace.0, sequence.get()), &**row)?;
        }
        for write in &effects.rows {
            self.set_row(write)?;
        }
        for sequence in &effects.trimmed {
            self.events.remove((workspace.0, sequence.get()))?;
        }
        self.forget(&effects.forgotten, &effects.damaged_ages)?;
        effects.request.as_ref().map_or(Ok(()), |request| self.set_request(request))
    }

    pub fn set_workspace(&mut self, name: &Workspace, id: WorkspaceId) -> Result<(), StorageError> {
        let name = name.as_str().as_bytes();
        self.workspaces.insert(name, &*WorkspaceRow::encode(name, id))?;
        Ok(())
    }

    pub fn set_head(&mut self, workspace: WorkspaceId, head: &Head) -> Result<(), StorageError> {
        self.heads.insert(workspace.0, &*HeadRow::encode(head, workspace))?;
        Ok(())
    }

    fn set_row(&mut self, write: &RowWrite) -> Result<(), StorageError> {
        let table = match write.table {
            RowTable::Settings => &mut self.subscriptions,
            RowTable::Progress => &mut self.progress,
            RowTable::Skipped => &mut self.skipped,
            RowTable::Audience => &mut self.audiences,
            RowTable::Member => &mut self.members,
            RowTable::Expiry => &mut self.expiries,
            RowTable::Merge => &mut self.merges,
            RowTable::Absorbed => &mut self.absorbed,
            RowTable::IdentitySettings => &mut self.identity_settings,
            RowTable::Remembered => &mut self.remembered,
            RowTable::Request => &mut self.requests,
        };
        match &write.row {
            Some(row) => table.insert(&*write.key, &**row)?,
            None => table.remove(&*write.key)?,
        };
        Ok(())
    }

    fn set_request(&mut self, request: &RequestWrite) -> Result<(), StorageError> {
        if let Some(age) = &request.replaces {
            self.request_ages.remove(age.as_bytes())?;
        }
        self.requests.insert(&*request.key, &*request.row)?;
        self.request_ages.insert(request.age.as_bytes(), &*AgeRow::encode(&request.age))?;
        Ok(())
    }

    fn forget(&mut self, old: &[AgeKey], damaged: &[Vec<u8>]) -> Result<(), StorageError> {
        for age in old {
            self.requests.remove(age.request())?;
            self.request_ages.remove(age.as_bytes())?;
        }
        for key in damaged {
            self.request_ages.remove(&**key)?;
        }
        Ok(())
    }
}
