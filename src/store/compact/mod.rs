//! Rewrites the store's file, so that no value that was removed remains in it.
//!
//! redb never overwrites a page that is in use, and a page that it frees keeps its bytes until it is used again. So the
//! rows of all tables are copied to a new file, which then takes the place of the old one.
//!
//! - `copy` copies the rows, step by step.
//! - `target` is where the new file lies: beside the old one, and renamed when it is complete.
//! - `offline` compacts a store that no process has open.
//! - `online` compacts an open store. `tail` is what the writer commits meanwhile, and `swap` is the writer's last
//!   step.
//!
//! What always holds:
//! - A crash at any moment leaves one whole store, with every write that a caller was told of. Until the rename that is
//!   the old file, which the writer goes on committing to. The rename happens on the writer's thread, when the new file
//!   holds the same rows and is synced. The next write is committed after the directory is synced too.
//! - A row that does not verify, or that a damaged page hides, ends the compaction. Nothing has changed then.
//! - The steps of a copy may read different states, because all that the writer commits after the first step began is
//!   applied too, in order. Writing a row again is harmless, and the last write of each row wins. It must only not be
//!   applied before an older state is read: so each step reads the latest state.
//! - The copy pins no pages for longer than a step, and the tail is bounded.
//!
//! Deliberately absent: redb's own compaction. It moves pages within the file, and leaves old bytes in free ones.

mod copy;
mod offline;
mod online;
mod swap;
mod tail;
mod target;

use std::time::Duration;

use redb::Database;

pub use offline::compact;
pub(super) use online::Compactor;
pub(super) use swap::Swap;
pub(super) use tail::{Batch, Overflowed, Tail};
pub(super) use target::{NewFile, Replace, Target};

use super::alone::Work;
use super::error::{OpenError, StoreError};
use super::rows::{Kind, Origin};

/// How much a compaction does at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The most rows that are copied in one transaction.
    pub step_rows: usize,
    /// The bytes of rows after which a transaction ends.
    pub step_bytes: usize,
    /// The most bytes of the tail.
    pub tail_bytes: usize,
    /// The bytes of the tail from which on it is applied between two steps. Rows are packed more densely if it is
    /// applied late.
    pub apply_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { step_rows: 16_384, step_bytes: 8 << 20, tail_bytes: 128 << 20, apply_bytes: 32 << 20 }
    }
}

/// What a compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// Disk space of the file before, in bytes.
    pub bytes_before: u64,
    /// Disk space of the new file when it was complete, in bytes.
    pub bytes_after: u64,
    /// How long it took.
    pub duration: Duration,
    /// How long writes were held up at its end. Zero if the store was not open.
    pub pause: Duration,
}

/// Why a compaction did not happen. Nothing has changed.
#[allow(missing_docs)] // The messages explain the fields.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// One compaction runs at a time.
    #[error("a compaction is already running")]
    Running,
    /// A backup and a compaction do not run at the same time.
    #[error("a backup is running: compact the store when it has ended")]
    BackingUp,
    /// The tail is full.
    #[error("writes arrive faster than they can be copied: compact the store when there are fewer")]
    Overtaken,
    /// The disk has no room for a second file.
    #[error("a compaction needs {required} bytes of free disk space for the new file, and {free} are free")]
    DiskFull { free: u64, required: u64 },
    /// A row does not verify, or a damaged page hides rows.
    #[error(
        "a record of the table {table} is damaged, and a compaction would lose it: nothing has changed. Restore a \
         backup first"
    )]
    Damaged { table: String },
    /// There is no store to compact.
    #[error("there is no store in {path}: check --data-dir")]
    Absent { path: std::path::PathBuf },
    /// A server has the store open.
    #[error("a server has the store open in {path}: compact it with --server and its address, or stop it first")]
    Locked { path: std::path::PathBuf },
    /// A file of the store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The new file cannot be written, or not be put in place.
    #[error("the new file cannot be written: {0}")]
    Write(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store is being closed.
    #[error("the store is being closed")]
    Closed,
    /// Our code panicked.
    #[error("an internal error")]
    Panicked,
}

impl From<Overflowed> for CompactError {
    fn from(Overflowed: Overflowed) -> Self {
        Self::Overtaken
    }
}

impl From<Work> for CompactError {
    fn from(running: Work) -> Self {
        match running {
            Work::Compaction => Self::Running,
            Work::Backup => Self::BackingUp,
        }
    }
}

impl From<StoreError> for CompactError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Corrupt { table, .. } => Self::Damaged { table: table.to_owned() },
            StoreError::Closed | StoreError::Failed => Self::Closed,
            StoreError::Panicked => Self::Panicked,
            StoreError::Storage(error) => Self::Write(error),
            other => Self::Write(Box::new(other)), // The copy makes no other.
        }
    }
}

/// Opens the file that was filled, and verifies what every call depends on.
fn reopen(target: &mut dyn Target, origin: Origin) -> Result<Database, CompactError> {
    let (database, found) = target.reopen()?;
    if found == origin { Ok(database) } else { Err(Kind::Meta.corrupt().into()) }
}
