//! The messages that an expression looks at, as values of CEL.
//!
//! A message becomes a map. It holds every field that has a value, and those that protobuf gives a default. Absent
//! timestamps and `limit_ad_tracking` are left out, so that `has` tells.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelTimestamp, CelUInt,
};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use prost_types::value::Kind as JsonKind;
use prost_types::{Struct, Timestamp};

use crate::model::time;
use crate::proto::v1::{Attribution, AudienceMembership, Event, Identity, Profile};

/// What the value of a field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    /// Another value of at most some hundred bytes.
    Short,
    /// A list or a map.
    Long,
}

const PROFILE: [(&str, Kind); 12] = [
    ("mpid", Kind::Short),
    ("create_time", Kind::Short),
    ("update_time", Kind::Short),
    ("is_opted_out", Kind::Bool),
    ("limit_ad_tracking", Kind::Bool),
    ("device_identities", Kind::Long),
    ("user_identities", Kind::Long),
    ("account_user_attributes", Kind::Long),
    ("user_attributes", Kind::Long),
    ("audience_memberships", Kind::Long),
    ("attribution", Kind::Long),
    ("etag", Kind::Short),
];
/// Without `profile` and `previous`, which are variables, `merged_profile`, for which `profile` stands too, and `match`,
/// which follows from the expression.
const EVENT: [(&str, Kind); 16] = [
    ("id", Kind::Short),
    ("sequence", Kind::Short),
    ("type", Kind::Short),
    ("time", Kind::Short),
    ("mpid", Kind::Short),
    ("changed_fields", Kind::Long),
    ("changed_user_attributes", Kind::Long),
    ("entered_audience_ids", Kind::Long),
    ("exited_audience_ids", Kind::Long),
    ("merged_mpid", Kind::Short),
    ("actor", Kind::Short),
    ("request_id", Kind::Short),
    ("silent", Kind::Bool),
    ("taken_from_mpids", Kind::Long),
    ("taken_by_mpid", Kind::Short),
    ("redacted", Kind::Bool),
];

/// The fields of a variable.
pub(super) fn fields_of(variable: &str) -> Option<&'static [(&'static str, Kind)]> {
    match variable {
        "profile" | "previous" => Some(&PROFILE),
        "event" => Some(&EVENT),
        _ => None,
    }
}

type Object = Box<dyn Val>;

/// An event, converted once for all expressions that look at it.
#[derive(Clone)]
pub struct Facts(Arc<(Object, Object)>);

/// A profile, converted once.
#[derive(Clone)]
pub struct Subject(Arc<Object>);

impl Facts {
    /// Those of an event.
    #[must_use]
    pub fn new(event: &Event) -> Self {
        let previous = event.previous.as_ref().map_or_else(|| profile(&Profile::default()), profile);
        Self(Arc::new((self::event(event), previous)))
    }

    /// Those of a profile that is read without an event: all fields have their defaults.
    #[must_use]
    pub fn none() -> Self {
        Self::new(&Event::default())
    }

    pub(super) fn with<'a>(&'a self, profile: &'a Subject) -> Variables<'a> {
        Variables { profile: &**profile.0, event: &*self.0.0, previous: &*self.0.1 }
    }
}

impl Subject {
    /// A profile to test.
    #[must_use]
    pub fn new(profile: &Profile) -> Self {
        Self(Arc::new(self::profile(profile)))
    }
}

/// Shows no value: it may be personal data.
impl fmt::Debug for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Facts")
    }
}

/// Shows no value: it may be personal data.
impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subject")
    }
}

/// What one evaluation sees. Nothing is copied.
pub(super) struct Variables<'a> {
    profile: &'a dyn Val,
    event: &'a dyn Val,
    previous: &'a dyn Val,
}

impl VariableResolver for Variables<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        match variable {
            "profile" => Some(CowVal::Borrowed(self.profile)),
            "event" => Some(CowVal::Borrowed(self.event)),
            "previous" => Some(CowVal::Borrowed(self.previous)),
            _ => None,
        }
    }
}

fn profile(profile: &Profile) -> Object {
    map([
        ("mpid", Some(int(profile.mpid))),
        ("create_time", profile.create_time.as_ref().and_then(timestamp)),
        ("update_time", profile.update_time.as_ref().and_then(timestamp)),
        ("is_opted_out", Some(boolean(profile.is_opted_out))),
        ("limit_ad_tracking", profile.limit_ad_tracking.map(boolean)),
        ("device_identities", Some(list(&profile.device_identities, identity))),
        ("user_identities", Some(list(&profile.user_identities, identity))),
        ("account_user_attributes", Some(attributes(profile.account_user_attributes.as_ref()))),
        ("user_attributes", Some(attributes(profile.user_attributes.as_ref()))),
        ("audience_memberships", Some(list(&profile.audience_memberships, membership))),
        ("attribution", Some(list(&profile.attribution, attribution))),
        ("etag", Some(string(&profile.etag))),
    ])
}

fn event(event: &Event) -> Object {
    let changed_fields = event.changed_fields.as_ref().map_or(&[][..], |mask| &mask.paths);
    map([
        ("id", Some(string(&event.id))),
        ("sequence", Some(Box::new(CelUInt::from(event.sequence)))),
        ("type", Some(string(&event.r#type))),
        ("time", event.time.as_ref().and_then(timestamp)),
        ("mpid", Some(int(event.mpid))),
        ("changed_fields", Some(list(changed_fields, |path| string(path)))),
        ("changed_user_attributes", Some(list(&event.changed_user_attributes, |key| string(key)))),
        ("entered_audience_ids", Some(list(&event.entered_audience_ids, |id| int(*id)))),
        ("exited_audience_ids", Some(list(&event.exited_audience_ids, |id| int(*id)))),
        ("merged_mpid", Some(int(event.merged_mpid))),
        ("actor", Some(string(&event.actor))),
        ("request_id", Some(string(&event.request_id))),
        ("silent", Some(boolean(event.silent))),
        ("taken_from_mpids", Some(list(&event.taken_from_mpids, |mpid| int(*mpid)))),
        ("taken_by_mpid", Some(int(event.taken_by_mpid))),
        ("redacted", Some(boolean(event.redacted))),
    ])
}

fn identity(identity: &Identity) -> Object {
    map([
        ("type", Some(string(&identity.r#type))),
        ("encoding", Some(string(&identity.encoding))),
        ("value", Some(string(&identity.value))),
    ])
}

fn membership(membership: &AudienceMembership) -> Object {
    map([
        ("audience_id", Some(int(membership.audience_id))),
        ("audience_name", Some(string(&membership.audience_name))),
        ("expire_time", membership.expire_time.as_ref().and_then(timestamp)),
    ])
}

fn attribution(attribution: &Attribution) -> Object {
    map([
        ("partner", Some(string(&attribution.partner))),
        ("campaign", Some(string(&attribution.campaign))),
        ("attribute_time", attribution.attribute_time.as_ref().and_then(timestamp)),
    ])
}

/// Absent attributes are an empty map, so that `has(profile.user_attributes.plan)` is false and not an error.
fn attributes(attributes: Option<&Struct>) -> Object {
    let fields = attributes.into_iter().flat_map(|attributes| &attributes.fields);
    map(fields.map(|(key, value)| (key.as_str(), Some(json(value.kind.as_ref())))))
}

fn json(kind: Option<&JsonKind>) -> Object {
    match kind {
        None | Some(JsonKind::NullValue(_)) => Box::new(CelNull),
        Some(JsonKind::NumberValue(number)) => Box::new(CelDouble::from(*number)),
        Some(JsonKind::StringValue(text)) => string(text),
        Some(JsonKind::BoolValue(value)) => boolean(*value),
        Some(JsonKind::StructValue(value)) => attributes(Some(value)),
        Some(JsonKind::ListValue(values)) => list(&values.values, |value| json(value.kind.as_ref())),
    }
}

fn map<'a>(entries: impl IntoIterator<Item = (&'a str, Option<Object>)>) -> Object {
    let present = entries.into_iter().filter_map(|(key, value)| Some((CelMapKey::from(key.to_owned()), value?)));
    Box::new(CelMap::from(present.collect::<HashMap<_, _>>()))
}

fn list<T>(items: &[T], convert: impl Fn(&T) -> Object) -> Object {
    Box::new(CelList::from(items.iter().map(convert).collect::<Vec<_>>()))
}

fn string(text: &str) -> Object {
    Box::new(CelString::from(text.to_owned()))
}

fn int(number: i64) -> Object {
    Box::new(CelInt::from(number))
}

fn boolean(value: bool) -> Object {
    Box::new(CelBool::from(value))
}

/// Absent if protobuf does not allow it.
fn timestamp(timestamp: &Timestamp) -> Option<Object> {
    let nanos = u32::try_from(timestamp.nanos).ok().filter(|_| time::is_valid(timestamp))?;
    let utc = chrono::DateTime::from_timestamp(timestamp.seconds, nanos)?;
    Some(Box::new(CelTimestamp::from(utc.fixed_offset())))
}
