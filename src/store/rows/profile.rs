//! The row of a profile.

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::{
    FIRST_FORMAT, Kind, NUMBERED_KEY, begin, number, numbered_key, seal, stored_mpid, unseal, unseal_first_format,
};
use crate::model::{Micros, Mpid, Sequence};

/// The row of an mpid that has or once had a profile. It stays after a delete, because the chain of the profile's
/// events begins here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct ProfileRow<'a> {
    /// When the earliest membership ends. `None` if none ends.
    pub next_expiry: Option<Micros>,
    /// The profile's latest event. Each event links to the one before.
    pub last_event: Sequence,
    pub held: Held<'a>,
}

/// What the row of an mpid holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Held<'a> {
    /// An encoded profile.
    Profile(&'a [u8]),
    /// Nothing: the profile was deleted.
    Tombstone,
    /// The mpid of the profile that absorbed this one.
    Redirect(Mpid),
}

const KIND: Kind = Kind::Profile;
/// Bytes of the next expiry and the last event.
const NUMBERS: usize = 8 + 8;
/// Bytes before the content. Format 2 has a byte that says what the row holds, then the numbers. Format 1 has only the
/// numbers, and an empty profile means a deleted one.
const HEADER: usize = 1 + NUMBERS;
/// Stored as the next expiry of a profile of which no membership ends.
const NEVER: i64 = i64::MAX;
/// Bytes of an mpid.
const MPID: usize = 8;

/// The values of the byte that says what the row holds.
const PROFILE: u8 = 1;
const TOMBSTONE: u8 = 2;
const REDIRECT: u8 = 3;

impl<'a> ProfileRow<'a> {
    pub fn encode(&self, workspace: WorkspaceId, mpid: Mpid) -> Vec<u8> {
        let target = if let Held::Redirect(to) = self.held { to.get() } else { 0 }.to_le_bytes();
        let (held, body): (u8, &[u8]) = match self.held {
            Held::Profile(profile) => (PROFILE, profile),
            Held::Tombstone => (TOMBSTONE, &[]),
            Held::Redirect(_) => (REDIRECT, &target),
        };
        let mut row = begin(KIND, HEADER + body.len());
        row.push(held);
        row.extend_from_slice(&self.next_expiry.map_or(NEVER, Micros::get).to_le_bytes());
        row.extend_from_slice(&self.last_event.get().to_le_bytes());
        row.extend_from_slice(body);
        seal(KIND, &key(workspace, mpid), row)
    }

    pub fn read(workspace: WorkspaceId, mpid: Mpid, row: &'a [u8]) -> Result<Self, StoreError> {
        if row.first() == Some(&FIRST_FORMAT) {
            let number = mpid.get().cast_unsigned();
            let body = unseal_first_format(KIND, workspace.0, number, row, NUMBERS)?;
            let profile = &body[NUMBERS..];
            let held = if profile.is_empty() { Held::Tombstone } else { Held::Profile(profile) };
            return Self::with_numbers(body, held);
        }
        let body = unseal(KIND, &key(workspace, mpid), row, HEADER)?;
        let rest = &body[HEADER..];
        let held = match body[0] {
            PROFILE => Held::Profile(rest),
            TOMBSTONE => Held::Tombstone,
            REDIRECT if rest.len() == MPID => Held::Redirect(stored_mpid(i64::from_le_bytes(number(rest, 0)), KIND)?),
            _ => return Err(KIND.corrupt()),
        };
        Self::with_numbers(&body[1..], held)
    }

    fn with_numbers(numbers: &[u8], held: Held<'a>) -> Result<Self, StoreError> {
        let expiry = i64::from_le_bytes(number(numbers, 0));
        Ok(Self {
            next_expiry: (expiry != NEVER).then_some(Micros::new(expiry)),
            last_event: Sequence::new(u64::from_le_bytes(number(numbers, 8))).ok_or(KIND.corrupt())?,
            held,
        })
    }

    /// Returns the encoded profile, if the row holds one.
    pub fn profile(&self) -> Option<&'a [u8]> {
        match self.held {
            Held::Profile(profile) => Some(profile),
            Held::Tombstone | Held::Redirect(_) => None,
        }
    }
}

fn key(workspace: WorkspaceId, mpid: Mpid) -> [u8; NUMBERED_KEY] {
    numbered_key(workspace, mpid.get().cast_unsigned())
}
