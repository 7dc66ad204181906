//! The file, as redb sees it: a failed read fails one call, not the store.
//!
//! After a read error redb refuses all further reads until the file is opened again. One bad sector would then end the
//! store for every caller, after every start. So a failed read is retried once here. If it fails again, it is logged
//! and panics. redb caches nothing of it, and only the caller that needs the page is refused, as for any other damage.
//!
//! Two kinds of errors are passed on to redb, and end the store: a failed read while the store is being opened, and a
//! failed write or sync at any time.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

/// A file whose failed reads panic once the store is open.
#[derive(Debug)]
pub(super) struct Backend<B> {
    inner: B,
    /// Whether the store is open. Until then failed reads are passed on.
    open: Arc<AtomicBool>,
}

impl Backend<FileBackend> {
    /// The caller sets `open` once the store is open.
    pub fn file(file: File, open: Arc<AtomicBool>) -> Result<Self, DatabaseError> {
        Ok(Self { inner: FileBackend::new(file)?, open })
    }
}

impl<B: StorageBackend> Backend<B> {
    #[cfg(test)]
    pub fn new(inner: B) -> Self {
        Self { inner, open: Arc::new(AtomicBool::new(true)) }
    }
}

impl<B: StorageBackend> StorageBackend for Backend<B> {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let read = self.inner.read(offset, out);
        if read.is_ok() || !self.open.load(Ordering::Relaxed) {
            return read;
        }
        if let Err(error) = self.inner.read(offset, out) {
            tracing::error!(%error, offset, bytes = out.len(), "part of the store's file cannot be read");
            panic!("the store's file cannot be read");
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
