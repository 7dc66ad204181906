//! What the writer commits while a compaction or a backup copies the store.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::WorkspaceId;
use super::super::effects::Effects;
use super::super::rows::Head;

/// The batches that were committed and are not in the copy yet. The writer appends to it, and the copy takes from it.
#[derive(Debug)]
pub(in crate::store) struct Tail {
    /// The most bytes that it holds.
    most: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    batches: Vec<Batch>,
    bytes: usize,
    /// Whether a batch did not fit. Nothing is kept from then on.
    overflowed: bool,
}

/// The writer has committed more than the tail holds.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Overflowed;

/// What one batch has written.
#[derive(Debug)]
pub(in crate::store) struct Batch {
    pub effects: Vec<Effects>,
    pub heads: Vec<(WorkspaceId, Head)>,
}

impl Tail {
    pub fn new(most: usize) -> Self {
        Self { most, kept: Mutex::default() }
    }

    /// Keeps a batch that is on disk.
    pub fn push(&self, batch: Batch) {
        let mut kept = self.kept();
        kept.bytes += batch.effects.iter().map(Effects::kept_bytes).sum::<usize>();
        kept.overflowed |= kept.bytes > self.most;
        if kept.overflowed {
            kept.batches = Vec::new();
        } else {
            kept.batches.push(batch);
        }
    }

    /// Takes all batches, oldest first, and how many bytes they hold.
    ///
    /// # Errors
    /// If there were too many.
    pub fn take(&self) -> Result<(Vec<Batch>, usize), Overflowed> {
        let mut kept = self.kept();
        if kept.overflowed {
            return Err(Overflowed);
        }
        let Kept { batches, bytes, .. } = std::mem::take(&mut *kept);
        Ok((batches, bytes))
    }

    /// Bytes that the batches hold.
    pub fn bytes(&self) -> usize {
        self.kept().bytes
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
