//! Who may join the queue of writes: a bound on the commands that wait, and on the memory that they take.
//!
//! There are two lanes into the one queue. Calls are refused when theirs is full. Imports wait for room in theirs, so
//! that they fill the commits and can never shut the calls out.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::error::StoreError;

/// A way into the queue.
#[derive(Debug)]
pub(in crate::store) struct Lane {
    commands: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    capacity: u32,
}

/// A command's share of the queue, until it is answered.
#[derive(Debug)]
pub(in crate::store) struct Ticket {
    _command: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Lane {
    pub fn new(commands: usize, bytes: usize) -> Self {
        let capacity = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self { commands: Arc::new(Semaphore::new(commands)), bytes: Arc::new(Semaphore::new(bytes)), capacity }
    }

    /// Joins, if there is room.
    pub fn try_enter(&self, bytes: usize) -> Result<Ticket, StoreError> {
        let full = |_| StoreError::Overloaded;
        let command = Arc::clone(&self.commands).try_acquire_owned().map_err(full)?;
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(self.share(bytes)).map_err(full)?;
        Ok(Ticket { _command: command, _bytes: bytes })
    }

    /// Joins when there is room: in the order of asking.
    pub async fn enter(&self, bytes: usize) -> Result<Ticket, StoreError> {
        let closed = |_| StoreError::Closed;
        let command = Arc::clone(&self.commands).acquire_owned().await.map_err(closed)?;
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(self.share(bytes)).await.map_err(closed)?;
        Ok(Ticket { _command: command, _bytes: bytes })
    }

    /// The largest command must fit into an empty lane.
    fn share(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.capacity)
    }
}
