//! Profiles, patches, and their parts.

use cameo::proto::v1::*;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

/// How long the value of the attribute `pad` is: close to the limit of 64 KiB for one value.
pub const PAD_BYTES: usize = 60_000;
/// A profile that holds nothing but its mpid.
pub fn with_mpid(mpid: i64) -> Profile {
    Profile { mpid, ..Profile::default() }
}

pub fn with_attributes<const N: usize>(mpid: i64, attributes: [(&str, Value); N]) -> Profile {
    Profile { user_attributes: Some(map(attributes)), ..with_mpid(mpid) }
}

/// A profile of about 60 kB.
pub fn padded(mpid: i64) -> Profile {
    with_attributes(mpid, [("pad", pad())])
}

fn pad() -> Value {
    text(&"p".repeat(PAD_BYTES))
}

pub fn identity(kind: &str, value: &str) -> Identity {
    Identity { r#type: kind.into(), encoding: "none".into(), value: value.into() }
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

pub fn sequences_of(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.sequence).collect()
}
