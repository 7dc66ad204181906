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
    /// What events may lose besides. The log that the erasure met does not tell.
    pub uncertain: Vec<(u64, Removal)>,
    /// All identities that the person ever had.
    pub identities: Keys,
}

struct Walk<'l> {
    log: &'l Log,
    /// The last event that was there.
    through: u64,
    left: Left,
    /// What profiles are searched for, up to which event, and whether that is certain.
    searched: BTreeSet<(i64, u64, String, bool)>,
}

/// What the erasure of a profile leaves of the events up to one.
pub fn left_by(log: &Log, mpid: i64, through: u64) -> Left {
    let mut walk = Walk { log, through, left: Left::default(), searched: BTreeSet::new() };
    let lives = walk.lives(mpid, through);
    let own = lives.iter().flat_map(|(mpid, last)| walk.events_of(*mpid, *last));
    walk.left.identities = Keys(own.flat_map(|version| Keys::told(&version.event).0).collect());
    for (mpid, last) in lives {
        walk.erase(mpid, last);
    }
    walk.left
}

impl<'l> Walk<'l> {
    fn events(&self, first: u64, last: u64) -> impl Iterator<Item = &'l Version> + use<'l> {
        let log = self.log;
        (first..=last).filter_map(|sequence| log.event(sequence))
    }

    fn events_of(&self, mpid: i64, last: u64) -> impl Iterator<Item = &'l Version> + use<'l> {
        self.events(1, last).filter(move |version| version.event.mpid == mpid)
    }

    /// The profiles that were the same person, each with its last event: those that it absorbed.
    fn lives(&self, mpid: i64, last: u64) -> BTreeSet<(i64, u64)> {
        let (mut waiting, mut lives) = (vec![(mpid, last)], BTreeSet::new());
        while let Some((mpid, last)) = waiting.pop() {
            if lives.insert((mpid, last)) {
                let merges = self.events_of(mpid, last);
                let merges = merges.filter_map(|version| Some((version.absorbed?, version.event.sequence)));
                let for_good = merges.filter(|(absorbed, merged)| !self.is_restored(*absorbed, *merged));
                waiting.extend(for_good.map(|(absorbed, merged)| (absorbed, merged - 1)));
            }
        }
        lives
    }

    /// Removes the events of a profile up to one, and what it left in other profiles.
    fn erase(&mut self, mpid: i64, last: u64) {
        let all = self.left.identities.clone();
        for version in self.events_of(mpid, last) {
            let sequence = version.event.sequence;
            self.left.removals.insert(sequence, Removal::All);
            if !self.is_erased(sequence) {
                self.search_losers(version, &all, true);
            }
        }
        for stay in self.stays(mpid, 1, last, true) {
            for version in self.events(stay.first, stay.last).filter(|version| version.event.mpid == stay.host) {
                let sequence = version.event.sequence;
                let is_parting = stay.is_undone && sequence == stay.last;
                let removal = if is_parting { Removal::Previous } else { Removal::Profiles };
                self.lose(sequence, removal, stay.is_certain);
            }
        }
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
    fn search(&mut self, mpid: i64, last: u64, keys: &Keys, is_certain: bool) {
        if keys.0.is_empty() || !self.searched.insert((mpid, last, format!("{keys:?}"), is_certain)) {
            return;
        }
        for version in self.events_of(mpid, last) {
            self.search_event(version, keys, is_certain);
        }
        for stay in self.stays(mpid, 1, last, is_certain) {
            for version in self.events(stay.first, stay.last).filter(|version| version.event.mpid == stay.host) {
                self.search_event(version, keys, stay.is_certain);
            }
        }
    }

    /// An event that was erased no longer tells where else to look.
    fn search_event(&mut self, version: &Version, keys: &Keys, is_certain: bool) {
        let event = &version.event;
        if self.is_erased(event.sequence) {
            return;
        }
        if keys.are_in_event(event) {
            self.lose(event.sequence, Removal::Identities(keys.clone()), is_certain);
        }
        if let Some(absorbed) = version.absorbed {
            self.search_absorbed(absorbed, event, keys, is_certain);
        }
        self.search_losers(version, keys, is_certain);
    }

    /// Searches a profile for what it had when an event absorbed it. If that event was redacted, the absorbed profile's
    /// own last event tells what it had; if that has lost its profile too, nothing does. An erasure may then search for
    /// more.
    fn search_absorbed(&mut self, absorbed: i64, merge: &Event, keys: &Keys, is_certain: bool) {
        let last = merge.sequence - 1;
        let is_redacted = self.is_stripped(merge.sequence);
        let own = self.events_of(absorbed, last).last().map(|version| version.event.sequence);
        let is_told = !is_redacted || own.is_some_and(|own| !self.is_stripped(own));
        let had = merge.merged_profile.as_ref().map(Keys::of_profile).unwrap_or_default();
        self.search(absorbed, last, &had.of(keys), is_certain && is_told);
        if is_redacted {
            self.search(absorbed, last, keys, false);
        }
    }

    /// Searches the profiles that lost identities to that of an event for those that are sought. Either of the two events
    /// tells which these are; if both have lost their profiles, neither does. An erasure may search each of the profiles
    /// for all that the other gained.
    fn search_losers(&mut self, version: &Version, sought: &Keys, is_certain: bool) {
        let sequence = version.event.sequence;
        let gained = Keys::gained(version).of(sought);
        for loser in losers(self.log, &version.event) {
            let is_told = !self.is_stripped(sequence) || !self.is_stripped(loser.sequence);
            self.search(loser.mpid, sequence - 1, &Keys::lost(loser).of(sought), is_certain && is_told);
            self.search(loser.mpid, sequence - 1, if is_told { &gained } else { sought }, false);
        }
    }

    /// Whether an event has lost its profiles to an earlier erasure, or may have.
    fn is_stripped(&self, sequence: u64) -> bool {
        self.log.is_unknown(sequence) || self.last(sequence).is_some_and(Version::is_stripped)
    }

    fn is_erased(&self, sequence: u64) -> bool {
        self.last(sequence).is_some_and(|version| version.event.r#type == "profile.erased")
    }

    /// What earlier erasures have left of an event.
    fn last(&self, sequence: u64) -> Option<&'l Version> {
        self.log.history(sequence).last()
    }

    /// Notes what an event loses besides.
    #[allow(clippy::match_same_arms)] // They are in the order in which they decide.
    fn lose(&mut self, sequence: u64, more: Removal, is_certain: bool) {
        if !is_certain {
            self.left.uncertain.push((sequence, more));
            return;
        }
        let last = self.last(sequence).map(|version| &version.event);
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

/// The events by which profiles lost identities to that of an event. They are right before it.
fn losers<'l>(log: &'l Log, event: &Event) -> impl Iterator<Item = &'l Event> + use<'l> {
    let first = event.sequence - event.taken_from_mpids.len() as u64;
    (first..event.sequence).filter_map(|sequence| log.event(sequence)).map(|version| &version.event)
}

impl Keys {
    pub fn of_profile(profile: &Profile) -> Self {
        Self(identities(profile).cloned().collect())
    }

    /// All that an event tells.
    fn told(event: &Event) -> Self {
        let profiles = event.profile.iter().chain(&event.previous).chain(&event.merged_profile);
        Self(profiles.flat_map(identities).cloned().collect())
    }

    fn gained(version: &Version) -> Self {
        let before = version.before.as_deref().map(Self::of_profile).unwrap_or_default();
        let after = version.event.profile.iter().flat_map(identities);
        Self(after.filter(|identity| !before.0.contains(identity)).cloned().collect())
    }

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

    pub fn has(&self, key: &Identity) -> bool {
        self.0.contains(key)
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

pub fn identities(profile: &Profile) -> impl Iterator<Item = &Identity> {
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
