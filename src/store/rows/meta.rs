//! The facts about the file itself. Each is a row, and its key is its name.

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::identity::Secret;
use super::{Kind, SEALED, begin, number, seal, unseal};
use crate::model::cursor::FormerLog;
use crate::model::{LogId, Place};

const KIND: Kind = Kind::Meta;

/// Bytes of a log's id.
const LOG: usize = 8;
/// Bytes of how many places follow, and of each.
const COUNT: usize = 8;
const PLACE: usize = 8;
/// Bytes of the secret.
const SECRET: usize = 16;

/// The random values that a store gets when it is created, and keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Origin {
    pub log: LogId,
    pub secret: Secret,
}

/// The most former logs that a store remembers: it was restored from a backup so often. Older ones are forgotten, and
/// then their cursors are those of a foreign log.
pub(in crate::store) const FORMER_LOGS: usize = 16;

/// The logs that this one continues, because the store was restored from a backup: the id of each, and where each of
/// its workspaces ended, by their numbers from 1. The oldest is the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::store) struct FormerLogs(Vec<(LogId, Vec<Place>)>);

impl FormerLogs {
    /// Remembers another log, which the store now continues. `ends` are the ends of its workspaces.
    pub fn remember(&mut self, log: LogId, ends: Vec<Place>) {
        self.0.push((log, ends));
        let forgotten = self.0.len().saturating_sub(FORMER_LOGS);
        self.0.drain(..forgotten);
    }

    /// The former logs of a workspace. What did not exist when a log ended had no event in it.
    pub fn of(&self, workspace: Option<WorkspaceId>) -> Vec<FormerLog> {
        let end = |ends: &[Place]| {
            let at = workspace.map(|workspace| workspace.0 as usize - 1);
            at.and_then(|at| ends.get(at).copied()).unwrap_or(Place::START)
        };
        self.0.iter().map(|(log, ends)| FormerLog { log: *log, through: end(ends) }).collect()
    }
}

/// Whether the row of a fact is intact.
pub(in crate::store) fn is_sound(key: &[u8], row: &[u8]) -> bool {
    unseal(KIND, key, row, 0).is_ok()
}

/// The encoding of [`FormerLogs`]. A store that was not restored has no such row.
pub(in crate::store) struct FormerRow;
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

impl FormerRow {
    pub const KEY: &'static [u8] = b"former";

    pub fn encode(former: &FormerLogs) -> Vec<u8> {
        let mut row = begin(KIND, former.0.iter().map(|(_, ends)| LOG + COUNT + PLACE * ends.len()).sum());
        for (log, ends) in &former.0 {
            row.extend_from_slice(&log.0.to_le_bytes());
            row.extend_from_slice(&(ends.len() as u64).to_le_bytes());
            for end in ends {
                row.extend_from_slice(&end.get().to_le_bytes());
            }
        }
        seal(KIND, Self::KEY, row)
    }

    pub fn read(row: &[u8]) -> Result<FormerLogs, StoreError> {
        let mut rest = unseal(KIND, Self::KEY, row, 0)?;
        let mut former = FormerLogs::default();
        while !rest.is_empty() {
            let (log, count) = (take(&mut rest)?, take(&mut rest)?);
            let ends = (0..count).map(|_| take(&mut rest).map(Place::after)).collect::<Result<_, _>>()?;
            former.0.push((LogId(log), ends));
        }
        Ok(former)
    }
}

/// Takes a number off the front.
fn take(rest: &mut &[u8]) -> Result<u64, StoreError> {
    let (number, after) = rest.split_first_chunk().ok_or(KIND.corrupt())?;
    *rest = after;
    Ok(u64::from_le_bytes(*number))
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
