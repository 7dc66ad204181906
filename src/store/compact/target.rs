//! Where the new file lies, and how it takes the place of the old one.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use redb::Database;

use super::CompactError;
use crate::store::disk::Disk;
use crate::store::error::OpenError;
use crate::store::open::{self, COMPACTED_FILE, FILE};
use crate::store::rows::Origin;

/// Memory for pages of the new file while it is filled. Its pages are written once and hardly read.
const CACHE_BYTES: usize = 64 << 20;
/// Bytes of the blocks in which the system counts the disk space of a file.
const BLOCK: u64 = 512;

/// Where a compaction puts the new file. Tests use disks in memory.
pub(in crate::store) trait Target: Send {
    /// Creates the file, without tables.
    fn create(&mut self) -> Result<Database, OpenError>;
    /// Opens the file again, once it is filled. It is verified as the file of a store is.
    fn reopen(&mut self) -> Result<(Database, Origin), OpenError>;
    /// Puts the file in the place of the old one. Both hold the same, and all of it is on disk.
    fn replace(&mut self) -> Result<(), Replace>;
    /// Fails unless so many bytes of the disk are free beside those that must stay free.
    fn check_room(&self, bytes: u64) -> Result<(), CompactError>;
    /// Disk space of the file in use.
    fn used_bytes(&self) -> u64;
    /// Disk space of the new file.
    fn new_bytes(&self) -> u64;
}

/// Why a file did not take the place of another.
#[derive(Debug)]
pub(in crate::store) enum Replace {
    /// The old file is still in its place.
    Refused(io::Error),
    /// After a power loss either file may be there.
    Unknown(io::Error),
}

/// A file beside that of the store.
pub(in crate::store) struct NewFile {
    disk: Disk,
    path: PathBuf,
    place: PathBuf,
    /// Memory for pages once the file is in use.
    cache_bytes: usize,
    is_placed: bool,
}

impl NewFile {
    pub fn on(disk: Disk, cache_bytes: usize) -> Self {
        let (path, place) = (disk.directory.join(COMPACTED_FILE), disk.directory.join(FILE));
        Self { disk, path, place, cache_bytes, is_placed: false }
    }
}

impl Target for NewFile {
    fn create(&mut self) -> Result<Database, OpenError> {
        open::create_file(&self.path, CACHE_BYTES)
    }

    fn reopen(&mut self) -> Result<(Database, Origin), OpenError> {
        let (database, facts) = open::open_existing(&self.path, self.cache_bytes)?;
        Ok((database, facts.origin))
    }

    fn replace(&mut self) -> Result<(), Replace> {
        if let Err(error) = fs::rename(&self.path, &self.place) {
            // Of a failed rename, only an I/O error leaves open which file has the name.
            let is_unknown = error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
            return Err(if is_unknown { Replace::Unknown(error) } else { Replace::Refused(error) });
        }
        self.is_placed = true;
        open::sync_directory(&self.disk.directory).map_err(Replace::Unknown)
    }

    fn check_room(&self, bytes: u64) -> Result<(), CompactError> {
        let required = bytes.saturating_add(self.disk.min_free_bytes);
        match self.disk.free_bytes() {
            Some(free) if free < required => Err(CompactError::DiskFull { free, required }),
            _ => Ok(()),
        }
    }

    fn used_bytes(&self) -> u64 {
        disk_space(&self.place)
    }

    fn new_bytes(&self) -> u64 {
        disk_space(&self.path)
    }
}

/// The disk space of a file in bytes. redb makes its files longer than what it writes, so the length says less.
fn disk_space(path: &Path) -> u64 {
    path.metadata().map_or(0, |file| file.blocks() * BLOCK)
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_placed
            && let Err(error) = open::remove(&self.path)
        {
            tracing::warn!(%error, "the file of a compaction that did not end remains; the next start removes it");
        }
    }
}
