//! Admission to the queue of writes: a bound on the waiting commands, and on the memory that they take.
//!
//! Two lanes lead into the one queue. A call is refused when its lane is full. An import waits for room in its own
//! lane, so imports fill the commits but can never keep calls out.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::error::StoreError;

/// One of the two ways into the queue.
#[derive(Debug)]
pub(in crate::store) struct Lane {
    commands: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    most_commands: usize,
    capacity: u32,
}

/// How full a lane is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneUse {
    /// Commands that wait, or are being written.
    pub commands: usize,
    /// Memory that they take, in bytes.
    pub bytes: usize,
    /// The most commands that may wait.
    pub most_commands: usize,
    /// The most memory that they may take, in bytes.
    pub most_bytes: usize,
}

/// A command's share of its lane. It is released just before the caller gets its reply.
#[derive(Debug)]
pub(in crate::store) struct Ticket {
    _command: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Lane {
    pub fn new(commands: usize, bytes: usize) -> Self {
        let capacity = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self {
            commands: Arc::new(Semaphore::new(commands)),
            bytes: Arc::new(Semaphore::new(bytes)),
            most_commands: commands,
            capacity,
        }
    }

    /// How full it is now.
    pub fn in_use(&self) -> LaneUse {
        let most_bytes = self.capacity as usize;
        LaneUse {
            commands: self.most_commands - self.commands.available_permits(),
            bytes: most_bytes - self.bytes.available_permits(),
            most_commands: self.most_commands,
            most_bytes,
        }
    }

    /// Takes a ticket if there is room now.
    pub fn try_enter(&self, bytes: usize) -> Result<Ticket, StoreError> {
        let full = |_| StoreError::Overloaded;
        let command = Arc::clone(&self.commands).try_acquire_owned().map_err(full)?;
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(self.share(bytes)).map_err(full)?;
        Ok(Ticket { _command: command, _bytes: bytes })
    }

    /// Waits for room and takes a ticket. Callers are served in the order in which they asked.
    pub async fn enter(&self, bytes: usize) -> Result<Ticket, StoreError> {
        let closed = |_| StoreError::Closed;
        let command = Arc::clone(&self.commands).acquire_owned().await.map_err(closed)?;
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(self.share(bytes)).await.map_err(closed)?;
        Ok(Ticket { _command: command, _bytes: bytes })
    }

    /// Caps a command's share, so that even the largest command fits into an empty lane.
    fn share(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.capacity)
    }
}
