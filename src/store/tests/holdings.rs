//! What a store holds, according to its log and according to its tables. Both must be equal.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;

use super::harness::*;
use super::script::identities;
use crate::model::identity::keys_of;
use crate::model::page_token::PageStart;
use crate::model::{EventKind, Filter, IdentityKey, Micros, Mpid, Workspace};
use crate::proto::v1::Event;
use crate::store::read::{History, Walks};
use crate::store::{EventPage, EventRef, LogBounds, Store};

/// What each of the [`WORKSPACES`] holds.
pub type State = Vec<Holdings>;

/// Everything that a workspace holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Holdings {
    /// The sequence before the first event of the log.
    pub floor: u64,
    /// Encoded events.
    pub log: Vec<Bytes>,
    profiles: BTreeMap<i64, Bytes>,
    owners: BTreeMap<IdentityKey, i64>,
    /// The sequences of each profile's events.
    pub histories: BTreeMap<i64, Vec<u64>>,
}

impl Holdings {
    /// Reads everything from a store, which must not have profiles other than these.
    pub fn read_from(store: &Store, workspace: &str, mpids: &BTreeSet<i64>) -> Self {
        let Some(id) = store.workspace_id(&Workspace::parse(workspace).unwrap()) else { return Self::default() };
        let snapshot = store.snapshot().unwrap();
        let mut holds = Self::default();
        let LogBounds { floor, head, .. } = snapshot.log_bounds(id).unwrap();
        holds.floor = floor.get();
        let keep = |event: EventRef<'_>| {
            holds.log.push(Bytes::copy_from_slice(event.event));
            Ok(Some(1))
        };
        let all = Filter::default();
        let page = snapshot.events(id, floor, head, &all, EVERYTHING, keep).unwrap();
        assert_eq!(page, EventPage { through: head, complete: true });
        for mpid in mpids.iter().map(|mpid| Mpid::new(*mpid).unwrap()) {
            let profile = snapshot.profile(id, mpid, Micros::new(0), Bytes::copy_from_slice).unwrap();
            holds.profiles.extend(profile.map(|profile| (mpid.get(), profile)));
            let mut history = Vec::new();
            let whole = History { workspace: id, mpid, after: floor, through: head, filter: &all };
            let keep = |event: EventRef<'_>| {
                history.push(event.sequence.get());
                Ok(Some(1))
            };
            assert!(snapshot.history(&Walks::default(), whole, EVERYTHING, keep).unwrap().page.complete);
            if !history.is_empty() {
                holds.histories.insert(mpid.get(), history);
            }
        }
        let mut listed = 0;
        let count = |_: &[u8]| {
            listed += 1;
            Ok(1)
        };
        assert_eq!(snapshot.profiles(id, PageStart::default(), Micros::new(0), EVERYTHING, count).unwrap(), None);
        assert_eq!(listed, holds.profiles.len(), "every profile has had an event");
        for key in identities().iter().map(IdentityKey::of) {
            let owner = snapshot.owner(id, &key).unwrap();
            holds.owners.extend(owner.map(|owner| (key, owner.get())));
        }
        holds
    }

    /// Adds an event and its consequences: the profile is as the event has it, and owns its identities.
    pub fn append(&mut self, event: &Bytes) {
        self.log.push(event.clone());
        let Event { sequence, mpid, profile, merged_mpid, r#type, .. } = Event::decode(event.clone()).unwrap();
        assert_eq!(sequence, self.head(), "there are no holes");
        self.histories.entry(mpid).or_default().push(sequence);
        if r#type == EventKind::Merged.name() {
            self.histories.entry(merged_mpid).or_default().push(sequence);
            self.owners.retain(|_, owner| *owner != merged_mpid);
            self.profiles.remove(&merged_mpid);
        }
        self.owners.retain(|_, owner| *owner != mpid);
        self.profiles.remove(&mpid);
        if let Some(profile) = profile {
            for key in keys_of(&profile) {
                assert_eq!(self.owners.insert(key, mpid), None, "an identity has one owner");
            }
            self.profiles.insert(mpid, profile.encode_to_vec().into());
        }
    }

    /// Removes the events up to this sequence.
    pub fn trim(&mut self, floor: u64) {
        self.log.drain(..usize::try_from(floor - self.floor).unwrap());
        self.floor = floor;
        self.histories.values_mut().for_each(|history| history.retain(|event| *event > floor));
        self.histories.retain(|_, history| !history.is_empty());
    }

    /// The sequence of the latest event.
    pub fn head(&self) -> u64 {
        self.floor + self.log.len() as u64
    }

    pub fn event(&self, sequence: u64) -> Event {
        Event::decode(self.log[usize::try_from(sequence - self.floor).unwrap() - 1].clone()).unwrap()
    }
}
