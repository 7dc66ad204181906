//! Profiles, patches, and their parts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cameo::proto::v1::*;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Timestamp, Value};

/// How long the value of the attribute `pad` is: close to the limit of 64 KiB for one value.
pub const PAD_BYTES: usize = 60_000;
/// A time that no test lives to see: the year 2096.
pub const FAR_FUTURE: Timestamp = Timestamp { seconds: 4_000_000_000, nanos: 0 };

/// A profile that holds nothing but its mpid.
pub fn with_mpid(mpid: i64) -> Profile {
    Profile { mpid, ..Profile::default() }
}

/// A profile that owns this identity of a user.
pub fn owner_of(identity: Identity, mpid: i64) -> Profile {
    Profile { user_identities: vec![identity], ..with_mpid(mpid) }
}

pub fn with_attributes<const N: usize>(mpid: i64, attributes: [(&str, Value); N]) -> Profile {
    Profile { user_attributes: Some(map(attributes)), ..with_mpid(mpid) }
}

/// A profile of about 60 kB.
pub fn padded(mpid: i64) -> Profile {
    with_attributes(mpid, [("pad", pad())])
}

/// A profile of about 180 kB, which is close to the limit of 256 KiB.
pub fn large(mpid: i64) -> Profile {
    with_attributes(mpid, [("a", pad()), ("b", pad()), ("c", pad())])
}

fn pad() -> Value {
    text(&"p".repeat(PAD_BYTES))
}

pub fn identity(kind: &str, value: &str) -> Identity {
    Identity { r#type: kind.into(), encoding: "none".into(), value: value.into() }
}

/// A membership of an audience without a name.
pub fn member(audience_id: i64, expire_time: Option<Timestamp>) -> AudienceMembership {
    AudienceMembership { audience_id, expire_time, ..AudienceMembership::default() }
}

/// A time from now, in whole milliseconds: the server's clock has microseconds, and must not round it.
pub fn from_now(delay: Duration) -> Timestamp {
    let millis = (SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + delay).as_millis();
    Timestamp {
        seconds: i64::try_from(millis / 1_000).unwrap(),
        nanos: i32::try_from(millis % 1_000).unwrap() * 1_000_000,
    }
}

pub fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

pub fn text(text: &str) -> Value {
    value(Kind::StringValue(text.into()))
}

pub fn number(number: f64) -> Value {
    value(Kind::NumberValue(number))
}

pub fn list(values: impl IntoIterator<Item = Value>) -> ListValue {
    ListValue { values: values.into_iter().collect() }
}

pub fn map<const N: usize>(fields: [(&str, Value); N]) -> Struct {
    Struct { fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() }
}

/// A patch that sets these attributes.
pub fn set<const N: usize>(fields: [(&str, Value); N]) -> ProfilePatch {
    ProfilePatch { set_user_attributes: Some(map(fields)), ..ProfilePatch::default() }
}

/// A patch that adds one to an attribute.
pub fn increment(key: &str) -> ProfilePatch {
    ProfilePatch { increment_user_attributes: [(key.to_owned(), 1.0)].into(), ..ProfilePatch::default() }
}

/// A patch that links identities, and is refused if another profile owns one.
pub fn add(identities: impl IntoIterator<Item = Identity>) -> ProfilePatch {
    ProfilePatch { add_identities: identities.into_iter().collect(), ..ProfilePatch::default() }
}

/// A patch that links identities, and takes those that another profile owns.
pub fn take(identities: impl IntoIterator<Item = Identity>) -> ProfilePatch {
    ProfilePatch { take_identities: true, ..add(identities) }
}

pub fn attribute<'a>(profile: &'a Profile, key: &str) -> Option<&'a Kind> {
    profile.user_attributes.as_ref()?.fields.get(key)?.kind.as_ref()
}

/// The number in an attribute; 0 if there is no such attribute.
pub fn number_of(profile: &Profile, key: &str) -> f64 {
    match attribute(profile, key) {
        Some(Kind::NumberValue(number)) => *number,
        None => 0.0,
        other => panic!("{key} is {other:?}"),
    }
}

/// Asserts that an attribute holds exactly this number.
#[track_caller]
pub fn assert_number(profile: &Profile, key: &str, expected: f64) {
    assert_eq!(attribute(profile, key), Some(&Kind::NumberValue(expected)), "{key}");
}

pub fn mpids_of(profiles: &[Profile]) -> Vec<i64> {
    profiles.iter().map(|profile| profile.mpid).collect()
}

pub fn sequences_of(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.sequence).collect()
}
