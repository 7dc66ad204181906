//! The facts about the file itself. Each is a row, and its key is its name.

use super::super::error::StoreError;
use super::identity::Secret;
use super::{Kind, SEALED, begin, number, seal, unseal};
use crate::model::LogId;

const KIND: Kind = Kind::Meta;

/// Bytes of a log's id.
const LOG: usize = 8;
/// Bytes of the secret.
const SECRET: usize = 16;

/// The random values that a store gets when it is created, and keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Origin {
    pub log: LogId,
    pub secret: Secret,
}

/// Whether the row of a fact is intact.
pub(in crate::store) fn is_sound(key: &[u8], row: &[u8]) -> bool {
    unseal(KIND, key, row, 0).is_ok()
}

/// The id of the log in the file. Cursors name it.
pub(in crate::store) struct LogRow;
/// The secret key of the hashes in the identity index.
pub(in crate::store) struct SecretRow;
/// The highest format of the rows of each table, as pairs of a table's number and a format.
pub(in crate::store) struct FormatsRow;

impl LogRow {
    pub const KEY: &'static [u8] = b"log";

    pub fn encode(log: LogId) -> Vec<u8> {
        let mut row = begin(KIND, LOG);
        row.extend_from_slice(&log.0.to_le_bytes());
        seal(KIND, Self::KEY, row)
    }

    pub fn read(row: &[u8]) -> Result<LogId, StoreError> {
        Ok(LogId(u64::from_le_bytes(number(unseal(KIND, Self::KEY, row, LOG)?, 0))))
    }
}

impl SecretRow {
    pub const KEY: &'static [u8] = b"secret";

    pub fn encode(secret: &Secret) -> Vec<u8> {
        let mut row = begin(KIND, SECRET);
        row.extend_from_slice(&secret.0);
        seal(KIND, Self::KEY, row)
    }

    pub fn read(row: &[u8]) -> Result<Secret, StoreError> {
        Ok(Secret(number(unseal(KIND, Self::KEY, row, SECRET)?, 0)))
    }
}

impl FormatsRow {
    pub const KEY: &'static [u8] = b"formats";

    /// Encodes the formats that this version writes.
    pub fn encode() -> Vec<u8> {
        Self::encode_first(Kind::ALL.len())
    }

    /// Encodes the formats of a file that has no index of memberships yet.
    pub fn encode_before_audiences() -> Vec<u8> {
        Self::encode_first(Kind::Audience as usize - Kind::ALL[0] as usize)
    }

    /// Encodes the formats of the first kinds, as a version does that has no others.
    pub fn encode_first(kinds: usize) -> Vec<u8> {
        let mut row = begin(KIND, 2 * kinds);
        for kind in &Kind::ALL[..kinds] {
            row.extend_from_slice(&[*kind as u8, kind.format()]);
        }
        seal(KIND, Self::KEY, row)
    }

    /// Whether the file has a table. `row` has been read by [`Self::unknown`].
    pub fn lists(row: &[u8], kind: Kind) -> bool {
        row[SEALED..].chunks_exact(2).any(|pair| pair[0] == kind as u8)
    }

    /// Returns the number and the format of the first table whose format this version does not know.
    pub fn unknown(row: &[u8]) -> Result<Option<(u8, u8)>, StoreError> {
        let body = unseal(KIND, Self::KEY, row, 0)?;
        let known = |number: u8| Kind::ALL.into_iter().find(|kind| *kind as u8 == number).map_or(0, Kind::format);
        Ok(body.chunks_exact(2).map(|pair| (pair[0], pair[1])).find(|(number, format)| *format > known(*number)))
    }
}
