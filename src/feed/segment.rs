//! A run of events of one workspace, as encoded frames in one buffer.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::frame;
use crate::model::cursor::CursorSpace;
use crate::model::{EventKind, Mpid, Place, Sequence};
use crate::proto::v1::FilterMatch;
use crate::store::{Committed, EventRef};

/// The most events of a segment. A subscriber that has stopped reading keeps one segment in memory.
pub(super) const SEGMENT_EVENTS: usize = 64;
/// The most bytes of a segment, for the same reason. The last event may take a segment past it.
pub(super) const SEGMENT_BYTES: usize = 128 << 10;

/// What `Bytes` allocates in addition to the bytes of the frames, once some have been sent.
const FRAMES_OVERHEAD: usize = 3 * size_of::<usize>();
/// The two reference counts of an `Arc`.
const ARC_OVERHEAD: usize = 2 * size_of::<usize>();

/// An event, ready to be sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub sequence: Sequence,
    pub mpid: Mpid,
    pub kind: EventKind,
    pub silent: bool,
    pub other: Option<Mpid>,
    /// Where its frame ends in the buffer, and the length of the encoded `Event`, with which the frame ends.
    end: u32,
    event_len: u32,
}

/// Consecutive events, in order.
#[derive(Debug, Default)]
pub(super) struct Segment {
    pub entries: Vec<Entry>,
    /// No matching event at or before this place is missing.
    pub through: Place,
    frames: Bytes,
}

/// A segment while it is filled.
#[derive(Debug)]
pub(super) struct Filling {
    cursors: CursorSpace,
    entries: Vec<Entry>,
    frames: Vec<u8>,
}

impl Segment {
    /// Makes as many segments as needed from events that were committed in a row.
    pub fn encode(cursors: CursorSpace, mut committed: &[Committed]) -> Vec<Self> {
        let mut segments = Vec::new();
        while !committed.is_empty() {
            let (mut events, mut bytes) = (0, 0);
            while events < committed.len().min(SEGMENT_EVENTS) && bytes < SEGMENT_BYTES {
                bytes += frame::event_len(committed[events].event.len());
                events += 1;
            }
            let (these, rest) = committed.split_at(events);
            segments.push(Self::of(cursors, these, bytes));
            committed = rest;
        }
        segments
    }

    /// A segment of these events, whose frames have this many bytes.
    fn of(cursors: CursorSpace, committed: &[Committed], bytes: usize) -> Self {
        let mut filling = Filling::new(cursors);
        filling.entries.reserve_exact(committed.len());
        filling.frames.reserve_exact(bytes);
        for &Committed { sequence, mpid, kind, silent, other, ref event, .. } in committed {
            filling.push(EventRef { sequence, mpid, kind, silent, other, event });
        }
        debug_assert_eq!(filling.frames.len(), bytes);
        let through = committed.last().map(|event| event.sequence.into()).unwrap_or_default();
        filling.finish(through)
    }

    /// Whether it holds the event after a place. The place must be before [`Self::through`].
    pub fn follows(&self, place: Place) -> bool {
        self.entries.first().is_some_and(|entry| entry.sequence <= place.next())
    }

    /// The frames of these entries, which share the buffer.
    pub fn frames(&self, entries: Range<usize>) -> Bytes {
        self.frames.slice(self.begin(entries.start)..self.begin(entries.end))
    }

    /// The bytes of the frame of an entry.
    pub fn frame_len(&self, entry: usize) -> usize {
        self.begin(entry + 1) - self.begin(entry)
    }

    /// The encoded `Event` of an entry.
    pub fn event(&self, entry: usize) -> &[u8] {
        let Entry { end, event_len, .. } = self.entries[entry];
        &self.frames[(end - event_len) as usize..end as usize]
    }

    pub fn reference(&self, entry: usize) -> EventRef<'_> {
        let Entry { sequence, mpid, kind, silent, other, .. } = self.entries[entry];
        EventRef { sequence, mpid, kind, silent, other, event: self.event(entry) }
    }

    /// Where the frame of an entry begins in the buffer.
    fn begin(&self, entry: usize) -> usize {
        entry.checked_sub(1).map_or(0, |previous| self.entries[previous].end as usize)
    }

    /// Whether it has the event of a merge.
    pub fn has_merges(&self) -> bool {
        self.entries.iter().any(|entry| entry.other.is_some())
    }

    /// The memory that it takes in a ring, in bytes. For a small event, a third of it is overhead beyond the frame.
    pub fn weight(&self) -> usize {
        let own = size_of::<Self>() + size_of::<Arc<Self>>() + ARC_OVERHEAD + FRAMES_OVERHEAD;
        own + self.entries.capacity() * size_of::<Entry>() + self.frames.len()
    }
}

impl Filling {
    pub fn new(cursors: CursorSpace) -> Self {
        Self { cursors, entries: Vec::new(), frames: Vec::new() }
    }

    /// Adds an event, and returns the bytes of its frame.
    pub fn push(&mut self, event: EventRef<'_>) -> usize {
        let before = self.frames.len();
        frame::put_event(self.cursors, event.sequence, event.event, &mut self.frames);
        self.entry(event);
        self.frames.len() - before
    }

    /// As [`Self::push`], with what the filter says of the event. Nothing is made of such a segment, so where the event
    /// is in the frame does not matter.
    pub fn push_matched(&mut self, event: EventRef<'_>, matched: FilterMatch) -> usize {
        let before = self.frames.len();
        frame::put_matched(self.cursors, event.sequence, event.event, matched, &mut self.frames);
        self.entry(event);
        self.frames.len() - before
    }

    pub fn finish(self, through: Place) -> Segment {
        Segment { entries: self.entries, through, frames: self.frames.into() }
    }

    fn entry(&mut self, event: EventRef<'_>) {
        let EventRef { sequence, mpid, kind, silent, other, event } = event;
        let length = |bytes: usize| u32::try_from(bytes).expect("a segment is far smaller");
        let (end, event_len) = (length(self.frames.len()), length(event.len()));
        self.entries.push(Entry { sequence, mpid, kind, silent, other, end, event_len });
    }
}
