//! Brings a file of an older layout to the present one, in one transaction: all of it or, if this is broken off,
//! nothing.
//!
//! - Layout 1 and 2 keyed identities by their text, and numbered workspaces in rows without a checksum. In layout 1 the
//!   text had the type as it was given, so that one identity could have two rows, by two names of its type.
//! - Rows of profiles and events stay as they are: their older format is read as well.

use std::path::Path;

use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError, WriteTransaction};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::WorkspaceId;
use super::error::{OpenError, StoreError};
use super::logs;
use super::rows::{
    AgeKey, AgeRow, EventRow, Head, Kind, Origin, OwnerRow, ProfileRow, RequestRow, Secret, request_key, stored_mpid,
};
use super::tables::{self, META, Tables};
use crate::model::identity::keys_of;
use crate::model::{IdentityKey, LogId, Micros, Mpid, Place, Sequence, Workspace};
use crate::proto::v1::{Profile, WriteOutcome};

/// The layout of this version, for versions before it, which compare it with theirs. This version goes by `META`.
const LAYOUT: u64 = 3;
/// Identities that are sorted in memory at a time: 32 bytes each.
const IDENTITIES_AT_ONCE: usize = 1_000_000;

const FORMER_META: TableDefinition<&str, u64> = TableDefinition::new("meta_v1");
const FORMER_WORKSPACES: TableDefinition<&str, u32> = TableDefinition::new("workspaces_v1");
const FORMER_IDENTITIES: TableDefinition<(u32, &[u8]), (i64, u64)> = TableDefinition::new("identities_v1");
const FORMER_REQUESTS: TableDefinition<(u32, &str), &[u8]> = TableDefinition::new("requests_v1");
const FORMER_REQUEST_AGES: TableDefinition<(i64, u32, &str), ()> = TableDefinition::new("request_ages_v1");

/// Rows that were already damaged, and were left behind.
#[derive(Debug, Default)]
struct Left {
    identities: usize,
    requests: usize,
}

/// Brings the file up to the present layout, if it is of an older one.
pub(super) fn bring_up(database: &Database, path: &Path) -> Result<(), OpenError> {
    let Some((layout, log)) = former_layout(database).map_err(|error| OpenError::of(path, error))? else {
        return Ok(());
    };
    if !(1..LAYOUT).contains(&layout) {
        let what = format!("layout {layout}");
        return Err(OpenError::Format { path: path.to_owned(), what });
    }
    tracing::info!(layout, "bringing the store to the present layout");
    let started = std::time::Instant::now();
    let origin = Origin { log: LogId(log), secret: Secret(rand::random()) };
    let left = migrate(database, origin).map_err(|error| OpenError::of(path, error))?;
    tracing::info!(seconds = started.elapsed().as_secs_f64(), "the store has the present layout");
    if left.identities + left.requests > 0 {
        let Left { identities, requests } = left;
        tracing::error!(
            identities,
            requests,
            "damaged records were left behind; identities are taken from the profiles"
        );
    }
    Ok(())
}

/// The layout and the log of a file that has not got the present one.
fn former_layout(database: &Database) -> Result<Option<(u64, u64)>, StoreError> {
    let transaction = database.begin_read()?;
    match transaction.open_table(META) {
        Ok(_) => return Ok(None),
        Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let meta = transaction.open_table(FORMER_META)?;
    let row = |key| -> Result<u64, StoreError> { Ok(meta.get(key)?.ok_or(Kind::Meta.corrupt())?.value()) };
    let layout = row("format")?;
    Ok(Some((layout, if layout < LAYOUT { row("log_id")? } else { 0 })))
}

/// Older versions refuse the file rather than make new tables in it.
pub(super) fn shut_out_older_versions(transaction: &WriteTransaction) -> Result<(), StoreError> {
    transaction.open_table(FORMER_META)?.insert("format", LAYOUT)?;
    Ok(())
}

fn migrate(database: &Database, origin: Origin) -> Result<Left, StoreError> {
    let mut left = Left::default();
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    {
        let mut tables = Tables::open(&transaction)?;
        bring_workspaces(&transaction, &mut tables)?;
        bring_identities(&transaction, &mut tables, &origin.secret, &mut left)?;
        bring_requests(&transaction, &mut tables, &mut left)?;
        logs::read(&tables.workspaces, &tables.heads)?; // Else this version would refuse what it made.
        if left.identities > 0 {
            restore_identities(&mut tables, &origin.secret)?;
        }
        tables::write_meta(&mut transaction.open_table(META)?, origin)?;
        shut_out_older_versions(&transaction)?;
    }
    transaction.delete_table(FORMER_WORKSPACES)?;
    transaction.delete_table(FORMER_IDENTITIES)?;
    transaction.delete_table(FORMER_REQUESTS)?;
    transaction.delete_table(FORMER_REQUEST_AGES)?;
    transaction.commit()?;
    Ok(left)
}

/// The head of a log was its newest row.
fn bring_workspaces(transaction: &WriteTransaction, tables: &mut Tables<'_>) -> Result<(), StoreError> {
    for row in transaction.open_table(FORMER_WORKSPACES)?.iter()? {
        let (name, id) = row?;
        let id = WorkspaceId(id.value());
        let name = Workspace::parse(name.value()).map_err(|_| Kind::Workspace.corrupt())?;
        tables.set_workspace(&name, id)?;
        let head = former_head(tables, id)?;
        tables.set_head(id, &head)?;
    }
    Ok(())
}

fn former_head(tables: &Tables<'_>, id: WorkspaceId) -> Result<Head, StoreError> {
    let mut rows = tables.events.range((id.0, 0)..=(id.0, u64::MAX))?;
    let Some((first, _)) = rows.next().transpose()? else { return Ok(Head::default()) };
    let first = Sequence::new(first.value().1).ok_or(Kind::Event.corrupt())?;
    let newest = tables.events.range((id.0, 0)..=(id.0, u64::MAX))?.next_back().transpose()?;
    let (key, row) = newest.ok_or(Kind::Event.corrupt())?;
    let last = Sequence::new(key.value().1).ok_or(Kind::Event.corrupt())?;
    // Where the newest event is damaged, the next one may be earlier than those before it.
    let time = EventRow::read(id, last, row.value()).map(|row| row.time).unwrap_or_default();
    Ok(Head { floor: Place::after(first.get() - 1), place: last.into(), time })
}

/// First those that have the name of their type that stays: where another profile owns the same identity by another
/// name, as it could in layout 1, it loses it.
fn bring_identities(
    transaction: &WriteTransaction,
    tables: &mut Tables<'_>,
    secret: &Secret,
    left: &mut Left,
) -> Result<(), StoreError> {
    for renamed in [false, true] {
        let mut sorted = Vec::new();
        for row in transaction.open_table(FORMER_IDENTITIES)?.iter()? {
            let (key, owner) = row?;
            let (workspace, text) = key.value();
            let Some((former, present)) = IdentityKey::renamed(text) else {
                left.identities += usize::from(!renamed);
                continue;
            };
            if (former != present) != renamed {
                continue;
            }
            let workspace = WorkspaceId(workspace);
            match former_owner(workspace, text, owner.value()) {
                Ok(owner) => sorted.push((OwnerRow::key(workspace, secret.hash(workspace, &present)), owner)),
                Err(_) => left.identities += 1,
            }
            if sorted.len() == IDENTITIES_AT_ONCE {
                insert_owners(&mut tables.identities, &mut sorted)?;
            }
        }
        insert_owners(&mut tables.identities, &mut sorted)?;
    }
    Ok(())
}

/// In the order of the table, which is several times as fast as in another.
fn insert_owners(
    identities: &mut Table<'_, &'static [u8; 20], &'static [u8; OwnerRow::LENGTH]>,
    owners: &mut Vec<([u8; 20], Mpid)>,
) -> Result<(), StoreError> {
    owners.sort_unstable();
    for (key, owner) in owners.drain(..) {
        if identities.get(&key)?.is_none() {
            identities.insert(&key, &OwnerRow::encode(&key, owner))?;
        }
    }
    Ok(())
}

/// The profiles know their identities too, so those whose rows were damaged go back into the index.
fn restore_identities(tables: &mut Tables<'_>, secret: &Secret) -> Result<(), StoreError> {
    let mut owners = Vec::new();
    for row in tables.profiles.iter()? {
        let (key, row) = row?;
        let (workspace, mpid) = (WorkspaceId(key.value().0), stored_mpid(key.value().1, Kind::Profile)?);
        let sound = ProfileRow::read(workspace, mpid, row.value()).ok().and_then(|row| row.profile());
        let Some(Ok(profile)) = sound.map(Profile::decode) else { continue }; // Damaged itself, or deleted.
        let keys = keys_of(&profile);
        owners.extend(keys.iter().map(|key| (OwnerRow::key(workspace, secret.hash(workspace, key)), mpid)));
        if owners.len() >= IDENTITIES_AT_ONCE {
            insert_owners(&mut tables.identities, &mut owners)?;
        }
    }
    insert_owners(&mut tables.identities, &mut owners)
}

fn former_owner(workspace: WorkspaceId, text: &[u8], (owner, checksum): (i64, u64)) -> Result<Mpid, StoreError> {
    let seed = former_seed(workspace, owner.cast_unsigned());
    let sound = checksum == xxh3_64_with_seed(text, seed);
    if sound { stored_mpid(owner, Kind::Identity) } else { Err(Kind::Identity.corrupt()) }
}

/// Their age was counted by the clock of the day; by uptime, which begins now, all are new.
fn bring_requests(transaction: &WriteTransaction, tables: &mut Tables<'_>, left: &mut Left) -> Result<(), StoreError> {
    for row in transaction.open_table(FORMER_REQUESTS)?.iter()? {
        let (key, row) = row?;
        let (workspace, id) = key.value();
        let workspace = WorkspaceId(workspace);
        let Some(row) = former_request(workspace, id, row.value()) else {
            left.requests += 1;
            continue;
        };
        let key = request_key(workspace, id);
        let age = AgeKey::new(row.uptime, &key);
        tables.requests.insert(&*key, &*row.encode(&key))?;
        tables.request_ages.insert(age.as_bytes(), &*AgeRow::encode(&age))?;
    }
    Ok(())
}

/// Format 1, the checksum of the rest, a fingerprint, the time, the mpid, the sequence and the outcome.
fn former_request(workspace: WorkspaceId, id: &str, row: &[u8]) -> Option<RequestRow> {
    let (format, rest) = row.split_first()?;
    let (checksum, body) = rest.split_first_chunk::<8>()?;
    let seed = former_seed(workspace, xxh3_64(id.as_bytes()));
    if *format != 1 || u64::from_le_bytes(*checksum) != xxh3_64_with_seed(body, seed) {
        return None;
    }
    let (fingerprint, body) = body.split_first_chunk::<16>()?;
    let (time, body) = body.split_first_chunk::<8>()?;
    let (mpid, body) = body.split_first_chunk::<8>()?;
    let (sequence, body) = body.split_first_chunk::<8>()?;
    Some(RequestRow {
        fingerprint: u128::from_le_bytes(*fingerprint),
        time: Micros::new(i64::from_le_bytes(*time)),
        uptime: Micros::default(),
        mpid: Mpid::new(i64::from_le_bytes(*mpid)),
        place: Place::after(u64::from_le_bytes(*sequence)),
        outcome: WriteOutcome::try_from(i32::from(*body.first()?)).ok()?,
    })
}

fn former_seed(workspace: WorkspaceId, key: u64) -> u64 {
    u64::from(workspace.0).rotate_left(32) ^ key
}
