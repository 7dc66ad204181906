//! What a decision comes to: rows to write and events to append, of any number of profiles and on any chains.

use bytes::Bytes;

use super::rows::{AgeKey, Head, IdentityHash};
use super::{PAGE, WorkspaceId};
use crate::model::{EventKind, Micros, Mpid, Sequence, Workspace};

/// Everything that a command writes. It is encoded and ready.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// The workspace to write to; `None` if there is nothing to write.
    pub workspace: Option<WorkspaceId>,
    /// Its name, if it comes into being.
    pub born: Option<Workspace>,
    pub profiles: Vec<ProfileWrite>,
    /// In this order: an identity may go from one owner to the next.
    pub owners: Vec<OwnerWrite>,
    /// In the order of their numbers, which follow the log's head.
    pub events: Vec<EventWrite>,
    /// The end of the log after them.
    pub head: Option<Head>,
    pub request: Option<RequestWrite>,
    /// Requests by age that are forgotten.
    pub forgotten: Vec<AgeKey>,
    /// Keys of requests by age that are damaged, and name no request for sure.
    pub damaged_ages: Vec<Vec<u8>>,
}

/// The row of a profile, and what it means for an index by expiry.
#[derive(Debug)]
pub(super) struct ProfileWrite {
    pub mpid: Mpid,
    pub row: Vec<u8>,
    /// When its first membership was to end, before.
    #[allow(dead_code)] // Of the two, an index by expiry is made: the rows to take out and to put in.
    pub expiry_was: Option<Micros>,
    /// When its first membership ends, now.
    #[allow(dead_code)] // As above.
    pub expiry_is: Option<Micros>,
}

/// The owner of an identity; `None` takes it out of the index.
#[derive(Debug)]
pub(super) struct OwnerWrite {
    pub identity: IdentityHash,
    pub owner: Option<Mpid>,
}

/// An event, as a row and as subscribers are told of it.
#[derive(Debug)]
pub(super) struct EventWrite {
    pub sequence: Sequence,
    pub mpid: Mpid,
    pub kind: EventKind,
    pub silent: bool,
    pub row: Bytes,
    /// Encoded `Event`: the end of the row.
    pub event: Bytes,
}

/// What was answered to a request id.
#[derive(Debug)]
pub(super) struct RequestWrite {
    pub key: Vec<u8>,
    pub row: Vec<u8>,
    pub age: AgeKey,
    /// The age under which an earlier request had the same id.
    pub replaces: Option<AgeKey>,
}

impl Effects {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.workspace.is_none()
            && self.profiles.is_empty()
            && self.owners.is_empty()
            && self.events.is_empty()
            && self.request.is_none()
    }

    /// What a batch keeps of it until it is answered, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.events.iter().map(|event| event.row.len()).sum()
    }

    /// Bytes of the pages that it makes dirty, by estimate: a row lies anywhere in its table, so each costs a page at
    /// least.
    pub fn dirty_bytes(&self) -> usize {
        let profiles = self.profiles.iter().map(|profile| pages(profile.row.len()));
        let events = self.events.iter().map(|event| pages(event.row.len()));
        let requests = 2 * usize::from(self.request.is_some()) + 2 * self.forgotten.len() + self.damaged_ages.len();
        PAGE * (profiles.chain(events).sum::<usize>() + self.owners.len() + requests)
    }
}

/// Of a row alone: a large one has a page of a power of two.
fn pages(row: usize) -> usize {
    (row / PAGE + 1).next_power_of_two()
}
