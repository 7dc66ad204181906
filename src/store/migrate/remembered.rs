//! Builds the index of the identities in the records of merges, of a file that has none.
//!
//! - The records are read and the rows of the index are written in one transaction. If it is interrupted, the next start
//!   begins anew.
//! - About [`AT_ONCE`] rows at a time are sorted in memory, because a tree grows several times faster in the order of its
//!   keys.
//! - Damaged records are passed over: nothing can be restored from them, and `cameo check` names them.

use std::collections::BTreeSet;

use redb::{Database, ReadableTable, Table};

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::super::rows::{FormatsRow, Kind, MergeRow, Origin, RememberedRow, remembered_key, unsorted_mpid};
use super::super::tables::{META, Tables, guarded};
use crate::model::identity::keys_of;

/// The most rows that are sorted in memory at a time, at about 100 bytes each.
const AT_ONCE: usize = if cfg!(test) { 10 } else { 500_000 }; // So that tests write in several parts.
/// Bytes of the workspace at the start of the key of a record. The absorbed profile follows.
const WORKSPACE: usize = 4;

/// Keys of the index that wait to be written, in order.
type Sorted = BTreeSet<Vec<u8>>;

/// Builds the index of a file, and records that it has one.
pub(in crate::store) fn index(database: &Database, origin: Origin) -> Result<(), StoreError> {
    tracing::info!("indexing the identities in records of merges");
    let started = std::time::Instant::now();
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    let damaged = {
        let mut tables = Tables::open(&transaction)?;
        let damaged = guarded(Kind::Merge, || index_records(origin, &mut tables))?;
        transaction.open_table(META)?.insert(FormatsRow::KEY, &*FormatsRow::encode())?;
        damaged
    };
    transaction.commit()?;
    tracing::info!(seconds = started.elapsed().as_secs_f64(), "indexed the identities in records of merges");
    if damaged > 0 {
        tracing::error!(damaged, "damaged records of merges were passed over; an erasure does not reach into them");
    }
    Ok(())
}

/// Returns how many records are damaged.
fn index_records(origin: Origin, tables: &mut Tables<'_>) -> Result<usize, StoreError> {
    let (mut sorted, mut damaged) = (Sorted::new(), 0);
    for row in tables.merges.iter()? {
        let (key, row) = row?;
        match keys_in(origin, key.value(), row.value()) {
            Ok(keys) => sorted.extend(keys),
            Err(_) => damaged += 1,
        }
        if sorted.len() >= AT_ONCE {
            write(std::mem::take(&mut sorted), &mut tables.remembered)?;
        }
    }
    write(sorted, &mut tables.remembered)?;
    Ok(damaged)
}

/// The keys of the index that a record asks for.
fn keys_in(origin: Origin, key: &[u8], row: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
    let record = MergeRow::read(key, row)?;
    let (workspace, absorbed) = key.split_first_chunk::<WORKSPACE>().ok_or(Kind::Merge.corrupt())?;
    let workspace = WorkspaceId(u32::from_be_bytes(*workspace));
    let mpid = unsorted_mpid(absorbed).ok_or(Kind::Merge.corrupt())?;
    let identities = record.absorbed.as_ref().map(keys_of).unwrap_or_default();
    let key = |identity| remembered_key(workspace, origin.secret.hash(workspace, identity), mpid);
    Ok(identities.iter().map(key).collect())
}

fn write(sorted: Sorted, index: &mut Table<'_, &'static [u8], &'static [u8]>) -> Result<(), StoreError> {
    for key in sorted {
        index.insert(&*key, &*RememberedRow::encode(&key))?;
    }
    Ok(())
}
