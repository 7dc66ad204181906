//! Which profiles may be stored.

use prost::Message;
use prost_types::value::Kind;
use prost_types::{Struct, Value};

use super::identity::{IdentityKey, ParsedIdentity, repeated};
use super::invalid::AttributeIn;
use super::limits::{NAME_BYTES, VALUE_DEPTH};
use super::time::{self, Micros};
use super::weight::Heap;
use super::{Invalid, Limits};
use crate::proto::v1::{Attribution, AudienceMembership, Identity, Profile};

/// A valid profile that may be created.
#[derive(Debug, Clone, PartialEq)]
pub struct NewProfile {
    /// The profile, without the fields that the server sets: mpid, times and etag.
    pub profile: Profile,
    /// The keys of all its identities.
    pub identities: Vec<IdentityKey>,
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
            return Err(Invalid::field(field, "is the same audience as an earlier one"));
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
        check_size(None, &profile, limits)?; // The fields that the server sets are not counted yet.
        Ok(Self { profile, identities })
    }

    /// The memory that it takes, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.profile.heap() + self.identities.heap()
    }
}

impl NewProfile {
    /// Refuses memberships that have ended at `now`.
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
    map.fields.iter().try_for_each(|(key, value)| check_attribute(field, key, value, limits))
}

/// Refuses an attribute that may not be stored.
pub(crate) fn check_attribute(field: &str, key: &str, value: &Value, limits: &Limits) -> Result<(), Invalid> {
    check_attribute_key(field, key, limits)?;
    let attribute = AttributeIn(field, key);
    check_value(attribute, value, 1)?;
    check_value_bytes(attribute, value, limits)
}

/// Refuses a key that may not be stored.
pub(crate) fn check_attribute_key(field: &str, key: &str, limits: &Limits) -> Result<(), Invalid> {
    let attribute = AttributeIn(field, key);
    if key.is_empty() {
        return Err(Invalid::field(attribute, "an attribute's key must not be empty"));
    }
    Invalid::limit(attribute, "attribute key bytes", limits.attribute_key_bytes, key.len())
}

/// Refuses an attribute's value that is too large.
pub(crate) fn check_value_bytes(attribute: AttributeIn<'_>, value: &Value, limits: &Limits) -> Result<(), Invalid> {
    Invalid::limit(attribute, "attribute value bytes", limits.attribute_value_bytes, value.encoded_len())
}

/// Refuses a value that JSON cannot represent or that is nested too deeply. `depth` is its own depth.
pub(crate) fn check_value(attribute: AttributeIn<'_>, value: &Value, depth: usize) -> Result<(), Invalid> {
    Invalid::limit(attribute, "levels of nesting", VALUE_DEPTH, depth)?;
    let check_inner = |value| check_value(attribute, value, depth + 1);
    match &value.kind {
        None => Err(Invalid::field(attribute, "an attribute's value must be set; JSON null is null_value")),
        Some(Kind::NumberValue(number)) if !number.is_finite() => {
            Err(Invalid::field(attribute, "a number must be finite"))
        }
        Some(Kind::StructValue(map)) => map.fields.values().try_for_each(check_inner),
        Some(Kind::ListValue(list)) => list.values.iter().try_for_each(check_inner),
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
        Invalid::limit(
            format_args!("{field}.audience_name"),
            "audience name bytes",
            NAME_BYTES,
            membership.audience_name.len(),
        )?;
        check_timestamp(&format!("{field}.expire_time"), membership.expire_time.as_ref())?;
    }
    Ok(())
}

/// Refuses memberships that have ended at `now`. This is not part of parsing: a repeat of a request that was in time
/// must still get the first response.
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
        Invalid::limit(format_args!("{field}.partner"), "partner bytes", NAME_BYTES, attribution.partner.len())?;
        Invalid::limit(format_args!("{field}.campaign"), "campaign bytes", NAME_BYTES, attribution.campaign.len())?;
        check_timestamp(&format!("{field}.attribute_time"), attribution.attribute_time.as_ref())?;
    }
    Ok(())
}

fn check_timestamp(field: &str, timestamp: Option<&prost_types::Timestamp>) -> Result<(), Invalid> {
    match timestamp {
        Some(timestamp) if !time::is_valid(timestamp) => Err(Invalid::field(field, "is not a valid timestamp")),
        _ => Ok(()),
    }
}

/// Refuses a profile that is over the limit and larger than `before`. If the limit was lowered, a profile over it may
/// still change and shrink.
///
/// Fields that the server sets do not count as growth: the caller cannot prevent a longer etag.
///
/// # Errors
/// [`Invalid::ProfileTooLarge`].
pub fn check_size(before: Option<&Profile>, after: &Profile, limits: &Limits) -> Result<(), Invalid> {
    let (limit, found) = (limits.profile_bytes, after.encoded_len());
    if found <= limit || before.is_some_and(|before| given_bytes(after) <= given_bytes(before)) {
        return Ok(());
    }
    Err(Invalid::ProfileTooLarge { limit, found })
}

/// The encoded bytes of all fields that the caller sets.
fn given_bytes(profile: &Profile) -> usize {
    let set_by_server = Profile {
        mpid: profile.mpid,
        create_time: profile.create_time,
        update_time: profile.update_time,
        etag: profile.etag.clone(),
        ..Profile::default()
    };
    profile.encoded_len() - set_by_server.encoded_len()
}

/// Whether a membership has ended at `now`.
#[must_use]
pub fn is_expired(membership: &AudienceMembership, now: Micros) -> bool {
    expiry(membership).is_some_and(|expiry| expiry <= now)
}

/// The earliest end of a profile's memberships; `None` if none ends.
#[must_use]
pub fn next_expiry(profile: &Profile) -> Option<Micros> {
    profile.audience_memberships.iter().filter_map(expiry).min()
}

/// Removes the memberships that have ended at `now`.
pub fn remove_expired(profile: &mut Profile, now: Micros) {
    profile.audience_memberships.retain(|membership| !is_expired(membership, now));
}

/// When a membership ends; `None` if it does not.
#[must_use]
pub fn expiry(membership: &AudienceMembership) -> Option<Micros> {
    membership.expire_time.as_ref().map(Micros::from_timestamp)
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

    /// A profile with an mpid of 1 byte, an etag of `etag` bytes and a partner of `name` bytes, which the caller gives.
    fn profile(etag: usize, name: usize) -> Profile {
        let attribution = Attribution { partner: "p".repeat(name), ..Attribution::default() };
        Profile { mpid: 1, etag: "e".repeat(etag), attribution: vec![attribution], ..Profile::default() }
    }

    #[test]
    fn a_new_profile_may_be_as_large_as_the_limit() {
        let new = profile(9, 100);
        let limits = |profile_bytes| Limits { profile_bytes, ..Limits::default() };
        let found = new.encoded_len();
        assert_eq!(check_size(None, &new, &limits(found)), Ok(()));
        let limit = found - 1;
        assert_eq!(check_size(None, &new, &limits(limit)), Err(Invalid::ProfileTooLarge { limit, found }));
    }

    #[test]
    fn a_profile_over_a_lowered_limit_may_shrink_and_change_but_not_grow() {
        let limits = Limits { profile_bytes: 50, ..Limits::default() };
        let before = profile(9, 100);
        let mut touched = profile(10, 100);
        (touched.create_time, touched.update_time) =
            (Some(Micros::new(1).to_timestamp()), Some(Micros::new(2).to_timestamp()));
        for after in [&before, &touched, &profile(9, 99), &profile(20, 99), &profile(9, 0)] {
            assert_eq!(check_size(Some(&before), after, &limits), Ok(()));
        }
        for after in [profile(9, 101), profile(0, 101)] {
            let refusal = Invalid::ProfileTooLarge { limit: 50, found: after.encoded_len() };
            assert_eq!(check_size(Some(&before), &after, &limits), Err(refusal));
        }
        assert_eq!(check_size(Some(&profile(9, 5)), &profile(9, 6), &limits), Ok(()), "within the limit");
    }
}
