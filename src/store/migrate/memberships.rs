//! Builds the index of memberships of a file that has none: the members of audiences, how many they are, and when the
//! next membership of each profile ends.
//!
//! - Profiles are read in pages of one snapshot, and the rows of all of them are written in one transaction. If it is
//!   interrupted, the next start begins anew.
//! - About [`AT_ONCE`] rows at a time are sorted in memory, because a tree grows several times
//!   faster in the order of its keys.
//! - Damaged profiles are passed over, as in a list.

use std::collections::BTreeMap;

use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, Table};

use super::super::WorkspaceId;
use super::super::error::{Past, StoreError};
use super::super::read::{PageSize, Reader, Snapshot, SnapshotTables};
use super::super::rows::{AudienceRow, ExpiryRow, FormatsRow, MemberRow, Origin, audience_key, expiry_key, member_key};
use super::super::tables::{META, Tables};
use crate::model::page_token::PageStart;
use crate::model::profile::{expiry, next_expiry};
use crate::model::{AudienceId, Micros, Mpid};
use crate::proto::v1::Profile;

/// The most rows that are sorted in memory at a time, at about 100 bytes each.
const AT_ONCE: usize = if cfg!(test) { 10 } else { 500_000 }; // So that tests write in several parts.
/// The memberships and profiles after which a page ends.
const PAGE: usize = if cfg!(test) { 7 } else { 50_000 };
/// No membership has ended yet: the profiles are read as they are stored.
const BEFORE_ALL: Micros = Micros::new(i64::MIN);

/// Rows by their keys.
type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Rows that wait to be written, in order.
#[derive(Default)]
struct Sorted {
    members: Rows,
    expiries: Rows,
    /// The number of members, by the keys of audiences.
    counts: BTreeMap<Vec<u8>, u64>,
}

/// Builds the index of a file with so many workspaces, and records that it has one.
pub(in crate::store) fn index(database: &Database, origin: Origin, workspaces: usize) -> Result<(), StoreError> {
    tracing::info!(workspaces, "indexing the memberships of audiences");
    let started = std::time::Instant::now();
    create_tables(database)?;
    let (reader, _readers) = Reader::first();
    let snapshot = Snapshot::new(SnapshotTables::open(&database.begin_read()?, origin.secret, reader)?.into());
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    let mut damaged = 0_usize;
    {
        let (mut tables, mut sorted) = (Tables::open(&transaction)?, Sorted::default());
        for id in (1..).take(workspaces).map(WorkspaceId) {
            damaged += index_workspace(&snapshot, id, &mut sorted, &mut tables)?;
        }
        sorted.write(&mut tables)?;
        transaction.open_table(META)?.insert(FormatsRow::KEY, &*FormatsRow::encode())?;
    }
    transaction.commit()?;
    tracing::info!(seconds = started.elapsed().as_secs_f64(), "indexed the memberships of audiences");
    if damaged > 0 {
        tracing::error!(damaged, "damaged profiles were passed over; their memberships are in no list");
    }
    Ok(())
}

/// Creates the tables, so that a snapshot has them.
fn create_tables(database: &Database) -> Result<(), StoreError> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    Tables::open(&transaction)?;
    transaction.commit()?;
    Ok(())
}

/// Indexes a workspace. Returns how often damage was passed over.
fn index_workspace(
    snapshot: &Snapshot,
    id: WorkspaceId,
    sorted: &mut Sorted,
    tables: &mut Tables<'_>,
) -> Result<usize, StoreError> {
    let (mut start, mut damaged) = (PageStart::default(), 0);
    let size = PageSize { items: usize::MAX, bytes: PAGE };
    loop {
        let last = snapshot.profiles(id, start, BEFORE_ALL, size, |profile| {
            let profile = Profile::decode(profile).map_err(|_| StoreError::corrupt("profile"))?;
            sorted.add(id, &profile);
            Ok(1 + profile.audience_memberships.len())
        });
        match last {
            Ok(Some(last)) => start = PageStart::after(last),
            Ok(None) => return Ok(damaged),
            Err(StoreError::Corrupt { past: Some(Past::Profile), .. }) if !start.over_damage => {
                damaged += 1;
                start.over_damage = true;
            }
            Err(error) => return Err(error),
        }
        if sorted.len() >= AT_ONCE {
            std::mem::take(sorted).write(tables)?;
        }
    }
}

impl Sorted {
    fn add(&mut self, workspace: WorkspaceId, profile: &Profile) {
        let Some(mpid) = Mpid::new(profile.mpid) else { return };
        for membership in &profile.audience_memberships {
            let Some(id) = AudienceId::new(membership.audience_id) else { continue };
            let key = member_key(workspace, id, mpid);
            let row = MemberRow::encode(&key, expiry(membership));
            if self.members.insert(key, row).is_none() {
                *self.counts.entry(audience_key(workspace, id)).or_default() += 1;
            }
        }
        if let Some(end) = next_expiry(profile) {
            let key = expiry_key(workspace, end, mpid);
            let row = ExpiryRow::encode(&key);
            self.expiries.insert(key, row);
        }
    }

    fn len(&self) -> usize {
        self.members.len() + self.expiries.len()
    }

    fn write(self, tables: &mut Tables<'_>) -> Result<(), StoreError> {
        insert(&mut tables.members, self.members)?;
        insert(&mut tables.expiries, self.expiries)?;
        for (key, more) in self.counts {
            let row = tables.audiences.get(&*key)?.map(|row| AudienceRow::read(&key, row.value())).transpose()?;
            let row = row.unwrap_or_default();
            let row = AudienceRow { members: row.members + more, ..row };
            tables.audiences.insert(&*key, &*row.encode(&key))?;
        }
        Ok(())
    }
}

fn insert(table: &mut Table<'_, &'static [u8], &'static [u8]>, rows: Rows) -> Result<(), StoreError> {
    for (key, row) in rows {
        table.insert(&*key, &*row)?;
    }
    Ok(())
}
