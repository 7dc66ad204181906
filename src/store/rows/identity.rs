//! The row of an identity: the profile that owns it.
//!
//! Invariant: neither the key nor the row holds a personal value.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::{Kind, SEALED, number, stored_mpid};
use crate::model::{IdentityKey, Mpid};

/// The hash that stands for an identity in the index. Two identities with the same hash are not expected. If it
/// happened, it would be noticed: a lookup by identity checks that the profile has the identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::store) struct IdentityHash(pub [u8; 16]);

/// The secret key of a store's hashes. Without it, an attacker cannot guess values and compare hashes, or construct two
/// values with the same hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Secret(pub [u8; 16]);

/// A key of the index: the number of the workspace, and the hash of the identity.
pub(in crate::store) type OwnerKey = [u8; WORKSPACE + 16];

/// The owner of an identity. The row has a fixed width, so that the index is shallow.
pub(in crate::store) struct OwnerRow;

const KIND: Kind = Kind::Identity;
/// Bytes of a workspace's number.
const WORKSPACE: usize = 4;

impl Secret {
    /// Hashes an identity of a workspace. In another workspace the same identity has another hash.
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
    /// The seal and the owner's mpid.
    pub const LENGTH: usize = SEALED + 8;

    pub fn key(workspace: WorkspaceId, identity: IdentityHash) -> OwnerKey {
        let mut key = OwnerKey::default();
        key[..WORKSPACE].copy_from_slice(&workspace.0.to_be_bytes());
        key[WORKSPACE..].copy_from_slice(&identity.0);
        key
    }

    pub fn encode(key: &OwnerKey, owner: Mpid) -> [u8; Self::LENGTH] {
        let mut row = [0; Self::LENGTH];
        row[0] = KIND.format();
        row[SEALED..].copy_from_slice(&owner.get().to_le_bytes());
        let checksum = xxh3_64_with_seed(&row[SEALED..], KIND.seed(key));
        row[1..SEALED].copy_from_slice(&checksum.to_le_bytes());
        row
    }

    pub fn read(key: &OwnerKey, row: &[u8; Self::LENGTH]) -> Result<Mpid, StoreError> {
        let owner = stored_mpid(i64::from_le_bytes(number(row, SEALED)), KIND)?;
        if *row == Self::encode(key, owner) { Ok(owner) } else { Err(KIND.corrupt()) }
    }
}
