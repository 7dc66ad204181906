//! The values of the tables.
//!
//! A row is a format byte, a checksum of the rest, a fixed header, and the wire bytes of a message. redb does not
//! verify its pages when it reads them, so we do; the key seeds the checksum, so that a row in the wrong place is
//! refused like a damaged one.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::WorkspaceId;
use super::error::StoreError;
use crate::model::{EventKind, IdentityKey, Micros, Mpid, Sequence};
use crate::proto::v1::WriteOutcome;

const FORMAT: u8 = 1;
const CHECKED: usize = 1 + 8;
/// Set in the byte of an event's kind if the event is silent.
const SILENT: u8 = 0x80;

/// The value of a profile.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProfileRow<'a> {
    /// When the first membership ends; [`Micros::MAX`] for never.
    pub next_expiry: Micros,
    /// The profile's latest event.
    pub last_event: Sequence,
    /// Encoded `Profile`; empty if it was deleted: its row stays, as the head of the chain of its events.
    pub profile: &'a [u8],
}

impl<'a> ProfileRow<'a> {
    const TABLE: &'static str = "profile";
    const HEADER: usize = CHECKED + 8 + 8;

    pub fn encode(&self, workspace: WorkspaceId, mpid: Mpid) -> Vec<u8> {
        let mut row = Vec::with_capacity(Self::HEADER + self.profile.len());
        begin(&mut row);
        row.extend_from_slice(&self.next_expiry.to_le_bytes());
        row.extend_from_slice(&self.last_event.to_le_bytes());
        row.extend_from_slice(self.profile);
        seal(row, Self::seed(workspace, mpid))
    }

    pub fn read(workspace: WorkspaceId, mpid: Mpid, row: &'a [u8]) -> Result<Self, StoreError> {
        check(row, Self::HEADER, Self::seed(workspace, mpid), Self::TABLE)?;
        Ok(Self {
            next_expiry: i64::from_le_bytes(number(row, CHECKED)),
            last_event: u64::from_le_bytes(number(row, CHECKED + 8)),
            profile: &row[Self::HEADER..],
        })
    }

    fn seed(workspace: WorkspaceId, mpid: Mpid) -> u64 {
        seed(workspace, mpid.get().cast_unsigned())
    }
}

/// The value of an event.
#[derive(Debug, Clone, Copy)]
pub(super) struct EventRow<'a> {
    /// The profile's event before this; 0 for none.
    pub previous: Sequence,
    pub mpid: Mpid,
    pub time: Micros,
    pub kind: EventKind,
    /// See `Event.silent`.
    pub silent: bool,
    /// Encoded `Event`.
    pub event: &'a [u8],
}

impl<'a> EventRow<'a> {
    const TABLE: &'static str = "event";
    const HEADER: usize = CHECKED + 8 + 8 + 8 + 1;

    pub fn encode(&self, workspace: WorkspaceId, sequence: Sequence) -> Vec<u8> {
        let mut row = Vec::with_capacity(Self::HEADER + self.event.len());
        begin(&mut row);
        row.extend_from_slice(&self.previous.to_le_bytes());
        row.extend_from_slice(&self.mpid.get().to_le_bytes());
        row.extend_from_slice(&self.time.to_le_bytes());
        row.push(self.kind as u8 | if self.silent { SILENT } else { 0 });
        row.extend_from_slice(self.event);
        seal(row, seed(workspace, sequence))
    }

    pub fn read(workspace: WorkspaceId, sequence: Sequence, row: &'a [u8]) -> Result<Self, StoreError> {
        check(row, Self::HEADER, seed(workspace, sequence), Self::TABLE)?;
        Ok(Self {
            previous: u64::from_le_bytes(number(row, CHECKED)),
            mpid: stored_mpid(i64::from_le_bytes(number(row, CHECKED + 8)))?,
            time: i64::from_le_bytes(number(row, CHECKED + 16)),
            kind: EventKind::from_number(row[CHECKED + 24] & !SILENT)
                .ok_or(StoreError::Corrupt { table: Self::TABLE })?,
            silent: row[CHECKED + 24] & SILENT != 0,
            event: &row[Self::HEADER..],
        })
    }
}

/// What was answered to a request that had an id. It holds no personal data: the profile that was answered is found
/// by the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestRow {
    /// Of the request, without its id.
    pub fingerprint: u128,
    pub time: Micros,
    pub mpid: Option<Mpid>,
    pub sequence: Sequence,
    pub outcome: WriteOutcome,
}

impl RequestRow {
    const TABLE: &'static str = "request";
    const LENGTH: usize = CHECKED + 16 + 8 + 8 + 8 + 1;

    pub fn encode(&self, workspace: WorkspaceId, id: &str) -> Vec<u8> {
        let mut row = Vec::with_capacity(Self::LENGTH);
        begin(&mut row);
        row.extend_from_slice(&self.fingerprint.to_le_bytes());
        row.extend_from_slice(&self.time.to_le_bytes());
        row.extend_from_slice(&self.mpid.map_or(0, Mpid::get).to_le_bytes());
        row.extend_from_slice(&self.sequence.to_le_bytes());
        row.push(self.outcome as u8);
        seal(row, Self::seed(workspace, id))
    }

    pub fn read(workspace: WorkspaceId, id: &str, row: &[u8]) -> Result<Self, StoreError> {
        check(row, Self::LENGTH, Self::seed(workspace, id), Self::TABLE)?;
        Ok(Self {
            fingerprint: u128::from_le_bytes(number(row, CHECKED)),
            time: i64::from_le_bytes(number(row, CHECKED + 16)),
            mpid: Mpid::new(i64::from_le_bytes(number(row, CHECKED + 24))),
            sequence: u64::from_le_bytes(number(row, CHECKED + 32)),
            outcome: WriteOutcome::try_from(i32::from(row[CHECKED + 40]))
                .map_err(|_| StoreError::Corrupt { table: Self::TABLE })?,
        })
    }

    fn seed(workspace: WorkspaceId, id: &str) -> u64 {
        seed(workspace, xxh3_64(id.as_bytes()))
    }
}

/// The value of an identity: its owner, and a checksum of both, for a damaged owner would be another person.
pub(super) fn owner_row(workspace: WorkspaceId, key: &IdentityKey, owner: Mpid) -> (i64, u64) {
    let checksum = xxh3_64_with_seed(key.as_bytes(), seed(workspace, owner.get().cast_unsigned()));
    (owner.get(), checksum)
}

/// The owner that [`owner_row`] was made of.
pub(super) fn read_owner(workspace: WorkspaceId, key: &IdentityKey, row: (i64, u64)) -> Result<Mpid, StoreError> {
    let owner = stored_mpid(row.0)?;
    if row == owner_row(workspace, key, owner) { Ok(owner) } else { Err(StoreError::Corrupt { table: "identity" }) }
}

/// An mpid that was valid when it was stored.
pub(super) fn stored_mpid(mpid: i64) -> Result<Mpid, StoreError> {
    Mpid::new(mpid).ok_or(StoreError::Corrupt { table: "mpid" })
}

fn seed(workspace: WorkspaceId, key: u64) -> u64 {
    u64::from(workspace.0).rotate_left(32) ^ key
}

fn begin(row: &mut Vec<u8>) {
    row.push(FORMAT);
    row.extend_from_slice(&[0; 8]);
}

fn seal(mut row: Vec<u8>, seed: u64) -> Vec<u8> {
    let checksum = xxh3_64_with_seed(&row[CHECKED..], seed);
    row[1..CHECKED].copy_from_slice(&checksum.to_le_bytes());
    row
}

fn check(row: &[u8], header: usize, seed: u64, table: &'static str) -> Result<(), StoreError> {
    let sound = row.len() >= header
        && row[0] == FORMAT
        && u64::from_le_bytes(number(row, 1)) == xxh3_64_with_seed(&row[CHECKED..], seed);
    if sound { Ok(()) } else { Err(StoreError::Corrupt { table }) }
}

/// The bytes at `at`, which the caller knows to be there.
fn number<const N: usize>(row: &[u8], at: usize) -> [u8; N] {
    row[at..at + N].try_into().expect("the slice has this length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_or_misplaced_row_is_refused() {
        let (workspace, mpid) = (WorkspaceId(3), Mpid::new(-7).unwrap());
        let row = ProfileRow { next_expiry: 5, last_event: 9, profile: b"profile" }.encode(workspace, mpid);
        let read = ProfileRow::read(workspace, mpid, &row).unwrap();
        assert_eq!((read.next_expiry, read.last_event, read.profile), (5, 9, &b"profile"[..]));

        for at in 0..row.len() {
            let mut damaged = row.clone();
            damaged[at] ^= 1;
            assert!(ProfileRow::read(workspace, mpid, &damaged).is_err(), "byte {at}");
            assert!(ProfileRow::read(workspace, mpid, &row[..at]).is_err(), "cut at {at}");
        }
        assert!(ProfileRow::read(WorkspaceId(4), mpid, &row).is_err());
        assert!(ProfileRow::read(workspace, Mpid::new(7).unwrap(), &row).is_err());
    }

    #[test]
    fn rows_read_back() {
        let (workspace, mpid) = (WorkspaceId(1), Mpid::new(2).unwrap());
        for silent in [false, true] {
            let event = EventRow { previous: 3, mpid, time: -4, kind: EventKind::Deleted, silent, event: b"event" };
            let row = event.encode(workspace, 5);
            let read = EventRow::read(workspace, 5, &row).unwrap();
            assert_eq!((read.previous, read.mpid, read.time, read.kind), (3, mpid, -4, EventKind::Deleted));
            assert_eq!((read.silent, read.event), (silent, &b"event"[..]));
        }

        let request =
            RequestRow { fingerprint: 1 << 100, time: 6, mpid: None, sequence: 8, outcome: WriteOutcome::Unchanged };
        let row = request.encode(workspace, "r");
        assert_eq!(RequestRow::read(workspace, "r", &row).unwrap(), request);
        assert!(RequestRow::read(workspace, "s", &row).is_err());
    }
}
