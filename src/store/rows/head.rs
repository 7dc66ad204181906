//! The row of a workspace's head: where its log begins and ends, how large it is, and which numbers of streams it has
//! used up.
//!
//! It is kept apart from the log, so that a log that has lost its last events is not mistaken for a shorter one.

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::{Kind, begin, number, seal, unseal, verify};
use crate::model::{Micros, Place};

/// The ends of a log, which holds the events after `floor` and up to `place`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::store) struct Head {
    /// The place before the oldest event that the log holds.
    pub floor: Place,
    /// The place after the latest event.
    pub place: Place,
    /// The time of the latest event, also once the log no longer holds it.
    pub time: Micros,
    /// The lengths of the rows of the events that the log holds, added up.
    pub bytes: u64,
    /// A number above those of all streams of the subscriptions that were deleted. The streams of a new subscription have
    /// greater ones, so no number comes back under the same name.
    pub retired: u64,
}

/// The encoding of a [`Head`].
pub(in crate::store) struct HeadRow;

const KIND: Kind = Kind::Head;
/// Where each field of the body begins, and its length.
const FLOOR: usize = 0;
const PLACE: usize = 8;
const TIME: usize = 16;
const BYTES: usize = 24;
const BODY: usize = BYTES + 8;
/// Rows that were written before numbers were retired end here.
const RETIRED: usize = BODY;
/// The format that did not have the bytes.
const WITHOUT_BYTES: u8 = 1;

impl HeadRow {
    pub fn encode(head: &Head, workspace: WorkspaceId) -> Vec<u8> {
        let mut row = begin(KIND, RETIRED + size_of::<u64>());
        row.extend_from_slice(&head.floor.get().to_le_bytes());
        row.extend_from_slice(&head.place.get().to_le_bytes());
        row.extend_from_slice(&head.time.get().to_le_bytes());
        row.extend_from_slice(&head.bytes.to_le_bytes());
        row.extend_from_slice(&head.retired.to_le_bytes());
        seal(KIND, &workspace.0.to_be_bytes(), row)
    }

    pub fn read(workspace: WorkspaceId, row: &[u8]) -> Result<Head, StoreError> {
        let body = unseal(KIND, &workspace.0.to_be_bytes(), row, BODY)?;
        let retired = body[RETIRED..].first_chunk().map_or(0, |retired| u64::from_le_bytes(*retired));
        Ok(Head { bytes: u64::from_le_bytes(number(body, BYTES)), retired, ..Self::ends(body) })
    }

    /// Reads a row of format 1, which leaves the bytes at 0. `None` if the row has another format.
    pub fn read_without_bytes(workspace: WorkspaceId, row: &[u8]) -> Option<Result<Head, StoreError>> {
        let seed = KIND.seed(&workspace.0.to_be_bytes());
        (row.first() == Some(&WITHOUT_BYTES)).then(|| Ok(Self::ends(verify(KIND, seed, row, BYTES)?)))
    }

    fn ends(body: &[u8]) -> Head {
        Head {
            floor: Place::after(u64::from_le_bytes(number(body, FLOOR))),
            place: Place::after(u64::from_le_bytes(number(body, PLACE))),
            time: Micros::new(i64::from_le_bytes(number(body, TIME))),
            bytes: 0,
            retired: 0,
        }
    }
}
