//! Why the store refuses.

use std::path::{Path, PathBuf};

use crate::model::{Invalid, Micros, Mpid, Place, ProfileKey};

/// Why a read or a write was refused. It names no gRPC code and holds no personal data.
#[allow(missing_docs)] // The fields stand in the messages.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// By its mpid, if it was asked for by that.
    #[error("no such profile")]
    ProfileNotFound { mpid: Option<Mpid> },
    /// On create.
    #[error("a profile with this mpid exists")]
    ProfileExists { mpid: Mpid },
    /// Whose it is, and of what type.
    #[error("another profile owns this {kind} identity")]
    IdentityTaken { kind: String, owner: Mpid },
    /// The profile is not the version that was named.
    #[error("the profile is not the version that the etag names")]
    EtagMismatch,
    /// Within a day, for another request.
    #[error("the request id was used for another request")]
    RequestIdReused,
    /// The patch does not fit the profile.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The log no longer holds what was asked for. `oldest_time` is unknown where the oldest event is damaged.
    #[error("the log no longer holds what follows the cursor")]
    Expired { floor: Place, head: Place, oldest_time: Option<Micros> },
    /// The store has as many workspaces as it may. Nothing changed.
    #[error("the store has as many workspaces as it may: {limit}")]
    TooManyWorkspaces { limit: usize },
    /// The queue is full. Nothing changed.
    #[error("the queue of writes is full")]
    Overloaded,
    /// The disk is nearly full. Nothing changed.
    #[error("the disk is nearly full")]
    DiskFull { free: u64, required: u64 },
    /// A row, or a page of rows, is damaged. A list or a stream can go on after `past`.
    #[error("a stored {table} record is corrupt")]
    Corrupt { table: &'static str, past: Option<Past> },
    /// Our code panicked. Nothing changed.
    #[error("an internal error")]
    Panicked,
    /// The store is closed. Nothing changed.
    #[error("the store is closed")]
    Closed,
    /// The writer has failed, and whether the write was kept is unknown.
    #[error("the store has failed")]
    Failed,
    /// redb could not read or write.
    #[error("storage: {0}")]
    Storage(#[source] Box<redb::Error>),
}

/// The far side of damaged rows: what can be read begins again after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// In the log.
    Event(Place),
    /// Among the profiles: with the next one that is sound, see `PageStart`.
    Profile,
}

impl StoreError {
    /// That a stored message does not decode.
    #[must_use]
    pub fn corrupt(table: &'static str) -> Self {
        Self::Corrupt { table, past: None }
    }

    /// That there is no profile of this key.
    pub(crate) fn not_found(key: &ProfileKey) -> Self {
        let mpid = match key {
            ProfileKey::Mpid(mpid) => Some(*mpid),
            ProfileKey::Identity(_) => None,
        };
        Self::ProfileNotFound { mpid }
    }
}

/// Why the store could not be opened. Each names the file, and says what to do where that is not plain.
#[allow(missing_docs)] // The fields stand in the messages.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory cannot be made or used.
    #[error("cannot use the data directory {path}")]
    Directory { path: PathBuf, source: std::io::Error },
    /// Another process has it.
    #[error("another process has the store open in {path}")]
    Locked { path: PathBuf },
    /// Another version made it.
    #[error("{path} has {what}, which this version of cameo does not read: start the version that wrote it")]
    Format { path: PathBuf, what: String },
    /// The file is damaged where it cannot be done without.
    #[error("{path} is damaged ({what}): move it away and put a copy of it back, or start anew without it")]
    Damaged { path: PathBuf, what: String },
    /// The clock of the machine is wrong.
    #[error("the clock of this machine says that it is before 1970: set it, and start again")]
    Clock,
    /// The writer's thread cannot be started.
    #[error("cannot start the writer")]
    Thread(#[source] std::io::Error),
    /// redb could not read or write.
    #[error("cannot open {path}: see whether its disk and its permissions are in order")]
    Storage { path: PathBuf, source: Box<redb::Error> },
}

impl OpenError {
    /// What an error of the store means for the opening of a file.
    pub(super) fn of(path: &Path, error: StoreError) -> Self {
        let path = path.to_owned();
        match error {
            StoreError::Corrupt { table, .. } => Self::Damaged { path, what: format!("a {table} record") },
            StoreError::Storage(source) => match *source {
                redb::Error::TableDoesNotExist(_) | redb::Error::TableTypeMismatch { .. } => {
                    Self::Damaged { path, what: "a table is missing".into() }
                }
                redb::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                    Self::Damaged { path, what: error.to_string() }
                }
                redb::Error::DatabaseAlreadyOpen => Self::Locked { path },
                redb::Error::UpgradeRequired(version) => {
                    Self::Format { path, what: format!("format {version} of redb") }
                }
                other => Self::Storage { path, source: Box::new(other) },
            },
            other => Self::Damaged { path, what: other.to_string() },
        }
    }
}

/// redb has an error for each operation. What it cannot make sense of is damage; the rest is the disk.
macro_rules! from_redb {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for StoreError {
            fn from(error: redb::$error) -> Self {
                match redb::Error::from(error) {
                    redb::Error::Corrupted(_) => Self::Corrupt { table: "page", past: None },
                    other => Self::Storage(Box::new(other)),
                }
            }
        }
    )*};
}
from_redb!(StorageError, TableError, TransactionError, CommitError, DatabaseError);
