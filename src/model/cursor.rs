//! Places in a workspace's log.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use xxhash_rust::xxh3::xxh3_64;

use super::invalid::CursorError;
use super::{Invalid, Place, Workspace};

/// Identifies one log. It is chosen at random when the store is created, so a cursor of another store is refused rather
/// than misread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogId(pub u64);

/// A place in the log of one workspace. It is exclusive: reading continues after it.
///
/// On the wire it is a version, the log id, a hash of the workspace's name, the sequence of the event before the place
/// and a checksum, in base64. It is not a secret: a caller that may read the workspace may read from any cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    log: LogId,
    workspace: u32,
    place: Place,
}

const VERSION: u8 = 1;
const BODY: usize = 1 + 8 + 4 + 8;
const LENGTH: usize = BODY + 4;
/// Characters of an encoded cursor.
pub const TEXT: usize = LENGTH.div_ceil(3) * 4 - 2;

/// Where a reader of a log starts.
#[derive(Debug, Clone)]
pub enum Start {
    /// After the latest event.
    Now,
    /// With the oldest event.
    Earliest,
    /// After a cursor, as the caller gave it.
    After(String),
}

impl Start {
    /// After a cursor of a request. A client that has not stored a cursor yet sends an empty one, and starts with the
    /// oldest event.
    #[must_use]
    pub fn after(cursor: String) -> Self {
        if cursor.is_empty() { Self::Earliest } else { Self::After(cursor) }
    }
}

/// Makes and parses the cursors of one workspace's log.
#[derive(Debug, Clone, Copy)]
pub struct CursorSpace {
    log: LogId,
    workspace: u32,
}

impl CursorSpace {
    /// The cursors of `workspace` in `log`.
    #[must_use]
    pub fn new(log: LogId, workspace: &Workspace) -> Self {
        Self { log, workspace: low_half(xxh3_64(workspace.as_str().as_bytes())) }
    }

    /// The cursor of a place.
    #[must_use]
    pub fn at(self, place: impl Into<Place>) -> Cursor {
        Cursor { log: self.log, workspace: self.workspace, place: place.into() }
    }

    /// The place where a reader starts in a log that runs from `floor` to `head`.
    ///
    /// # Errors
    /// Those of [`CursorSpace::parse`].
    pub fn resolve(self, start: &Start, floor: Place, head: Place) -> Result<Place, Invalid> {
        match start {
            Start::Now => Ok(head),
            Start::Earliest => Ok(floor),
            Start::After(cursor) => self.parse("cursor", cursor, head),
        }
    }

    /// Parses a cursor of a request, and checks that it is not past the head of the log.
    ///
    /// # Errors
    /// [`Invalid::Cursor`] if this service did not make it, if it is not of this workspace's log, or if it is past
    /// `head`.
    pub fn parse(self, field: &'static str, text: &str, head: Place) -> Result<Place, Invalid> {
        let cursor = Cursor::parse(text).ok_or(CursorError::Malformed { field })?;
        if cursor.log != self.log {
            return Err(CursorError::ForeignLog { field }.into());
        }
        if cursor.workspace != self.workspace {
            return Err(CursorError::ForeignWorkspace { field }.into());
        }
        if cursor.place > head {
            return Err(CursorError::InFuture { field, head }.into());
        }
        Ok(cursor.place)
    }
}

impl Cursor {
    /// The text that a client stores.
    #[must_use]
    pub fn encode(self) -> [u8; TEXT] {
        let mut raw = [0; LENGTH];
        raw[0] = VERSION;
        raw[1..9].copy_from_slice(&self.log.0.to_be_bytes());
        raw[9..13].copy_from_slice(&self.workspace.to_be_bytes());
        raw[13..BODY].copy_from_slice(&self.place.get().to_be_bytes());
        let checksum = low_half(xxh3_64(&raw[..BODY]));
        raw[BODY..].copy_from_slice(&checksum.to_be_bytes());
        let mut text = [0; TEXT];
        URL_SAFE_NO_PAD.encode_slice(raw, &mut text).expect("TEXT is the length of an encoded cursor");
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let mut raw = [0; LENGTH];
        let whole = text.len() == TEXT && URL_SAFE_NO_PAD.decode_slice(text, &mut raw).ok()? == LENGTH;
        let checksum = u32::from_be_bytes(raw[BODY..].try_into().ok()?);
        if !whole || raw[0] != VERSION || checksum != low_half(xxh3_64(&raw[..BODY])) {
            return None;
        }
        Some(Self {
            log: LogId(u64::from_be_bytes(raw[1..9].try_into().ok()?)),
            workspace: u32::from_be_bytes(raw[9..13].try_into().ok()?),
            place: Place::after(u64::from_be_bytes(raw[13..BODY].try_into().ok()?)),
        })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.encode()).expect("base64 is ASCII"))
    }
}

/// The low 32 bits of a hash.
pub(super) fn low_half(hash: u64) -> u32 {
    u32::try_from(hash & u64::from(u32::MAX)).expect("masked")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(log: u64, workspace: &str) -> CursorSpace {
        CursorSpace::new(LogId(log), &Workspace::parse(workspace).unwrap())
    }

    #[test]
    fn a_cursor_reads_back_only_in_its_own_log() {
        let here = space(7, "a/b/c");
        let text = here.at(Place::after(41)).to_string();
        assert_eq!(here.parse("cursor", &text, Place::after(41)), Ok(Place::after(41)));
        let refused = |space: CursorSpace, head| space.parse("cursor", &text, Place::after(head)).unwrap_err();
        assert_eq!(refused(here, 40), CursorError::InFuture { field: "cursor", head: Place::after(40) }.into());
        assert_eq!(refused(space(8, "a/b/c"), 41), CursorError::ForeignLog { field: "cursor" }.into());
        assert_eq!(refused(space(7, "a/b/d"), 41), CursorError::ForeignWorkspace { field: "cursor" }.into());
    }

    #[test]
    fn a_garbled_cursor_is_malformed() {
        let here = space(7, "a/b/c");
        let text = here.at(Place::after(41)).to_string();
        let malformed = Err(CursorError::Malformed { field: "cursor" }.into());
        for at in 0..text.len() {
            let mut garbled = text.clone().into_bytes();
            garbled[at] = if garbled[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(here.parse("cursor", std::str::from_utf8(&garbled).unwrap(), Place::after(u64::MAX)), malformed);
            assert_eq!(here.parse("cursor", &text[..at], Place::after(u64::MAX)), malformed);
        }
        assert_eq!(here.parse("cursor", &format!("{text}A"), Place::after(u64::MAX)), malformed);
    }
}
