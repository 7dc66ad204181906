//! A change as a filter sees it: the profile before it and after it.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use prost::{DecodeError, Message};
use prost_types::Struct;

use super::expression::{Facts, Subject};
use super::profile::{is_expired, remove_expired};
use super::{EventKind, Micros};
use crate::proto::v1::{Event, Profile};

/// A decoded event, and the profile before it.
#[derive(Debug)]
pub struct Transition {
    /// The event, with the profile after it.
    pub event: Event,
    /// The profile before it. `None` if the event created the profile.
    pub before: Option<Profile>,
    facts: OnceLock<Facts>,
    subject_before: OnceLock<Subject>,
    subject_after: OnceLock<Subject>,
}

impl Transition {
    /// Decodes an event.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn decode(event: &[u8]) -> Result<Self, DecodeError> {
        let event = Event::decode(event)?;
        let before = before(&event);
        let (facts, subject_before, subject_after) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Ok(Self { event, before, facts, subject_before, subject_after })
    }

    /// What expressions see of the event. It is made once, for all filters that need it.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        self.facts.get_or_init(|| Facts::new(&self.event))
    }

    /// What expressions see of the profile before the event.
    #[must_use]
    pub fn subject_before(&self) -> Option<&Subject> {
        let before = self.before.as_ref()?;
        Some(self.subject_before.get_or_init(|| Subject::new(before)))
    }

    /// What expressions see of the profile after the event.
    #[must_use]
    pub fn subject_after(&self) -> Option<&Subject> {
        let after = self.event.profile.as_ref()?;
        Some(self.subject_after.get_or_init(|| Subject::new(after)))
    }

    /// The profile right before the event, if a membership of it had ended since it became that. Nothing told of the
    /// end.
    #[must_use]
    pub fn lapsed(&self) -> Option<Profile> {
        let (before, now) = (self.before.as_ref()?, self.time());
        let has_lapsed = before.audience_memberships.iter().any(|joined| is_expired(joined, now));
        has_lapsed.then(|| {
            let mut lapsed = before.clone();
            remove_expired(&mut lapsed, now);
            lapsed
        })
    }

    /// Whether the profile before the event is unknown, because an erasure removed it.
    #[must_use]
    pub fn is_stripped(&self) -> bool {
        self.event.redacted || self.event.r#type == EventKind::Erased.name()
    }

    /// When the profile became what it was before the event.
    #[must_use]
    pub fn time_before(&self) -> Micros {
        let time = self.before.as_ref().and_then(|profile| profile.update_time.as_ref());
        time.map(Micros::from_timestamp).unwrap_or_default()
    }

    /// When the event happened.
    #[must_use]
    pub fn time(&self) -> Micros {
        self.event.time.as_ref().map(Micros::from_timestamp).unwrap_or_default()
    }
}

/// The profile before an event: the one after it, with the old values of what changed. `None` if the event created it.
#[must_use]
pub fn before(event: &Event) -> Option<Profile> {
    let previous = event.previous.as_ref()?;
    let Some(after) = &event.profile else { return Some(previous.clone()) }; // It was deleted: all of it is there.
    let mut before = Profile {
        mpid: previous.mpid,
        create_time: previous.create_time,
        update_time: previous.update_time,
        etag: previous.etag.clone(),
        ..after.clone()
    };
    macro_rules! restore {
        ($path:ident: $($field:ident)*) => {
            match $path {
                $(stringify!($field) => before.$field.clone_from(&previous.$field),)*
                "user_attributes" => restore_attributes(&mut before, previous, &event.changed_user_attributes),
                _ => {} // A field of a later version, which this one keeps as it is.
            }
        };
    }
    for path in event.changed_fields.iter().flat_map(|mask| &mask.paths) {
        let path = path.as_str();
        restore!(path: is_opted_out limit_ad_tracking device_identities user_identities account_user_attributes
            audience_memberships attribution);
    }
    Some(before)
}

fn restore_attributes(before: &mut Profile, previous: &Profile, keys: &[String]) {
    let mut fields: BTreeMap<_, _> = before.user_attributes.take().map(|map| map.fields).unwrap_or_default();
    fields.retain(|key, _| keys.binary_search(key).is_err());
    fields.extend(previous.user_attributes.iter().flat_map(|map| map.fields.clone()));
    before.user_attributes = (!fields.is_empty()).then_some(Struct { fields });
}
