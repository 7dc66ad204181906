//! Opening the store.
//!
//! - One process has the data directory at a time: it holds a lock until the store is closed.
//! - A new store is created beside its place and renamed when it is complete, so it exists either whole or not at all.
//! - What every call depends on is read and verified completely: the file's pages (see `pages`), the facts about the
//!   file, the workspaces and the heads of their logs. Damage there is refused here, not by some later call.
//!
//! Deliberately absent: checks of all other rows. Each row has a checksum, which is verified when the row is read.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend, TableError};

use super::WorkspaceId;
use super::backend::Backend;
use super::error::{OpenError, StoreError};
use super::logs;
use super::migrate;
use super::pages;
use super::rows::{AgeKey, AgeRow, FormatsRow, FormerLogs, FormerRow, Head, Kind, LogRow, Origin, Secret, SecretRow};
use super::tables::{self, HEADS, META, REQUEST_AGES, Tables, WORKSPACES};
use crate::clock::machine_time;
use crate::config::StoreConfig;
use crate::model::{LogId, Micros, Place, Workspace};

/// The file of the store in the data directory.
pub(super) const FILE: &str = "cameo.redb";
/// A store that is still being created. It is renamed to `FILE` when it is complete, so that an empty or unfinished
/// file is never mistaken for a store.
const NEW_FILE: &str = "cameo.redb.new";
/// The file of a compaction that has not ended. One that is found was interrupted, and the store's file is whole.
pub(super) const COMPACTED_FILE: &str = "cameo.redb.compact";
/// A restore that has not ended. A server does not start beside it: the operator wants the backup, not an empty store.
pub(super) const RESTORED_FILE: &str = "cameo.redb.restore";
pub(super) const LOCK: &str = "cameo.lock";
/// The store holds personal data, so only the service's own user has access.
pub(super) const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// A store that is open, and what was read from it.
pub(super) struct Opened {
    pub database: Database,
    /// The lock on the data directory, held as long as the store is open. `None` in tests, which use no file.
    pub lock: Option<DirectoryLock>,
    pub path: PathBuf,
    pub facts: Facts,
}

/// The lock on a data directory. Dropping it releases the lock, also while a process that was just forked still holds a
/// copy of the file's descriptor.
pub(super) struct DirectoryLock(File);

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        let _ = self.0.unlock(); // If that fails, closing the file releases the lock.
    }
}

/// What every call depends on.
#[derive(Debug)]
pub(super) struct Facts {
    pub origin: Origin,
    /// The logs that it continues.
    pub former: FormerLogs,
    pub workspaces: HashMap<Workspace, WorkspaceId>,
    /// The heads of the logs, by workspace number from 1.
    pub heads: Vec<Head>,
    /// The store's uptime when it last remembered a request id.
    pub uptime: Micros,
}

impl Facts {
    /// Returns the time of the latest event of any log, also if the log no longer holds it.
    pub fn latest_event(&self) -> Option<Micros> {
        self.heads.iter().filter(|head| head.place > Place::START).map(|head| head.time).max()
    }
}

/// Opens the store in `config.data_dir`. Creates the directory and the store if they do not exist.
pub(super) fn open(config: &StoreConfig) -> Result<Opened, OpenError> {
    if machine_time().is_none() {
        return Err(OpenError::Clock);
    }
    let directory = &config.data_dir;
    tracing::info!(data_dir = %directory.display(), "opening the store");
    let of_directory = |cause| OpenError::Directory { path: directory.clone(), cause };
    create_directory(directory).map_err(of_directory)?;
    let lock = lock(directory)?;
    remove(&directory.join(COMPACTED_FILE)).map_err(of_directory)?;
    let path = directory.join(FILE);
    if !path.try_exists().map_err(of_directory)? {
        if directory.join(RESTORED_FILE).exists() {
            return Err(OpenError::Unfinished { path: directory.clone() });
        }
        create(directory, config.cache_bytes)?;
    }
    let (database, facts) = open_existing(&path, config.cache_bytes)?;
    Ok(Opened { database, lock: Some(lock), path, facts })
}

/// Verifies and opens the file of a store.
pub(super) fn open_existing(path: &Path, cache_bytes: usize) -> Result<(Database, Facts), OpenError> {
    let of_file = |cause| OpenError::Directory { path: path.parent().unwrap_or(path).to_owned(), cause };
    let file = open_file(path, false).map_err(of_file)?;
    if let Err(error) = file.set_permissions(fs::Permissions::from_mode(FILE_MODE)) {
        // This fails if the file belongs to another user.
        tracing::warn!(%error, "the store's file may be readable by other users");
    }
    if file.metadata().map_err(of_file)?.len() == 0 {
        return Err(OpenError::Damaged { path: path.to_owned(), what: "it is empty".into() });
    }
    open_verified(path, file, cache_bytes, |database| load(database, path))
}

/// Opens the file of a store of this version, and leaves it as it is. Only what redb itself mends after a crash is
/// mended.
pub(super) fn open_unchanged(path: &Path, cache_bytes: usize) -> Result<(Database, Origin, FormerLogs), OpenError> {
    let file = open_file(path, false).map_err(|cause| OpenError::Directory { path: path.to_owned(), cause })?;
    let read = |database: &Database| {
        let transaction = database.begin_read().map_err(|error| OpenError::of(path, error.into()))?;
        if !migrate::is_current(&transaction) {
            return Err(OpenError::Older { path: path.to_owned() });
        }
        let facts = read_meta(&transaction, path)?;
        if formats(&transaction).map_err(|error| OpenError::of(path, error))? != FormatsRow::encode() {
            return Err(OpenError::Older { path: path.to_owned() });
        }
        tables::open_all(&transaction, Kind::ALL.into_iter()).map_err(|error| of_table(path, error))?;
        Ok(facts)
    };
    let (database, (origin, former)) = open_verified(path, file, cache_bytes, read)?;
    Ok((database, origin, former))
}

fn open_verified<T>(
    path: &Path,
    file: File,
    cache_bytes: usize,
    read: impl FnOnce(&Database) -> Result<T, OpenError>,
) -> Result<(Database, T), OpenError> {
    let open = Arc::new(AtomicBool::new(false));
    let opened = unpanicked(path, || {
        let file = Backend::file(file, Arc::clone(&open)).map_err(|error| of_database(path, error))?;
        pages::verify(&file).map_err(|what| OpenError::Damaged { path: path.to_owned(), what: what.into() })?;
        let database = database(file, cache_bytes).map_err(|error| of_database(path, error))?;
        let read = read(&database)?;
        Ok((database, read))
    })?;
    open.store(true, Ordering::Relaxed);
    Ok(opened)
}

/// Runs `open`. A panic of redb means that the file is damaged.
fn unpanicked<T>(path: &Path, open: impl FnOnce() -> Result<T, OpenError>) -> Result<T, OpenError> {
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| {
        Err(OpenError::Damaged { path: path.to_owned(), what: "a page that it cannot be opened without".into() })
    })
}

/// Locks the directory, so that only one process uses it.
pub(super) fn lock(directory: &Path) -> Result<DirectoryLock, OpenError> {
    let path = directory.join(LOCK);
    let of_lock = |cause| OpenError::Directory { path: path.clone(), cause };
    let file = open_file(&path, true).map_err(of_lock)?;
    match file.try_lock() {
        Ok(()) => Ok(DirectoryLock(file)),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path: directory.to_owned() }),
        Err(TryLockError::Error(error)) => Err(of_lock(error)),
    }
}

fn open_file(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(FILE_MODE).open(path)
}

/// Creates a new store beside its place, and renames it when it is complete.
fn create(directory: &Path, cache_bytes: usize) -> Result<(), OpenError> {
    let path = directory.join(NEW_FILE);
    let of_directory = |cause| OpenError::Directory { path: path.clone(), cause };
    let database = create_file(&path, cache_bytes)?;
    let origin = Origin { log: LogId(rand::random()), secret: Secret(rand::random()) };
    initialize(&database, origin).map_err(|error| OpenError::of(&path, error))?;
    drop(database);
    fs::rename(&path, directory.join(FILE)).map_err(of_directory)?;
    sync_directory(directory).map_err(of_directory)
}

/// Creates a file without tables. One that was not finished is replaced.
pub(super) fn create_file(path: &Path, cache_bytes: usize) -> Result<Database, OpenError> {
    let of_directory = |cause| OpenError::Directory { path: path.to_owned(), cause };
    remove(path).map_err(of_directory)?;
    let file = open_file(path, true).map_err(of_directory)?;
    let file = Backend::file(file, Arc::default()).map_err(|error| of_database(path, error))?;
    database(file, cache_bytes).map_err(|error| of_database(path, error))
}

/// Removes a file that may not exist.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn database(file: impl StorageBackend, cache_bytes: usize) -> Result<Database, DatabaseError> {
    Database::builder().set_cache_size(cache_bytes).create_with_backend(file)
}

/// Creates the tables of a new file.
pub(super) fn initialize(database: &Database, origin: Origin) -> Result<(), StoreError> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    {
        Tables::open(&transaction)?;
        let mut meta = transaction.open_table(META)?;
        tables::write_meta(&mut meta, origin)?;
        migrate::shut_out_older_versions(&transaction)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Reads and verifies what every call depends on. A file in an older layout is upgraded first.
pub(super) fn load(database: &Database, path: &Path) -> Result<Facts, OpenError> {
    let of_store = |error| OpenError::of(path, error);
    let begin_read = || database.begin_read().map_err(|error| of_store(error.into()));
    migrate::bring_up(database, path)?;
    // Refuses a file of a newer version before anything is changed.
    let (origin, former) = read_meta(&begin_read()?, path)?;
    migrate::sum_logs(database).map_err(of_store)?;
    let transaction = begin_read()?;
    let workspaces = transaction.open_table(WORKSPACES).map_err(|error| of_table(path, error))?;
    let heads = transaction.open_table(HEADS).map_err(|error| of_table(path, error))?;
    let (workspaces, heads) = logs::read(&workspaces, &heads).map_err(of_store)?;
    // If the uptime cannot be read it starts at zero, and known request ids are remembered for longer.
    let uptime = tables::guarded(Kind::RequestAge, || read_uptime(&transaction)).unwrap_or_default();
    // A missing table must be found here: opening it for writing would create it, empty. A table that the version which
    // wrote the file did not have is not missing.
    let formats = formats(&transaction).map_err(of_store)?;
    let known = Kind::ALL.into_iter().filter(|kind| FormatsRow::lists(&formats, *kind));
    tables::open_all(&transaction, known).map_err(|error| of_store(error.into()))?;
    drop(transaction);
    if !FormatsRow::lists(&formats, Kind::Member) {
        migrate::index_memberships(database, origin, heads.len()).map_err(of_store)?;
    } else if !FormatsRow::lists(&formats, Kind::Remembered) {
        migrate::index_remembered(database, origin).map_err(of_store)?;
    } else if formats != FormatsRow::encode() {
        record_formats(database).map_err(of_store)?;
    }
    Ok(Facts { origin, former, workspaces, heads, uptime })
}

/// Reads the facts about the file, and refuses the formats of a newer version.
pub(super) fn read_meta(transaction: &ReadTransaction, path: &Path) -> Result<(Origin, FormerLogs), OpenError> {
    let of_store = |error| OpenError::of(path, error);
    let meta = transaction.open_table(META).map_err(|error| of_table(path, error))?;
    let optional = |key| -> Result<Option<Vec<u8>>, OpenError> {
        let row = meta.get(key).map_err(|error| of_store(error.into()))?;
        Ok(row.map(|row| row.value().to_vec()))
    };
    let row = |key| optional(key)?.ok_or_else(|| of_store(Kind::Meta.corrupt()));
    if let Some((table, format)) = FormatsRow::unknown(&row(FormatsRow::KEY)?).map_err(of_store)? {
        let what = format!("table {table} in format {format}");
        return Err(OpenError::Format { path: path.to_owned(), what });
    }
    let origin = Origin {
        log: LogRow::read(&row(LogRow::KEY)?).map_err(of_store)?,
        secret: SecretRow::read(&row(SecretRow::KEY)?).map_err(of_store)?,
    };
    let former = optional(FormerRow::KEY)?.map(|row| FormerRow::read(&row)).transpose().map_err(of_store)?;
    Ok((origin, former.unwrap_or_default()))
}

/// Returns the row with the formats of the tables.
fn formats(transaction: &ReadTransaction) -> Result<Vec<u8>, StoreError> {
    let row = transaction.open_table(META)?.get(FormatsRow::KEY)?;
    Ok(row.ok_or(Kind::Meta.corrupt())?.value().to_vec())
}

/// Creates the tables that older versions did not have, and records the formats that this version writes, so that older
/// versions refuse the file. They would take its rows for damaged.
fn record_formats(database: &Database) -> Result<(), StoreError> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    Tables::open(&transaction)?;
    transaction.open_table(META)?.insert(FormatsRow::KEY, &*FormatsRow::encode())?;
    transaction.commit()?;
    Ok(())
}

/// Returns the store's uptime when it last remembered a request id. Damaged rows are skipped: no other row depends on
/// the uptime.
fn read_uptime(transaction: &ReadTransaction) -> Result<Micros, StoreError> {
    for row in transaction.open_table(REQUEST_AGES)?.iter()?.rev() {
        let (key, row) = row?;
        if AgeRow::check(key.value(), row.value()).is_ok() {
            return Ok(AgeKey::stored(key.value()).map(|age| age.uptime()).unwrap_or_default());
        }
    }
    Ok(Micros::default())
}

fn of_database(path: &Path, error: DatabaseError) -> OpenError {
    OpenError::of(path, error.into())
}

fn of_table(path: &Path, error: TableError) -> OpenError {
    OpenError::of(path, error.into())
}

/// Creates a directory and its missing parents. Each directory entry is synced, so that it survives a power loss.
pub(super) fn create_directory(directory: &Path) -> io::Result<()> {
    if directory.as_os_str().is_empty() || directory.is_dir() {
        return Ok(());
    }
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_directory(parent)?;
    match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that was just forked holds such a copy, until it runs another program.
    #[test]
    fn a_lock_is_released_although_a_copy_of_its_descriptor_is_open() {
        let dir = tempfile::TempDir::new().unwrap();
        let first = lock(dir.path()).unwrap();
        let _copy = first.0.try_clone().unwrap();
        assert!(matches!(lock(dir.path()), Err(OpenError::Locked { .. })));

        drop(first);

        assert!(lock(dir.path()).is_ok());
    }
}
