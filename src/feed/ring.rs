//! The recent events of one workspace, as encoded frames that all its subscribers share.
//!
//! The ring is a run of segments without a gap. The writer appends segments. The oldest are shed when the rings of all
//! workspaces together take too much memory. A reader takes a reference to a whole segment and reads it without the
//! lock.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::budget::Budget;
use super::frame;
use crate::model::cursor::CursorSpace;
use crate::model::{EventKind, Mpid, Place, Sequence};
use crate::store::{Committed, EventRef};

/// The most events of a segment. A subscriber that has stopped reading keeps one segment in memory.
pub(super) const SEGMENT_EVENTS: usize = 64;
/// The most bytes of a segment, for the same reason. The last event may take a segment past it.
pub(super) const SEGMENT_BYTES: usize = 128 << 10;

/// What `Bytes` allocates in addition to the bytes of a frame, once the frame has been sent.
const FRAME_OVERHEAD: usize = 3 * size_of::<usize>();
/// The two reference counts of an `Arc`.
const ARC_OVERHEAD: usize = 2 * size_of::<usize>();

/// An event, ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub sequence: Sequence,
    pub mpid: Mpid,
    pub kind: EventKind,
    pub silent: bool,
    /// The encoded `SubscribeResponse`. It ends with the encoded `Event`.
    pub frame: Bytes,
    event_len: usize,
}

impl Entry {
    pub fn encode(cursors: CursorSpace, event: EventRef<'_>) -> Self {
        let EventRef { sequence, mpid, kind, silent, event } = event;
        Self { sequence, mpid, kind, silent, frame: frame::event(cursors, sequence, event), event_len: event.len() }
    }

    pub fn event(&self) -> &[u8] {
        &self.frame[self.frame.len() - self.event_len..]
    }
}

/// Consecutive events, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Segment {
    pub entries: Vec<Entry>,
    /// No matching event at or before this place is missing.
    pub through: Place,
    /// The bytes of all frames.
    bytes: usize,
}

impl Segment {
    /// Makes as many segments as needed from events that were committed in a row.
    pub fn encode(cursors: CursorSpace, committed: &[Committed]) -> Vec<Self> {
        let mut segments = vec![Self::with_room(committed.len())];
        for (at, &Committed { sequence, mpid, kind, silent, ref event, .. }) in committed.iter().enumerate() {
            if segments.last().is_some_and(Self::is_full) {
                segments.push(Self::with_room(committed.len() - at));
            }
            let segment = segments.last_mut().expect("there is always one");
            segment.push(cursors, EventRef { sequence, mpid, kind, silent, event });
            segment.through = sequence.into();
        }
        segments
    }

    /// An empty segment. Most commits have a single event, but a vector that grows by itself would have room for four.
    fn with_room(events: usize) -> Self {
        Self { entries: Vec::with_capacity(events.min(SEGMENT_EVENTS)), ..Self::default() }
    }

    /// Adds an event, and returns the bytes of its frame.
    pub fn push(&mut self, cursors: CursorSpace, event: EventRef<'_>) -> usize {
        let entry = Entry::encode(cursors, event);
        let bytes = entry.frame.len();
        self.bytes += bytes;
        self.entries.push(entry);
        bytes
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= SEGMENT_EVENTS || self.bytes >= SEGMENT_BYTES
    }

    /// Whether it holds the event after a place. The place must be before [`Self::through`].
    fn follows(&self, place: Place) -> bool {
        self.entries.first().is_some_and(|entry| entry.sequence <= place.next())
    }

    /// The memory that it takes in a ring, in bytes. For a small event, a third of it is overhead beyond the frame.
    pub fn weight(&self) -> usize {
        let own = size_of::<Self>() + size_of::<Arc<Self>>() + ARC_OVERHEAD;
        let entries = self.entries.capacity() * size_of::<Entry>();
        own + entries + self.entries.len() * FRAME_OVERHEAD + self.bytes
    }
}

#[derive(Debug)]
pub(super) struct Ring {
    segments: VecDeque<Arc<Segment>>,
    /// The weight of the segments, which is what the ring has taken from the budget.
    weight: usize,
    budget: Arc<Budget>,
}

impl Ring {
    pub fn new(budget: Arc<Budget>) -> Self {
        Self { segments: VecDeque::new(), weight: 0, budget }
    }

    pub fn extend(&mut self, segments: Vec<Segment>) {
        for segment in segments {
            self.push(segment);
        }
    }

    fn push(&mut self, segment: Segment) {
        let weight = segment.weight();
        self.budget.take(weight);
        self.weight += weight;
        self.segments.push_back(Arc::new(segment));
    }

    /// Takes out the oldest segments until the rings fit the budget again or none is left. The caller drops them.
    pub fn shed(&mut self) -> Vec<Arc<Segment>> {
        let mut shed = Vec::new();
        while self.budget.must_shed() {
            let Some(oldest) = self.segments.pop_front() else { break };
            let weight = oldest.weight();
            self.budget.give_back(weight);
            self.weight -= weight;
            shed.push(oldest);
        }
        self.segments.shrink_to_fit(); // A workspace that was busy once must not keep the memory.
        shed
    }

    /// The segment with the event after this place; `None` if it was shed or does not exist yet.
    pub fn after(&self, place: Place) -> Option<Arc<Segment>> {
        let behind = self.segments.partition_point(|segment| segment.through <= place);
        let segment = self.segments.get(behind)?;
        segment.follows(place).then(|| Arc::clone(segment))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.budget.give_back(self.weight);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{LogId, Workspace};

    /// A segment with events of 100 bytes.
    pub fn segment(sequences: std::ops::RangeInclusive<u64>) -> Segment {
        let cursors = CursorSpace::new(LogId(1), &Workspace::parse("a/b/c").unwrap());
        let mut segment = Segment { through: Place::after(*sequences.end()), ..Segment::default() };
        for sequence in sequences {
            let (sequence, mpid) = (Sequence::new(sequence).unwrap(), Mpid::new(1).unwrap());
            segment
                .push(cursors, EventRef { sequence, mpid, kind: EventKind::Updated, silent: false, event: &[0; 100] });
        }
        segment
    }

    fn ring(capacity: usize) -> Ring {
        Ring::new(Arc::new(Budget::new(capacity)))
    }

    #[test]
    fn a_ring_gives_the_segment_that_continues_and_sheds_the_oldest() {
        let mut ring = ring(4 * segment(1..=4).weight());
        ring.extend(vec![segment(5..=8), segment(9..=12)]);
        let found = |ring: &Ring, after| ring.after(Place::after(after)).map(|segment| segment.through.get());
        assert_eq!(found(&ring, 3), None, "4 was never in the ring");
        assert_eq!(found(&ring, 4), Some(8));
        assert_eq!(found(&ring, 7), Some(8));
        assert_eq!(found(&ring, 8), Some(12));
        assert_eq!(found(&ring, 12), None, "13 does not exist yet");
        assert!(ring.shed().is_empty(), "there is room");

        ring.extend(vec![segment(13..=16), segment(17..=20)]);
        assert_eq!(ring.shed().len(), 1, "it is full, and shedding stops at 7/8");
        assert_eq!(found(&ring, 4), None, "5 was shed");
        assert_eq!(found(&ring, 8), Some(12));
        assert_eq!(found(&ring, 16), Some(20));
    }

    #[test]
    fn a_segment_weighs_more_than_its_frames() {
        let segment = segment(1..=4);
        let frames: usize = segment.entries.iter().map(|entry| entry.frame.len()).sum();
        assert!(segment.weight() >= frames + 4 * size_of::<Entry>() + size_of::<Segment>());
    }

    #[test]
    fn a_ring_gives_back_all_that_it_took() {
        let mut ring = ring(1_000_000);
        let budget = Arc::clone(&ring.budget);
        ring.extend(vec![segment(1..=4), segment(5..=8)]);
        assert_eq!(budget.taken(), segment(1..=4).weight() + segment(5..=8).weight());
        drop(ring);
        assert_eq!(budget.taken(), 0);
    }
}
