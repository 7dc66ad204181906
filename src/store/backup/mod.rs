//! Backups: a copy of the store as one stream of bytes, which says by itself whether it is whole.
//!
//! - `format` is the file: frames with checksums, each of which also covers the frames before.
//! - `rows` reads the tables, and `changes` is what the writer committed meanwhile, as rows.
//! - `online` makes a backup of an open store, and `offline` of one that no process has open.
//! - `restore` makes a store of a backup.
//!
//! What always holds:
//! - A backup is the store in one committed state: the one that was the latest when all rows had been read. It holds
//!   every write that was confirmed before, and none that came later.
//! - Reads and writes go on meanwhile. A step reads a few rows of the latest state, in a transaction of its own. So the
//!   steps read different states, but what the writer commits after the first step began follows in the stream, in
//!   order, and the last write of each row wins. It must only not be sent before an older state is read.
//! - No step keeps a state of the store. A state that is kept pins the pages that later commits replace: the file would
//!   grow while a slow client reads, and the commit after that would free all of these pages at once, and stall.
//! - A row that does not verify ends the backup.
//! - A file that is not whole, or in which a bit has changed, is never restored.
//!
//! Deliberately absent: compression, because a file can be compressed afterwards; and backups of single workspaces.

mod changes;
mod format;
mod offline;
mod online;
mod restore;
mod rows;

use std::io::Read;

pub use format::BadBackup;
pub use offline::backup as backup_offline;
pub use online::{Backup, Piece};
pub use restore::{RestoreError, restore};

use super::alone::Work;
use super::compact::Overflowed;
use super::error::{OpenError, StoreError};
use super::rows::Kind;
use crate::model::Micros;
use crate::proto::storage::{BackupHeader, BackupTrailer};
use format::{Part, Parts};

/// The most bytes of rows in a frame, unless one row alone has more. A step reads as much.
const STEP_BYTES: usize = 240 << 10;
/// The most bytes of a piece, in which a backup is sent.
const PIECE_BYTES: usize = 256 << 10;

/// The table of what the store knows of itself. A restore adds a row to it, which remembers the former log.
const META: u32 = Kind::Meta as u32;

/// How much a backup of an open store does at a time, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The bytes of rows after which a step ends.
    pub step: usize,
    /// The most memory for what the writer commits while the client reads, in bytes. As much may wait encoded.
    pub tail: usize,
    /// The bytes of that from which on it is sent between two steps.
    pub ahead: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { step: STEP_BYTES, tail: 64 << 20, ahead: 1 << 20 }
    }
}

/// How far a backup has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackupProgress {
    /// Rows that it has copied.
    pub rows: u64,
    /// Rows that the store had when the backup began.
    pub rows_expected: u64,
}

/// Why a backup was not made.
#[allow(missing_docs)] // The messages explain the fields.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// One backup runs at a time.
    #[error("a backup is already running")]
    Running,
    /// A backup and a compaction do not run at the same time.
    #[error("a compaction is running: back the store up when it has ended")]
    Compacting,
    /// The tail is full.
    #[error("writes arrive faster than the backup is read: read it faster, or back the store up when there are fewer")]
    Overtaken,
    /// A row does not verify, or a damaged page hides rows.
    #[error("a record of the table {table} is damaged, so the backup would not be whole: see the docs on damage")]
    Damaged { table: String },
    /// A server has the store open.
    #[error("a server has the store open in {path}: back it up with --server and its address, or stop it first")]
    Locked { path: std::path::PathBuf },
    /// There is no store to back up.
    #[error("there is no store in {path}: check --data-dir")]
    Absent { path: std::path::PathBuf },
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The backup cannot be written.
    #[error("the backup cannot be written: {0}")]
    Write(#[from] std::io::Error),
    /// The store is being closed.
    #[error("the store is being closed")]
    Closed,
    /// The store could not be read.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for BackupError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Corrupt { table, .. } => Self::Damaged { table: table.to_owned() },
            StoreError::Closed => Self::Closed,
            other => Self::Store(other),
        }
    }
}

impl From<Overflowed> for BackupError {
    fn from(Overflowed: Overflowed) -> Self {
        Self::Overtaken
    }
}

impl From<Work> for BackupError {
    fn from(running: Work) -> Self {
        match running {
            Work::Backup => Self::Running,
            Work::Compaction => Self::Compacting,
        }
    }
}

/// What a whole backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupSummary {
    /// The version of cameo that made it.
    pub cameo_version: String,
    /// When it ended: it holds every write that was confirmed before.
    pub time: Micros,
    /// Its rows, without those of the table `meta`.
    pub rows: u64,
}

/// Reads a backup to its end, and verifies every frame and every row.
///
/// # Errors
/// [`BadBackup`] if it is not whole.
pub fn verify(from: impl Read) -> Result<BackupSummary, BadBackup> {
    let (mut parts, header) = Parts::open(from)?;
    loop {
        match parts.next()? {
            Part::Rows(kind, rows) => parts.check(rows.iter().all(|row| rows::is_sound(kind, row)))?,
            Part::Trailer(trailer) => return Ok(summary(header, &trailer)),
        }
    }
}

fn summary(header: BackupHeader, trailer: &BackupTrailer) -> BackupSummary {
    BackupSummary {
        cameo_version: header.cameo_version,
        time: trailer.time.as_ref().map(Micros::from_timestamp).unwrap_or_default(),
        rows: trailer.tables.iter().filter(|table| table.table != META).map(|table| table.rows).sum(),
    }
}
