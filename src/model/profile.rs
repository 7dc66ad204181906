//! What may be stored.

use prost::Message;
use prost_types::value::Kind;
use prost_types::{Struct, Value};

use super::identity::{IdentityKey, ParsedIdentity, repeated};
use super::limits::{NAME_BYTES, VALUE_DEPTH};
use super::time::{self, Micros};
use super::{Invalid, Limits, Mpid};
use crate::proto::v1::{Attribution, AudienceMembership, Identity, Profile};

/// How a request names a profile.
#[derive(Debug, Clone, PartialEq)]
pub enum ProfileKey {
    /// By its key.
    Mpid(Mpid),
    /// By an identity that it owns.
    Identity(ParsedIdentity),
}

/// A profile that may be created.
#[derive(Debug, Clone, PartialEq)]
pub struct NewProfile {
    /// Without what the server sets: mpid, times, etag.
    pub profile: Profile,
    /// Of all its identities.
    pub identities: Vec<IdentityKey>,
}

impl ProfileKey {
    /// Parses the `mpid` of a request.
    ///
    /// # Errors
    /// [`Invalid::Field`] if it is 0.
    pub fn mpid(mpid: i64) -> Result<Self, Invalid> {
        Mpid::parse("mpid", mpid).map(Self::Mpid)
    }

    /// Parses the `identity` of a request.
    ///
    /// # Errors
    /// [`Invalid`] if it is malformed.
    pub fn identity(identity: Identity, limits: &Limits) -> Result<Self, Invalid> {
        ParsedIdentity::parse("identity", identity, limits).map(Self::Identity)
    }

    /// What to say where a request names neither.
    #[must_use]
    pub fn missing() -> Invalid {
        Invalid::field("key", "either mpid or identity must be set")
    }
}

impl NewProfile {
    /// Parses the `profile` of a request.
    ///
    /// # Errors
    /// [`Invalid`] if any of it is malformed or over its limit.
    pub fn parse(profile: Profile, limits: &Limits) -> Result<Self, Invalid> {
        let both = profile.device_identities.len() + profile.user_identities.len();
        Invalid::limit("profile", "identities", limits.identities, both)?;
        let device = parse_side("profile.device_identities", profile.device_identities, true, limits)?;
        let user = parse_side("profile.user_identities", profile.user_identities, false, limits)?;
        check_attributes("profile.account_user_attributes", profile.account_user_attributes.as_ref(), limits)?;
        check_attributes("profile.user_attributes", profile.user_attributes.as_ref(), limits)?;
        check_memberships("profile.audience_memberships", &profile.audience_memberships, limits)?;
        check_attributions("profile.attribution", &profile.attribution, limits)?;
        let ids = profile.audience_memberships.iter().map(|membership| membership.audience_id);
        if let Some(index) = repeated(ids) {
            let field = format!("profile.audience_memberships[{index}]");
            return Err(Invalid::field(field, "the same audience is there twice"));
        }
        let identities = device.iter().chain(&user).map(|identity| identity.key.clone()).collect();
        let profile = Profile {
            mpid: 0,
            create_time: None,
            update_time: None,
            etag: String::new(),
            device_identities: device.into_iter().map(|parsed| parsed.identity).collect(),
            user_identities: user.into_iter().map(|parsed| parsed.identity).collect(),
            account_user_attributes: profile.account_user_attributes.filter(|map| !map.fields.is_empty()),
            user_attributes: profile.user_attributes.filter(|map| !map.fields.is_empty()),
            ..profile
        };
        Ok(Self { profile, identities })
    }
}

impl NewProfile {
    /// Refuses what has ended at `now`.
    ///
    /// # Errors
    /// [`Invalid::Field`].
    pub fn check_as_of(&self, now: Micros) -> Result<(), Invalid> {
        check_not_expired("profile.audience_memberships", &self.profile.audience_memberships, now)
    }
}

fn parse_side(
    field: &str,
    identities: Vec<Identity>,
    device: bool,
    limits: &Limits,
) -> Result<Vec<ParsedIdentity>, Invalid> {
    let parsed = ParsedIdentity::parse_all(field, identities, limits)?;
    match parsed.iter().position(|parsed| parsed.identity.is_device() != device) {
        Some(index) => {
            let other = if device { "not a device identity" } else { "a device identity" };
            Err(Invalid::field(format!("{field}[{index}].type"), format!("is {other}")))
        }
        None => Ok(parsed),
    }
}

/// Refuses attributes that may not be stored.
pub(crate) fn check_attributes(field: &str, map: Option<&Struct>, limits: &Limits) -> Result<(), Invalid> {
    let Some(map) = map else { return Ok(()) };
    Invalid::limit(field, "attributes", limits.attributes, map.fields.len())?;
    for (key, value) in &map.fields {
        check_attribute_key(field, key, limits)?;
        check_value(field, value, 1)?;
        Invalid::limit(field, "attribute value bytes", limits.attribute_value_bytes, value.encoded_len())?;
    }
    Ok(())
}

/// Refuses a key that may not be stored.
pub(crate) fn check_attribute_key(field: &str, key: &str, limits: &Limits) -> Result<(), Invalid> {
    if key.is_empty() {
        return Err(Invalid::field(field, "an attribute's key must not be empty"));
    }
    Invalid::limit(field, "attribute key bytes", limits.attribute_key_bytes, key.len())
}

/// Refuses a value that JSON could not say, or that is nested too deeply, if it stands at `depth`.
pub(crate) fn check_value(field: &str, value: &Value, depth: usize) -> Result<(), Invalid> {
    Invalid::limit(field, "depth of an attribute's value", VALUE_DEPTH, depth)?;
    match &value.kind {
        None => Err(Invalid::field(field, "an attribute's value must not be unset; JSON null is null_value")),
        Some(Kind::NumberValue(number)) if !number.is_finite() => Err(Invalid::field(field, "a number must be finite")),
        Some(Kind::StructValue(map)) => map.fields.values().try_for_each(|value| check_value(field, value, depth + 1)),
        Some(Kind::ListValue(list)) => list.values.iter().try_for_each(|value| check_value(field, value, depth + 1)),
        Some(Kind::NullValue(_) | Kind::NumberValue(_) | Kind::StringValue(_) | Kind::BoolValue(_)) => Ok(()),
    }
}

/// Refuses malformed memberships.
pub(crate) fn check_memberships(
    field: &str,
    memberships: &[AudienceMembership],
    limits: &Limits,
) -> Result<(), Invalid> {
    Invalid::limit(field, "audience memberships", limits.audience_memberships, memberships.len())?;
    for (index, membership) in memberships.iter().enumerate() {
        let field = format!("{field}[{index}]");
        if membership.audience_id == 0 {
            return Err(Invalid::field(format!("{field}.audience_id"), "must not be 0"));
        }
        Invalid::limit(&field, "audience name bytes", NAME_BYTES, membership.audience_name.len())?;
        check_timestamp(&format!("{field}.expire_time"), membership.expire_time.as_ref())?;
    }
    Ok(())
}

/// Refuses memberships that have ended at `now`. Not a check of the door: the repeat of a request that was in time gets
/// its first answer.
pub(crate) fn check_not_expired(field: &str, memberships: &[AudienceMembership], now: Micros) -> Result<(), Invalid> {
    match memberships.iter().position(|membership| is_expired(membership, now)) {
        Some(index) => Err(Invalid::field(format!("{field}[{index}].expire_time"), "must lie in the future")),
        None => Ok(()),
    }
}

/// Refuses malformed attributions.
pub(crate) fn check_attributions(field: &str, attributions: &[Attribution], limits: &Limits) -> Result<(), Invalid> {
    Invalid::limit(field, "attributions", limits.attributions, attributions.len())?;
    for (index, attribution) in attributions.iter().enumerate() {
        let field = format!("{field}[{index}]");
        if attribution.partner.is_empty() {
            return Err(Invalid::field(format!("{field}.partner"), "must not be empty"));
        }
        Invalid::limit(&field, "partner bytes", NAME_BYTES, attribution.partner.len())?;
        Invalid::limit(&field, "campaign bytes", NAME_BYTES, attribution.campaign.len())?;
        check_timestamp(&format!("{field}.attribute_time"), attribution.attribute_time.as_ref())?;
    }
    Ok(())
}

fn check_timestamp(field: &str, timestamp: Option<&prost_types::Timestamp>) -> Result<(), Invalid> {
    match timestamp {
        Some(timestamp) if !time::is_valid(timestamp) => Err(Invalid::field(field, "is not a time")),
        _ => Ok(()),
    }
}

/// Whether a membership has ended at `now`.
#[must_use]
pub fn is_expired(membership: &AudienceMembership, now: Micros) -> bool {
    expiry(membership) <= now
}

/// When the first of a profile's memberships ends; [`Micros::MAX`] for never.
#[must_use]
pub fn next_expiry(profile: &Profile) -> Micros {
    profile.audience_memberships.iter().map(expiry).min().unwrap_or(Micros::MAX)
}

fn expiry(membership: &AudienceMembership) -> Micros {
    membership.expire_time.as_ref().map_or(Micros::MAX, time::from_timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_a_new_profile_parses_to_the_same_profile() {
        let email = Identity { r#type: "email".into(), encoding: String::new(), value: " Ada@x.com".into() };
        let given = Profile { mpid: 7, etag: "ignored".into(), user_identities: vec![email], ..Profile::default() };
        let parse = |profile| NewProfile::parse(profile, &Limits::default()).unwrap();
        let new = parse(given);
        assert_eq!(parse(new.profile.clone()), new);
    }
}
