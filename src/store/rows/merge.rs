//! The rows of merges and of the identities in them, and of a workspace's identity settings.

use prost::Message;

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::{IdentityHash, Kind, begin, number, seal, sorted, stored_mpid, unseal, unsorted, unsorted_mpid};
use crate::model::{Micros, Mpid};
use crate::proto::storage::MergeRecord;
use crate::proto::v1::IdentitySettings;

/// What a merge needs to be undone. The absorbed profile is in the key.
pub(in crate::store) struct MergeRow;

/// A profile that another has absorbed: the one that it was merged into directly. The last survivor and the profile are
/// in the key.
pub(in crate::store) struct AbsorbedRow;

/// An identity that the record of a merge would give back to the absorbed profile. Its hash and the profile are in the
/// key.
pub(in crate::store) struct RememberedRow;

/// The identity settings of a workspace, and when they changed.
pub(in crate::store) struct IdentitySettingsRow;

/// Bytes of an mpid.
const MPID: usize = 8;
/// Bytes of a time.
const TIME: usize = 8;
/// Where the absorbed profile begins in the key of an [`AbsorbedRow`].
const ABSORBED: usize = 12;
/// Where the absorbed profile begins in the key of a [`RememberedRow`].
const REMEMBERED: usize = 20;

/// The key of a merge: the profile that was absorbed.
pub(in crate::store) fn merge_key(workspace: WorkspaceId, absorbed: Mpid) -> Vec<u8> {
    [&workspace.0.to_be_bytes()[..], &sorted(absorbed.get())].concat()
}

/// The key of a profile that another has absorbed, directly or not: the last survivor, and the profile.
pub(in crate::store) fn absorbed_key(workspace: WorkspaceId, survivor: Mpid, absorbed: Mpid) -> Vec<u8> {
    [&survivor_key(workspace, survivor)[..], &sorted(absorbed.get())].concat()
}

/// How the keys of all profiles begin that one has absorbed.
pub(in crate::store) fn survivor_key(workspace: WorkspaceId, survivor: Mpid) -> Vec<u8> {
    merge_key(workspace, survivor)
}

/// The key of an identity that the merge of a profile remembers: the identity, and the absorbed profile.
pub(in crate::store) fn remembered_key(workspace: WorkspaceId, identity: IdentityHash, absorbed: Mpid) -> Vec<u8> {
    [&remembered_prefix(workspace, identity)[..], &sorted(absorbed.get())].concat()
}

/// How the keys of all merges begin that remember an identity.
pub(in crate::store) fn remembered_prefix(workspace: WorkspaceId, identity: IdentityHash) -> Vec<u8> {
    [&workspace.0.to_be_bytes()[..], &identity.0].concat()
}

/// The key of a workspace's identity settings.
pub(in crate::store) fn identity_settings_key(workspace: WorkspaceId) -> Vec<u8> {
    workspace.0.to_be_bytes().to_vec()
}

impl MergeRow {
    pub fn encode(key: &[u8], record: &MergeRecord) -> Vec<u8> {
        let mut row = begin(Kind::Merge, record.encoded_len());
        record.encode(&mut row).expect("a Vec takes any length");
        seal(Kind::Merge, key, row)
    }

    pub fn read(key: &[u8], row: &[u8]) -> Result<MergeRecord, StoreError> {
        MergeRecord::decode(unseal(Kind::Merge, key, row, 0)?).map_err(|_| Kind::Merge.corrupt())
    }
}

impl AbsorbedRow {
    pub fn encode(key: &[u8], direct: Mpid) -> Vec<u8> {
        let mut row = begin(Kind::Absorbed, MPID);
        row.extend_from_slice(&direct.get().to_le_bytes());
        seal(Kind::Absorbed, key, row)
    }

    /// Returns the profile that was absorbed, and the one that it was merged into directly.
    pub fn read(key: &[u8], row: &[u8]) -> Result<(Mpid, Mpid), StoreError> {
        let body = unseal(Kind::Absorbed, key, row, MPID)?;
        let absorbed = key.get(ABSORBED..).and_then(|mpid| Mpid::new(unsorted(*mpid.first_chunk()?)));
        let direct = stored_mpid(i64::from_le_bytes(number(body, 0)), Kind::Absorbed)?;
        Ok((absorbed.ok_or(Kind::Absorbed.corrupt())?, direct))
    }
}

impl RememberedRow {
    pub fn encode(key: &[u8]) -> Vec<u8> {
        seal(Kind::Remembered, key, begin(Kind::Remembered, 0))
    }

    /// Returns the profile that was absorbed.
    pub fn read(key: &[u8], row: &[u8]) -> Result<Mpid, StoreError> {
        unseal(Kind::Remembered, key, row, 0)?;
        key.get(REMEMBERED..).and_then(unsorted_mpid).ok_or(Kind::Remembered.corrupt())
    }
}

impl IdentitySettingsRow {
    pub fn encode(key: &[u8], settings: &IdentitySettings, time: Micros) -> Vec<u8> {
        let mut row = begin(Kind::IdentitySettings, TIME + settings.encoded_len());
        row.extend_from_slice(&time.get().to_le_bytes());
        settings.encode(&mut row).expect("a Vec takes any length");
        seal(Kind::IdentitySettings, key, row)
    }

    /// Returns the settings with the time when they changed.
    pub fn read(key: &[u8], row: &[u8]) -> Result<IdentitySettings, StoreError> {
        let body = unseal(Kind::IdentitySettings, key, row, TIME)?;
        let settings = IdentitySettings::decode(&body[TIME..]).map_err(|_| Kind::IdentitySettings.corrupt())?;
        let update_time = Some(Micros::new(i64::from_le_bytes(number(body, 0))).to_timestamp());
        Ok(IdentitySettings { update_time, ..settings })
    }
}
