//! Inserts into bare redb, which imports are compared with.
//!
//! The rows are those that Cameo's import wrote, in the same order. They go into a file that holds only the tables.
//! They are read from Cameo's file, one commit at a time, which is not timed. A commit reads, decodes, checks and sends
//! nothing.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use redb::{Database, ReadOnlyDatabase, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use crate::bare::{EVENTS, PROFILES, WORKSPACE};
use crate::profiles::mpid;

/// The table of identities of `cameo::store`.
const IDENTITIES: TableDefinition<&[u8; 20], &[u8; 17]> = TableDefinition::new("identities_v2");
/// Where the row of an identity holds its owner, after a format and a checksum.
const OWNER: std::ops::RangeFrom<usize> = 9..;
/// The cache of the file that rows are read from, in bytes.
const SOURCE_CACHE: usize = 64 << 20;

/// The key and the row of an identity.
type OwnerRow = ([u8; 20], [u8; 17]);

/// The rows of a profile.
struct Record {
    identities: Vec<OwnerRow>,
    mpid: i64,
    profile: Vec<u8>,
    sequence: u64,
    event: Vec<u8>,
}

/// Inserts all records of the file `from` into a new file `to`, and returns how long the commits took. The server of
/// `from` must have ended.
pub fn insert_all(from: &Path, to: &Path, batch: usize, cache_bytes: usize) -> anyhow::Result<Duration> {
    let source = Database::builder().set_cache_size(SOURCE_CACHE).open_read_only(from)?;
    let mut records = records(&source)?;
    let database = Database::builder().set_cache_size(cache_bytes).create(to)?;
    commit(&database, &[])?; // Creates the tables.
    let mut elapsed = Duration::ZERO;
    loop {
        let next = records.by_ref().take(batch).collect::<anyhow::Result<Vec<_>>>()?;
        if next.is_empty() {
            break;
        }
        let start = Instant::now();
        commit(&database, &next)?;
        elapsed += start.elapsed();
    }
    drop(database);
    std::fs::remove_file(to)?;
    Ok(elapsed)
}

/// All records, in the order of their events, which is the order of the import.
fn records(source: &ReadOnlyDatabase) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Record>>> {
    let transaction = source.begin_read()?;
    let profiles = transaction.open_table(PROFILES)?;
    let mut identities = identities(&transaction.open_table(IDENTITIES)?)?;
    let events = transaction.open_table(EVENTS)?.range((WORKSPACE, 0)..=(WORKSPACE, u64::MAX))?;
    Ok((0..).zip(events).map(move |(index, event)| {
        let (key, event) = event?;
        let mpid = mpid(index);
        let row = profiles.get((WORKSPACE, mpid))?.context("the profile was imported")?;
        Ok(Record {
            identities: identities.remove(&mpid).context("its identities were imported")?,
            mpid,
            profile: row.value().to_vec(),
            sequence: key.value().1,
            event: event.value().to_vec(),
        })
    }))
}

/// The rows of all identities, by owner. They are read because their keys are hashes that only Cameo can make.
fn identities(
    table: &impl ReadableTable<&'static [u8; 20], &'static [u8; 17]>,
) -> anyhow::Result<HashMap<i64, Vec<OwnerRow>>> {
    let mut owned = HashMap::<_, Vec<_>>::new();
    for row in table.iter()? {
        let (key, row) = row?;
        let (key, row) = (*key.value(), *row.value());
        let owner = i64::from_le_bytes(row[OWNER].try_into()?);
        owned.entry(owner).or_default().push((key, row));
    }
    Ok(owned)
}

/// Commits records, with the same safeguards as Cameo.
fn commit(database: &Database, records: &[Record]) -> anyhow::Result<()> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    insert(&transaction, records)?;
    Ok(transaction.commit()?)
}

fn insert(transaction: &WriteTransaction, records: &[Record]) -> anyhow::Result<()> {
    let mut identities = transaction.open_table(IDENTITIES)?;
    let mut profiles = transaction.open_table(PROFILES)?;
    let mut events = transaction.open_table(EVENTS)?;
    for record in records {
        for (key, owner) in &record.identities {
            identities.insert(key, owner)?;
        }
        profiles.insert((WORKSPACE, record.mpid), &*record.profile)?;
        events.insert((WORKSPACE, record.sequence), &*record.event)?;
    }
    Ok(())
}
