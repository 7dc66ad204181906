//! What operators see of the store: its queue, its cache, its logs and its disk.

use redb::ReadableDatabase;

use super::Store;
use super::error::StoreError;
use super::read::LogBounds;
use super::write::LaneUse;
use crate::model::Workspace;
use crate::telemetry::metrics::StoreMetrics;

/// How the cache of the store's pages is used. The counters begin when the store is opened, and
/// again when it is compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheUse {
    /// Pages that were in the cache when they were needed.
    pub hits: u64,
    /// Pages that had to be read from the file.
    pub misses: u64,
    /// Pages that left the cache because it was full.
    pub evictions: u64,
    /// Memory that the cache takes.
    pub bytes: u64,
}

impl Store {
    /// Counts what the store does.
    #[must_use]
    pub fn metrics(&self) -> &StoreMetrics {
        &self.metrics
    }

    /// Returns how full the two lanes of the queue are: that of calls, and that of imports.
    #[must_use]
    pub fn queues(&self) -> [(&'static str, LaneUse); 2] {
        [("call", self.calls.in_use()), ("import", self.imports.in_use())]
    }

    /// Returns how the cache is used. `None` once the store is closed.
    #[must_use]
    pub fn cache(&self) -> Option<CacheUse> {
        let stats = self.shared.database.get()?.cache_stats();
        Some(CacheUse {
            hits: stats.read_hits() + stats.write_hits(),
            misses: stats.read_misses() + stats.write_misses(),
            evictions: stats.evictions(),
            bytes: stats.used_bytes() as u64,
        })
    }

    /// Returns the ends of the logs of up to `most` workspaces: of those in `first`, in their order, and then of others
    /// in the order of their names. A log whose ends cannot be read is left out, and so are all once the store is
    /// closed.
    #[must_use]
    pub fn logs(&self, first: &[Workspace], most: usize) -> Vec<(Workspace, LogBounds)> {
        let some = self.shared.workspaces.some(first, most); // Before the snapshot, which then has all of them.
        let Ok(snapshot) = self.snapshot() else { return Vec::new() };
        some.into_iter().filter_map(|(name, id)| Some((name, snapshot.log_bounds(id).ok()?))).collect()
    }

    /// Returns why writes are refused because the disk is nearly full, if they are. This queries the file system.
    #[must_use]
    pub fn disk_full(&self) -> Option<StoreError> {
        let (free, required) = (self.disk.free_bytes()?, self.disk.min_free_bytes);
        (free < required).then_some(StoreError::DiskFull { free, required })
    }
}
