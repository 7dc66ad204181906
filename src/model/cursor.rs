//! Places in a workspace's log.

use std::cmp::Ordering;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use xxhash_rust::xxh3::xxh3_64;

use super::invalid::CursorError;
use super::{Invalid, Micros, Mpid, Place, Workspace};

/// Identifies one log. It is chosen at random when the store is created or restored from a backup, so a cursor of
/// another store is refused rather than misread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogId(pub u64);

/// How far a reader of a workspace has got. Positions are ordered: a reader only ever moves to a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Position {
    /// In the log: everything up to this place has been read.
    Log(Place),
    /// In a snapshot: the profiles up to this one have been read as of the place. `None` if none has.
    Snapshot {
        /// The snapshot is as of this place. The log follows it.
        of: Place,
        /// The last profile that has been read.
        after: Option<Mpid>,
    },
}

/// A position in one workspace of one log. It is exclusive: reading continues after it.
///
/// On the wire it is a version, the log id, a hash of the workspace's name, the sequence of the event before the place,
/// in a snapshot the mpid of the last profile, and a checksum, in base64. It is not a secret: a caller that may read the
/// workspace may read from any cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    log: LogId,
    workspace: u32,
    position: Position,
}

/// The version of a cursor in the log.
const IN_LOG: u8 = 1;
/// The version of a cursor in a snapshot.
const IN_SNAPSHOT: u8 = 2;
/// Bytes of the version, the log, the workspace and the place.
const LOG_BODY: usize = 1 + 8 + 4 + 8;
/// The same, and an mpid, which is 0 before the first profile.
const SNAPSHOT_BODY: usize = LOG_BODY + 8;
const CHECKSUM: usize = 4;
/// The most characters of an encoded cursor.
const TEXT: usize = (SNAPSHOT_BODY + CHECKSUM).div_ceil(3) * 4;

/// Characters of an encoded cursor in the log.
pub const LOG_TEXT: usize = ((LOG_BODY + CHECKSUM) * 4).div_ceil(3);

/// An encoded cursor.
#[derive(Debug, Clone, Copy)]
pub struct CursorText {
    text: [u8; TEXT],
    length: usize,
}

/// Where a reader of a log starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// After the latest event.
    Now,
    /// With the oldest event.
    Earliest,
    /// After a cursor, as the caller gave it.
    After(String),
    /// With the first event at or after a time.
    At(Micros),
    /// With a snapshot as of now.
    Snapshot,
    /// After a position that this service kept.
    From(Position),
    /// With the first event at or after a time, of those after a place: no earlier event is late enough.
    Since(Place, Micros),
}

impl Position {
    /// The place in the log that it keeps: a reader at this position needs the events after it.
    #[must_use]
    pub fn place(self) -> Place {
        match self {
            Self::Log(place) | Self::Snapshot { of: place, .. } => place,
        }
    }

    /// A snapshot as of a place comes before the events after the place.
    fn order(self) -> (Place, bool, Option<Mpid>) {
        match self {
            Self::Log(place) => (place, true, None),
            Self::Snapshot { of, after } => (of, false, after),
        }
    }
}

impl Ord for Position {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<P: Into<Place>> From<P> for Position {
    fn from(place: P) -> Self {
        Self::Log(place.into())
    }
}

impl Start {
    /// After a cursor of a request. A client that has not stored a cursor yet sends an empty one, and starts with the
    /// oldest event.
    #[must_use]
    pub fn after(cursor: String) -> Self {
        if cursor.is_empty() { Self::Earliest } else { Self::After(cursor) }
    }
}

/// Makes the cursors of one workspace's log.
#[derive(Debug, Clone, Copy)]
pub struct CursorSpace {
    log: LogId,
    workspace: u32,
}

/// A log that a restored backup continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormerLog {
    /// The id that its cursors name.
    pub log: LogId,
    /// The place up to which both logs hold the same events. What the former log held after it is lost.
    pub through: Place,
}

/// Parses cursors of one workspace: those of its log, and of the logs that it continues.
#[derive(Debug, Clone)]
pub struct KnownCursors {
    space: CursorSpace,
    former: Vec<FormerLog>,
}

impl CursorSpace {
    /// The cursors of `workspace` in `log`.
    #[must_use]
    pub fn new(log: LogId, workspace: &Workspace) -> Self {
        Self { log, workspace: low_half(xxh3_64(workspace.as_str().as_bytes())) }
    }

    /// The cursor of a position.
    #[must_use]
    pub fn at(self, position: impl Into<Position>) -> Cursor {
        Cursor { log: self.log, workspace: self.workspace, position: position.into() }
    }
}

impl KnownCursors {
    /// The cursors of `space`, and those of the logs that its log continues.
    #[must_use]
    pub fn new(space: CursorSpace, former: Vec<FormerLog>) -> Self {
        Self { space, former }
    }

    /// Parses a cursor of a request, and checks that it is not past the head of the log.
    ///
    /// # Errors
    /// [`Invalid::Cursor`] if this service did not make it, if it is not of this workspace's log nor of one that this
    /// log continues, if it is past what is left of that one, or if it is past `head`.
    pub fn parse(&self, field: &'static str, text: &str, head: Place) -> Result<Position, Invalid> {
        let cursor = Cursor::parse(text).ok_or(CursorError::Malformed { field })?;
        let former = self.former.iter().find(|former| former.log == cursor.log);
        if cursor.log != self.space.log && former.is_none() {
            return Err(CursorError::ForeignLog { field }.into());
        }
        if cursor.workspace != self.space.workspace {
            return Err(CursorError::ForeignWorkspace { field }.into());
        }
        if let Some(FormerLog { through, .. }) = former.filter(|former| cursor.position.place() > former.through) {
            return Err(CursorError::Lost { field, through: *through }.into());
        }
        if cursor.position.place() > head {
            return Err(CursorError::InFuture { field, head }.into());
        }
        Ok(cursor.position)
    }
}

impl From<CursorSpace> for KnownCursors {
    /// Of a log that continues no other.
    fn from(space: CursorSpace) -> Self {
        Self::new(space, Vec::new())
    }
}

impl Cursor {
    /// The text that a client stores.
    #[must_use]
    pub fn encode(self) -> CursorText {
        let mut raw = [0; SNAPSHOT_BODY + CHECKSUM];
        raw[1..9].copy_from_slice(&self.log.0.to_be_bytes());
        raw[9..13].copy_from_slice(&self.workspace.to_be_bytes());
        raw[13..LOG_BODY].copy_from_slice(&self.position.place().get().to_be_bytes());
        let body = match self.position {
            Position::Log(_) => {
                raw[0] = IN_LOG;
                LOG_BODY
            }
            Position::Snapshot { after, .. } => {
                raw[0] = IN_SNAPSHOT;
                raw[LOG_BODY..SNAPSHOT_BODY].copy_from_slice(&after.map_or(0, Mpid::get).to_be_bytes());
                SNAPSHOT_BODY
            }
        };
        let checksum = low_half(xxh3_64(&raw[..body]));
        raw[body..body + CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
        let mut text = [0; TEXT];
        let length = URL_SAFE_NO_PAD.encode_slice(&raw[..body + CHECKSUM], &mut text);
        CursorText { text, length: length.expect("TEXT is the length of the longest cursor") }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut raw = [0; SNAPSHOT_BODY + CHECKSUM + 2]; // base64 may estimate two bytes too many.
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut raw).ok()?;
        let body = match (raw[0], length.checked_sub(CHECKSUM)?) {
            (IN_LOG, LOG_BODY) => LOG_BODY,
            (IN_SNAPSHOT, SNAPSHOT_BODY) => SNAPSHOT_BODY,
            _ => return None,
        };
        if u32::from_be_bytes(raw[body..length].try_into().ok()?) != low_half(xxh3_64(&raw[..body])) {
            return None;
        }
        let place = Place::after(u64::from_be_bytes(raw[13..LOG_BODY].try_into().ok()?));
        let position = if body == LOG_BODY {
            Position::Log(place)
        } else {
            let after = i64::from_be_bytes(raw[LOG_BODY..SNAPSHOT_BODY].try_into().ok()?);
            Position::Snapshot { of: place, after: Mpid::new(after) }
        };
        Some(Self {
            log: LogId(u64::from_be_bytes(raw[1..9].try_into().ok()?)),
            workspace: u32::from_be_bytes(raw[9..13].try_into().ok()?),
            position,
        })
    }
}

impl std::ops::Deref for CursorText {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.text[..self.length]
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

    fn mpid(mpid: i64) -> Option<Mpid> {
        Mpid::new(mpid)
    }

    const PLACE: Place = Place::after(41);

    fn positions() -> [Position; 4] {
        let at = |after| Position::Snapshot { of: PLACE, after };
        [at(None), at(mpid(i64::MIN)), at(mpid(7)), Position::Log(PLACE)]
    }

    #[test]
    fn a_cursor_reads_back_only_in_its_own_log() {
        let here = space(7, "a/b/c");
        for position in positions() {
            let text = here.at(position).to_string();
            assert_eq!(KnownCursors::from(here).parse("cursor", &text, PLACE), Ok(position));
            assert!(text.len() <= 64, "the API promises it");
            let refused = |space: CursorSpace, head| {
                KnownCursors::from(space).parse("cursor", &text, Place::after(head)).unwrap_err()
            };
            assert_eq!(refused(here, 40), CursorError::InFuture { field: "cursor", head: Place::after(40) }.into());
            assert_eq!(refused(space(8, "a/b/c"), 41), CursorError::ForeignLog { field: "cursor" }.into());
            assert_eq!(refused(space(7, "a/b/d"), 41), CursorError::ForeignWorkspace { field: "cursor" }.into());
        }
    }

    #[test]
    fn a_restored_log_knows_the_cursors_of_the_logs_that_it_continues_up_to_where_it_does() {
        let former = |log, through| FormerLog { log: LogId(log), through: Place::after(through) };
        let known = KnownCursors::new(space(9, "a/b/c"), vec![former(7, 41), former(8, 50)]);
        let parse = |log, workspace, position: Position, head| {
            known.parse("cursor", &space(log, workspace).at(position).to_string(), Place::after(head))
        };
        let lost = |through| Err(CursorError::Lost { field: "cursor", through: Place::after(through) }.into());
        let place = |after| Position::Log(Place::after(after));
        for position in positions() {
            assert_eq!(parse(7, "a/b/c", position, 90), Ok(position), "at the place where the backup was made");
            assert_eq!(parse(9, "a/b/c", position, 90), Ok(position));
        }
        assert_eq!(parse(7, "a/b/c", place(42), 90), lost(41), "although the new log is longer");
        assert_eq!(parse(7, "a/b/c", Position::Snapshot { of: Place::after(42), after: None }, 90), lost(41));
        assert_eq!(parse(8, "a/b/c", place(42), 90), Ok(place(42)), "each has its own place");
        assert_eq!(parse(8, "a/b/c", place(51), 90), lost(50));
        assert_eq!(parse(9, "a/b/c", place(51), 90), Ok(place(51)), "the log's own");
        let foreign: [Result<_, Invalid>; 2] = [
            Err(CursorError::ForeignLog { field: "cursor" }.into()),
            Err(CursorError::ForeignWorkspace { field: "cursor" }.into()),
        ];
        assert_eq!([parse(6, "a/b/c", place(1), 90), parse(7, "a/b/d", place(1), 90)], foreign);
        let in_future = CursorError::InFuture { field: "cursor", head: Place::after(40) };
        assert_eq!(parse(7, "a/b/c", PLACE.into(), 40), Err(in_future.into()));
    }

    /// Clients of earlier versions have stored such cursors.
    #[test]
    fn a_cursor_in_the_log_is_34_characters() {
        assert_eq!((space(7, "a/b/c").at(PLACE).to_string().len(), LOG_TEXT), (34, 34));
    }

    #[test]
    fn a_garbled_cursor_is_malformed() {
        let here = space(7, "a/b/c");
        let known = KnownCursors::from(here);
        let malformed = Err(CursorError::Malformed { field: "cursor" }.into());
        let parse = |text: &str| known.parse("cursor", text, Place::after(u64::MAX));
        for position in positions() {
            let text = here.at(position).to_string();
            for at in 0..text.len() {
                let mut garbled = text.clone().into_bytes();
                garbled[at] = if garbled[at] == b'A' { b'B' } else { b'A' };
                assert_eq!(parse(std::str::from_utf8(&garbled).unwrap()), malformed);
                assert_eq!(parse(&text[..at]), malformed);
            }
            assert_eq!(parse(&format!("{text}A")), malformed);
            assert_eq!(parse(&format!("{text}{text}")), malformed);
        }
    }

    #[test]
    fn a_snapshot_comes_before_the_events_that_follow_it() {
        let mut all = positions().to_vec();
        all.insert(0, Position::Log(Place::after(40)));
        all.push(Position::Snapshot { of: Place::after(42), after: None });
        assert!(all.is_sorted_by(|left, right| left < right), "{all:?}");
    }
}
