//! The one way in which a profile changes.

use std::collections::BTreeMap;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

use super::identity::{IdentityKey, ParsedIdentity, repeated};
use super::limits::APPENDED_VALUES;
use super::profile::{
    check_attribute_key, check_attributes, check_attributions, check_memberships, check_not_expired, check_value,
};
use super::time::Micros;
use super::{Invalid, Limits};
use crate::proto::v1::{Identity, Profile, ProfilePatch};

/// A patch that may be applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    /// The identities to link.
    pub add: Vec<ParsedIdentity>,
    /// Whether to move those that another profile owns.
    pub take: bool,
    remove: Vec<ParsedIdentity>,
    /// The rest, as it was given.
    rest: ProfilePatch,
}

impl Patch {
    /// Parses the `patch` of a request.
    ///
    /// # Errors
    /// [`Invalid`] if any of it is malformed, over its limit, or says two things of one name.
    pub fn parse(mut patch: ProfilePatch, limits: &Limits) -> Result<Self, Invalid> {
        check_user_attributes(&patch, limits)?;
        check_account_attributes(&patch, limits)?;
        check_audiences(&patch, limits)?;
        check_attributions("patch.add_attribution", &patch.add_attribution, limits)?;

        let add = std::mem::take(&mut patch.add_identities);
        let add = ParsedIdentity::parse_all("patch.add_identities", add, limits)?;
        let remove = std::mem::take(&mut patch.remove_identities);
        let remove = ParsedIdentity::parse_all("patch.remove_identities", remove, limits)?;
        let keys = add.iter().chain(&remove).map(|identity| &identity.key);
        if let Some(index) = repeated(keys) {
            let field = format!("patch.remove_identities[{}]", index - add.len());
            return Err(Invalid::field(field, "is added by the same patch"));
        }
        Ok(Self { add, take: patch.take_identities, remove, rest: patch })
    }

    /// The message that parses to this patch.
    #[must_use]
    pub fn to_message(&self) -> ProfilePatch {
        let given = |parsed: &[ParsedIdentity]| parsed.iter().map(|parsed| parsed.identity.clone()).collect();
        ProfilePatch {
            add_identities: given(&self.add),
            remove_identities: given(&self.remove),
            take_identities: self.take,
            ..self.rest.clone()
        }
    }

    /// Refuses what has ended at `now`.
    ///
    /// # Errors
    /// [`Invalid::Field`].
    pub fn check_as_of(&self, now: Micros) -> Result<(), Invalid> {
        check_not_expired("patch.join_audiences", &self.rest.join_audiences, now)
    }

    /// Applies all of it to `profile`. Who owns the identities is for the store to decide, before.
    ///
    /// # Errors
    /// [`Invalid`] if an attribute is of the wrong type, or a limit is passed.
    pub fn apply(&self, profile: &mut Profile, limits: &Limits) -> Result<(), Invalid> {
        let patch = &self.rest;
        if let Some(opted_out) = patch.is_opted_out {
            profile.is_opted_out = opted_out;
        }
        if patch.limit_ad_tracking.is_some() {
            profile.limit_ad_tracking = patch.limit_ad_tracking;
        }
        self.apply_identities(profile, limits)?;
        edit(&mut profile.user_attributes, |map| apply_user_attributes(patch, map))?;
        edit(&mut profile.account_user_attributes, |map| {
            set_and_remove(map, patch.set_account_user_attributes.as_ref(), &patch.remove_account_user_attributes);
            Ok(())
        })?;
        check_attributes("patch.set_user_attributes", profile.user_attributes.as_ref(), limits)?;
        check_attributes("patch.set_account_user_attributes", profile.account_user_attributes.as_ref(), limits)?;
        apply_audiences(patch, profile);
        for attribution in &patch.add_attribution {
            if !profile.attribution.contains(attribution) {
                profile.attribution.push(attribution.clone());
            }
        }
        let (memberships, attributions) = (profile.audience_memberships.len(), profile.attribution.len());
        Invalid::limit("patch.join_audiences", "audience memberships", limits.audience_memberships, memberships)?;
        Invalid::limit("patch.add_attribution", "attributions", limits.attributions, attributions)
    }

    fn apply_identities(&self, profile: &mut Profile, limits: &Limits) -> Result<(), Invalid> {
        if self.add.is_empty() && self.remove.is_empty() {
            return Ok(());
        }
        retain_identities(profile, |key| self.remove.iter().all(|removed| removed.key != *key));
        let owned = super::identity::keys_of(profile);
        for ParsedIdentity { identity, key } in &self.add {
            if owned.binary_search(key).is_err() {
                let side =
                    if identity.is_device() { &mut profile.device_identities } else { &mut profile.user_identities };
                side.push(identity.clone());
            }
        }
        let found = profile.device_identities.len() + profile.user_identities.len();
        Invalid::limit("patch.add_identities", "identities", limits.identities, found)
    }
}

/// Removes the identities of these keys from a profile.
pub fn unlink(profile: &mut Profile, keys: &[IdentityKey]) {
    retain_identities(profile, |key| !keys.contains(key));
}

fn retain_identities(profile: &mut Profile, keep: impl Fn(&IdentityKey) -> bool) {
    let kept = |identity: &Identity| keep(&IdentityKey::of(identity));
    profile.device_identities.retain(kept);
    profile.user_identities.retain(kept);
}

/// Edits a map in place; an empty one is absent.
fn edit(
    map: &mut Option<Struct>,
    change: impl FnOnce(&mut BTreeMap<String, Value>) -> Result<(), Invalid>,
) -> Result<(), Invalid> {
    let mut fields = map.take().unwrap_or_default().fields;
    change(&mut fields)?;
    *map = (!fields.is_empty()).then_some(Struct { fields });
    Ok(())
}

fn apply_user_attributes(patch: &ProfilePatch, map: &mut BTreeMap<String, Value>) -> Result<(), Invalid> {
    if patch.clear_user_attributes {
        map.clear();
    }
    set_and_remove(map, patch.set_user_attributes.as_ref(), &patch.remove_user_attributes);
    for (key, by) in &patch.increment_user_attributes {
        increment(map, key, *by)?;
    }
    for (key, values) in &patch.append_user_attributes {
        append(map, key, values)?;
    }
    Ok(())
}

fn set_and_remove(map: &mut BTreeMap<String, Value>, set: Option<&Struct>, remove: &[String]) {
    for (key, value) in set.iter().flat_map(|set| &set.fields) {
        map.insert(key.clone(), value.clone());
    }
    for key in remove {
        map.remove(key);
    }
}

fn increment(map: &mut BTreeMap<String, Value>, key: &str, by: f64) -> Result<(), Invalid> {
    let refused = |problem| Err(Invalid::field("patch.increment_user_attributes", problem));
    let sum = match map.get(key).map(|value| &value.kind) {
        None => by,
        Some(Some(Kind::NumberValue(number))) => number + by,
        Some(_) => return refused("the attribute is not a number"),
    };
    if !sum.is_finite() {
        return refused("the sum is not finite");
    }
    map.insert(key.to_owned(), Value { kind: Some(Kind::NumberValue(sum)) });
    Ok(())
}

fn append(map: &mut BTreeMap<String, Value>, key: &str, values: &ListValue) -> Result<(), Invalid> {
    let empty = || Value { kind: Some(Kind::ListValue(ListValue::default())) };
    let Some(Kind::ListValue(list)) = &mut map.entry(key.to_owned()).or_insert_with(empty).kind else {
        return Err(Invalid::field("patch.append_user_attributes", "the attribute is not a list"));
    };
    for value in &values.values {
        if !list.values.contains(value) {
            list.values.push(value.clone());
        }
    }
    Ok(())
}

fn apply_audiences(patch: &ProfilePatch, profile: &mut Profile) {
    let memberships = &mut profile.audience_memberships;
    memberships.retain(|membership| !patch.leave_audiences.contains(&membership.audience_id));
    for joined in &patch.join_audiences {
        match memberships.iter_mut().find(|membership| membership.audience_id == joined.audience_id) {
            Some(membership) => *membership = joined.clone(),
            None => memberships.push(joined.clone()),
        }
    }
}

fn check_user_attributes(patch: &ProfilePatch, limits: &Limits) -> Result<(), Invalid> {
    check_attributes("patch.set_user_attributes", patch.set_user_attributes.as_ref(), limits)?;
    let named = patch.remove_user_attributes.len();
    Invalid::limit("patch.remove_user_attributes", "attributes", limits.attributes, named)?;
    let named = patch.increment_user_attributes.len();
    Invalid::limit("patch.increment_user_attributes", "attributes", limits.attributes, named)?;
    let named = patch.append_user_attributes.len();
    Invalid::limit("patch.append_user_attributes", "attributes", limits.attributes, named)?;
    for (key, by) in &patch.increment_user_attributes {
        check_attribute_key("patch.increment_user_attributes", key, limits)?;
        if !by.is_finite() {
            return Err(Invalid::field("patch.increment_user_attributes", "a number must be finite"));
        }
    }
    for (key, values) in &patch.append_user_attributes {
        let field = "patch.append_user_attributes";
        check_attribute_key(field, key, limits)?;
        Invalid::limit(field, "appended values", APPENDED_VALUES, values.values.len())?;
        values.values.iter().try_for_each(|value| check_value(field, value, 2))?;
    }
    let set = patch.set_user_attributes.iter().flat_map(|map| map.fields.keys());
    let named = set
        .chain(&patch.remove_user_attributes)
        .chain(patch.increment_user_attributes.keys())
        .chain(patch.append_user_attributes.keys());
    refuse_repeated("patch", "names one user attribute twice", named)
}

fn check_account_attributes(patch: &ProfilePatch, limits: &Limits) -> Result<(), Invalid> {
    let set = patch.set_account_user_attributes.as_ref();
    check_attributes("patch.set_account_user_attributes", set, limits)?;
    let named = patch.remove_account_user_attributes.len();
    Invalid::limit("patch.remove_account_user_attributes", "attributes", limits.attributes, named)?;
    let named = set.into_iter().flat_map(|map| map.fields.keys()).chain(&patch.remove_account_user_attributes);
    refuse_repeated("patch", "names one account user attribute twice", named)
}

fn check_audiences(patch: &ProfilePatch, limits: &Limits) -> Result<(), Invalid> {
    check_memberships("patch.join_audiences", &patch.join_audiences, limits)?;
    let left = patch.leave_audiences.len();
    Invalid::limit("patch.leave_audiences", "audience memberships", limits.audience_memberships, left)?;
    if let Some(index) = patch.leave_audiences.iter().position(|&id| id == 0) {
        return Err(Invalid::field(format!("patch.leave_audiences[{index}]"), "must not be 0"));
    }
    let joined = patch.join_audiences.iter().map(|membership| &membership.audience_id);
    refuse_repeated("patch", "names one audience twice", joined.chain(&patch.leave_audiences))
}

fn refuse_repeated<T: Ord>(field: &str, problem: &str, names: impl Iterator<Item = T>) -> Result<(), Invalid> {
    repeated(names).map_or(Ok(()), |_| Err(Invalid::field(field, problem)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::{Attribution, AudienceMembership};

    fn number(number: f64) -> Value {
        Value { kind: Some(Kind::NumberValue(number)) }
    }

    fn map<const N: usize>(fields: [(&str, Value); N]) -> Struct {
        Struct { fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() }
    }

    fn list(values: impl IntoIterator<Item = Value>) -> ListValue {
        ListValue { values: values.into_iter().collect() }
    }

    fn identity(kind: &str, value: &str) -> Identity {
        Identity { r#type: kind.into(), encoding: String::new(), value: value.into() }
    }

    fn member(audience_id: i64) -> AudienceMembership {
        AudienceMembership { audience_id, ..AudienceMembership::default() }
    }

    fn attribution(partner: &str) -> Attribution {
        Attribution { partner: partner.into(), ..Attribution::default() }
    }

    fn parse(patch: ProfilePatch) -> Patch {
        Patch::parse(patch, &Limits::default()).unwrap()
    }

    /// A patch that says something in every field.
    fn full() -> ProfilePatch {
        ProfilePatch {
            is_opted_out: Some(false),
            limit_ad_tracking: Some(true),
            set_user_attributes: Some(map([("set", number(1.0))])),
            remove_user_attributes: vec!["removed".into()],
            increment_user_attributes: [("count".to_owned(), 2.0)].into(),
            append_user_attributes: [("list".to_owned(), list([number(1.0), number(1.0)]))].into(),
            clear_user_attributes: true,
            set_account_user_attributes: Some(map([("set", number(1.0))])),
            remove_account_user_attributes: vec!["removed".into()],
            add_identities: vec![identity("email", " Ada@x.com"), identity("apple_idfa", "i")],
            remove_identities: vec![identity("phone", "+1 555")],
            take_identities: true,
            join_audiences: vec![member(1)],
            leave_audiences: vec![2],
            add_attribution: vec![attribution("p")],
        }
    }

    #[test]
    fn the_message_of_a_patch_parses_to_the_same_patch() {
        for message in [ProfilePatch::default(), full()] {
            let patch = parse(message);
            assert_eq!(parse(patch.to_message()), patch);
        }
    }
}
