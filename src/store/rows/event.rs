//! The row of an event.

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::{FIRST_FORMAT, Kind, begin, number, numbered_key, seal, stored_mpid, unseal, unseal_first_format};
use crate::model::{EventKind, Micros, Mpid, Sequence};

/// The row of an event. The fields that filters test come before the event, so a filter does not decode it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct EventRow<'a> {
    /// The profile's previous event. `None` for its first.
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
/// Where each field of the body begins: previous event, mpid, time, kind, encoded event.
const PREVIOUS: usize = 0;
const MPID: usize = 8;
const TIME: usize = 16;
const EVENT_KIND: usize = 24;
const HEADER: usize = EVENT_KIND + 1;
/// This bit is set in the byte of the kind if the event is silent.
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
        // The first format differs only in the seed of the checksum.
        let body = if row.first() == Some(&FIRST_FORMAT) {
            unseal_first_format(KIND, workspace.0, sequence.get(), row, HEADER)?
        } else {
            unseal(KIND, &numbered_key(workspace, sequence.get()), row, HEADER)?
        };
        Ok(Self {
            previous: Sequence::new(u64::from_le_bytes(number(body, PREVIOUS))),
            mpid: stored_mpid(i64::from_le_bytes(number(body, MPID)), KIND)?,
            time: Micros::new(i64::from_le_bytes(number(body, TIME))),
            kind: EventKind::from_number(body[EVENT_KIND] & !SILENT).ok_or(KIND.corrupt())?,
            silent: body[EVENT_KIND] & SILENT != 0,
            event: &body[HEADER..],
        })
    }
}
