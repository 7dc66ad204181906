//! The row of an event.

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::{Kind, begin, number, numbered_key, seal, stored_mpid, unseal, unseal_first_format};
use crate::model::{EventKind, Micros, Mpid, Sequence};

/// The row of an event: what filters look at, so that nothing is decoded for them, and the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct EventRow<'a> {
    /// The event before this on the profile's chain.
    pub previous: Option<Sequence>,
    pub mpid: Mpid,
    pub time: Micros,
    pub kind: EventKind,
    /// See `Event.silent`.
    pub silent: bool,
    /// Encoded `Event`.
    pub event: &'a [u8],
}

const KIND: Kind = Kind::Event;
const HEADER: usize = 8 + 8 + 8 + 1;
/// Set in the byte of the event's kind if the event is silent.
const SILENT: u8 = 0x80;

impl<'a> EventRow<'a> {
    pub fn encode(&self, workspace: WorkspaceId, sequence: Sequence) -> Vec<u8> {
        let mut row = begin(KIND, HEADER + self.event.len());
        row.extend_from_slice(&self.previous.map_or(0, Sequence::get).to_le_bytes());
        row.extend_from_slice(&self.mpid.get().to_le_bytes());
        row.extend_from_slice(&self.time.get().to_le_bytes());
        row.push(self.kind as u8 | if self.silent { SILENT } else { 0 });
        row.extend_from_slice(self.event);
        seal(KIND, &numbered_key(workspace, sequence.get()), row)
    }

    pub fn read(workspace: WorkspaceId, sequence: Sequence, row: &'a [u8]) -> Result<Self, StoreError> {
        // Format 1 differs in the seed of the checksum alone.
        let body = if row.first() == Some(&1) {
            unseal_first_format(KIND, workspace.0, sequence.get(), row, HEADER)?
        } else {
            unseal(KIND, &numbered_key(workspace, sequence.get()), row, HEADER)?
        };
        Ok(Self {
            previous: Sequence::new(u64::from_le_bytes(number(body, 0))),
            mpid: stored_mpid(i64::from_le_bytes(number(body, 8)), KIND)?,
            time: Micros::new(i64::from_le_bytes(number(body, 16))),
            kind: EventKind::from_number(body[24] & !SILENT).ok_or(KIND.corrupt())?,
            silent: body[24] & SILENT != 0,
            event: &body[HEADER..],
        })
    }
}
