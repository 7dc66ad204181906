//! What an event says about a change.

use std::collections::BTreeSet;
use std::fmt::Display;

use prost_types::{FieldMask, Struct};

use super::profile::is_expired;
use super::{Invalid, Micros};
use crate::proto::v1::{AudienceMembership, Event, Profile};

/// The fields of `Profile` that an event lists if they changed. The store sets the others itself.
pub(super) const COMPARED: [&str; 8] = [
    "is_opted_out",
    "limit_ad_tracking",
    "device_identities",
    "user_identities",
    "account_user_attributes",
    "user_attributes",
    "audience_memberships",
    "attribution",
];

/// What happened to a profile. The store keeps the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EventKind {
    /// `profile.created`
    Created = 1,
    /// `profile.updated`
    Updated = 2,
    /// `profile.deleted`
    Deleted = 3,
    /// `profile.erased`
    Erased = 4,
    /// `profile.merged`
    Merged = 5,
    /// `profile.unmerged`
    Unmerged = 6,
}

impl EventKind {
    const ALL: [Self; 6] = [Self::Created, Self::Updated, Self::Deleted, Self::Erased, Self::Merged, Self::Unmerged];

    /// The name in `Event.type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "profile.created",
            Self::Updated => "profile.updated",
            Self::Deleted => "profile.deleted",
            Self::Erased => "profile.erased",
            Self::Merged => "profile.merged",
            Self::Unmerged => "profile.unmerged",
        }
    }

    /// The kind with a stored number; `None` if there is no such kind.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// Parses the type in `field` of a filter.
    ///
    /// # Errors
    /// [`Invalid::Filter`] if there is no such type.
    pub fn parse(field: impl Display, name: &str) -> Result<Self, Invalid> {
        let unknown = || Invalid::filter(field, "unknown event type");
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(unknown)
    }
}

/// The event of a change of this kind at `time`. The store fills in `profile` and the fields that only the log knows.
#[must_use]
pub fn describe(kind: EventKind, before: Option<&Profile>, after: Option<&Profile>, time: Micros) -> Event {
    let empty = Profile::default();
    let (old, new) = (before.unwrap_or(&empty), after.unwrap_or(&empty));
    let mut paths = Vec::new();
    let mut previous = Profile {
        mpid: old.mpid,
        create_time: old.create_time,
        update_time: old.update_time,
        etag: old.etag.clone(),
        ..Profile::default()
    };

    macro_rules! compare {
        ($($field:ident),*) => {$(
            if old.$field != new.$field {
                paths.push(stringify!($field).to_owned());
                previous.$field.clone_from(&old.$field);
            }
        )*};
    }
    compare!(is_opted_out, limit_ad_tracking, device_identities, user_identities, account_user_attributes);
    let changed_user_attributes = changed_keys(old.user_attributes.as_ref(), new.user_attributes.as_ref());
    if !changed_user_attributes.is_empty() {
        paths.push("user_attributes".to_owned());
        previous.user_attributes = old.user_attributes.as_ref().and_then(|map| only(map, &changed_user_attributes));
    }
    compare!(audience_memberships, attribution);

    Event {
        r#type: kind.name().to_owned(),
        mpid: after.or(before).map_or(0, |profile| profile.mpid),
        previous: before.map(|_| previous),
        changed_fields: Some(FieldMask { paths }),
        changed_user_attributes,
        // A membership that has expired does not count, so joining again is entering.
        entered_audience_ids: ids_of_first(&new.audience_memberships, |m| is_in(&old.audience_memberships, m, time)),
        exited_audience_ids: ids_of_first(&old.audience_memberships, |m| is_in(&new.audience_memberships, m, time)),
        ..Event::default()
    }
}

/// The keys whose values differ, sorted.
fn changed_keys(old: Option<&Struct>, new: Option<&Struct>) -> Vec<String> {
    let differ = |left: Option<&Struct>, right: Option<&Struct>| -> BTreeSet<String> {
        let in_right = |key: &String| right.and_then(|map| map.fields.get(key));
        let fields = left.into_iter().flat_map(|map| &map.fields);
        fields.filter(|(key, value)| in_right(key) != Some(value)).map(|(key, _)| key.clone()).collect()
    };
    differ(old, new).union(&differ(new, old)).cloned().collect()
}

fn only(map: &Struct, keys: &[String]) -> Option<Struct> {
    let kept = keys.iter().filter_map(|key| map.fields.get_key_value(key));
    let fields: std::collections::BTreeMap<_, _> = kept.map(|(key, value)| (key.clone(), value.clone())).collect();
    (!fields.is_empty()).then_some(Struct { fields })
}

/// The audiences of the memberships that are not on the other side of the change, as told by `other`.
fn ids_of_first(memberships: &[AudienceMembership], other: impl Fn(&AudienceMembership) -> bool) -> Vec<i64> {
    memberships.iter().filter(|membership| !other(membership)).map(|membership| membership.audience_id).collect()
}

fn is_in(memberships: &[AudienceMembership], wanted: &AudienceMembership, time: Micros) -> bool {
    memberships.iter().any(|membership| membership.audience_id == wanted.audience_id && !is_expired(membership, time))
}
