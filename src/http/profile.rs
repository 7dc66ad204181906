//! A profile as the Profile API's JSON. It differs from the JSON of protobuf: other names, times in milliseconds, and
//! 64-bit integers as numbers.
//!
//! Fields come in the order of the structs, and attributes by key, as they are stored.

use std::sync::Arc;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde::{Serialize, Serializer};

use super::query::{Field, Query};
use crate::model::Grant;
use crate::model::time::millis;
use crate::proto::v1::{Attribution, AudienceMembership, Identity, Profile};

/// Whole numbers up to this one are exact in a double. They are written without a decimal point.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A field that was not asked for, or that the caller may not see, is left out. An empty field that was asked for is not.
#[derive(Serialize)]
struct ProfileJson<'a> {
    mpid: MpidJson,
    created_timestamp_ms: i64,
    last_stored_timestamp_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_opted_out: Option<bool>,
    /// Null if it is not known.
    #[allow(clippy::option_option)] // Absent, null or a value: JSON tells them apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_ad_tracking: Option<Option<bool>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_identities: Option<Vec<IdentityJson<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_identities: Option<Vec<IdentityJson<'a>>>,
    /// Comes with `user_attributes`. Null if there are none.
    #[allow(clippy::option_option)] // Absent, null or a value: JSON tells them apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    account_userattributes: Option<Option<StructJson<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_attributes: Option<StructJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audience_memberships: Option<Vec<MembershipJson<'a>>>,
    /// Left out if it is empty, as the Profile API does.
    #[serde(skip_serializing_if = "Option::is_none")]
    attribution: Option<Vec<AttributionJson<'a>>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum MpidJson {
    Number(i64),
    String(String),
}

#[derive(Serialize)]
struct IdentityJson<'a> {
    r#type: &'a str,
    encoding: &'a str,
    value: &'a str,
}

#[derive(Serialize)]
struct MembershipJson<'a> {
    audience_id: i64,
    audience_name: &'a str,
    expiration_timestamp_ms: Option<i64>,
}

#[derive(Serialize)]
struct AttributionJson<'a> {
    partner: &'a str,
    campaign: &'a str,
    attribute_timestamp_ms: Option<i64>,
}

struct StructJson<'a>(Option<&'a Struct>);
struct ValueJson<'a>(&'a Value);

/// Writes the profile with the fields that were asked for, of those that the caller may see.
pub(super) fn to_json(profile: &Profile, query: &Query, grant: Option<&Arc<Grant>>) -> Vec<u8> {
    let account = profile.account_user_attributes.as_ref();
    let sees = |name| grant.is_none_or(|grant| grant.has_named(name));
    let asked = |field: Field| query.asks_for(field) && sees(field.name());
    let time = |timestamp: &Option<_>| timestamp.as_ref().map_or(0, millis);
    let json = ProfileJson {
        mpid: if query.mpid_as_string {
            MpidJson::String(profile.mpid.to_string())
        } else {
            MpidJson::Number(profile.mpid)
        },
        created_timestamp_ms: time(&profile.create_time),
        last_stored_timestamp_ms: time(&profile.update_time),
        is_opted_out: sees("is_opted_out").then_some(profile.is_opted_out),
        limit_ad_tracking: sees("limit_ad_tracking").then_some(profile.limit_ad_tracking),
        device_identities: asked(Field::DeviceIdentities).then(|| list(&profile.device_identities)),
        user_identities: asked(Field::UserIdentities).then(|| list(&profile.user_identities)),
        account_userattributes: (query.asks_for(Field::UserAttributes) && sees("account_user_attributes"))
            .then(|| account.map(|map| StructJson(Some(map)))),
        user_attributes: asked(Field::UserAttributes).then_some(StructJson(profile.user_attributes.as_ref())),
        audience_memberships: asked(Field::AudienceMemberships).then(|| list(&profile.audience_memberships)),
        attribution: Some(list(&profile.attribution)).filter(|list| asked(Field::Attribution) && !list.is_empty()),
    };
    serde_json::to_vec(&json).expect("keys are strings, and a Vec takes any length")
}

fn list<'a, T, J: From<&'a T>>(items: &'a [T]) -> Vec<J> {
    items.iter().map(J::from).collect()
}

impl<'a> From<&'a Identity> for IdentityJson<'a> {
    fn from(identity: &'a Identity) -> Self {
        Self { r#type: &identity.r#type, encoding: &identity.encoding, value: &identity.value }
    }
}

impl<'a> From<&'a AudienceMembership> for MembershipJson<'a> {
    fn from(membership: &'a AudienceMembership) -> Self {
        Self {
            audience_id: membership.audience_id,
            audience_name: &membership.audience_name,
            expiration_timestamp_ms: membership.expire_time.as_ref().map(millis),
        }
    }
}

impl<'a> From<&'a Attribution> for AttributionJson<'a> {
    fn from(attribution: &'a Attribution) -> Self {
        Self {
            partner: &attribution.partner,
            campaign: &attribution.campaign,
            attribute_timestamp_ms: attribution.attribute_time.as_ref().map(millis),
        }
    }
}

impl Serialize for StructJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = self.0.into_iter().flat_map(|map| &map.fields);
        serializer.collect_map(fields.map(|(key, value)| (key, ValueJson(value))))
    }
}

impl Serialize for ValueJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0.kind {
            None | Some(Kind::NullValue(_)) => serializer.serialize_unit(),
            Some(Kind::BoolValue(value)) => serializer.serialize_bool(*value),
            Some(Kind::StringValue(value)) => serializer.serialize_str(value),
            Some(Kind::NumberValue(value)) => serialize_number(*value, serializer),
            Some(Kind::StructValue(map)) => StructJson(Some(map)).serialize(serializer),
            Some(Kind::ListValue(ListValue { values })) => serializer.collect_seq(values.iter().map(ValueJson)),
        }
    }
}

/// A whole number has no decimal point: a reader that tells integers from floats gets back what was stored.
#[allow(clippy::cast_possible_truncation)] // It is whole and small enough.
fn serialize_number<S: Serializer>(value: f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.fract() == 0.0 && value.abs() <= EXACT {
        serializer.serialize_i64(value as i64)
    } else {
        serializer.serialize_f64(value)
    }
}
