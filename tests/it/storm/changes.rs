//! What an event must say of the change that it records.

use std::collections::BTreeSet;

use cameo::proto::v1::*;
use prost_types::{Struct, Timestamp};

pub fn nanos(time: Option<Timestamp>) -> (i64, i32) {
    time.map_or((i64::MIN, 0), |time| (time.seconds, time.nanos))
}

/// Which part of the event does not say how the profile changed, if one does not.
pub fn wrong_change(before: Option<&Profile>, event: &Event) -> Option<&'static str> {
    let after = event.profile.as_ref();
    if event.r#type == "profile.erased" {
        return wrong_erasure(before, event);
    }
    let kinds: &[&str] = match (before, after) {
        (None, Some(_)) => &["profile.created", "profile.unmerged"],
        (Some(_), Some(_)) => &["profile.updated", "profile.merged", "profile.unmerged"],
        (Some(_), None) => &["profile.deleted"],
        (None, None) => &[],
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
        ("type", kinds.contains(&&*event.r#type)),
        ("redacted", !event.redacted),
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

/// The event of an erasure tells nothing of the profile.
fn wrong_erasure(before: Option<&Profile>, event: &Event) -> Option<&'static str> {
    let told = Event {
        id: event.id.clone(),
        sequence: event.sequence,
        r#type: event.r#type.clone(),
        time: event.time,
        mpid: event.mpid,
        actor: event.actor.clone(),
        changed_fields: event.changed_fields.clone().filter(|mask| mask.paths.is_empty()),
        ..Event::default()
    };
    let is_right = before.is_some() && *event == told;
    (!is_right).then_some("what it tells of an erased profile")
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
/// event leaves as it is, but perhaps for its name, had not ended: the write's own time may be a little before that of its event.
fn still_in(before: &Profile, event: &Event) -> BTreeSet<i64> {
    let after = event.profile.iter().flat_map(|profile| &profile.audience_memberships).collect::<Vec<_>>();
    let memberships = before.audience_memberships.iter();
    let is_left = |own: &&AudienceMembership| {
        let mut same = after.iter().filter(|is| is.audience_id == own.audience_id);
        same.any(|is| is.expire_time == own.expire_time) || !has_ended(own, event.time)
    };
    let counting = memberships.filter(is_left);
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
