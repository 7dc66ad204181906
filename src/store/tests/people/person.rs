//! A profile as the tests see it: plain values, without what the server sets.

use std::collections::BTreeMap;

use prost_types::value::Kind;
use prost_types::{Struct, Timestamp, Value};

use crate::proto::v1::{Attribution, AudienceMembership, Identity, Profile};

/// What is known of a person. Attributes have the names of their fields, as `user_attributes["plan"]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Person {
    pub opted_out: bool,
    pub limits_ads: Option<bool>,
    pub devices: Vec<Id>,
    pub users: Vec<Id>,
    pub attributes: BTreeMap<String, String>,
    pub memberships: Vec<Membership>,
    pub partners: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    pub kind: String,
    pub value: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Membership {
    pub audience: i64,
    pub name: String,
    /// In seconds. `None` means never.
    pub end: Option<i64>,
}

/// A value of a field that two profiles may contest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    OptedOut(bool),
    LimitsAds(Option<bool>),
    Attribute(Option<String>),
    Membership(Option<Membership>),
}

pub const OPTED_OUT: &str = "is_opted_out";
pub const LIMITS_ADS: &str = "limit_ad_tracking";
const ACCOUNT: &str = "account_user_attributes";
const USER: &str = "user_attributes";

impl Id {
    pub fn new(kind: &str, value: impl Into<String>) -> Self {
        Self { kind: kind.into(), value: value.into() }
    }

    pub fn is_device(&self) -> bool {
        self.kind == "ios_idfa"
    }

    pub fn to_proto(&self) -> Identity {
        Identity { r#type: self.kind.clone(), encoding: "none".into(), value: self.value.clone() }
    }

    fn of(identity: &Identity) -> Self {
        Self::new(&identity.r#type, identity.value.clone())
    }
}

impl Membership {
    pub fn field(&self) -> String {
        field_of(self.audience)
    }

    pub fn has_ended(&self, now: i64) -> bool {
        self.end.is_some_and(|end| end <= now)
    }

    /// Whether it ends later than another. What never ends is the last.
    pub fn ends_later(&self, other: &Self) -> bool {
        self.end.unwrap_or(i64::MAX) > other.end.unwrap_or(i64::MAX)
    }

    pub fn to_proto(&self) -> AudienceMembership {
        let expire_time = self.end.map(|seconds| Timestamp { seconds, nanos: 0 });
        AudienceMembership { audience_id: self.audience, audience_name: self.name.clone(), expire_time }
    }

    fn of(membership: &AudienceMembership) -> Self {
        let end = membership.expire_time.as_ref().map(|time| time.seconds);
        Self { audience: membership.audience_id, name: membership.audience_name.clone(), end }
    }
}

pub fn field_of(audience: i64) -> String {
    format!("audience_memberships[{audience}]")
}

/// The map and the key of an attribute.
pub fn split(field: &str) -> (&str, &str) {
    let (map, key) = field.split_once('[').unwrap();
    (map, key.trim_end_matches(']').trim_matches('"'))
}

/// The attributes of one of the two maps, as in a message.
pub fn map_of<'f>(is_account: bool, fields: impl IntoIterator<Item = (&'f String, &'f String)>) -> Option<Struct> {
    let map = if is_account { ACCOUNT } else { USER };
    let of_map = fields.into_iter().filter(|(field, _)| split(field).0 == map);
    let value = |value: &String| Value { kind: Some(Kind::StringValue(value.clone())) };
    let fields: BTreeMap<_, _> = of_map.map(|(field, text)| (split(field).1.to_owned(), value(text))).collect();
    (!fields.is_empty()).then_some(Struct { fields })
}

pub fn attribution(partner: &str) -> Attribution {
    Attribution { partner: partner.into(), campaign: format!("{partner} campaign"), attribute_time: None }
}

impl Person {
    pub fn of(profile: &Profile) -> Self {
        let mut attributes = BTreeMap::new();
        for (name, map) in [(ACCOUNT, &profile.account_user_attributes), (USER, &profile.user_attributes)] {
            for (key, value) in map.iter().flat_map(|map| &map.fields) {
                let Some(Kind::StringValue(text)) = &value.kind else { panic!("{value:?}") };
                attributes.insert(format!("{name}[\"{key}\"]"), text.clone());
            }
        }
        Self {
            opted_out: profile.is_opted_out,
            limits_ads: profile.limit_ad_tracking,
            devices: profile.device_identities.iter().map(Id::of).collect(),
            users: profile.user_identities.iter().map(Id::of).collect(),
            attributes,
            memberships: profile.audience_memberships.iter().map(Membership::of).collect(),
            partners: profile.attribution.iter().map(|attribution| attribution.partner.clone()).collect(),
        }
    }

    pub fn to_proto(&self) -> Profile {
        Profile {
            is_opted_out: self.opted_out,
            limit_ad_tracking: self.limits_ads,
            device_identities: self.devices.iter().map(Id::to_proto).collect(),
            user_identities: self.users.iter().map(Id::to_proto).collect(),
            account_user_attributes: map_of(true, &self.attributes),
            user_attributes: map_of(false, &self.attributes),
            audience_memberships: self.memberships.iter().map(Membership::to_proto).collect(),
            attribution: self.partners.iter().map(|partner| attribution(partner)).collect(),
            ..Profile::default()
        }
    }

    pub fn ids(&self) -> impl Iterator<Item = &Id> {
        self.devices.iter().chain(&self.users)
    }

    pub fn has(&self, id: &Id) -> bool {
        self.ids().any(|own| own == id)
    }

    pub fn count(&self, kind: &str) -> usize {
        self.ids().filter(|id| id.kind == kind).count()
    }

    /// Adds an identity behind those that it has.
    pub fn link(&mut self, id: &Id) {
        if !self.has(id) {
            if id.is_device() { &mut self.devices } else { &mut self.users }.push(id.clone());
        }
    }

    pub fn unlink(&mut self, ids: &[Id]) {
        self.devices.retain(|id| !ids.contains(id));
        self.users.retain(|id| !ids.contains(id));
    }

    /// Without the memberships that have ended.
    pub fn at(mut self, now: i64) -> Self {
        self.memberships.retain(|membership| !membership.has_ended(now));
        self
    }

    pub fn membership(&self, audience: i64) -> Option<&Membership> {
        self.memberships.iter().find(|membership| membership.audience == audience)
    }

    /// Joins an audience. A membership that there is keeps its place.
    pub fn join(&mut self, joined: &Membership) {
        match self.memberships.iter_mut().find(|own| own.audience == joined.audience) {
            Some(own) => own.clone_from(joined),
            None => self.memberships.push(joined.clone()),
        }
    }

    /// The fields that another profile may contest.
    pub fn contestable(&self) -> Vec<String> {
        let fixed = [OPTED_OUT, LIMITS_ADS].into_iter().map(str::to_owned);
        let memberships = self.memberships.iter().map(Membership::field);
        fixed.chain(self.attributes.keys().cloned()).chain(memberships).collect()
    }

    pub fn read(&self, field: &str) -> Given {
        match field {
            OPTED_OUT => Given::OptedOut(self.opted_out),
            LIMITS_ADS => Given::LimitsAds(self.limits_ads),
            _ if split(field).0 == "audience_memberships" => {
                Given::Membership(self.membership(split(field).1.parse().unwrap()).cloned())
            }
            _ => Given::Attribute(self.attributes.get(field).cloned()),
        }
    }

    pub fn give(&mut self, field: &str, value: Given) {
        match value {
            Given::OptedOut(value) => self.opted_out = value,
            Given::LimitsAds(value) => self.limits_ads = value,
            Given::Attribute(Some(value)) => drop(self.attributes.insert(field.to_owned(), value)),
            Given::Attribute(None) => drop(self.attributes.remove(field)),
            Given::Membership(Some(membership)) => self.join(&membership),
            Given::Membership(None) => self.memberships.retain(|membership| membership.field() != field),
        }
    }
}
