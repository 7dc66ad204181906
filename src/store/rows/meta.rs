//! The facts about the file itself. Each is a row of its own, whose key is its name.

use super::super::error::StoreError;
use super::identity::Secret;
use super::{Kind, begin, number, seal, unseal};
use crate::model::LogId;

const KIND: Kind = Kind::Meta;

/// What a store is born with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Origin {
    pub log: LogId,
    pub secret: Secret,
}

/// Names the log that the file keeps.
pub(in crate::store) struct LogRow;
/// Keys the hashes of the identity index.
pub(in crate::store) struct SecretRow;
/// The highest format in which each table has rows: pairs of a table's number and a format.
pub(in crate::store) struct FormatsRow;

impl LogRow {
    pub const KEY: &'static [u8] = b"log";

    pub fn encode(log: LogId) -> Vec<u8> {
        let mut row = begin(KIND, 8);
        row.extend_from_slice(&log.0.to_le_bytes());
        seal(KIND, Self::KEY, row)
    }

    pub fn read(row: &[u8]) -> Result<LogId, StoreError> {
        Ok(LogId(u64::from_le_bytes(number(unseal(KIND, Self::KEY, row, 8)?, 0))))
    }
}

impl SecretRow {
    pub const KEY: &'static [u8] = b"secret";

    pub fn encode(secret: &Secret) -> Vec<u8> {
        let mut row = begin(KIND, secret.0.len());
        row.extend_from_slice(&secret.0);
        seal(KIND, Self::KEY, row)
    }

    pub fn read(row: &[u8]) -> Result<Secret, StoreError> {
        Ok(Secret(number(unseal(KIND, Self::KEY, row, 16)?, 0)))
    }
}

impl FormatsRow {
    pub const KEY: &'static [u8] = b"formats";

    /// Of this version.
    pub fn encode() -> Vec<u8> {
        let mut row = begin(KIND, 2 * Kind::ALL.len());
        for kind in Kind::ALL {
            row.extend_from_slice(&[kind as u8, kind.format()]);
        }
        seal(KIND, Self::KEY, row)
    }

    /// The first table whose format this version does not know, by its number, with that format.
    pub fn unknown(row: &[u8]) -> Result<Option<(u8, u8)>, StoreError> {
        let body = unseal(KIND, Self::KEY, row, 0)?;
        let known = |number: u8| Kind::ALL.into_iter().find(|kind| *kind as u8 == number).map_or(0, Kind::format);
        Ok(body.chunks_exact(2).map(|pair| (pair[0], pair[1])).find(|(number, format)| *format > known(*number)))
    }
}
