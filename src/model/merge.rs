//! How two profiles become one, and how that is undone.

use std::collections::BTreeMap;

use prost_types::{Struct, Value};

use super::identity::{IdentityKey, keys_of};
use super::invalid::AttributeIn;
use super::profile::{expiry, remove_expired};
use super::{Invalid, Limits, Micros};
use crate::proto::v1::{AudienceMembership, Identity, MergeConflict, Profile};

/// One of the two maps of attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Map {
    /// `Profile.account_user_attributes`
    Account,
    /// `Profile.user_attributes`
    User,
}

impl Map {
    const ALL: [Self; 2] = [Self::Account, Self::User];

    /// The name of the field.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Account => "account_user_attributes",
            Self::User => "user_attributes",
        }
    }

    /// The map of a profile.
    #[must_use]
    pub fn of(self, profile: &Profile) -> Option<&Struct> {
        match self {
            Self::Account => profile.account_user_attributes.as_ref(),
            Self::User => profile.user_attributes.as_ref(),
        }
    }

    fn set(self, profile: &mut Profile, fields: BTreeMap<String, Value>) {
        let map = (!fields.is_empty()).then_some(Struct { fields });
        match self {
            Self::Account => profile.account_user_attributes = map,
            Self::User => profile.user_attributes = map,
        }
    }

    fn value<'p>(self, profile: &'p Profile, key: &str) -> Option<&'p Value> {
        self.of(profile).and_then(|map| map.fields.get(key))
    }

    fn fields(self, profile: &Profile) -> BTreeMap<String, Value> {
        self.of(profile).map(|map| map.fields.clone()).unwrap_or_default()
    }
}

/// The attributes that both profiles have with different values.
#[must_use]
pub fn contested(survivor: &Profile, absorbed: &Profile) -> Vec<(Map, String)> {
    let of = |map: Map| {
        let fields = map.of(absorbed).into_iter().flat_map(|map| &map.fields);
        let contested = fields.filter(move |(key, value)| map.value(survivor, key).is_some_and(|own| own != *value));
        contested.map(move |(key, _)| (map, key.clone()))
    };
    Map::ALL.into_iter().flat_map(of).collect()
}

/// The survivor of a merge, and what both profiles had. `is_newer` says of a contested attribute whether the absorbed
/// profile's value survives.
#[must_use]
pub fn merge(
    survivor: &Profile,
    absorbed: &Profile,
    is_newer: impl Fn(Map, &str) -> bool,
) -> (Profile, Vec<MergeConflict>) {
    let (mut merged, mut conflicts) = (survivor.clone(), Vec::new());
    let mut conflict = |field: String, from_absorbed| conflicts.push(MergeConflict { field, from_absorbed });

    merged.is_opted_out = survivor.is_opted_out || absorbed.is_opted_out;
    if survivor.is_opted_out != absorbed.is_opted_out {
        conflict("is_opted_out".into(), absorbed.is_opted_out);
    }
    let (own, other) = (survivor.limit_ad_tracking, absorbed.limit_ad_tracking);
    merged.limit_ad_tracking = if other == Some(true) { other } else { own.or(other) };
    if own.is_some() && other.is_some() && own != other {
        conflict("limit_ad_tracking".into(), other == Some(true));
    }

    let owned = keys_of(survivor);
    let is_new = |identity: &&Identity| owned.binary_search(&IdentityKey::of(identity)).is_err();
    merged.device_identities.extend(absorbed.device_identities.iter().filter(is_new).cloned());
    merged.user_identities.extend(absorbed.user_identities.iter().filter(is_new).cloned());

    for map in Map::ALL {
        let mut fields = map.fields(survivor);
        for (key, value) in map.of(absorbed).into_iter().flat_map(|map| &map.fields) {
            let own = fields.get(key);
            if own == Some(value) {
                continue;
            }
            let is_taken = own.is_none() || is_newer(map, key);
            if own.is_some() {
                conflict(AttributeIn(map.name(), key).to_string(), is_taken);
            }
            if is_taken {
                fields.insert(key.clone(), value.clone());
            }
        }
        map.set(&mut merged, fields);
    }

    for joined in &absorbed.audience_memberships {
        match merged.audience_memberships.iter_mut().find(|own| own.audience_id == joined.audience_id) {
            None => merged.audience_memberships.push(joined.clone()),
            Some(own) if expiry(own) == expiry(joined) => {}
            Some(own) => {
                let is_later = ends_later(joined, own);
                conflict(membership(joined), is_later);
                if is_later {
                    *own = joined.clone();
                }
            }
        }
    }
    for attribution in &absorbed.attribution {
        if !merged.attribution.contains(attribution) {
            merged.attribution.push(attribution.clone());
        }
    }
    (merged, conflicts)
}

/// Refuses a survivor that would have more of something than a profile may. `field` is the one that names the absorbed
/// profile.
///
/// # Errors
/// [`Invalid::Limit`].
pub fn check_counts(field: &str, survivor: &Profile, merged: &Profile, limits: &Limits) -> Result<(), Invalid> {
    let count = |map: Map, profile: &Profile| map.of(profile).map_or(0, |map| map.fields.len());
    let counts = |profile: &Profile| {
        [
            ("identities", limits.identities, profile.device_identities.len() + profile.user_identities.len()),
            ("attributes", limits.attributes, count(Map::Account, profile)),
            ("attributes", limits.attributes, count(Map::User, profile)),
            ("audience memberships", limits.audience_memberships, profile.audience_memberships.len()),
            ("attributions", limits.attributions, profile.attribution.len()),
        ]
    };
    for ((subject, limit, found), (_, _, before)) in counts(merged).into_iter().zip(counts(survivor)) {
        if found > before {
            Invalid::limit(field, subject, limit, found)?;
        }
    }
    Ok(())
}

/// What of a survivor before and after a merge is needed to undo it: only what the merge changed, and the attributions
/// that both profiles had. So the record of a merge holds no more of a third profile than it must.
#[must_use]
pub fn reduced(survivor: &Profile, absorbed: &Profile, merged: &Profile) -> (Profile, Profile) {
    let mut was = Profile {
        is_opted_out: survivor.is_opted_out,
        limit_ad_tracking: survivor.limit_ad_tracking,
        ..Profile::default()
    };
    let mut became = Profile {
        is_opted_out: merged.is_opted_out,
        limit_ad_tracking: merged.limit_ad_tracking,
        ..Profile::default()
    };
    for map in Map::ALL {
        let (mut old, mut new) = (map.fields(survivor), map.fields(merged));
        let is_changed: BTreeMap<_, _> =
            new.iter().map(|(key, value)| (key.clone(), old.get(key) != Some(value))).collect();
        let changed = |key: &String| is_changed.get(key).copied().unwrap_or_default();
        old.retain(|key, _| changed(key));
        new.retain(|key, _| changed(key));
        map.set(&mut was, old);
        map.set(&mut became, new);
    }
    let is_changed = |joined: &AudienceMembership| {
        of_audience(survivor, joined.audience_id).map(expiry) != of_audience(merged, joined.audience_id).map(expiry)
    };
    was.audience_memberships = survivor.audience_memberships.iter().filter(|own| is_changed(own)).cloned().collect();
    became.audience_memberships = merged.audience_memberships.iter().filter(|own| is_changed(own)).cloned().collect();
    was.attribution = survivor.attribution.iter().filter(|own| absorbed.attribution.contains(own)).cloned().collect();
    (was, became)
}

/// The profiles of a merge that is to be undone.
#[derive(Debug, Clone, Copy)]
pub struct Undone<'p> {
    /// The absorbed profile, as it was.
    pub absorbed: &'p Profile,
    /// The survivor before the merge, as [`reduced`].
    pub survivor: &'p Profile,
    /// The survivor after the merge, as [`reduced`].
    pub merged: &'p Profile,
    /// The survivor now.
    pub now: &'p Profile,
}

/// Undoes a merge: returns the survivor without what came from the absorbed profile and has not changed since, and the
/// names of what has changed since and stays. Memberships that have ended at `time` are not given back.
#[must_use]
pub fn part(undone: Undone<'_>, time: Micros) -> (Profile, Vec<String>) {
    let Undone { absorbed, survivor, merged, now } = undone;
    let (mut parted, mut kept) = (now.clone(), Vec::new());

    macro_rules! give_back {
        ($($field:ident)*) => {$(
            if merged.$field != survivor.$field {
                if now.$field == merged.$field {
                    parted.$field.clone_from(&survivor.$field);
                } else {
                    kept.push(stringify!($field).to_owned());
                }
            }
        )*};
    }
    give_back!(is_opted_out limit_ad_tracking);

    let theirs = keys_of(absorbed); // No identity was of both profiles.
    let stays = |identity: &Identity| theirs.binary_search(&IdentityKey::of(identity)).is_err();
    parted.device_identities.retain(stays);
    parted.user_identities.retain(stays);

    for map in Map::ALL {
        let mut fields = map.fields(now);
        let keys = map.of(merged).into_iter().flat_map(|map| map.fields.keys());
        for key in keys {
            let (was, became, is) = (map.value(survivor, key), map.value(merged, key), map.value(now, key));
            if was == became {
                continue;
            }
            match was.cloned() {
                _ if is != became => kept.push(AttributeIn(map.name(), key).to_string()),
                Some(was) => drop(fields.insert(key.clone(), was)),
                None => drop(fields.remove(key)),
            }
        }
        map.set(&mut parted, fields);
    }

    for joined in &merged.audience_memberships {
        let was = of_audience(survivor, joined.audience_id);
        if was.map(expiry) == Some(expiry(joined)) {
            continue;
        }
        match of_audience(now, joined.audience_id) {
            Some(is) if expiry(is) == expiry(joined) => give_membership(&mut parted, joined.audience_id, was),
            None if expiry(joined).is_some_and(|end| end <= time) => {} // It has ended.
            _ => kept.push(membership(joined)),
        }
    }
    parted.attribution.retain(|kept| survivor.attribution.contains(kept) || !absorbed.attribution.contains(kept));
    remove_expired(&mut parted, time);
    (parted, kept)
}

/// A merge into the same survivor, later than one that was undone: makes `later`, what the survivor was before that later
/// merge, which made it `became`, as if the undone one had never been. So what came from the profile that is gone from the survivor does not
/// return when the later merge is undone too.
pub fn forget(later: &mut Profile, became: &Profile, survivor: &Profile, merged: &Profile) {
    macro_rules! forget {
        ($($field:ident)*) => {$(
            let is_changed = |was: &Profile, is: &Profile| was.$field != is.$field;
            if is_changed(survivor, merged) && is_changed(later, became) && !is_changed(later, merged) {
                later.$field.clone_from(&survivor.$field);
            }
        )*};
    }
    forget!(limit_ad_tracking);

    for map in Map::ALL {
        let mut fields = map.fields(later);
        for (key, given) in map.of(merged).into_iter().flat_map(|map| &map.fields) {
            if fields.get(key) != Some(given) {
                continue;
            }
            match map.value(survivor, key).cloned() {
                Some(was) => drop(fields.insert(key.clone(), was)),
                None => drop(fields.remove(key)),
            }
        }
        map.set(later, fields);
    }
    for given in &merged.audience_memberships {
        if of_audience(later, given.audience_id).is_some_and(|own| expiry(own) == expiry(given)) {
            give_membership(later, given.audience_id, of_audience(survivor, given.audience_id));
        }
    }
}

/// Another merge into the same survivor, which stays: an opt-out that the survivor has lost with an undone merge, although
/// the other absorbed profile has it too, is kept. The record of the other merge, with the survivor as it was before in
/// `own`, then says that it comes from there.
pub fn keep_opt_outs(parted: &mut Profile, now: &Profile, own: &mut Profile, absorbed: &Profile) {
    macro_rules! keep {
        ($($field:ident is $set:expr;)*) => {$(
            if now.$field == $set && parted.$field != $set && absorbed.$field == $set {
                if own.$field == $set {
                    own.$field = parted.$field;
                }
                parted.$field = $set;
            }
        )*};
    }
    keep!(is_opted_out is true; limit_ad_tracking is Some(true););
}

fn give_membership(profile: &mut Profile, id: i64, was: Option<&AudienceMembership>) {
    let memberships = &mut profile.audience_memberships;
    match was {
        None => memberships.retain(|membership| membership.audience_id != id),
        Some(was) => {
            if let Some(own) = memberships.iter_mut().find(|membership| membership.audience_id == id) {
                own.clone_from(was);
            }
        }
    }
}

fn of_audience(profile: &Profile, id: i64) -> Option<&AudienceMembership> {
    profile.audience_memberships.iter().find(|membership| membership.audience_id == id)
}

fn membership(membership: &AudienceMembership) -> String {
    format!("audience_memberships[{}]", membership.audience_id)
}

/// Whether the first membership ends later than the second. One that never ends is the last.
fn ends_later(left: &AudienceMembership, right: &AudienceMembership) -> bool {
    match (expiry(left), expiry(right)) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(left), Some(right)) => left > right,
    }
}
