//! The database in use. A compaction replaces it, while readers may still read the one before.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use redb::{Database, ReadableDatabase};

use super::error::StoreError;
use super::read::{Reader, SnapshotTables};
use super::rows::Secret;

/// How often a database that waits for its readers looks whether it must close now.
const LOOK: Duration = Duration::from_millis(100);

/// An open database. The writer holds the one in use, and with it keeps it open.
pub(super) struct Held {
    pub database: Arc<Database>,
    reader: Reader,
    /// Disconnected once the readers and `reader` are gone.
    readers: Receiver<Infallible>,
}

/// Lends the database in use to those who must not keep it open.
#[derive(Debug)]
pub(super) struct InUse(Mutex<Weak<Database>>);

impl Held {
    pub fn new(database: Database) -> Self {
        let (reader, readers) = Reader::first();
        Self { database: Arc::new(database), reader, readers }
    }

    /// Opens the latest committed state.
    pub fn snapshot(&self, secret: Secret) -> Result<SnapshotTables, StoreError> {
        Ok(SnapshotTables::open(&self.database.begin_read()?, secret, self.reader.clone())?)
    }

    /// Closes the database once its readers are gone: redb would fail their reads. If `must_close` says so, they are
    /// not waited for.
    pub fn close(self, must_close: impl Fn() -> bool) {
        let Self { database, reader, readers } = self;
        drop(reader);
        while let Err(RecvTimeoutError::Timeout) = readers.recv_timeout(LOOK) {
            if must_close() {
                break;
            }
        }
        // redb writes to its file once more. With damage in its own pages it may panic, which no longer matters.
        if catch_unwind(AssertUnwindSafe(|| drop(database))).is_err() {
            tracing::warn!("a file that was compacted could not be closed in order");
        }
    }
}

impl InUse {
    pub fn new(held: &Held) -> Self {
        Self(Mutex::new(Arc::downgrade(&held.database)))
    }

    /// The database. `None` once the store is closed.
    pub fn get(&self) -> Option<Arc<Database>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    pub fn replace(&self, held: &Held) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&held.database);
    }
}
