//! The row of a workspace's head: where its log begins and ends.
//!
//! It is kept apart from the log, so that a log that has lost its last events is not mistaken for a shorter one.

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::{Kind, begin, number, seal, unseal};
use crate::model::{Micros, Place};

/// The ends of a log, which holds the events after `floor` and up to `place`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::store) struct Head {
    /// The place before the oldest event that the log holds.
    pub floor: Place,
    /// The place after the latest event.
    pub place: Place,
    /// The time of the latest event.
    pub time: Micros,
}

/// The encoding of a [`Head`].
pub(in crate::store) struct HeadRow;

const KIND: Kind = Kind::Head;
/// Where each field of the body begins, and its length.
const FLOOR: usize = 0;
const PLACE: usize = 8;
const TIME: usize = 16;
const BODY: usize = TIME + 8;

impl HeadRow {
    pub fn encode(head: &Head, workspace: WorkspaceId) -> Vec<u8> {
        let mut row = begin(KIND, BODY);
        row.extend_from_slice(&head.floor.get().to_le_bytes());
        row.extend_from_slice(&head.place.get().to_le_bytes());
        row.extend_from_slice(&head.time.get().to_le_bytes());
        seal(KIND, &workspace.0.to_be_bytes(), row)
    }

    pub fn read(workspace: WorkspaceId, row: &[u8]) -> Result<Head, StoreError> {
        let body = unseal(KIND, &workspace.0.to_be_bytes(), row, BODY)?;
        Ok(Head {
            floor: Place::after(u64::from_le_bytes(number(body, FLOOR))),
            place: Place::after(u64::from_le_bytes(number(body, PLACE))),
            time: Micros::new(i64::from_le_bytes(number(body, TIME))),
        })
    }
}
