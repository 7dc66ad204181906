//! Bare redb that inserts: what imports are held against.
//!
//! It inserts the very rows that Cameo's import wrote, in the order in which it wrote them, into a file that holds only
//! the tables. They are read from Cameo's file, a commit's worth at a time, while the clock stands still. Within a
//! commit nothing is read, decoded, checked or sent.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use redb::{Database, ReadOnlyDatabase, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use crate::bare::{EVENTS, PROFILES, WORKSPACE};
use crate::profiles::mpid;

// As in `cameo::store`.
const IDENTITIES: TableDefinition<&[u8; 20], &[u8; 17]> = TableDefinition::new("identities_v2");
/// Of the file that rows are read from.
const SOURCE_CACHE: usize = 64 << 20;

/// Of an identity: its key, and a format, a checksum and its owner.
type OwnerRow = ([u8; 20], [u8; 17]);

/// The rows of a profile.
struct Record {
    identities: Vec<OwnerRow>,
    mpid: i64,
    profile: Vec<u8>,
    sequence: u64,
    event: Vec<u8>,
}

/// Inserts all records of the file `from`, whose server has ended, into `to`, which is made anew. Answers how long it
/// took.
pub fn insert_all(from: &Path, to: &Path, batch: usize, cache_bytes: usize) -> anyhow::Result<Duration> {
    let source = Database::builder().set_cache_size(SOURCE_CACHE).open_read_only(from)?;
    let mut records = records(&source)?;
    let database = Database::builder().set_cache_size(cache_bytes).create(to)?;
    commit(&database, &[])?; // Makes the tables.
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

/// In the order of the events, which is that of the import.
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

/// The rows of all identities, by their owner: the keys are hashes that only Cameo can make.
fn identities(
    table: &impl ReadableTable<&'static [u8; 20], &'static [u8; 17]>,
) -> anyhow::Result<HashMap<i64, Vec<OwnerRow>>> {
    let mut owned = HashMap::<_, Vec<_>>::new();
    for row in table.iter()? {
        let (key, row) = row?;
        let (key, row) = (*key.value(), *row.value());
        let owner = i64::from_le_bytes(row[9..].try_into()?);
        owned.entry(owner).or_default().push((key, row));
    }
    Ok(owned)
}

/// With the safeguards that Cameo has.
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
