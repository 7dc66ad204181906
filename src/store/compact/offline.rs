//! Compacts a store that no process has open.

use std::time::{Duration, Instant};

use redb::ReadableDatabase;

use super::copy::{self, Position};
use super::{Bounds, CompactError, Compacted, NewFile, Replace, Target, reopen};
use crate::config::StoreConfig;
use crate::store::disk::Disk;
use crate::store::error::{OpenError, StoreError};
use crate::store::open::{self, FILE, Opened};

/// Rewrites the file of the store in `config.data_dir`, so that no value that was removed remains in it.
///
/// # Errors
/// [`CompactError`], also if a process has the store open. Nothing has changed.
pub fn compact(config: &StoreConfig) -> Result<Compacted, CompactError> {
    let begun = Instant::now();
    let path = &config.data_dir;
    if !path.join(FILE).exists() {
        return Err(CompactError::Absent { path: path.clone() });
    }
    let Opened { database: old, lock: _lock, facts, .. } = open::open(config).map_err(|error| match error {
        OpenError::Locked { path } => CompactError::Locked { path },
        other => other.into(),
    })?;
    let disk = Disk { directory: path.clone(), min_free_bytes: config.min_free_bytes };
    let mut target = NewFile::on(disk, config.cache_bytes);
    let bytes_before = target.used_bytes();
    target.check_room(bytes_before)?;

    let new = target.create()?;
    let state = old.begin_read().map_err(StoreError::from)?;
    let mut position = Position::START;
    while position.advance(&state, &new, &Bounds::default())? {
        target.check_room(0)?;
    }
    copy::compare(&old, &new)?;
    new.close().map_err(StoreError::from)?;
    let new = reopen(&mut target, facts.origin)?;
    new.close().map_err(StoreError::from)?;
    target
        .replace()
        .map_err(|(Replace::Refused(error) | Replace::Unknown(error))| CompactError::Write(error.into()))?;
    let bytes_after = target.used_bytes();
    Ok(Compacted { bytes_before, bytes_after, duration: begun.elapsed(), pause: Duration::ZERO })
}
