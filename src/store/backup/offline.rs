//! Backs a store up that no process has open.

use std::io::Write;

use redb::ReadableDatabase;

use super::super::error::{OpenError, StoreError};
use super::super::open::{self, FILE};
use super::format::{FORMAT, Frames};
use super::rows::{Walk, count};
use super::{BackupError, BackupProgress, STEP_BYTES};
use crate::clock::machine_time;
use crate::config::StoreConfig;
use crate::model::Micros;
use crate::proto::storage::backup_part::Content;
use crate::proto::storage::{BackupHeader, BackupTrailer};

/// Writes a backup of the store in `config.data_dir`. `on_progress` is called after each step.
///
/// # Errors
/// [`BackupError`], also if a process has the store open. What was written is then no whole backup.
pub fn backup(
    config: &StoreConfig,
    mut to: impl Write,
    mut on_progress: impl FnMut(BackupProgress),
) -> Result<(), BackupError> {
    let path = &config.data_dir;
    if !path.join(FILE).exists() {
        return Err(BackupError::Absent { path: path.clone() });
    }
    let _lock = open::lock(path).map_err(|error| match error {
        OpenError::Locked { path } => BackupError::Locked { path },
        other => other.into(),
    })?;
    let (database, origin, _) = open::open_unchanged(&path.join(FILE), config.cache_bytes)?;
    let state = database.begin_read().map_err(StoreError::from)?;
    let tables = count(&state)?;
    let rows_expected = tables.iter().map(|table| table.rows).sum();
    let time = machine_time().map(Micros::to_timestamp);
    let cameo_version = env!("CARGO_PKG_VERSION").into();
    let header = BackupHeader { format: FORMAT, cameo_version, time, log_id: origin.log.0 };
    let (mut frames, mut file) = Frames::begin(header);
    let mut walk = Walk::START;
    while let Some(rows) = walk.next(&state, STEP_BYTES)? {
        frames.put(Content::Rows(rows), &mut file);
        to.write_all(&file)?;
        file.clear();
        on_progress(BackupProgress { rows: walk.rows, rows_expected });
    }
    if walk.rows != rows_expected {
        return Err(StoreError::corrupt("page").into()); // A damaged page hides rows.
    }
    frames.put(Content::Trailer(BackupTrailer { time, tables }), &mut file);
    Ok(to.write_all(&file)?)
}
