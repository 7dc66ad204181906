//! What an erasure leaves of the events that are there.
//!
//! It shares no code with the server, which follows the chains of its rows. It searches the whole log as it was written.

use std::collections::{BTreeMap, BTreeSet};

use cameo::proto::v1::*;

use super::log::{Log, Version};

/// What an event loses.
#[derive(Debug, Clone, PartialEq)]
pub enum Removal {
    /// Everything: it is an event of the person.
    All,
    /// The profiles in it, which the person was a part of.
    Profiles,
    /// The profile before it, which the person was a part of.
    Previous,
    Identities(Keys),
}

/// Identities that were taken.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Keys(Vec<Identity>);

/// A time in which a profile was part of another: from the event of the merge to the last that it was part of.
#[derive(Debug, Clone, Copy)]
struct Stay {
    host: i64,
    first: u64,
    last: u64,
    /// Whether the last event is that by which the host lost it again.
    is_undone: bool,
    /// Whether the log tells of it even if it no longer holds the event of the merge. It does if all is undone: the mpid
    /// of a profile that was deleted may be that of somebody else.
    is_certain: bool,
}

/// What an erasure leaves of events.
#[derive(Default)]
pub struct Left {
    pub removals: BTreeMap<u64, Removal>,
    /// The events of which it may leave less.
    pub uncertain: BTreeSet<u64>,
}

struct Walk<'l> {
    log: &'l Log,
    /// The last event that was there.
    through: u64,
    left: Left,
    /// What profiles are searched for, and up to which event.
    searched: BTreeSet<(i64, u64, String)>,
}

/// What the erasure of a profile leaves of the events up to one.
pub fn left_by(log: &Log, mpid: i64, through: u64) -> Left {
    let mut walk = Walk { log, through, left: Left::default(), searched: BTreeSet::new() };
    let (mut lives, mut seen) = (vec![(mpid, through)], BTreeSet::new());
    while let Some((mpid, last)) = lives.pop() {
        if seen.insert((mpid, last)) {
            lives.extend(walk.erase(mpid, last));
        }
    }
    walk.left
}

impl<'l> Walk<'l> {
    fn events(&self, first: u64, last: u64) -> impl Iterator<Item = &'l Version> + use<'l> {
        let log = self.log;
        (first..=last).filter_map(|sequence| log.event(sequence))
    }

    /// Removes the events of a profile up to one, and what it left in other profiles. Returns the profiles that were the
    /// same person, each with its last event.
    fn erase(&mut self, mpid: i64, last: u64) -> Vec<(i64, u64)> {
        let mut same = Vec::new();
        for version in self.events(1, last).filter(|version| version.event.mpid == mpid) {
            let event = &version.event;
            self.left.removals.insert(event.sequence, Removal::All);
            for (loser, keys) in losers(self.log, event) {
                self.search(loser, event.sequence - 1, &keys);
            }
            let absorbed = version.absorbed.filter(|absorbed| !self.is_restored(*absorbed, event.sequence));
            same.extend(absorbed.map(|absorbed| (absorbed, event.sequence - 1)));
        }
        for stay in self.stays(mpid, 1, last, true) {
            for version in self.events(stay.first, stay.last).filter(|version| version.event.mpid == stay.host) {
                let sequence = version.event.sequence;
                let is_parting = stay.is_undone && sequence == stay.last;
                let removal = if is_parting { Removal::Previous } else { Removal::Profiles };
                self.lose_in(stay, sequence, removal);
            }
        }
        same
    }

    /// The times in which a profile was part of others, between two events; and those others of others meanwhile.
    fn stays(&self, mpid: i64, first: u64, last: u64, is_certain: bool) -> Vec<Stay> {
        let mut stays = Vec::new();
        for version in self.events(first, last).filter(|version| version.absorbed == Some(mpid)) {
            let (host, merged) = (version.event.mpid, version.event.sequence);
            let restored = self.next_of(mpid, merged).filter(|version| is_restoring(&version.event));
            let last = restored.map_or_else(|| self.end_of(host, merged), |version| version.event.sequence - 1);
            let (is_undone, is_certain) = (restored.is_some(), is_certain && restored.is_some());
            stays.push(Stay { host, first: merged, last, is_undone, is_certain });
            stays.extend(self.stays(host, merged + 1, last, is_certain));
        }
        stays
    }

    /// The last event of the life that a profile has at an event.
    fn end_of(&self, mpid: i64, at: u64) -> u64 {
        let is_of = |version: &&Version| version.event.mpid == mpid || version.absorbed == Some(mpid);
        let ends = self.events(at + 1, self.through).filter(is_of).find(|version| {
            let event = &version.event;
            let is_gone = event.mpid == mpid && event.profile.is_none();
            is_gone || version.absorbed == Some(mpid) && !self.is_restored(mpid, event.sequence)
        });
        ends.map_or(self.through, |version| version.event.sequence)
    }

    /// Whether a profile that was absorbed by an event came back as one of its own.
    fn is_restored(&self, mpid: i64, absorbed: u64) -> bool {
        self.next_of(mpid, absorbed).is_some_and(|version| is_restoring(&version.event))
    }

    fn next_of(&self, mpid: i64, after: u64) -> Option<&'l Version> {
        self.events(after + 1, self.through).find(|version| version.event.mpid == mpid)
    }

    /// Removes identities from what the log has of a profile up to an event, and of those that it had them from.
    fn search(&mut self, mpid: i64, last: u64, keys: &Keys) {
        if !self.searched.insert((mpid, last, format!("{keys:?}"))) {
            return;
        }
        for version in self.events(1, last).filter(|version| version.event.mpid == mpid) {
            self.search_event(None, version, keys);
        }
        for stay in self.stays(mpid, 1, last, true) {
            for version in self.events(stay.first, stay.last).filter(|version| version.event.mpid == stay.host) {
                self.search_event(Some(stay), version, keys);
            }
        }
    }

    fn search_event(&mut self, stay: Option<Stay>, version: &Version, keys: &Keys) {
        let event = &version.event;
        if !keys.are_in_event(event) {
            return;
        }
        let removal = Removal::Identities(keys.clone());
        match stay {
            Some(stay) => self.lose_in(stay, event.sequence, removal),
            None => self.lose(event.sequence, removal),
        }
        if let (Some(absorbed), Some(merged)) = (version.absorbed, &event.merged_profile)
            && keys.are_in(merged)
        {
            self.search(absorbed, event.sequence - 1, keys);
        }
        for (loser, lost) in losers(self.log, event) {
            let both = lost.of(keys);
            if !both.0.is_empty() {
                self.search(loser, event.sequence - 1, &both);
            }
        }
    }

    fn lose_in(&mut self, stay: Stay, sequence: u64, more: Removal) {
        if stay.is_certain {
            self.lose(sequence, more);
        } else {
            self.left.uncertain.insert(sequence);
        }
    }

    /// Notes what an event loses besides.
    #[allow(clippy::match_same_arms)] // They are in the order in which they decide.
    fn lose(&mut self, sequence: u64, more: Removal) {
        let last = self.log.history(sequence).last().map(|version| &version.event);
        if more == Removal::Previous && last.is_some_and(|event| event.previous.is_none()) {
            return; // It is gone already.
        }
        let profile = last.and_then(|event| event.profile.as_ref());
        let has_them = |keys: &Keys| profile.is_some_and(|profile| keys.are_in(profile));
        let both = match (self.left.removals.remove(&sequence), more) {
            (Some(only @ (Removal::All | Removal::Profiles)), _) | (None, only) => only,
            (Some(Removal::Identities(keys)), Removal::Identities(more)) => {
                Removal::Identities(Keys(keys.0.into_iter().chain(more.0).collect()))
            }
            // Only a later event has the profile without them.
            (Some(Removal::Previous), Removal::Identities(keys))
            | (Some(Removal::Identities(keys)), Removal::Previous)
                if has_them(&keys) =>
            {
                Removal::Profiles
            }
            (Some(Removal::Previous), Removal::Identities(_)) => Removal::Previous,
            (Some(Removal::Previous | Removal::Identities(_)), only) => only,
        };
        self.left.removals.insert(sequence, both);
    }
}

fn is_restoring(event: &Event) -> bool {
    event.r#type == "profile.unmerged" && event.previous.is_none()
}

/// The profiles that lost identities to that of an event, and what they lost. Their events are right before it.
fn losers(log: &Log, event: &Event) -> Vec<(i64, Keys)> {
    let first = event.sequence - event.taken_from_mpids.len() as u64;
    let lost = (first..event.sequence).filter_map(|sequence| log.event(sequence));
    lost.map(|version| (version.event.mpid, Keys::lost(&version.event))).collect()
}

impl Keys {
    fn lost(event: &Event) -> Self {
        let (before, after) = (event.previous.as_ref(), event.profile.as_ref());
        let kept: Vec<_> = after.into_iter().flat_map(identities).collect();
        let lost = before.into_iter().flat_map(identities).filter(|identity| !kept.contains(identity));
        Self(lost.cloned().collect())
    }

    /// Those that are also among others.
    fn of(&self, others: &Self) -> Self {
        Self(self.0.iter().filter(|key| others.0.contains(key)).cloned().collect())
    }

    fn are_in(&self, profile: &Profile) -> bool {
        identities(profile).any(|identity| self.0.contains(identity))
    }

    fn are_in_event(&self, event: &Event) -> bool {
        event.profile.iter().chain(&event.previous).chain(&event.merged_profile).any(|profile| self.are_in(profile))
    }

    pub fn removed_from(&self, profile: &Profile) -> Profile {
        let mut profile = profile.clone();
        profile.user_identities.retain(|identity| !self.0.contains(identity));
        profile.device_identities.retain(|identity| !self.0.contains(identity));
        profile
    }
}

fn identities(profile: &Profile) -> impl Iterator<Item = &Identity> {
    profile.device_identities.iter().chain(&profile.user_identities)
}

impl Removal {
    pub fn applied(&self, event: &Event) -> Event {
        if event.r#type == "profile.erased" {
            return event.clone();
        }
        match self {
            Self::All => Event {
                id: event.id.clone(),
                sequence: event.sequence,
                r#type: "profile.erased".into(),
                time: event.time,
                mpid: event.mpid,
                merged_mpid: if event.r#type == "profile.merged" { event.merged_mpid } else { 0 },
                silent: event.silent,
                ..Event::default()
            },
            Self::Profiles => Event { profile: None, merged_profile: None, ..redacted(event) },
            Self::Previous => redacted(event),
            Self::Identities(keys) => {
                let removed = |profile: &Option<Profile>| profile.as_ref().map(|profile| keys.removed_from(profile));
                Event {
                    profile: removed(&event.profile),
                    previous: removed(&event.previous),
                    merged_profile: removed(&event.merged_profile),
                    ..event.clone()
                }
            }
        }
    }
}

fn redacted(event: &Event) -> Event {
    Event {
        previous: None,
        redacted: true,
        changed_user_attributes: Vec::new(),
        entered_audience_ids: Vec::new(),
        exited_audience_ids: Vec::new(),
        ..event.clone()
    }
}
