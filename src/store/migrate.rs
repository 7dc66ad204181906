//! Upgrades a file from an older layout to the current one.
//!
//! - The upgrade is one transaction. If it is interrupted, the file is unchanged.
//! - Layouts 1 and 2 keyed identities by their text, and had rows without a checksum for the numbers of workspaces. In
//!   layout 1 the text had the identity's type as the caller wrote it. So one identity could have two rows, one for
//!   each name of its type.
//! - Damaged identity rows are rebuilt from the profiles. Damaged request rows are dropped.
//! - In layout 3 the heads of the logs did not always have the bytes of their log. [`sum_logs`] adds them. Nor was there
//!   always an index of memberships, or of the identities in merges: see `memberships` and `remembered`.
//!
//! Deliberately absent: the rows of profiles and events. They stay as they are, because their older format can still be
//! read.

mod memberships;
mod remembered;

use std::path::Path;

use prost::Message;
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError, WriteTransaction,
};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::WorkspaceId;
use super::error::{OpenError, StoreError};
use super::logs;
use super::rows::{
    AgeKey, AgeRow, EventRow, FormatsRow, Head, HeadRow, Kind, Origin, OwnerKey, OwnerRow, ProfileRow, RequestRow,
    Secret, request_key, stored_mpid,
};
use super::tables::{self, Events, HEADS, META, Tables, guarded};
use crate::model::identity::keys_of;
use crate::model::{IdentityKey, LogId, Micros, Mpid, Place, Sequence, Workspace};
use crate::proto::v1::{Profile, WriteOutcome};

pub(super) use memberships::index as index_memberships;
pub(super) use remembered::index as index_remembered;

/// The current layout. Only older versions read this number, and compare it with their own. This version checks whether
/// the table `META` exists.
const LAYOUT: u64 = 3;
/// Keys of the former table of facts.
const FORMER_LAYOUT: &str = "format";
const FORMER_LOG: &str = "log_id";
/// The format byte of a former request row.
const FORMER_REQUEST_FORMAT: u8 = 1;
/// The most identities sorted in memory at a time, at 32 bytes each.
const IDENTITIES_AT_ONCE: usize = 1_000_000;

const FORMER_META: TableDefinition<&str, u64> = TableDefinition::new("meta_v1");
const FORMER_WORKSPACES: TableDefinition<&str, u32> = TableDefinition::new("workspaces_v1");
const FORMER_IDENTITIES: TableDefinition<(u32, &[u8]), (i64, u64)> = TableDefinition::new("identities_v1");
const FORMER_REQUESTS: TableDefinition<(u32, &str), &[u8]> = TableDefinition::new("requests_v1");
const FORMER_REQUEST_AGES: TableDefinition<(i64, u32, &str), ()> = TableDefinition::new("request_ages_v1");

/// Counts of rows that were already damaged and were not migrated.
#[derive(Debug, Default)]
struct Left {
    identities: usize,
    requests: usize,
}

/// Upgrades the file to the current layout if it has an older one.
pub(super) fn bring_up(database: &Database, path: &Path) -> Result<(), OpenError> {
    let Some((layout, log)) = former_layout(database).map_err(|error| OpenError::of(path, error))? else {
        return Ok(());
    };
    if !(1..LAYOUT).contains(&layout) {
        let what = format!("layout {layout}");
        return Err(OpenError::Format { path: path.to_owned(), what });
    }
    tracing::info!(from_layout = layout, to_layout = LAYOUT, "migrating the store");
    let started = std::time::Instant::now();
    let origin = Origin { log: LogId(log), secret: Secret(rand::random()) };
    let left = migrate(database, origin).map_err(|error| OpenError::of(path, error))?;
    tracing::info!(seconds = started.elapsed().as_secs_f64(), "migrated the store");
    if left.identities + left.requests > 0 {
        let Left { identities, requests } = left;
        tracing::error!(
            identities,
            requests,
            "damaged records were not migrated; the identities were restored from the profiles"
        );
    }
    Ok(())
}

/// Returns the layout and the log id of a file in another layout. `None` if the file has the current layout. The log id
/// of a newer layout is unknown and returned as 0.
fn former_layout(database: &Database) -> Result<Option<(u64, u64)>, StoreError> {
    let transaction = database.begin_read()?;
    match transaction.open_table(META) {
        Ok(_) => return Ok(None),
        Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let meta = transaction.open_table(FORMER_META)?;
    let row = |key| -> Result<u64, StoreError> { Ok(meta.get(key)?.ok_or(Kind::Meta.corrupt())?.value()) };
    let layout = row(FORMER_LAYOUT)?;
    Ok(Some((layout, if layout < LAYOUT { row(FORMER_LOG)? } else { 0 })))
}

/// Whether the file has the current layout.
pub(super) fn is_current(transaction: &ReadTransaction) -> bool {
    transaction.open_table(META).is_ok()
}

/// Makes older versions refuse the file. Otherwise they would create their own tables in it.
pub(super) fn shut_out_older_versions(transaction: &WriteTransaction) -> Result<(), StoreError> {
    transaction.open_table(FORMER_META)?.insert(FORMER_LAYOUT, LAYOUT)?;
    Ok(())
}

/// Copies the former table of facts to another file, if there is one.
pub(super) fn copy_former_meta(from: &ReadTransaction, to: &WriteTransaction) -> Result<(), StoreError> {
    let from = match from.open_table(FORMER_META) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(()),
        opened => opened?,
    };
    let mut to = to.open_table(FORMER_META)?;
    for row in from.iter()? {
        let (key, value) = row?;
        to.insert(key.value(), value.value())?;
    }
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
        logs::read(&tables.workspaces, &tables.heads)?; // Fails now if this version would refuse the upgraded file.
        if left.identities > 0 {
            restore_identities(&mut tables, &origin.secret)?;
        }
        let mut meta = transaction.open_table(META)?;
        tables::write_meta(&mut meta, origin)?;
        meta.insert(FormatsRow::KEY, &*FormatsRow::encode_before_audiences())?;
        shut_out_older_versions(&transaction)?;
    }
    transaction.delete_table(FORMER_WORKSPACES)?;
    transaction.delete_table(FORMER_IDENTITIES)?;
    transaction.delete_table(FORMER_REQUESTS)?;
    transaction.delete_table(FORMER_REQUEST_AGES)?;
    transaction.commit()?;
    Ok(left)
}

/// Migrates the workspaces. Former layouts stored no heads, so each is computed from the log's rows.
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
    // If the newest event is damaged its time is unknown, and the next event may get an earlier time.
    let time = EventRow::read(id, last, row.value()).map(|row| row.time).unwrap_or_default();
    let floor = Place::after(first.get() - 1);
    let bytes = log_bytes(&tables.events, id, floor, last.into());
    Ok(Head { floor, place: last.into(), time, bytes, ..Head::default() })
}

/// Adds the bytes of its log to each head that does not have them. This reads all logs, once.
pub(super) fn sum_logs(database: &Database) -> Result<(), StoreError> {
    let heads = heads_without_bytes(database)?;
    if heads.is_empty() {
        return Ok(());
    }
    tracing::info!(logs = heads.len(), "adding up the bytes of the logs");
    let started = std::time::Instant::now();
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    {
        let mut tables = Tables::open(&transaction)?;
        for (id, head) in heads {
            let bytes = log_bytes(&tables.events, id, head.floor, head.place);
            tables.set_head(id, &Head { bytes, ..head })?;
        }
        // Older versions would take the new rows for damaged.
        transaction.open_table(META)?.insert(FormatsRow::KEY, &*FormatsRow::encode_before_audiences())?;
    }
    transaction.commit()?;
    tracing::info!(seconds = started.elapsed().as_secs_f64(), "added up the bytes of the logs");
    Ok(())
}

/// Returns the heads in the format without bytes. Damaged rows are left for `logs::read`, which refuses the file.
fn heads_without_bytes(database: &Database) -> Result<Vec<(WorkspaceId, Head)>, StoreError> {
    let mut heads = Vec::new();
    for row in database.begin_read()?.open_table(HEADS)?.iter()? {
        let (id, row) = row?;
        let id = WorkspaceId(id.value());
        if let Some(Ok(head)) = HeadRow::read_without_bytes(id, row.value()) {
            heads.push((id, head));
        }
    }
    Ok(heads)
}

/// Adds up the lengths of the rows between two places of a log. Damaged rows count too. If a page is damaged, the rows
/// behind it do not count: the log is then kept for longer, until its age is over.
fn log_bytes(events: &impl Events, id: WorkspaceId, floor: Place, head: Place) -> u64 {
    let mut bytes = 0;
    let sum = guarded(Kind::Event, || {
        let Some(first) = floor.checked_next().filter(|_| floor < head) else { return Ok(()) };
        for row in events.range((id.0, first.get())..=(id.0, head.get()))? {
            bytes += row?.1.value().len() as u64;
        }
        Ok(())
    });
    if sum.is_err() {
        tracing::error!("a log could not be read to its end; its bytes count in part");
    }
    bytes
}

/// Migrates the identities in two rounds: first rows whose type has its current name, then rows whose type was renamed.
/// In layout 1 two profiles could own the same identity, each by another name of its type. The profile that has it by
/// the current name keeps it.
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

/// Inserts the owners in key order, which is several times faster than any other order. Existing rows are kept.
fn insert_owners(
    identities: &mut Table<'_, &'static OwnerKey, &'static [u8; OwnerRow::LENGTH]>,
    owners: &mut Vec<(OwnerKey, Mpid)>,
) -> Result<(), StoreError> {
    owners.sort_unstable();
    for (key, owner) in owners.drain(..) {
        if identities.get(&key)?.is_none() {
            identities.insert(&key, &OwnerRow::encode(&key, owner))?;
        }
    }
    Ok(())
}

/// Restores the identities whose rows were damaged. Each profile lists its identities too.
fn restore_identities(tables: &mut Tables<'_>, secret: &Secret) -> Result<(), StoreError> {
    let mut owners = Vec::new();
    for row in tables.profiles.iter()? {
        let (key, row) = row?;
        let (workspace, mpid) = (WorkspaceId(key.value().0), stored_mpid(key.value().1, Kind::Profile)?);
        let sound = ProfileRow::read(workspace, mpid, row.value()).ok().and_then(|row| row.profile());
        let Some(Ok(profile)) = sound.map(Profile::decode) else { continue }; // Damaged too, or deleted.
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

/// Migrates the remembered requests. Former layouts measured their age by the time of day. The uptime starts now, so
/// all of them count as new.
fn bring_requests(transaction: &WriteTransaction, tables: &mut Tables<'_>, left: &mut Left) -> Result<(), StoreError> {
    for row in transaction.open_table(FORMER_REQUESTS)?.iter()? {
        let (key, row) = row?;
        let (workspace, id) = key.value();
        let workspace = WorkspaceId(workspace);
        let Some(row) = former_request(workspace, id, row.value()) else {
            left.requests += 1;
            continue;
        };
        let key = request_key(workspace, None, id);
        let age = AgeKey::new(row.uptime, &key);
        tables.requests.insert(&*key, &*row.encode(&key))?;
        tables.request_ages.insert(age.as_bytes(), &*AgeRow::encode(&age))?;
    }
    Ok(())
}

/// Reads a former request row: format byte, checksum of the rest, fingerprint, time, mpid, sequence and outcome. `None`
/// if it is damaged.
fn former_request(workspace: WorkspaceId, id: &str, row: &[u8]) -> Option<RequestRow> {
    let (format, rest) = row.split_first()?;
    let (checksum, body) = rest.split_first_chunk::<8>()?;
    let seed = former_seed(workspace, xxh3_64(id.as_bytes()));
    if *format != FORMER_REQUEST_FORMAT || u64::from_le_bytes(*checksum) != xxh3_64_with_seed(body, seed) {
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
        detail: bytes::Bytes::new(),
    })
}

fn former_seed(workspace: WorkspaceId, key: u64) -> u64 {
    u64::from(workspace.0).rotate_left(32) ^ key
}
