//! Why a call to the store fails, and why a store cannot be opened.
//!
//! No message holds personal data, and no error knows a transport. Deliberately absent: how an error is shown to a
//! client, which is decided above the store.

use std::path::{Path, PathBuf};

use crate::model::{AudienceId, Invalid, Micros, Mpid, Place, Position, ProfileKey, SubscriptionName};

/// Why a read or a write failed. It names no gRPC code and holds no personal data.
#[allow(missing_docs)] // The messages and the comments on the variants explain the fields.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such profile. `mpid` is `None` if the caller looked it up by an identity.
    #[error("no such profile")]
    ProfileNotFound { mpid: Option<Mpid> },
    /// A profile cannot be created under an mpid that is in use.
    #[error("a profile with this mpid exists")]
    ProfileExists { mpid: Mpid },
    /// The identity belongs to another profile. `kind` is the identity's type.
    #[error("another profile owns this {kind} identity")]
    IdentityTaken { kind: String, owner: Mpid },
    /// The profile has another version than the etag names.
    #[error("the profile is not the version that the etag names")]
    EtagMismatch,
    /// The request id was used for a different request within the last 24 hours.
    #[error("the request id was used for another request")]
    RequestIdReused,
    /// A value in the request is invalid, or the patch does not fit the profile.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The log no longer holds the events that the caller asked for. `oldest_time` is `None` if the log is empty or its
    /// oldest event is damaged.
    #[error("the log no longer holds what follows the cursor")]
    Expired { floor: Place, head: Place, oldest_time: Option<Micros> },
    /// The store has reached its limit of workspaces. Nothing changed.
    #[error("the store has reached its limit of {limit} workspaces")]
    TooManyWorkspaces { limit: usize },
    /// There is no such subscription.
    #[error("no such subscription")]
    SubscriptionNotFound { name: SubscriptionName },
    /// A subscription cannot be created under a name that is in use.
    #[error("a subscription with this name exists")]
    SubscriptionExists { name: SubscriptionName },
    /// A newer stream took over the subscription, or its place or settings have changed.
    #[error("a newer stream took over the subscription, or its place or settings have changed")]
    TakenOver,
    /// The workspace has as many subscriptions as it may have. Nothing changed.
    #[error("the workspace has reached its limit of {limit} subscriptions")]
    TooManySubscriptions { limit: usize },
    /// The log does not hold the event.
    #[error("the log has no event with this sequence")]
    EventNotFound { floor: Place, head: Place },
    /// There is no such registered audience.
    #[error("no such audience")]
    AudienceNotFound { id: AudienceId },
    /// An audience cannot be registered under an id that is in use.
    #[error("an audience with this id exists")]
    AudienceExists { id: AudienceId },
    /// Nobody can join an audience that is being deleted.
    #[error("the audience is being deleted")]
    AudienceDeleting { id: AudienceId },
    /// Several profiles are not one person, by what the caller or the settings say.
    #[error("the identities are those of several persons")]
    IdentityConflict { problems: Vec<Problem> },
    /// A profile cannot be merged with itself.
    #[error("a profile cannot be merged with itself")]
    MergeSelf,
    /// The two profiles are one already: the first was merged into the second.
    #[error("one of the profiles was already merged into the other")]
    MergeCycle { absorbed: Mpid, into: Mpid },
    /// There is no merge to undo.
    #[error("no merge of this profile can be undone")]
    MergeNotFound { mpid: Mpid },
    /// The absorbed profile cannot be restored as it was.
    #[error("the merge cannot be undone exactly")]
    MergeNotReversible { problems: Vec<Problem> },
    /// An erasure has more events to rewrite than one command may.
    #[error("the profile has more events than one command may erase")]
    TooManyEvents,
    /// The queue of writes is full. Nothing changed.
    #[error("the queue of writes is full")]
    Overloaded,
    /// The disk is nearly full: `free` bytes are left, and a write needs `required`. Nothing changed.
    #[error("the disk is nearly full")]
    DiskFull { free: u64, required: u64 },
    /// A row, or a page of rows, is damaged. A list or a stream can continue after `past`.
    #[error("a stored {table} record is corrupt")]
    Corrupt { table: &'static str, past: Option<Past> },
    /// Our code panicked. Nothing changed.
    #[error("an internal error")]
    Panicked,
    /// The store is closed. Nothing changed.
    #[error("the store is closed")]
    Closed,
    /// The writer has failed. Whether the write was kept is unknown.
    #[error("the store has failed")]
    Failed,
    /// redb could not read or write.
    #[error("storage: {0}")]
    Storage(#[source] Box<redb::Error>),
}

/// A part of a profile or of a request that is in the way, and why. It holds no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The part: a profile, or a field of one.
    pub subject: String,
    /// Why it is in the way.
    pub why: String,
}

/// Where reading can continue behind damaged rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// In the log, or in a snapshot: after this position.
    Position(Position),
    /// In a list of profiles: at the next profile whose row is sound. See `PageStart::over_damage`.
    Profile,
}

impl StoreError {
    /// A stored message of this table is damaged, and the caller gets no place to continue from.
    #[must_use]
    pub fn corrupt(table: &'static str) -> Self {
        Self::Corrupt { table, past: None }
    }

    /// No profile has this key.
    pub(crate) fn not_found(key: &ProfileKey) -> Self {
        let mpid = match key {
            ProfileKey::Mpid(mpid) => Some(*mpid),
            ProfileKey::Identity(_) => None,
        };
        Self::ProfileNotFound { mpid }
    }
}

/// Why the store could not be opened. Messages about the data name its path, and say what to do where that is not
/// obvious.
#[allow(missing_docs)] // The messages explain the fields.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory, or a file in it, cannot be created or used.
    #[error(
        "cannot use {path}: {cause}. The data directory must be one that this user can write to; --data-dir chooses \
         another"
    )]
    Directory { path: PathBuf, cause: std::io::Error },
    /// Another process has the store open.
    #[error("another process has the store open in {path}: stop it, or choose another --data-dir")]
    Locked { path: PathBuf },
    /// Another version wrote the file, in a format that this version does not read.
    #[error(
        "{path} has {what}, which this version of cameo does not read: start the version that wrote it, or choose another --data-dir"
    )]
    Format { path: PathBuf, what: String },
    /// A part of the file that every call needs is damaged.
    #[error(
        "{path} is damaged ({what}): move it away and put a copy of it back, or start without it on an empty store"
    )]
    Damaged { path: PathBuf, what: String },
    /// An earlier version wrote the file, and it was not upgraded yet.
    #[error(
        "{path} is of an earlier version of cameo, and this command changes no store: start the server once, which \
         upgrades it"
    )]
    Older { path: PathBuf },
    /// A restore was interrupted.
    #[error("the restore of a backup into {path} did not finish, so there is no store: run cameo restore again")]
    Unfinished { path: PathBuf },
    /// The machine's clock is wrong.
    #[error("the clock of this machine says that it is before 1970: set it, and start again")]
    Clock,
    /// A thread of the store cannot be started.
    #[error("cannot start a thread of the store: {0}. Raise the limit on threads")]
    Thread(std::io::Error),
    /// redb could not read or write.
    #[error("cannot open {path}: {cause}. Check its disk and its permissions")]
    Storage { path: PathBuf, cause: Box<redb::Error> },
}

impl OpenError {
    /// Maps an error that occurred while the file at `path` was being opened.
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
                other => Self::Storage { path, cause: Box::new(other) },
            },
            other => Self::Damaged { path, what: other.to_string() },
        }
    }
}

/// redb has one error type per operation. What redb reports as corrupted is damage; every other error is the disk's.
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
