//! Faults that tests plant, to see that the validator of the streams finds them. Only with the feature `planted`, which
//! no build for users has.
//!
//! One fault at a time, in the whole process. Each hook is a few lines in the code that it breaks.

use std::ops::Range;
use std::sync::Mutex;

use bytes::Bytes;

use super::frame::Notice;
use super::segment::{Entry, Segment};
use crate::model::{EventKind, Mpid, Place, Position, Transition};
use crate::proto::v1::FilterMatch;

/// What a stream does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Some events are not delivered.
    Drop,
    /// The last event of a run is delivered twice.
    Repeat,
    /// The first two events of a run change places.
    Reorder,
    /// Heartbeats and `caught_up` have the cursor of the next event.
    CursorAhead,
    /// Some profiles are not in the snapshot.
    SnapshotShort,
    /// A snapshot says that it is as of the event before.
    SnapshotBefore,
    /// A profile that leaves the filter is not delivered.
    ForgetLeft,
    /// A filter that matched only the absorbed profile is not told of the merge.
    ForgetAbsorbed,
    /// A merge is told only to those who asked for the mpid, or the shard, of the survivor.
    ForgetOther,
    /// An erased event is not delivered to those who asked for profiles that match.
    ForgetErased,
    /// A profile that leaves the filter because a membership has ended is not delivered.
    ForgetEnded,
    /// The events of a merge that was undone are not delivered.
    DropUnmerged,
    /// An erasure does not reach what was read before it.
    KeepErased,
    /// An acknowledgement of an older cursor is answered with that, as if the acknowledged place had gone back. That the
    /// place itself goes back is [`Fault::ResumeBefore`].
    AcknowledgeBack,
    /// A stream of a durable subscription starts one event before what was acknowledged.
    ResumeBefore,
}

static PLANTED: Mutex<Option<Fault>> = Mutex::new(None);

/// Plants a fault, or removes it.
pub fn plant(fault: Option<Fault>) {
    *PLANTED.lock().expect("nothing panics with the lock") = fault;
}

fn is(fault: Fault) -> bool {
    *PLANTED.lock().expect("nothing panics with the lock") == Some(fault)
}

pub(super) fn drops(entry: &Entry) -> bool {
    is(Fault::Drop) && entry.sequence.get() % 16 == 7 || is(Fault::DropUnmerged) && entry.kind == EventKind::Unmerged
}

/// The profile that an event absorbed, as far as filters know.
pub(super) fn other(other: Option<Mpid>) -> Option<Mpid> {
    other.filter(|_| !is(Fault::ForgetOther))
}

pub(super) fn keeps_erased() -> bool {
    is(Fault::KeepErased)
}

/// The frames of a run.
pub(super) fn run(segment: &Segment, run: Range<usize>) -> Bytes {
    let (first, last) = (run.start, run.end - 1);
    if is(Fault::Repeat) {
        return [segment.frames(run), segment.frames(last..last + 1)].concat().into();
    }
    if is(Fault::Reorder) && first < last {
        let (one, two) = (segment.frames(first..first + 1), segment.frames(first + 1..first + 2));
        return [two, one, segment.frames(first + 2..run.end)].concat().into();
    }
    segment.frames(run)
}

pub(super) fn position(notice: &Notice, position: Position, head: Place) -> Position {
    let may_be_ahead = matches!(notice, Notice::Heartbeat(_) | Notice::CaughtUp(_));
    match position {
        Position::Log(place) if is(Fault::CursorAhead) && may_be_ahead && place < head => {
            Place::from(place.next()).into()
        }
        other => other,
    }
}

pub(super) fn hides(mpid: Mpid) -> bool {
    is(Fault::SnapshotShort) && mpid.get() % 8 == 3
}

/// The place that a snapshot is read as of.
pub(super) fn as_of(of: Place) -> Place {
    if is(Fault::SnapshotBefore) { Place::after(of.get().saturating_sub(1)) } else { of }
}

pub(super) fn forgets(kind: EventKind, matched: FilterMatch, change: Option<&Transition>) -> bool {
    let has_lapsed = || change.is_some_and(|change| change.lapsed().is_some());
    matched == FilterMatch::Left
        && (is(Fault::ForgetLeft)
            || is(Fault::ForgetAbsorbed) && kind == EventKind::Merged && change.is_some()
            || is(Fault::ForgetErased) && kind == EventKind::Erased
            || is(Fault::ForgetEnded) && kind == EventKind::Updated && has_lapsed())
}

/// The acknowledged place in the response to an acknowledgement of `asked`.
#[must_use]
pub fn acknowledged(acknowledged: Position, asked: Position) -> Position {
    if is(Fault::AcknowledgeBack) { asked } else { acknowledged }
}

/// Where a stream of a durable subscription starts.
#[must_use]
pub fn resumed(acknowledged: Position) -> Position {
    match acknowledged {
        Position::Log(place) if is(Fault::ResumeBefore) => Place::after(place.get().saturating_sub(1)).into(),
        other => other,
    }
}
