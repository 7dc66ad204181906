//! The recent events of one workspace, as encoded frames that all its subscribers share.
//!
//! The ring is a run of segments without a gap: the writer appends, the oldest fall out. A reader takes a whole segment
//! by reference and walks it without the lock.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::frame;
use crate::model::cursor::CursorSpace;
use crate::model::{EventKind, Mpid, Sequence};
use crate::store::{Committed, EventRef};

/// Events of a segment: what a subscriber that has stopped reading keeps alive at most.
pub(super) const SEGMENT_EVENTS: usize = 64;
/// Bytes of a page of the log, by the same reason; one event may be larger.
pub(super) const SEGMENT_BYTES: usize = 128 << 10;

/// An event, ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub sequence: Sequence,
    pub mpid: Mpid,
    pub kind: EventKind,
    pub silent: bool,
    /// The encoded `SubscribeResponse`; the encoded `Event` is its end.
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

/// Events in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Segment {
    pub entries: Vec<Entry>,
    /// Nothing matching up to here is missing.
    pub through: Sequence,
    bytes: usize,
}

impl Segment {
    /// Of events that were committed in a row: as many segments as it takes.
    pub fn encode(cursors: CursorSpace, committed: &[Committed]) -> Vec<Self> {
        let mut segments = vec![Self::default()];
        let mut room = true;
        for &Committed { sequence, mpid, kind, silent, ref event, .. } in committed {
            if !room {
                segments.push(Self::default());
            }
            let segment = segments.last_mut().expect("there is always one");
            room = segment.push(cursors, EventRef { sequence, mpid, kind, silent, event });
            segment.through = sequence;
        }
        segments
    }

    /// Adds an event. Whether there is room for another.
    pub fn push(&mut self, cursors: CursorSpace, event: EventRef<'_>) -> bool {
        let entry = Entry::encode(cursors, event);
        self.bytes += entry.frame.len();
        self.entries.push(entry);
        self.entries.len() < SEGMENT_EVENTS && self.bytes < SEGMENT_BYTES
    }

    fn first(&self) -> Sequence {
        self.entries.first().map_or(self.through, |entry| entry.sequence)
    }
}

#[derive(Debug)]
pub(super) struct Ring {
    segments: VecDeque<Arc<Segment>>,
    bytes: usize,
    capacity: usize,
}

impl Ring {
    pub fn new(capacity: usize) -> Self {
        Self { segments: VecDeque::new(), bytes: 0, capacity }
    }

    pub fn extend(&mut self, segments: Vec<Segment>) {
        for segment in segments {
            self.push(segment);
        }
    }

    fn push(&mut self, segment: Segment) {
        self.bytes += segment.bytes;
        self.segments.push_back(Arc::new(segment));
        while self.bytes > self.capacity {
            let Some(oldest) = self.segments.pop_front() else { break };
            self.bytes -= oldest.bytes;
        }
    }

    /// The segment that holds the event after this one; `None` if it has fallen out or is yet to come.
    pub fn after(&self, sequence: Sequence) -> Option<Arc<Segment>> {
        let behind = self.segments.partition_point(|segment| segment.through <= sequence);
        let segment = self.segments.get(behind)?;
        (segment.first() <= sequence + 1).then(|| Arc::clone(segment))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LogId, Workspace};

    fn segment(sequences: std::ops::RangeInclusive<u64>) -> Segment {
        let cursors = CursorSpace::new(LogId(1), &Workspace::parse("a/b/c").unwrap());
        let mut segment = Segment { through: *sequences.end(), ..Segment::default() };
        for sequence in sequences {
            let mpid = Mpid::new(1).unwrap();
            segment
                .push(cursors, EventRef { sequence, mpid, kind: EventKind::Updated, silent: false, event: &[0; 100] });
        }
        segment
    }

    #[test]
    fn a_ring_gives_the_segment_that_continues_and_drops_the_oldest() {
        let mut ring = Ring::new(2_000);
        ring.push(segment(5..=8));
        ring.push(segment(9..=12));
        let found = |ring: &Ring, after| ring.after(after).map(|segment| segment.through);
        assert_eq!(found(&ring, 3), None, "4 was never there");
        assert_eq!(found(&ring, 4), Some(8));
        assert_eq!(found(&ring, 7), Some(8));
        assert_eq!(found(&ring, 8), Some(12));
        assert_eq!(found(&ring, 12), None, "13 is yet to come");

        ring.push(segment(13..=20));
        assert_eq!(found(&ring, 4), None, "5 has fallen out");
        assert_eq!(found(&ring, 12), Some(20));
        assert!(ring.bytes <= 2_000);
    }
}
