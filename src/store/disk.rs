//! The disk that holds the store.

use std::path::PathBuf;

/// The disk that holds the store.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub directory: PathBuf,
    /// Writes are refused if less than this is free. After a failed write redb cannot continue, and then reads would
    /// fail too.
    pub min_free_bytes: u64,
}

impl Disk {
    /// Returns the free space of the disk. `None` if the file system does not say.
    pub fn free_bytes(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.directory).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}
