//! What runs alone: a compaction, or a backup. Both need the tail of the writer, and there is one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What may be running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Compaction,
    Backup,
}

/// What is running, if anything is.
#[derive(Debug, Clone, Default)]
pub(super) struct Alone(Arc<Mutex<Option<Work>>>);

/// Marks work as running until it is dropped.
#[derive(Debug)]
pub(super) struct Running(Alone);

impl Alone {
    /// Begins some work. Returns what is running if that keeps it from beginning.
    pub fn begin(&self, work: Work) -> Result<Running, Work> {
        let mut running = self.running();
        if let Some(other) = *running {
            return Err(other);
        }
        *running = Some(work);
        Ok(Running(self.clone()))
    }

    fn running(&self) -> MutexGuard<'_, Option<Work>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *self.0.running() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_runs_at_a_time() {
        let alone = Alone::default();
        let backup = alone.begin(Work::Backup).unwrap();
        assert_eq!(alone.begin(Work::Compaction).unwrap_err(), Work::Backup);
        assert_eq!(alone.begin(Work::Backup).unwrap_err(), Work::Backup);
        drop(backup);
        let _compaction = alone.begin(Work::Compaction).unwrap();
        assert_eq!(alone.begin(Work::Backup).unwrap_err(), Work::Compaction);
    }
}
