//! A copy of the profiles, kept by a subscriber as the protos tell it.

use std::collections::BTreeMap;

use super::person::Person;
use crate::proto::v1::Event;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Copy {
    pub people: BTreeMap<i64, Person>,
}

impl Copy {
    pub fn of<'e>(events: impl IntoIterator<Item = &'e Event>) -> Self {
        let mut copy = Self::default();
        events.into_iter().for_each(|event| copy.take(event));
        copy
    }

    /// Takes an event: it has the whole profile, or there is none.
    pub fn take(&mut self, event: &Event) {
        match &event.profile {
            Some(profile) => drop(self.people.insert(event.mpid, Person::of(profile))),
            None => drop(self.people.remove(&event.mpid)),
        }
        // Also of what an erasure has left of a merge.
        if event.merged_mpid != 0 && event.r#type != "profile.unmerged" {
            self.people.remove(&event.merged_mpid);
        }
    }
}
