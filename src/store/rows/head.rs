//! The row of the ends of a workspace's log. It is kept apart from the log, so that a log that has lost its end is not
//! taken for a shorter one.

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::{Kind, begin, number, seal, unseal};
use crate::model::{Micros, Place};

/// The ends of a log: it holds the events after `floor`, up to `place`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::store) struct Head {
    /// Before the oldest event that is held.
    pub floor: Place,
    /// After the latest event.
    pub place: Place,
    /// Of the latest event.
    pub time: Micros,
}

/// See [`Head`].
pub(in crate::store) struct HeadRow;

const KIND: Kind = Kind::Head;
const BODY: usize = 3 * 8;

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
            floor: Place::after(u64::from_le_bytes(number(body, 0))),
            place: Place::after(u64::from_le_bytes(number(body, 8))),
            time: Micros::new(i64::from_le_bytes(number(body, 16))),
        })
    }
}
