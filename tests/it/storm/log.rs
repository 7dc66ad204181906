//! The truth that recordings are compared with: the whole log, and what it makes of the profiles.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::SystemTime;

use cameo::proto::v1::*;
use prost_types::Timestamp;

use super::audiences::Audiences;
use super::changes::nanos;
use super::erasures::{Keys, Left, Removal, identities, left_by};
use super::merges::Merges;
use super::violation::Violation;

/// The profiles at a place, by their mpids.
pub type Profiles = BTreeMap<i64, Arc<Profile>>;

/// The log of a workspace from its first event, and the profiles before and after each of them.
pub struct Log {
    /// Each event as it was written, and then as each erasure left it that changed it.
    events: Vec<Vec<Version>>,
    /// The profiles before each event, and those after the last.
    profiles: Vec<Profiles>,
    merges: Merges,
    pub audiences: Audiences,
    /// See [`Self::is_unknown`].
    unknown: BTreeSet<u64>,
    erasures: Vec<Erasure>,
    erased: Vec<Erased>,
    /// The sequence of the event before each cursor.
    places: HashMap<String, u64>,
    /// The shards of the profiles, by the number of shards and the mpid.
    shards: HashMap<(u32, i64), u32>,
}

/// What was once read of an event.
#[derive(Clone)]
pub struct Version {
    pub event: Event,
    /// The profile before it. `None` if there was none, or nobody can tell.
    pub before: Option<Arc<Profile>>,
    /// The profile that was absorbed.
    pub absorbed: Option<i64>,
    /// The erasure that left it so: when, and the place of its event. `None` of the event as it was written.
    since: Option<(Period, u64)>,
}

/// When something happened: not before the first time, and not after the second.
#[derive(Debug, Clone, Copy)]
pub struct Period {
    pub asked: SystemTime,
    pub answered: SystemTime,
}

/// An erasure whose response has come.
#[derive(Debug, Clone)]
pub struct Erasure {
    pub period: Period,
    pub response: EraseProfileResponse,
}

/// A person who was erased by the event at a place.
struct Erased {
    place: u64,
    /// All identities that the person ever had, and those at last.
    had: Keys,
    owned: Keys,
}

/// When something was read: not before the first time, and not after the second.
pub type Window = RangeInclusive<SystemTime>;

impl Log {
    /// An empty log. `start` is the cursor before its first event.
    pub fn new(start: String) -> Self {
        Self {
            events: Vec::new(),
            profiles: vec![BTreeMap::new()],
            merges: Merges::default(),
            audiences: Audiences::default(),
            unknown: BTreeSet::new(),
            erasures: Vec::new(),
            erased: Vec::new(),
            places: HashMap::from([(start, 0)]),
            shards: HashMap::new(),
        }
    }

    /// Adds the next event, and the cursor of the place after it. Checks that it says what changed.
    pub fn push(&mut self, event: &Event, cursor: String) -> Result<(), Violation> {
        let sequence = self.head() + 1;
        let time_before = self.events.last().and_then(|versions| versions[0].event.time);
        if event.sequence != sequence || nanos(time_before) > nanos(event.time) {
            return Err(Violation::LogBroken { sequence });
        }
        let mut profiles = self.profiles.last().expect("there is one more than events").clone();
        let before = profiles.get(&event.mpid).cloned();
        let absorbed = Some(event.merged_mpid).filter(|_| event.r#type == "profile.merged");
        if let Some(what) = self.audiences.reach(sequence, &profiles) {
            return Err(Violation::WrongChange { sequence, what });
        }
        if is_unseen(event) {
            self.unknown.insert(sequence);
        } else if let Some(what) = self.wrong_change(&profiles, event) {
            return Err(Violation::WrongChange { sequence, what });
        } else {
            absorbed.and_then(|absorbed| profiles.remove(&absorbed));
            match &event.profile {
                Some(profile) => profiles.insert(event.mpid, Arc::new(profile.clone())),
                None => profiles.remove(&event.mpid),
            };
        }
        self.audiences.follow(event, &profiles);
        self.profiles.push(profiles);
        self.places.insert(cursor, sequence);
        self.events.push(vec![Version { event: event.clone(), before, absorbed, since: None }]);
        Ok(())
    }

    fn wrong_change(&mut self, profiles: &Profiles, event: &Event) -> Option<&'static str> {
        let wrong = self.merges.wrong_change(profiles, &self.audiences, event);
        wrong.or_else(|| self.audiences.wrong_members(event))
    }

    /// Whether nobody can tell what an event is. Memberships end while a profile is erased: of such an event, only what
    /// the erasure has left of it is known. Of others, it is not certain that an erasure has left anything.
    pub fn is_unknown(&self, sequence: u64) -> bool {
        self.unknown.contains(&sequence)
    }

    pub fn unknown_events(&self) -> usize {
        self.unknown.len()
    }

    /// Notes which shard a profile is in, as the server says when it is asked for each shard.
    pub fn learn_shards(&mut self, count: u32, mpid: i64, indexes: &[u32]) -> Result<(), Violation> {
        let [index] = *indexes else { return Err(Violation::ShardsOverlap { mpid, count }) };
        self.shards.insert((count, mpid), index);
        Ok(())
    }

    pub fn is_in(&self, shard: Shard, mpid: i64) -> bool {
        self.shards.get(&(shard.count, mpid)) == Some(&shard.index)
    }

    /// The sequence of the last event.
    pub fn head(&self) -> u64 {
        self.events.len() as u64
    }

    /// An event as it was written.
    pub fn event(&self, sequence: u64) -> Option<&Version> {
        self.history(sequence).first()
    }

    /// All that an event has ever been.
    pub fn history(&self, sequence: u64) -> &[Version] {
        let at = sequence.checked_sub(1).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| self.events.get(at)).map(Vec::as_slice).unwrap_or_default()
    }

    /// What an event may have been when it was read.
    pub fn versions(&self, sequence: u64, read: &Window) -> &[Version] {
        let all = self.history(sequence);
        let is_since = |version: &Version, is: fn(&Period, &Window) -> bool| {
            version.since.as_ref().is_none_or(|(since, _)| is(since, read))
        };
        let first = all.iter().rposition(|version| is_since(version, |since, read| since.answered <= *read.start()));
        let last = all.iter().rposition(|version| is_since(version, |since, read| since.asked <= *read.end()));
        first.zip(last).map(|(first, last)| &all[first..=last.max(first)]).unwrap_or_default()
    }

    /// The profiles as of a sequence.
    pub fn profiles(&self, of: u64) -> &Profiles {
        &self.profiles[usize::try_from(of).unwrap()]
    }

    /// The first event after a sequence that is one of a profile: its own, or the one by which it was absorbed.
    pub fn next_of(&self, mpid: i64, after: u64) -> Option<u64> {
        (after + 1..=self.head()).find(|sequence| {
            let version = self.event(*sequence).expect("it is in the log");
            version.event.mpid == mpid || version.absorbed == Some(mpid)
        })
    }

    /// Whether the last event of a profile up to a sequence is one that nobody has seen before it was erased.
    pub fn is_unseen_at(&self, mpid: i64, of: u64) -> bool {
        let own = (1..=of).rev().filter_map(|sequence| self.event(sequence)).find(|version| version.event.mpid == mpid);
        own.is_some_and(|version| is_unseen(&version.event))
    }

    /// When an event of an erasure was written; `None` of any other event.
    pub fn erased_by(&self, sequence: u64) -> Option<Period> {
        let event =
            self.event(sequence).map(|version| &version.event).filter(|event| event.r#type == "profile.erased")?;
        let is_own = |erasure: &&Erasure| {
            let Erasure { response, .. } = erasure;
            self.place(&response.cursor) == Some(sequence) && response.mpids.first() == Some(&event.mpid)
        };
        self.erasures.iter().find(is_own).map(|erasure| erasure.period)
    }

    /// The sequence of the event before a cursor.
    pub fn place(&self, cursor: &str) -> Option<u64> {
        if cursor.is_empty() { Some(0) } else { self.places.get(cursor).copied() }
    }

    /// How many events are before a time.
    pub fn before(&self, time: Timestamp) -> u64 {
        let is_before = |versions: &Vec<Version>| nanos(versions[0].event.time) < nanos(Some(time));
        self.events.partition_point(is_before) as u64
    }
}

impl Log {
    /// Notes what an erasure has left of the events that were there. Erasures come in their order.
    pub fn erase(&mut self, erasure: Erasure) -> Result<(), Violation> {
        let Erasure { period, ref response } = erasure;
        let place = self.place(&response.cursor);
        let place = place.ok_or_else(|| Violation::UnknownCursor { cursor: response.cursor.clone() })?;
        let mpid = *response.mpids.first().ok_or(Violation::WrongErasure { place })?;
        let Some(root) = self.event(place) else { return Err(Violation::WrongErasure { place }) };
        let has_own = root.event.mpid == mpid && root.event.r#type == "profile.erased";
        if !has_own && self.profiles(place).contains_key(&mpid) {
            return Err(Violation::WrongErasure { place });
        }
        let Left { removals, uncertain, identities } = left_by(self, mpid, place);
        for (sequence, removal) in removals {
            let versions = &mut self.events[usize::try_from(sequence - 1).unwrap()];
            let last = versions.last().expect("there is the first");
            let left = last.without(&removal);
            if left.event != last.event {
                versions.push(Version { since: Some((period, place)), ..left });
            }
        }
        let would_lose = |(sequence, removal): &(u64, Removal)| {
            let last = self.history(*sequence).last().map(|version| &version.event);
            last.is_some_and(|last| removal.applied(last) != *last).then_some(*sequence)
        };
        let unknown: Vec<_> = uncertain.iter().filter_map(would_lose).collect();
        self.unknown.extend(unknown);
        let last = self.profiles(place - 1).get(&mpid).filter(|_| has_own);
        let owned = last.map(|last| Keys::of_profile(last)).unwrap_or_default();
        self.erased.push(Erased { place, had: identities, owned });
        self.erasures.push(erasure);
        Ok(())
    }

    /// An absorbed profile that is restored has what it had, but for identities that were erased since.
    pub fn check_restored(&self) -> Result<(), Violation> {
        let mut restored = self.merges.restored.iter();
        let wrong = restored.find(|(restored, merged)| self.is_restored_wrong(*restored, *merged));
        wrong.map_or(Ok(()), |(restored, merged)| {
            Err(self.erased_value(&self.event(*restored).expect("it is one").event, *merged))
        })
    }

    /// Nothing comes back that an erased person owned at last. What a person only had once may come back, if the log no
    /// longer told of it, or be gone, if it did.
    fn is_restored_wrong(&self, restored: u64, merged: u64) -> bool {
        let is_before = |version: &&Version| version.since.is_none_or(|(_, place)| place < restored);
        let was = self.history(merged).iter().rfind(is_before).and_then(|was| was.event.merged_profile.as_ref());
        let is = self.event(restored).and_then(|version| version.event.profile.as_ref());
        let Some((was, is)) = was.zip(is) else { return false };
        let erased = || self.erased.iter().filter(|erased| (merged..restored).contains(&erased.place));
        let has = |profile: &Profile, key: &Identity| identities(profile).any(|own| own == key);
        let mut came_back = identities(is).filter(|key| !has(was, key));
        let mut lacks = identities(was).filter(|key| !has(is, key));
        came_back.any(|key| erased().any(|erased| erased.owned.has(key)))
            || lacks.any(|key| !erased().any(|erased| erased.had.has(key)))
    }

    /// What is wrong with an event that has what was erased from one of the log, be it the same one.
    pub fn erased_value(&self, event: &Event, erased: u64) -> Violation {
        let was = self.history(erased).iter().map(|version| version.event.clone()).collect();
        Violation::ErasedValue { got: Box::new(event.clone()), was }
    }

    /// What is wrong with an event that the log has never held.
    pub fn altered(&self, event: &Event) -> Violation {
        let was = self.history(event.sequence).iter().map(|version| version.event.clone()).collect();
        Violation::Altered { got: Box::new(event.clone()), was }
    }

    /// Compares what is left of the log with what should be.
    pub fn check_rest(&self, rest: &[Event]) -> Result<(), Violation> {
        let known = rest.iter().filter(|event| event.sequence <= self.head()); // Memberships still end.
        let is_wrong = |event: &&Event| self.history(event.sequence).last().is_none_or(|is| is.event != **event);
        let wrong = known.filter(|event| !self.is_unknown(event.sequence)).find(is_wrong);
        let Some(event) = wrong else { return Ok(()) };
        let sequence = event.sequence;
        let is_old = self.history(sequence).iter().any(|version| version.event == *event);
        Err(if is_old { self.erased_value(event, sequence) } else { self.altered(event) })
    }
}

impl Version {
    /// What an erasure leaves of it.
    fn without(&self, removal: &Removal) -> Self {
        let event = removal.applied(&self.event);
        let before = match removal {
            Removal::Identities(keys) => self.before.as_ref().map(|before| Arc::new(keys.removed_from(before))),
            _ if event == self.event => self.before.clone(),
            Removal::All | Removal::Profiles | Removal::Previous => None,
        };
        Self { event, before, ..self.clone() }
    }

    /// Whether nobody can tell what the profile was before it.
    pub fn is_stripped(&self) -> bool {
        self.event.redacted || self.event.r#type == "profile.erased"
    }
}

/// Whether it is what an erasure left of an event, rather than the event of the erasure.
pub fn is_unseen(event: &Event) -> bool {
    event.r#type == "profile.erased" && event.changed_fields.is_none()
}
