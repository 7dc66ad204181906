//! The writer's last step of a compaction: the new file takes the place of the old one.
//!
//! The order is: apply the rest of the tail, sync, rename, sync the directory, and only then let readers and the writer
//! use the new file. So whatever is committed next goes to the file that a restart will find.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::Database;
use tokio::sync::oneshot;

use super::super::Shared;
use super::super::current::Held;
use super::super::error::StoreError;
use super::super::read::SnapshotTables;
use super::super::rows::Secret;
use super::{CompactError, Replace, Tail, Target, copy};

/// The new file, and what is still to be applied to it.
pub(in crate::store) struct Swap {
    pub new: Database,
    pub tail: Arc<Tail>,
    pub target: Box<dyn Target>,
    /// Gets how long the step took, and the database that is no longer in use, or never was.
    pub answer: oneshot::Sender<(Result<Duration, CompactError>, Held)>,
}

impl Swap {
    /// Replaces the database that is in use. If that is refused, nothing has changed.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot continue, because it is unknown which file a restart will find.
    pub fn run(self, held: &mut Held, shared: &Shared, secret: Secret) -> Result<(), StoreError> {
        let Self { new, tail, mut target, answer } = self;
        let begun = Instant::now();
        let mut new = Held::new(new);
        let ready = catch_unwind(AssertUnwindSafe(|| prepare(held, &new, &tail, secret)));
        let (result, fatal) = match ready.unwrap_or(Err(CompactError::Panicked)) {
            Err(error) => (Err(error), None),
            Ok(snapshot) => match target.replace() {
                Ok(()) => {
                    std::mem::swap(held, &mut new);
                    shared.database.replace(held);
                    shared.snapshot.store(Some(Arc::new(snapshot)));
                    (Ok(begun.elapsed()), None)
                }
                Err(Replace::Refused(error)) => (Err(CompactError::Write(error.into())), None),
                Err(Replace::Unknown(error)) => (Err(CompactError::Closed), Some(error)),
            },
        };
        drop(answer.send((result, new))); // If the caller has gone, this closes the new database.
        fatal.map_or(Ok(()), |error| Err(StoreError::Storage(Box::new(redb::Error::Io(error)))))
    }
}

/// Brings the new file up to the state of the old one, and opens a snapshot of it. All of it is synced.
fn prepare(old: &Held, new: &Held, tail: &Tail, secret: Secret) -> Result<SnapshotTables, CompactError> {
    copy::apply(&tail.take()?.0, &new.database)?;
    copy::compare(&old.database, &new.database)?;
    Ok(new.snapshot(secret)?)
}
