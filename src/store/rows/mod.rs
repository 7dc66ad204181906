//! The values of the tables, and how they are encoded.
//!
//! - `profile`, `identity`, `event`: what the service stores. `audience`, `merge`: the rows of audiences and their
//!   members, and those of merges. `head`, `workspace`: where each log ends, and its number.
//!   `request`: the results of requests with an id. `subscription`: durable subscriptions. `meta`: facts about the
//!   file itself.
//! - A row is a format byte, a checksum of the body, and the body. The first two are the row's seal.
//! - redb does not verify a page when it reads it, so every row is verified here. The table and the key seed the
//!   checksum. So a damaged value, a damaged key and a row in the wrong place are all refused.
//! - Each table has its own format. Rows are written in the latest format, and older formats can still be read.
//! - An unknown format byte counts as damage here. `open` refuses a file with a newer format before any of its rows is
//!   read.

mod audience;
mod event;
mod head;
mod identity;
mod merge;
mod meta;
mod profile;
mod request;
mod subscription;
mod workspace;

use xxhash_rust::xxh3::xxh3_64_with_seed;

pub(super) use audience::{AudienceRow, ExpiryRow, MemberRow, Work, audience_key, expiry_key, member_key};
pub(super) use event::{EventRow, Other};
pub(super) use head::{Head, HeadRow};
pub(super) use identity::{IdentityHash, OwnerKey, OwnerRow, Secret};
pub(super) use merge::{
    AbsorbedRow, IdentitySettingsRow, MergeRow, RememberedRow, absorbed_key, identity_settings_key, merge_key,
    remembered_key, remembered_prefix, survivor_key,
};
#[cfg(test)]
pub(super) use meta::FORMER_LOGS;
pub(super) use meta::{FormatsRow, FormerLogs, FormerRow, LogRow, Origin, SecretRow, is_sound as fact_is_sound};
pub(super) use profile::{Held, ProfileRow};
pub(super) use request::{AgeKey, AgeRow, RequestRow, request_key};
pub(super) use subscription::{
    ProgressRow, SettingsRow, SkippedRow, name_in, sequence_in, skipped_key, skipped_prefix, subscription_key,
};
pub(super) use workspace::WorkspaceRow;

use super::error::StoreError;
use crate::model::Mpid;

/// Bytes of the seal: the format byte and the checksum. The body follows.
const SEALED: usize = 1 + 8;
/// The format of the oldest profiles and events. Its checksums were not seeded by the table.
const FIRST_FORMAT: u8 = 1;
/// Bytes of a key that is a workspace and a number.
const NUMBERED_KEY: usize = 4 + 8;

/// A table. Its number seeds the checksums of its rows, and its name appears in errors.
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
    Subscription = 9,
    Progress = 10,
    Skipped = 11,
    Audience = 12,
    Member = 13,
    Expiry = 14,
    Merge = 15,
    Absorbed = 16,
    IdentitySettings = 17,
    Remembered = 18,
}

impl Kind {
    pub const ALL: [Self; 18] = [
        Self::Meta,
        Self::Workspace,
        Self::Head,
        Self::Profile,
        Self::Identity,
        Self::Event,
        Self::Request,
        Self::RequestAge,
        Self::Subscription,
        Self::Progress,
        Self::Skipped,
        Self::Audience,
        Self::Member,
        Self::Expiry,
        Self::Merge,
        Self::Absorbed,
        Self::IdentitySettings,
        Self::Remembered,
    ];

    /// The name in errors and logs.
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
            Self::Subscription => "subscription",
            Self::Progress => "progress",
            Self::Skipped => "skipped event",
            Self::Audience => "audience",
            Self::Member => "member",
            Self::Expiry => "expiry",
            Self::Merge => "merge",
            Self::Absorbed => "absorbed profile",
            Self::IdentitySettings => "identity settings",
            Self::Remembered => "remembered identity",
        }
    }

    /// The format in which new rows are written.
    pub const fn format(self) -> u8 {
        match self {
            // Since format 2 the table seeds the checksum too, and a profile's row says what it holds.
            Self::Profile | Self::Event | Self::Head => 2,
            Self::Meta
            | Self::Workspace
            | Self::Identity
            | Self::Request
            | Self::RequestAge
            | Self::Subscription
            | Self::Progress
            | Self::Skipped
            | Self::Audience
            | Self::Member
            | Self::Expiry
            | Self::Merge
            | Self::Absorbed
            | Self::IdentitySettings
            | Self::Remembered => 1,
        }
    }

    pub const fn corrupt(self) -> StoreError {
        StoreError::Corrupt { table: self.name(), past: None }
    }

    fn seed(self, key: &[u8]) -> u64 {
        xxh3_64_with_seed(key, self as u64)
    }
}

/// Begins a row. The caller appends the body, and `seal` fills in the checksum.
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

/// Returns the body of a row in the current format, if it is intact and has at least `least` bytes.
fn unseal<'a>(kind: Kind, key: &[u8], row: &'a [u8], least: usize) -> Result<&'a [u8], StoreError> {
    if row.first() == Some(&kind.format()) { verify(kind, kind.seed(key), row, least) } else { Err(kind.corrupt()) }
}

/// Returns the body of a profile or an event in [`FIRST_FORMAT`].
fn unseal_first_format(kind: Kind, workspace: u32, key: u64, row: &[u8], least: usize) -> Result<&[u8], StoreError> {
    verify(kind, u64::from(workspace).rotate_left(32) ^ key, row, least)
}

fn verify(kind: Kind, seed: u64, row: &[u8], least: usize) -> Result<&[u8], StoreError> {
    let sound =
        row.len() >= SEALED + least && u64::from_le_bytes(number(row, 1)) == xxh3_64_with_seed(&row[SEALED..], seed);
    if sound { Ok(&row[SEALED..]) } else { Err(kind.corrupt()) }
}

/// The key of a row that is named by a workspace and a number, in the form that seeds the checksum.
fn numbered_key(workspace: super::WorkspaceId, number: u64) -> [u8; NUMBERED_KEY] {
    let mut key = [0; NUMBERED_KEY];
    key[..4].copy_from_slice(&workspace.0.to_be_bytes());
    key[4..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The bytes of a signed number in a key, which sort as the numbers do.
pub(super) fn sorted(number: i64) -> [u8; 8] {
    (number.cast_unsigned() ^ 1 << 63).to_be_bytes()
}

/// The mpid that these bytes of a key are. `None` if they are none.
pub(super) fn unsorted_mpid(bytes: &[u8]) -> Option<Mpid> {
    bytes.try_into().ok().and_then(|bytes| Mpid::new(unsorted(bytes)))
}

fn unsorted(bytes: [u8; 8]) -> i64 {
    (u64::from_be_bytes(bytes) ^ 1 << 63).cast_signed()
}

/// Returns the bytes at `at`. The caller has checked that the row is long enough.
fn number<const N: usize>(row: &[u8], at: usize) -> [u8; N] {
    row[at..at + N].try_into().expect("the slice has this length")
}

/// Parses an mpid that was valid when it was stored, so an invalid one is damage.
pub(super) fn stored_mpid(mpid: i64, kind: Kind) -> Result<Mpid, StoreError> {
    Mpid::new(mpid).ok_or(kind.corrupt())
}

#[cfg(test)]
mod tests;
