//! The recent events of one workspace, as encoded frames that all its subscribers share.
//!
//! The ring is a run of segments without a gap. The writer appends segments. The oldest are shed when the rings of all
//! workspaces together take too much memory. A reader takes a reference to a whole segment and reads it without the
//! lock.

use std::collections::VecDeque;
use std::sync::Arc;

use super::budget::Budget;
use super::segment::Segment;
use crate::model::Place;

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

    /// Takes out all segments. The caller drops them.
    pub fn clear(&mut self) -> VecDeque<Arc<Segment>> {
        self.budget.give_back(self.weight);
        self.weight = 0;
        std::mem::take(&mut self.segments)
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
    use super::super::segment::Filling;
    use super::*;
    use crate::model::cursor::CursorSpace;
    use crate::model::{EventKind, LogId, Mpid, Sequence, Workspace};
    use crate::store::EventRef;

    /// A segment with events of 100 bytes.
    pub fn segment(sequences: std::ops::RangeInclusive<u64>) -> Segment {
        let cursors = CursorSpace::new(LogId(1), &Workspace::parse("a/b/c").unwrap());
        let (mut filling, through) = (Filling::new(cursors), Place::after(*sequences.end()));
        for sequence in sequences {
            let (sequence, mpid) = (Sequence::new(sequence).unwrap(), Mpid::new(1).unwrap());
            let kind = EventKind::Updated;
            filling.push(EventRef { sequence, mpid, kind, silent: false, other: None, event: &[0; 100] });
        }
        filling.finish(through)
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
        assert!(segment.weight() >= segment.frames(0..4).len() + size_of_val(&*segment.entries) + size_of::<Segment>());
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
