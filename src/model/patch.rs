//! Patches: the only way to change a profile. `check` is what holds for a patch by itself.

mod check;

use std::collections::BTreeMap;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

use super::distinct::absent;
use super::identity::{IdentityKey, ParsedIdentity, repeated};
use super::invalid::AttributeIn;
use super::profile::{check_attributions, check_not_expired, check_value_bytes};
use super::room::check_room;
use super::time::Micros;
use super::weight::Heap;
use super::{Invalid, Limits};
use crate::proto::v1::{Identity, Profile, ProfilePatch};
use check::{check_account_attributes, check_audiences, check_user_attributes};

/// A valid patch.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    /// The identities to link.
    pub add: Vec<ParsedIdentity>,
    /// Whether to take the identities in `add` that other profiles own.
    pub take: bool,
    remove: Vec<ParsedIdentity>,
    /// The other fields, as they were given.
    rest: ProfilePatch,
}

impl Patch {
    /// Parses the `patch` of a request.
    ///
    /// # Errors
    /// [`Invalid`] if any of it is malformed or over its limit, if it names something twice, or if what it adds fits
    /// into no profile.
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
            return Err(Invalid::field(field, "is also in patch.add_identities"));
        }
        check_room(&patch, &add, limits)?;
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

    /// Whether it names nothing to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty() && self.rest == ProfilePatch::default()
    }

    /// The first of its fields that changes identities. `None` if it leaves them alone.
    #[must_use]
    pub fn changes_identities(&self) -> Option<&'static str> {
        match self {
            _ if !self.add.is_empty() => Some("patch.add_identities"),
            _ if self.take => Some("patch.take_identities"),
            _ if !self.remove.is_empty() => Some("patch.remove_identities"),
            _ => None,
        }
    }

    /// The path of the identity in `remove_identities` that has this key, for an error.
    #[must_use]
    pub fn removal_of(&self, key: &IdentityKey) -> String {
        let index = self.remove.iter().position(|removed| removed.key == *key);
        index.map_or("patch.remove_identities".into(), |index| format!("patch.remove_identities[{index}]"))
    }

    /// The memory that it takes, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.add.heap() + self.remove.heap() + self.rest.heap()
    }

    /// Refuses memberships that have ended at `now`.
    ///
    /// # Errors
    /// [`Invalid::Field`].
    pub fn check_as_of(&self, now: Micros) -> Result<(), Invalid> {
        check_not_expired("patch.join_audiences", &self.rest.join_audiences, now)
    }

    /// Applies the patch to `profile`. The store has checked before who owns the identities.
    ///
    /// Only what the patch changes is checked. A profile may be over a limit that was lowered after it was written, and
    /// must still accept changes, especially those that make it smaller.
    ///
    /// # Errors
    /// [`Invalid`] if an attribute has the wrong type, or if the patch makes something grow past its limit.
    pub fn apply(&self, profile: &mut Profile, limits: &Limits) -> Result<(), Invalid> {
        let patch = &self.rest;
        let before = counts(profile);
        if let Some(opted_out) = patch.is_opted_out {
            profile.is_opted_out = opted_out;
        }
        if patch.limit_ad_tracking.is_some() {
            profile.limit_ad_tracking = patch.limit_ad_tracking;
        }
        self.apply_identities(profile);
        edit(&mut profile.user_attributes, |map| apply_user_attributes(patch, map, limits))?;
        edit(&mut profile.account_user_attributes, |map| {
            set_and_remove(map, patch.set_account_user_attributes.as_ref(), &patch.remove_account_user_attributes);
            Ok(())
        })?;
        apply_audiences(patch, profile);
        for attribution in &patch.add_attribution {
            if !profile.attribution.contains(attribution) {
                profile.attribution.push(attribution.clone());
            }
        }
        check_growth(before, counts(profile), adds_user_attributes(patch), limits)
    }

    fn apply_identities(&self, profile: &mut Profile) {
        if self.add.is_empty() && self.remove.is_empty() {
            return;
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
    }
}

/// How many a profile has of each thing that [`check_growth`] limits.
fn counts(profile: &Profile) -> [usize; 5] {
    let attributes = |map: &Option<Struct>| map.as_ref().map_or(0, |map| map.fields.len());
    [
        profile.device_identities.len() + profile.user_identities.len(),
        attributes(&profile.user_attributes),
        attributes(&profile.account_user_attributes),
        profile.audience_memberships.len(),
        profile.attribution.len(),
    ]
}

/// The first field of a patch that may add user attributes.
fn adds_user_attributes(patch: &ProfilePatch) -> &'static str {
    if patch.set_user_attributes.as_ref().is_some_and(|set| !set.fields.is_empty()) {
        "patch.set_user_attributes"
    } else if !patch.increment_user_attributes.is_empty() {
        "patch.increment_user_attributes"
    } else {
        "patch.append_user_attributes"
    }
}

/// Refuses a count that the patch has increased and that is over its limit. `user_attributes` is the field that is
/// named for too many user attributes.
fn check_growth(before: [usize; 5], after: [usize; 5], user_attributes: &str, limits: &Limits) -> Result<(), Invalid> {
    let rules = [
        ("patch.add_identities", "identities", limits.identities),
        (user_attributes, "attributes", limits.attributes),
        ("patch.set_account_user_attributes", "attributes", limits.attributes),
        ("patch.join_audiences", "audience memberships", limits.audience_memberships),
        ("patch.add_attribution", "attributions", limits.attributions),
    ];
    let grown = rules.into_iter().zip(before.into_iter().zip(after)).filter(|(_, (before, after))| after > before);
    for ((field, subject, limit), (_, found)) in grown {
        Invalid::limit(field, subject, limit, found)?;
    }
    Ok(())
}

/// Removes the identities with these keys from a profile.
pub fn unlink(profile: &mut Profile, keys: &[IdentityKey]) {
    retain_identities(profile, |key| !keys.contains(key));
}

fn retain_identities(profile: &mut Profile, keep: impl Fn(&IdentityKey) -> bool) {
    let kept = |identity: &Identity| keep(&IdentityKey::of(identity));
    profile.device_identities.retain(kept);
    profile.user_identities.retain(kept);
}

/// Edits a map in place. A map that becomes empty is removed.
fn edit(
    map: &mut Option<Struct>,
    change: impl FnOnce(&mut BTreeMap<String, Value>) -> Result<(), Invalid>,
) -> Result<(), Invalid> {
    let mut fields = map.take().unwrap_or_default().fields;
    change(&mut fields)?;
    *map = (!fields.is_empty()).then_some(Struct { fields });
    Ok(())
}

fn apply_user_attributes(
    patch: &ProfilePatch,
    map: &mut BTreeMap<String, Value>,
    limits: &Limits,
) -> Result<(), Invalid> {
    if patch.clear_user_attributes {
        map.clear();
    }
    set_and_remove(map, patch.set_user_attributes.as_ref(), &patch.remove_user_attributes);
    for (key, by) in &patch.increment_user_attributes {
        increment(map, key, *by)?;
    }
    for (key, values) in &patch.append_user_attributes {
        append(map, key, values, limits)?;
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
    let refused = |problem| Err(Invalid::field(AttributeIn("patch.increment_user_attributes", key), problem));
    let sum = match map.get(key).map(|value| &value.kind) {
        None => by,
        Some(Some(Kind::NumberValue(number))) => number + by,
        Some(_) => return refused("is not a number"),
    };
    if !sum.is_finite() {
        return refused("the sum is not finite");
    }
    map.insert(key.to_owned(), Value { kind: Some(Kind::NumberValue(sum)) });
    Ok(())
}

fn append(map: &mut BTreeMap<String, Value>, key: &str, appended: &ListValue, limits: &Limits) -> Result<(), Invalid> {
    let named = AttributeIn("patch.append_user_attributes", key);
    let empty = || Value { kind: Some(Kind::ListValue(ListValue::default())) };
    let attribute = map.entry(key.to_owned()).or_insert_with(empty);
    let Some(Kind::ListValue(list)) = &mut attribute.kind else {
        return Err(Invalid::field(named, "is not a list"));
    };
    let absent = absent(&list.values, &appended.values);
    let unchanged = absent.is_empty();
    list.values.extend(absent.into_iter().cloned());
    if unchanged { Ok(()) } else { check_value_bytes(named, attribute, limits) }
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

#[cfg(test)]
mod tests;
