//! What the validator finds.

use cameo::proto::v1::{Event, Profile};

/// A promise of the API that a recording breaks. Each names the first place where it is broken.
#[derive(Debug, Clone, PartialEq)]
pub enum Violation {
    /// The log itself has a hole, or is not in order.
    LogBroken { sequence: u64 },
    /// An event does not say what changed: folding the log gives another profile, or other changes.
    WrongChange { sequence: u64, what: &'static str },
    /// The first message is not `opened`, or there is a second one, or a message comes in a phase that has ended.
    OutOfPhase { message: String },
    /// The stream started elsewhere than the request says.
    WrongStart { expected: String, opened: String },
    /// A durable stream started where nothing was acknowledged. Before that place it repeats, behind it it skips.
    WrongPlace { acknowledged: Vec<u64>, opened: u64 },
    /// An acknowledgement moved the acknowledged place back.
    AcknowledgedBack { from: u64, to: u64 },
    /// The server took a cursor that it had sent for one that is past what it sent.
    AcknowledgementRefused { cursor: String },
    /// A stream started at a place although retention had removed the event after it.
    ExpiredLate { place: u64, floor: u64 },
    /// `CURSOR_EXPIRED`, although the log held the event after the place.
    ExpiredEarly { place: u64, floor: u64 },
    /// `CURSOR_EXPIRED` does not say what the log held.
    WrongEnds { oldest: u64, head: u64, what: &'static str },
    /// Retention removed events that it should have kept, as they were few or a subscription needed them.
    TrimmedEarly { floor: u64, head: u64 },
    /// The server did not know of a write whose response had been sent.
    HeadBehind { written: u64, head: u64 },
    /// A cursor that is no place in the log.
    UnknownCursor { cursor: String },
    /// The cursor of an event is not the place after it.
    WrongCursor { sequence: u64, cursor: u64 },
    /// A cursor is before one that the stream sent earlier.
    CursorBack { from: u64, to: u64 },
    /// A message that is not an event says that an event was delivered, which had not been.
    CursorAhead { cursor: u64, undelivered: u64 },
    /// `caught_up` or `snapshot_complete` names another place than `opened`.
    WrongNotice { expected: u64, named: u64 },
    /// An event that matches was not delivered.
    Missing { sequence: u64 },
    /// A profile left what the filter selects, and the subscriber was not told.
    LeftForgotten { sequence: u64 },
    /// An event was delivered twice on one stream, or again after the cursor that the stream resumed from.
    Repeated { sequence: u64 },
    /// An event came after one that follows it in the log.
    Reordered { sequence: u64, after: u64 },
    /// An event differs from that of the log, and from all that erasures have left of it.
    Altered { got: Box<Event>, was: Vec<Event> },
    /// A value that had been erased before the stream was opened was delivered, or is still in the log.
    ErasedValue { got: Box<Event>, was: Vec<Event> },
    /// A snapshot has a profile that had been erased before the stream was opened.
    ErasedProfile { of: u64, mpid: i64 },
    /// The response of an erasure does not name its event.
    WrongErasure { place: u64 },
    /// An event that does not match was delivered.
    Unwanted { sequence: u64 },
    /// `Event.match` is wrong.
    WrongMatch { sequence: u64, expected: i32, got: i32 },
    /// A profile of the snapshot was not delivered.
    SnapshotMissing { of: u64, mpid: i64 },
    /// A profile was delivered that the snapshot does not hold, or twice, or not in the order of the mpids.
    SnapshotUnwanted { of: u64, mpid: i64 },
    /// A profile of the snapshot is not what the log made of it up to the snapshot's place.
    SnapshotAltered { of: u64, got: Box<Profile>, allowed: Vec<Profile> },
    /// A profile belongs to two shards of as many, or to none.
    ShardsOverlap { mpid: i64, count: u32 },
}
