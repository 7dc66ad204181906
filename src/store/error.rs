//! Why the store refuses.

use std::path::PathBuf;

use crate::model::{Invalid, Mpid, ProfileKey, Sequence};

/// Why a read or a write was refused. `grpc::status` maps it. It names no gRPC code and holds no personal data.
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
    /// The log no longer holds what was asked for.
    #[error("the log no longer holds what follows the cursor")]
    Expired { oldest: Sequence, head: Sequence, oldest_time: crate::model::Micros },
    /// The queue is full. Nothing changed.
    #[error("the queue of writes is full")]
    Overloaded,
    /// The disk is nearly full. Nothing changed.
    #[error("the disk is nearly full")]
    DiskFull { free: u64, required: u64 },
    /// A row fails its checksum or does not decode.
    #[error("a stored {table} record is corrupt")]
    Corrupt { table: &'static str },
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

impl StoreError {
    /// That there is no profile of this key.
    pub(crate) fn not_found(key: &ProfileKey) -> Self {
        let mpid = match key {
            ProfileKey::Mpid(mpid) => Some(*mpid),
            ProfileKey::Identity(_) => None,
        };
        Self::ProfileNotFound { mpid }
    }

    /// Whether only this command is refused, and its batch goes on: it was refused before its first write.
    pub(crate) fn is_refusal(&self) -> bool {
        !matches!(self, Self::Storage(_) | Self::Failed)
    }
}

/// Why the store could not be opened.
#[allow(missing_docs)] // The fields stand in the messages.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory cannot be made.
    #[error("cannot create the data directory {path}")]
    Directory { path: PathBuf, source: std::io::Error },
    /// Another process has it.
    #[error("another process has the store open")]
    Locked,
    /// Another version made it.
    #[error("the store has format {found}, of another version of cameo; this one reads {expected}")]
    Format { found: u64, expected: u64 },
    /// A row fails its checksum.
    #[error("a stored {table} record is corrupt")]
    Corrupt { table: &'static str },
    /// The disk said no.
    #[error("cannot open the store")]
    Io(#[from] std::io::Error),
    /// redb said no.
    #[error("cannot open the store")]
    Storage(#[source] Box<redb::Error>),
}

/// redb has an error for each operation; we tell them apart only where the caller would.
macro_rules! from_redb {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for StoreError {
            fn from(error: redb::$error) -> Self {
                Self::Storage(Box::new(error.into()))
            }
        }
        impl From<redb::$error> for OpenError {
            fn from(error: redb::$error) -> Self {
                match redb::Error::from(error) {
                    redb::Error::DatabaseAlreadyOpen => Self::Locked,
                    other => Self::Storage(Box::new(other)),
                }
            }
        }
    )*};
}
from_redb!(StorageError, TableError, TransactionError, CommitError, DatabaseError);
