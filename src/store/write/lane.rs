//! Admission to the queue of writes: a bound on the waiting commands, and on the memory that they take.
//!
//! - Two lanes lead into the one queue. A call is refused when its lane is full. An import waits for room in its own
//!   lane, so imports fill the commits but can never keep calls out.
//! - A call is also refused while its workspace holds more of the lane than is left free. A workspace alone gets half of
//!   the lane, two get a third each, and there is always room for one more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::error::StoreError;
use crate::model::Workspace;

/// One of the two ways into the queue.
#[derive(Debug)]
pub(in crate::store) struct Lane {
    commands: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    most_commands: usize,
    capacity: u32,
    shares: Arc<Shares>,
}

/// What the calls of each workspace hold. A workspace without calls has no entry.
#[derive(Debug, Default)]
struct Shares(Mutex<HashMap<Workspace, Held>>);

#[derive(Debug, Clone, Copy, Default)]
struct Held {
    commands: usize,
    bytes: usize,
}

/// What one call holds of its workspace's share.
#[derive(Debug)]
struct Share {
    shares: Arc<Shares>,
    workspace: Workspace,
    bytes: usize,
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
    /// `None` for an import.
    _share: Option<Share>,
}

impl Lane {
    pub fn new(commands: usize, bytes: usize) -> Self {
        let capacity = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self {
            commands: Arc::new(Semaphore::new(commands)),
            bytes: Arc::new(Semaphore::new(bytes)),
            most_commands: commands,
            capacity,
            shares: Arc::default(),
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

    /// Takes a ticket if there is room now, also for this workspace.
    pub fn try_enter(&self, workspace: &Workspace, bytes: usize) -> Result<Ticket, StoreError> {
        let full = |_| StoreError::Overloaded;
        let command = Arc::clone(&self.commands).try_acquire_owned().map_err(full)?;
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(self.share(bytes)).map_err(full)?;
        let free = Held { commands: self.commands.available_permits(), bytes: self.bytes.available_permits() };
        let share = self.shares.take(workspace, bytes.num_permits(), free).ok_or(StoreError::Overloaded)?;
        Ok(Ticket { _command: command, _bytes: bytes, _share: Some(share) })
    }

    /// Waits for room and takes a ticket. Callers are served in the order in which they asked.
    pub async fn enter(&self, bytes: usize) -> Result<Ticket, StoreError> {
        let closed = |_| StoreError::Closed;
        let command = Arc::clone(&self.commands).acquire_owned().await.map_err(closed)?;
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(self.share(bytes)).await.map_err(closed)?;
        Ok(Ticket { _command: command, _bytes: bytes, _share: None })
    }

    /// Caps a command's share, so that even the largest command fits into an empty lane.
    fn share(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.capacity)
    }
}

impl Shares {
    /// Adds a call, unless its workspace already holds more than would be left free.
    fn take(self: &Arc<Self>, workspace: &Workspace, bytes: usize, free: Held) -> Option<Share> {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = shares.get(workspace).copied().unwrap_or_default();
        if held.commands > free.commands || held.bytes > free.bytes {
            return None;
        }
        shares.insert(workspace.clone(), Held { commands: held.commands + 1, bytes: held.bytes + bytes });
        Some(Share { shares: Arc::clone(self), workspace: workspace.clone(), bytes })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut shares = self.shares.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = shares.get_mut(&self.workspace).expect("this call holds a share");
        *held = Held { commands: held.commands - 1, bytes: held.bytes - self.bytes };
        if held.commands == 0 {
            shares.remove(&self.workspace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(name: &str) -> Workspace {
        Workspace::parse(&format!("a/b/{name}")).unwrap()
    }

    /// Takes tickets of this many bytes until one is refused.
    fn fill(lane: &Lane, name: &str, bytes: usize) -> Vec<Ticket> {
        let workspace = workspace(name);
        std::iter::from_fn(|| lane.try_enter(&workspace, bytes).ok()).collect()
    }

    #[test]
    fn each_workspace_leaves_as_much_room_as_it_holds() {
        for (commands, bytes, each) in [(120, 1 << 20, 1), (1 << 20, 1_200, 10)] {
            let lane = Lane::new(commands, bytes);
            let first = fill(&lane, "first", each);
            assert_eq!(first.len(), 60, "half of 120");
            let second = fill(&lane, "second", each);
            assert_eq!(second.len(), 30, "half of what is left");
            drop(first);
            let third = fill(&lane, "third", each);
            assert_eq!(third.len(), 45, "half of what is left");
            assert_eq!(fill(&lane, "second", each).len(), 8, "it then holds 38, and 37 are left");
        }
    }

    #[test]
    fn a_lane_of_one_takes_one() {
        let lane = Lane::new(1, 1 << 20);
        let ticket = fill(&lane, "first", 100);
        assert_eq!(ticket.len(), 1);
        assert!(lane.try_enter(&workspace("second"), 1).is_err());
        drop(ticket);
        assert_eq!(fill(&lane, "second", usize::MAX).len(), 1, "the largest command fits into an empty lane");
        assert!(lane.shares.0.lock().unwrap().is_empty(), "nothing is left of those that ended");
    }
}
