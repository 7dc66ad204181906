//! The row of an identity: who owns it.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::{Kind, number, stored_mpid};
use crate::model::{IdentityKey, Mpid};

/// By which the index knows an identity: no personal value stands in it. Two identities of one hash are not to be
/// expected, but would be found out: a lookup by identity is held against the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::store) struct IdentityHash(pub [u8; 16]);

/// The key of one store's hashes. Without it, values cannot be tried, and two of one hash cannot be made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Secret(pub [u8; 16]);

/// The owner of an identity: fixed in width, so that the index is shallow.
pub(in crate::store) struct OwnerRow;

const KIND: Kind = Kind::Identity;

impl Secret {
    /// Of an identity in a workspace: the same identity has another hash in another one.
    pub fn hash(&self, workspace: WorkspaceId, key: &IdentityKey) -> IdentityHash {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(&workspace.0.to_be_bytes());
        hasher.write(key.as_bytes());
        IdentityHash(hasher.finish128().as_bytes())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl OwnerRow {
    /// Format, checksum, owner.
    pub const LENGTH: usize = 1 + 8 + 8;

    pub fn key(workspace: WorkspaceId, identity: IdentityHash) -> [u8; 20] {
        let mut key = [0; 20];
        key[..4].copy_from_slice(&workspace.0.to_be_bytes());
        key[4..].copy_from_slice(&identity.0);
        key
    }

    pub fn encode(key: &[u8; 20], owner: Mpid) -> [u8; Self::LENGTH] {
        let mut row = [0; Self::LENGTH];
        row[0] = KIND.format();
        row[9..].copy_from_slice(&owner.get().to_le_bytes());
        let checksum = xxh3_64_with_seed(&row[9..], KIND.seed(key));
        row[1..9].copy_from_slice(&checksum.to_le_bytes());
        row
    }

    pub fn read(key: &[u8; 20], row: &[u8; Self::LENGTH]) -> Result<Mpid, StoreError> {
        let owner = stored_mpid(i64::from_le_bytes(number(row, 9)), KIND)?;
        if *row == Self::encode(key, owner) { Ok(owner) } else { Err(KIND.corrupt()) }
    }
}
