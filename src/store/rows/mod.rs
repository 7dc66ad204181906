//! The values of the tables.
//!
//! A row is a format byte, a checksum of the rest, and its body. redb does not verify its pages when it reads them, so
//! we do: the table and the key seed the checksum, and so a damaged value, a damaged key and a row in the wrong place
//! are all refused.
//!
//! Each table has a format of its own, which is what its rows are written in; older ones are read as well. A format byte
//! that is not known is not told from damage: `open` refuses a file with a newer format before a row of it is read.

mod event;
mod head;
mod identity;
mod meta;
mod profile;
mod request;
mod workspace;

use xxhash_rust::xxh3::xxh3_64_with_seed;

pub(super) use event::EventRow;
pub(super) use head::{Head, HeadRow};
pub(super) use identity::{IdentityHash, OwnerRow, Secret};
pub(super) use meta::{FormatsRow, LogRow, Origin, SecretRow};
pub(super) use profile::{Held, ProfileRow};
pub(super) use request::{AgeKey, AgeRow, RequestRow, request_key};
pub(super) use workspace::WorkspaceRow;

use super::error::StoreError;
use crate::model::Mpid;

/// The format byte and the checksum.
const SEALED: usize = 1 + 8;

/// A table, as it seeds the checksums of its rows and is named in errors. The number is what seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Meta = 1,
    Workspace = 2,
    Head = 3,
    Profile = 4,
    Identity = 5,
    Event = 6,
    Request = 7,
    RequestAge = 8,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Meta,
        Self::Workspace,
        Self::Head,
        Self::Profile,
        Self::Identity,
        Self::Event,
        Self::Request,
        Self::RequestAge,
    ];

    /// As errors and logs say it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Workspace => "workspace",
            Self::Head => "head",
            Self::Profile => "profile",
            Self::Identity => "identity",
            Self::Event => "event",
            Self::Request => "request",
            Self::RequestAge => "request age",
        }
    }

    /// The format that its rows are written in.
    pub const fn format(self) -> u8 {
        match self {
            // 2: the checksum is seeded by the table too; a profile's row says what it holds.
            Self::Profile | Self::Event => 2,
            Self::Meta | Self::Workspace | Self::Head | Self::Identity | Self::Request | Self::RequestAge => 1,
        }
    }

    pub const fn corrupt(self) -> StoreError {
        StoreError::Corrupt { table: self.name(), past: None }
    }

    fn seed(self, key: &[u8]) -> u64 {
        xxh3_64_with_seed(key, self as u64)
    }
}

/// A row without its body, to which `seal` gives the checksum.
fn begin(kind: Kind, body: usize) -> Vec<u8> {
    let mut row = Vec::with_capacity(SEALED + body);
    row.push(kind.format());
    row.extend_from_slice(&[0; 8]);
    row
}

fn seal(kind: Kind, key: &[u8], mut row: Vec<u8>) -> Vec<u8> {
    let checksum = xxh3_64_with_seed(&row[SEALED..], kind.seed(key));
    row[1..SEALED].copy_from_slice(&checksum.to_le_bytes());
    row
}

/// The body of a row of the present format, if it is whole and has at least so many bytes.
fn unseal<'a>(kind: Kind, key: &[u8], row: &'a [u8], least: usize) -> Result<&'a [u8], StoreError> {
    if row.first() == Some(&kind.format()) { verify(kind, kind.seed(key), row, least) } else { Err(kind.corrupt()) }
}

/// The body of a row of format 1 of the tables of profiles and events, which the table did not seed.
fn unseal_first_format(kind: Kind, workspace: u32, key: u64, row: &[u8], least: usize) -> Result<&[u8], StoreError> {
    verify(kind, u64::from(workspace).rotate_left(32) ^ key, row, least)
}

fn verify(kind: Kind, seed: u64, row: &[u8], least: usize) -> Result<&[u8], StoreError> {
    let sound =
        row.len() >= SEALED + least && u64::from_le_bytes(number(row, 1)) == xxh3_64_with_seed(&row[SEALED..], seed);
    if sound { Ok(&row[SEALED..]) } else { Err(kind.corrupt()) }
}

/// The key of a row that a workspace and a number name, as it seeds the checksum.
fn numbered_key(workspace: super::WorkspaceId, number: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&workspace.0.to_be_bytes());
    key[4..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The bytes at `at`, which the caller knows to be there.
fn number<const N: usize>(row: &[u8], at: usize) -> [u8; N] {
    row[at..at + N].try_into().expect("the slice has this length")
}

/// An mpid that was valid when it was stored.
pub(super) fn stored_mpid(mpid: i64, kind: Kind) -> Result<Mpid, StoreError> {
    Mpid::new(mpid).ok_or(kind.corrupt())
}

#[cfg(test)]
mod tests;
