//! Walks back along a profile's chain of events, from the latest to the first after a place.
//!
//! A chain may be longer than a page may be. So each link counts as a row of the page that reads it, and a page that has
//! no rows or no time left breaks the walk off. The place that the walk has reached is kept, and the page that comes next
//! goes on from there.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::Snapshot;
use super::page::Budget;
use crate::model::{Mpid, Place, Sequence};

/// The most walks that are kept. All together take less than 128 KiB. The one that was used least recently goes first.
const PARTS: usize = 1_024;

/// A walk along a profile's chain, back to its first event after a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) struct WalkBack {
    pub workspace: WorkspaceId,
    pub mpid: Mpid,
    pub of: Place,
}

/// How far walks have got that took more than a page.
#[derive(Debug, Default)]
pub(in crate::store) struct Parts(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    reached: BTreeMap<WalkBack, Reached>,
    uses: u64,
}

#[derive(Debug, Clone, Copy)]
struct Reached {
    /// An event of the chain after the place, which the walk has reached.
    event: Sequence,
    /// How many uses there were of all walks, when this was used last.
    used: u64,
}

impl Parts {
    /// Returns the event that a walk has reached.
    fn get(&self, walk: WalkBack) -> Option<Sequence> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.uses += 1;
        let used = kept.uses;
        let reached = kept.reached.get_mut(&walk)?;
        reached.used = used;
        Some(reached.event)
    }

    fn keep(&self, walk: WalkBack, event: Sequence) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.reached.len() == PARTS && !kept.reached.contains_key(&walk) {
            let oldest = kept.reached.iter().min_by_key(|(_, reached)| reached.used).map(|(walk, _)| *walk);
            oldest.and_then(|oldest| kept.reached.remove(&oldest));
        }
        kept.uses += 1;
        let used = kept.uses;
        kept.reached
            .entry(walk)
            .and_modify(|reached| *reached = Reached { event: reached.event.min(event), used })
            .or_insert(Reached { event, used });
    }
}

impl Snapshot {
    /// Returns a profile's first event after a place. `latest` is its latest event, and after the place. `None` if the
    /// budget is used up before the event is found.
    pub(super) fn first_change(
        &self,
        parts: &Parts,
        walk: WalkBack,
        latest: Sequence,
        budget: &mut Budget,
    ) -> Result<Option<Sequence>, StoreError> {
        let known = parts.get(walk);
        let mut first = known.unwrap_or(latest);
        let previous = |event| {
            let linked = self.link(walk.workspace, walk.mpid, event)?;
            Ok::<_, StoreError>(linked.filter(|previous| Place::from(*previous) > walk.of))
        };
        while let Some(previous) = previous(first)? {
            if !budget.take_row() {
                parts.keep(walk, first);
                return Ok(None);
            }
            first = previous;
        }
        if known.is_some() {
            parts.keep(walk, first); // The page may be asked for again.
        }
        Ok(Some(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(of: u64) -> WalkBack {
        WalkBack { workspace: WorkspaceId(1), mpid: Mpid::new(1).unwrap(), of: Place::after(of) }
    }

    fn event(number: u64) -> Sequence {
        Sequence::new(number).unwrap()
    }

    #[test]
    fn walks_that_are_used_are_kept_and_the_others_make_room() {
        let parts = Parts::default();
        for of in 0..PARTS as u64 {
            parts.keep(walk(of), event(of + 1));
        }
        assert_eq!(parts.get(walk(0)), Some(event(1)));
        for of in 0..10 {
            parts.keep(walk(PARTS as u64 + of), event(PARTS as u64 + of + 1));
        }
        assert_eq!(parts.get(walk(0)), Some(event(1)), "it was used");
        assert_eq!(parts.get(walk(1)), None);
        assert_eq!(parts.0.lock().unwrap().reached.len(), PARTS);
    }

    /// Two streams may walk at once.
    #[test]
    fn the_walk_that_got_furthest_counts() {
        let parts = Parts::default();
        for reached in [9, 5, 7] {
            parts.keep(walk(1), event(reached));
        }
        assert_eq!(parts.get(walk(1)), Some(event(5)));
    }
}
