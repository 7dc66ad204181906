//! Makes a store of a backup.
//!
//! - The store is made beside its place, and renamed when it is complete and verified. So a crash leaves no store, and
//!   the file that it leaves keeps a server from starting with an empty one.
//! - The store gets a log id of its own: what it will write next is not what the other store wrote after the backup. It
//!   remembers the former id up to where the backup ends, so that older cursors go on.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use redb::{Database, Key, ReadableDatabase, ReadableTable, TableDefinition, Value, WriteTransaction};

use super::super::error::{OpenError, StoreError};
use super::super::open::{self, FILE, LOCK, RESTORED_FILE};
use super::super::rows::{FormerRow, Kind, LogRow};
use super::super::tables::{META, Tables, guarded};
use super::super::visit::{Visit, visit};
use super::super::{logs, migrate};
use super::format::{BadBackup, Part, Parts};
use super::{BackupSummary, rows, summary};
use crate::model::LogId;
use crate::proto::storage::{BackupRow, BackupTrailer};

/// Memory for pages while the file is filled. Most of them are written once.
const CACHE_BYTES: usize = 256 << 20;
/// The bytes of rows after which a transaction ends.
const TRANSACTION_BYTES: usize = 16 << 20;

/// Why a backup was not restored. There is no store in the directory then.
#[allow(missing_docs)] // The messages explain the fields.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The directory has something in it.
    #[error("{path} is not empty: choose another --data-dir, or move away what is in it")]
    NotEmpty { path: PathBuf },
    /// The backup cannot be used.
    #[error("the backup cannot be restored")]
    Backup(#[from] BadBackup),
    /// A file of the store cannot be made.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The new file cannot be written.
    #[error("the store cannot be written")]
    Write(#[source] StoreError),
}

impl From<StoreError> for RestoreError {
    fn from(error: StoreError) -> Self {
        Self::Write(error)
    }
}

/// A store that is being made. It is removed unless it is placed.
struct Unfinished<'d> {
    directory: &'d Path,
    /// Whether the directory did not exist.
    is_new: bool,
    is_placed: bool,
}

/// Makes a store of a backup, in a directory that is empty or missing. `on_progress` gets the rows so far.
///
/// # Errors
/// [`RestoreError`]. There is no store in the directory.
pub fn restore(from: impl Read, directory: &Path, on_progress: impl FnMut(u64)) -> Result<BackupSummary, RestoreError> {
    let of_directory = |cause| OpenError::Directory { path: directory.to_owned(), cause };
    let is_new = !directory.try_exists().map_err(of_directory)?;
    if !is_new {
        check_empty(directory)?; // Before a lock file is created in a directory that has nothing to do with cameo.
    }
    let (mut parts, header) = Parts::open(from)?;
    open::create_directory(directory).map_err(of_directory)?;
    let _lock = open::lock(directory)?;
    check_empty(directory)?; // A server may have made a store in it.
    if !is_new {
        close_to_others(directory);
    }
    let mut unfinished = Unfinished { directory, is_new, is_placed: false };
    let trailer = fill(&directory.join(RESTORED_FILE), &mut parts, on_progress)?;
    unfinished.place().map_err(of_directory)?;
    Ok(summary(header, &trailer))
}

/// Refuses a directory with anything in it but what a restore leaves that did not finish.
fn check_empty(directory: &Path) -> Result<(), RestoreError> {
    let of_directory = |cause| OpenError::Directory { path: directory.to_owned(), cause };
    for entry in fs::read_dir(directory).map_err(of_directory)? {
        let name = entry.map_err(of_directory)?.file_name();
        if name != LOCK && name != RESTORED_FILE {
            return Err(RestoreError::NotEmpty { path: directory.to_owned() });
        }
    }
    Ok(())
}

/// Gives a directory the mode that the server gives to a new one.
fn close_to_others(directory: &Path) {
    if let Err(error) = fs::set_permissions(directory, fs::Permissions::from_mode(open::DIRECTORY_MODE)) {
        // This fails if the directory belongs to another user. The store's file is closed to others in any case.
        tracing::warn!(%error, "other users may list the directory of the store");
    }
}

/// Fills the file, and verifies it as a store is that is opened.
fn fill<R: Read>(
    path: &Path,
    parts: &mut Parts<R>,
    on_progress: impl FnMut(u64),
) -> Result<BackupTrailer, RestoreError> {
    let database = open::create_file(path, CACHE_BYTES)?;
    create_tables(&database)?;
    let trailer = copy(parts, &database, on_progress)?;
    let state = database.begin_read().map_err(StoreError::from)?;
    Parts::<R>::check_counts(&rows::count(&state)?, &trailer)?;
    drop(state);
    begin_log(&database)?;
    database.close().map_err(StoreError::from)?;
    let (database, _) = open::open_existing(path, CACHE_BYTES)?;
    database.close().map_err(StoreError::from)?;
    Ok(trailer)
}

/// Creates all tables: one that has no row is not in a backup.
fn create_tables(database: &Database) -> Result<(), StoreError> {
    let transaction = begin(database)?;
    Tables::open(&transaction)?;
    transaction.open_table(META)?;
    transaction.commit()?;
    Ok(())
}

/// Copies all rows. Each is verified.
fn copy<R: Read>(
    parts: &mut Parts<R>,
    to: &Database,
    mut on_progress: impl FnMut(u64),
) -> Result<BackupTrailer, RestoreError> {
    let (mut copied, mut more) = (0, None);
    loop {
        let transaction = begin(to)?;
        let mut bytes = 0;
        let trailer = loop {
            match more.take().map_or_else(|| parts.next(), Ok)? {
                Part::Trailer(trailer) => break Some(trailer),
                part if bytes >= TRANSACTION_BYTES => {
                    more = Some(part);
                    break None;
                }
                Part::Rows(kind, rows) => {
                    parts.check(rows.iter().all(|row| rows::is_sound(kind, row)))?;
                    bytes += guarded(kind, || visit(kind, Put { to: &transaction, rows: &rows }))?;
                    copied += if kind == Kind::Meta { 0 } else { rows.len() as u64 };
                }
            }
        };
        transaction.commit().map_err(StoreError::from)?;
        on_progress(copied);
        if let Some(trailer) = trailer {
            return Ok(trailer);
        }
    }
}

/// Gives the log an id of its own, and remembers the former one.
fn begin_log(database: &Database) -> Result<(), StoreError> {
    let transaction = begin(database)?;
    {
        let tables = Tables::open(&transaction)?;
        let mut meta = transaction.open_table(META)?;
        let fact = |key| -> Result<Option<Vec<u8>>, StoreError> { Ok(meta.get(key)?.map(|row| row.value().to_vec())) };
        let former_log = LogRow::read(&fact(LogRow::KEY)?.ok_or(Kind::Meta.corrupt())?)?;
        let former = fact(FormerRow::KEY)?.map(|row| FormerRow::read(&row)).transpose()?;
        let (_, heads) = logs::read(&tables.workspaces, &tables.heads)?;
        let mut former = former.unwrap_or_default();
        former.remember(former_log, heads.iter().map(|head| head.place).collect());
        meta.insert(FormerRow::KEY, &*FormerRow::encode(&former))?;
        meta.insert(LogRow::KEY, &*LogRow::encode(LogId(rand::random())))?;
        migrate::shut_out_older_versions(&transaction)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Begins a transaction whose commit is durable, and whole or not at all.
fn begin(database: &Database) -> Result<WriteTransaction, StoreError> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// Writes rows of one table.
struct Put<'p> {
    to: &'p WriteTransaction,
    rows: &'p [BackupRow],
}

impl Visit for Put<'_> {
    /// How many bytes were written.
    type Result = Result<usize, StoreError>;

    fn table<K: Key + 'static, V: Value + 'static>(
        self,
        table: TableDefinition<'static, K, V>,
        _: impl for<'a> Fn(K::SelfType<'a>, V::SelfType<'a>) -> bool,
    ) -> Self::Result {
        let (mut table, mut bytes) = (self.to.open_table(table)?, 0);
        for BackupRow { key, value } in self.rows {
            match value {
                Some(value) => drop(table.insert(K::from_bytes(key), V::from_bytes(value))?),
                None => drop(table.remove(K::from_bytes(key))?),
            }
            bytes += key.len() + value.as_ref().map_or(0, Vec::len);
        }
        Ok(bytes)
    }
}

impl Unfinished<'_> {
    /// Puts the store in its place.
    fn place(&mut self) -> io::Result<()> {
        fs::rename(self.directory.join(RESTORED_FILE), self.directory.join(FILE))?;
        self.is_placed = true;
        open::sync_directory(self.directory)
    }
}

impl Drop for Unfinished<'_> {
    /// What cannot be removed stays: a server does not start on it, and the next restore replaces it.
    fn drop(&mut self) {
        if self.is_placed {
            return;
        }
        let _ = open::remove(&self.directory.join(RESTORED_FILE));
        let _ = open::remove(&self.directory.join(LOCK));
        if self.is_new {
            let _ = fs::remove_dir(self.directory);
        }
    }
}
