//! The truth that recordings are compared with: the whole log, and what it makes of the profiles.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cameo::proto::v1::*;
use prost_types::{Struct, Timestamp};

use super::violation::Violation;

/// The log of a workspace from its first event, and the profiles before and after each of them.
pub struct Log {
    events: Vec<Event>,
    /// The profiles before each event, and those after the last.
    profiles: Vec<BTreeMap<i64, Profile>>,
    /// The sequence of the event before each cursor.
    places: HashMap<String, u64>,
    /// The shards of the profiles, by the number of shards and the mpid.
    shards: HashMap<(u32, i64), u32>,
}

impl Log {
    /// An empty log. `start` is the cursor before its first event.
    pub fn new(start: String) -> Self {
        let places = HashMap::from([(start, 0)]);
        Self { events: Vec::new(), profiles: vec![BTreeMap::new()], places, shards: HashMap::new() }
    }

    /// Adds the next event, and the cursor of the place after it. Checks that it says what changed.
    pub fn push(&mut self, event: &Event, cursor: String) -> Result<(), Violation> {
        let sequence = self.head() + 1;
        let time_before = self.events.last().and_then(|event| event.time);
        if event.sequence != sequence || nanos(time_before) > nanos(event.time) {
            return Err(Violation::LogBroken { sequence });
        }
        let mut profiles = self.profiles.last().expect("there is one more than events").clone();
        if let Some(what) = wrong_change(profiles.get(&event.mpid), event) {
            return Err(Violation::WrongChange { sequence, what });
        }
        match &event.profile {
            Some(profile) => profiles.insert(event.mpid, profile.clone()),
            None => profiles.remove(&event.mpid),
        };
        self.profiles.push(profiles);
        self.events.push(event.clone());
        self.places.insert(cursor, sequence);
        Ok(())
    }

    /// Notes which shard each profile is in, as the server says when it is asked for each shard.
    pub fn learn_shards(&mut self, count: u32, mpids_of: &[BTreeSet<i64>]) -> Result<(), Violation> {
        for (index, mpids) in (0..count).zip(mpids_of) {
            for mpid in mpids {
                if self.shards.insert((count, *mpid), index).is_some() {
                    return Err(Violation::ShardsOverlap { mpid: *mpid, count });
                }
            }
        }
        let outside = self.events.iter().find(|event| !self.shards.contains_key(&(count, event.mpid)));
        outside.map_or(Ok(()), |event| Err(Violation::ShardsOverlap { mpid: event.mpid, count }))
    }

    pub fn is_in(&self, shard: Shard, mpid: i64) -> bool {
        self.shards.get(&(shard.count, mpid)) == Some(&shard.index)
    }

    /// The sequence of the last event.
    pub fn head(&self) -> u64 {
        self.events.len() as u64
    }

    /// An event, and the profile before it.
    pub fn event(&self, sequence: u64) -> Option<(&Event, Option<&Profile>)> {
        let at = usize::try_from(sequence.checked_sub(1)?).ok()?;
        let event = self.events.get(at)?;
        Some((event, self.profiles[at].get(&event.mpid)))
    }

    /// The profiles as of a sequence.
    pub fn profiles(&self, of: u64) -> &BTreeMap<i64, Profile> {
        &self.profiles[usize::try_from(of).unwrap()]
    }

    /// The sequence of the event before a cursor.
    pub fn place(&self, cursor: &str) -> Option<u64> {
        if cursor.is_empty() { Some(0) } else { self.places.get(cursor).copied() }
    }

    /// How many events are before a time.
    pub fn before(&self, time: Timestamp) -> u64 {
        self.events.partition_point(|event| nanos(event.time) < nanos(Some(time))) as u64
    }
}

fn nanos(time: Option<Timestamp>) -> (i64, i32) {
    time.map_or((i64::MIN, 0), |time| (time.seconds, time.nanos))
}

/// Which part of the event does not say how the profile changed, if one does not.
fn wrong_change(before: Option<&Profile>, event: &Event) -> Option<&'static str> {
    let after = event.profile.as_ref();
    let kind = match (before, after) {
        (None, Some(_)) => "profile.created",
        (Some(_), Some(_)) => "profile.updated",
        (Some(_), None) => "profile.deleted",
        (None, None) => "",
    };
    let nothing = Profile::default();
    let (old, new) = (before.unwrap_or(&nothing), after.unwrap_or(&nothing));
    let previous = match (before, after) {
        (Some(before), Some(after)) => Some(previous(before, after)),
        (before, _) => before.cloned(),
    };
    let changed = changed_fields(old, new);
    let keys: Vec<_> = changed_keys(old.user_attributes.as_ref(), new.user_attributes.as_ref()).into_iter().collect();
    let (was, is) = (audiences(old), audiences(new));
    let checks = [
        ("update_time", after.is_none_or(|after| after.update_time == event.time)),
        ("type", event.r#type == kind),
        ("previous", event.previous == previous),
        ("changed_fields", event.changed_fields.clone().unwrap_or_default().paths == changed),
        ("changed_user_attributes", event.changed_user_attributes == keys),
        (
            "entered_audience_ids",
            event.entered_audience_ids.iter().copied().collect::<BTreeSet<_>>() == &is - &still_in(old, event),
        ),
        ("exited_audience_ids", event.exited_audience_ids.iter().copied().collect::<BTreeSet<_>>() == &was - &is),
        ("etag", after.is_none() || old.etag != new.etag),
    ];
    checks.into_iter().find_map(|(what, holds)| (!holds).then_some(what))
}

/// The old values of what changed.
fn previous(before: &Profile, after: &Profile) -> Profile {
    let mut previous = before.clone();
    for field in FIELDS {
        if (field.is_equal)(before, after) {
            (field.clear)(&mut previous);
        }
    }
    keep_changed(&mut previous.user_attributes, after.user_attributes.as_ref());
    keep_changed(&mut previous.account_user_attributes, after.account_user_attributes.as_ref());
    previous
}

fn keep_changed(previous: &mut Option<Struct>, after: Option<&Struct>) {
    if let Some(map) = previous {
        map.fields.retain(|key, value| after.and_then(|after| after.fields.get(key)) != Some(value));
    }
    if previous.as_ref().is_some_and(|map| map.fields.is_empty()) {
        *previous = None;
    }
}

fn changed_keys(before: Option<&Struct>, after: Option<&Struct>) -> BTreeSet<String> {
    let of = |map: Option<&Struct>| map.map(|map| map.fields.clone()).unwrap_or_default();
    let (before, after) = (of(before), of(after));
    before.keys().chain(after.keys()).filter(|key| before.get(*key) != after.get(*key)).cloned().collect()
}

/// The audiences that a person was in just before the event. A membership that has ended does not count. One that the
/// event leaves as it is had not ended: the write's own time may be a little before that of its event.
fn still_in(before: &Profile, event: &Event) -> BTreeSet<i64> {
    let after = event.profile.iter().flat_map(|profile| &profile.audience_memberships).collect::<Vec<_>>();
    let memberships = before.audience_memberships.iter();
    let counting = memberships.filter(|membership| after.contains(membership) || !has_ended(membership, event.time));
    counting.map(|membership| membership.audience_id).collect()
}

fn audiences(profile: &Profile) -> BTreeSet<i64> {
    profile.audience_memberships.iter().map(|membership| membership.audience_id).collect()
}

/// Whether a membership has ended at a time.
pub fn has_ended(membership: &AudienceMembership, time: Option<Timestamp>) -> bool {
    membership.expire_time.is_some() && nanos(membership.expire_time) <= nanos(time)
}

/// A field whose changes an event names.
struct Field {
    name: &'static str,
    is_equal: fn(&Profile, &Profile) -> bool,
    clear: fn(&mut Profile),
}

macro_rules! field {
    ($name:ident) => {
        Field {
            name: stringify!($name),
            is_equal: |one, other| one.$name == other.$name,
            clear: |profile| profile.$name = Default::default(),
        }
    };
}

/// In the order of their numbers.
const FIELDS: [Field; 8] = [
    field!(is_opted_out),
    field!(limit_ad_tracking),
    field!(device_identities),
    field!(user_identities),
    field!(account_user_attributes),
    field!(user_attributes),
    field!(audience_memberships),
    field!(attribution),
];

fn changed_fields(before: &Profile, after: &Profile) -> Vec<&'static str> {
    FIELDS.iter().filter(|field| !(field.is_equal)(before, after)).map(|field| field.name).collect()
}

/// What a mask leaves of a profile.
pub fn trimmed(profile: &Profile, paths: &[String], keys: &[String]) -> Profile {
    let has = |name: &str| paths.is_empty() || paths.iter().any(|path| path == name);
    let mut trimmed = profile.clone();
    FIELDS.iter().filter(|field| !has(field.name)).for_each(|field| (field.clear)(&mut trimmed));
    trimmed.mpid = if has("mpid") { profile.mpid } else { 0 };
    trimmed.create_time = profile.create_time.filter(|_| has("create_time"));
    trimmed.update_time = profile.update_time.filter(|_| has("update_time"));
    trimmed.etag = if has("etag") { profile.etag.clone() } else { String::new() };
    if let Some(map) = trimmed.user_attributes.as_mut().filter(|_| !keys.is_empty()) {
        map.fields.retain(|key, _| keys.contains(key));
    }
    if trimmed.user_attributes.as_ref().is_some_and(|map| map.fields.is_empty()) {
        trimmed.user_attributes = None; // An empty map and none are the same to a reader.
    }
    trimmed
}
