//! What planning an erasure costs.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::harness::*;
use crate::model::{EventKind, Mpid, Place, Sequence};
use crate::proto::v1::Event;
use crate::store::StoreError;
use crate::store::erasure::{Bounds, Chains, Link, Person, plan};
use crate::store::rows::Other;

/// Chains in memory, which count how often an event is read.
#[derive(Default)]
struct Counted {
    links: Vec<(Mpid, EventKind, Option<Other>)>,
    previous: Vec<Option<Sequence>>,
    latest: BTreeMap<Mpid, Sequence>,
    read: Cell<usize>,
}

impl Counted {
    fn add(&mut self, mpid: i64, kind: EventKind, other: Option<i64>) {
        let mpid = Mpid::new(mpid).unwrap();
        let other = other.and_then(Mpid::new);
        self.previous.push(self.latest.get(&mpid).copied());
        let absorbed = other.filter(|_| kind == EventKind::Merged);
        let last = absorbed.map(|mpid| Other { mpid, previous: self.latest.get(&mpid).copied() });
        self.links.push((mpid, kind, last.or(other.map(|mpid| Other { mpid, previous: None }))));
        let sequence = sequence(self.links.len() as u64);
        self.latest.extend([Some(mpid), absorbed].into_iter().flatten().map(|mpid| (mpid, sequence)));
    }

    fn pair(&mut self, into: i64, from: i64) {
        self.add(into, EventKind::Merged, Some(from));
        self.add(into, EventKind::Unmerged, Some(from));
        self.add(from, EventKind::Unmerged, Some(into));
    }

    /// The mpids of a person, and how many events an erasure rewrites.
    fn plan(&self, mpid: i64) -> (Vec<i64>, usize) {
        let mpid = Mpid::new(mpid).unwrap();
        let person = Person { mpid, latest: self.latest[&mpid], identities: Vec::new() };
        let all = usize::MAX;
        let bounds = Bounds { read_to: Place::START, most: all, telling: all, links: all, bytes: all };
        let plan = plan(self, person, bounds).unwrap();
        (plan.mpids.iter().map(|mpid| mpid.get()).collect(), plan.rewrites.len())
    }
}

impl Chains for Counted {
    fn floor(&self) -> Place {
        Place::START
    }

    fn link(&self, sequence: Sequence) -> Result<Link, StoreError> {
        self.read.set(self.read.get() + 1);
        let at = usize::try_from(sequence.get()).unwrap() - 1;
        let (mpid, kind, other) = self.links[at];
        let merged_mpid = other.map_or(0, |other| other.mpid.get());
        let event = Event { mpid: mpid.get(), merged_mpid, ..Event::default() };
        let other = other.filter(|_| kind == EventKind::Merged);
        Ok(Link { mpid, kind, previous: self.previous[at], other, bytes: 1, event })
    }

    fn latest(&self, mpid: Mpid) -> Result<Option<Sequence>, StoreError> {
        Ok(self.latest.get(&mpid).copied())
    }
}

#[test]
fn an_erasure_reads_each_event_a_few_times_however_often_two_profiles_were_merged_and_parted() {
    const PAIRS: usize = 2_000;
    let mut chains = Counted::default();
    (1..=4).for_each(|mpid| chains.add(mpid, EventKind::Created, None));
    for _ in 0..PAIRS {
        chains.pair(1, 2);
        chains.pair(3, 2); // Of these, an erasure of the first profile reads nothing but the chain of the second.
    }
    chains.add(1, EventKind::Merged, Some(4));
    assert_eq!(chains.plan(1), (vec![1, 4], 2 * PAIRS + 3));
    assert!(chains.read.get() < 40 * PAIRS, "{} reads", chains.read.get());
    chains.read.set(0);
    assert_eq!(chains.plan(2).0, [2]);
    assert!(chains.read.get() < 40 * PAIRS, "{} reads", chains.read.get());
}

/// Two profiles ask about the chain of a third, the one with the older merge first.
#[test]
fn what_became_of_merges_is_found_in_whatever_order_they_are_asked_about() {
    let mut chains = Counted::default();
    (1..=4).for_each(|mpid| chains.add(mpid, EventKind::Created, None));
    chains.pair(3, 2);
    chains.pair(1, 2);
    chains.add(4, EventKind::Merged, Some(3));
    chains.add(4, EventKind::Merged, Some(1));
    assert_eq!(chains.plan(4).0, [1, 3, 4]);
}

/// The profile that was absorbed for good went with its survivor. The mpids are those of other persons since.
#[test]
fn a_merge_that_was_not_undone_is_found_before_those_that_were() {
    let mut chains = Counted::default();
    chains.add(2, EventKind::Created, None);
    chains.add(4, EventKind::Created, None);
    chains.pair(4, 2);
    chains.add(4, EventKind::Merged, Some(2));
    chains.add(4, EventKind::Deleted, None);
    chains.add(2, EventKind::Created, None);
    chains.pair(4, 2);
    assert_eq!(chains.plan(4).0, [2, 4]);
    assert_eq!(chains.plan(2).0, [2]);
}
