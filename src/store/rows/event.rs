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
    /// The profile that was absorbed, if the event is that of a merge.
    pub other: Option<Other>,
    /// Encoded `Event`.
    pub event: &'a [u8],
}

/// A second profile whose chain an event belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Other {
    pub mpid: Mpid,
    /// The previous event of that profile.
    pub previous: Option<Sequence>,
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
/// This bit is set in the byte of the kind if an other profile follows the header: its mpid, and its previous event.
const HAS_OTHER: u8 = 0x40;
const OTHER: usize = 8 + 8;

impl<'a> EventRow<'a> {
    pub fn encode(&self, workspace: WorkspaceId, sequence: Sequence) -> Vec<u8> {
        let mut row = begin(KIND, HEADER + OTHER + self.event.len());
        row.extend_from_slice(&self.previous.map_or(0, Sequence::get).to_le_bytes());
        row.extend_from_slice(&self.mpid.get().to_le_bytes());
        row.extend_from_slice(&self.time.get().to_le_bytes());
        let has_other = if self.other.is_some() { HAS_OTHER } else { 0 };
        row.push(self.kind as u8 | if self.silent { SILENT } else { 0 } | has_other);
        if let Some(Other { mpid, previous }) = self.other {
            row.extend_from_slice(&mpid.get().to_le_bytes());
            row.extend_from_slice(&previous.map_or(0, Sequence::get).to_le_bytes());
        }
        row.extend_from_slice(self.event);
        seal(KIND, &numbered_key(workspace, sequence.get()), row)
    }

    /// Returns the event before this one on the chain of a profile. `None` if it is the first.
    pub fn before(&self, mpid: Mpid, sequence: Sequence) -> Result<Option<Sequence>, StoreError> {
        let previous = match self.other {
            _ if self.mpid == mpid => self.previous,
            Some(other) if other.mpid == mpid => other.previous,
            _ => return Err(KIND.corrupt()),
        };
        if previous.is_some_and(|previous| previous >= sequence) { Err(KIND.corrupt()) } else { Ok(previous) }
    }

    pub fn read(workspace: WorkspaceId, sequence: Sequence, row: &'a [u8]) -> Result<Self, StoreError> {
        // The first format differs only in the seed of the checksum.
        let body = if row.first() == Some(&FIRST_FORMAT) {
            unseal_first_format(KIND, workspace.0, sequence.get(), row, HEADER)?
        } else {
            unseal(KIND, &numbered_key(workspace, sequence.get()), row, HEADER)?
        };
        let (other, begin) = match body[EVENT_KIND] & HAS_OTHER {
            0 => (None, HEADER),
            _ if body.len() < HEADER + OTHER => return Err(KIND.corrupt()),
            _ => {
                let mpid = stored_mpid(i64::from_le_bytes(number(body, HEADER)), KIND)?;
                let previous = Sequence::new(u64::from_le_bytes(number(body, HEADER + 8)));
                (Some(Other { mpid, previous }), HEADER + OTHER)
            }
        };
        Ok(Self {
            previous: Sequence::new(u64::from_le_bytes(number(body, PREVIOUS))),
            mpid: stored_mpid(i64::from_le_bytes(number(body, MPID)), KIND)?,
            time: Micros::new(i64::from_le_bytes(number(body, TIME))),
            kind: EventKind::from_number(body[EVENT_KIND] & !(SILENT | HAS_OTHER)).ok_or(KIND.corrupt())?,
            silent: body[EVENT_KIND] & SILENT != 0,
            other,
            event: &body[begin..],
        })
    }
}
