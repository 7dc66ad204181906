//! `UpdateProfile`, and the records of `ImportProfiles`.
//!
//! A patch may take identities from other profiles. Those profiles change in the same command, and their events come
//! before its own.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use super::super::error::StoreError;
use super::super::rows::Kind;
use super::create::free_mpid;
use super::draft::{Draft, Told};
use super::state::{Context, Stored};
use super::{Reply, Verdict};
use crate::command::Update;
use crate::model::identity::{ParsedIdentity, keys_of};
use crate::model::limits::TAKEN_PROFILES;
use crate::model::{EventKind, IdentityKey, Invalid, Mpid, Patch, ProfileKey, Sequence, patch};
use crate::proto::v1::{Profile, TakenFrom, UpdateProfileResponse, WriteOutcome};

pub(super) fn decide(context: &Context<'_, '_>, update: &Update) -> Result<Verdict, StoreError> {
    let Update { key, patch, etag, create_as } = update;
    patch.check_as_of(context.now())?;
    let Some((mpid, stored)) = context.find(key)? else {
        return match create_as {
            Some(_) if etag.is_some() => Err(StoreError::EtagMismatch),
            Some(drawn) => create(context, key, patch, *drawn),
            None => Err(StoreError::not_found(key)),
        };
    };
    stored.check(etag.as_ref())?;
    change(context, mpid, &stored, patch)
}

fn change(context: &Context<'_, '_>, mpid: Mpid, stored: &Stored, patch: &Patch) -> Result<Verdict, StoreError> {
    let taken = taken(context, patch, mpid)?;
    let served = context.served(stored);
    let mut after = Profile::clone(&served);
    patch.apply(&mut after, &context.command.limits)?;
    let mut draft = Draft::new(context);
    draft.name_memberships(Some(&stored.profile), &mut after)?; // First: another name than the registered is no change.
    if after == *served {
        let profile = (context.reply == Reply::WithProfile).then(|| Bytes::from(after.encode_to_vec()));
        return Ok(Verdict::unchanged(Some(mpid), stored.last_event.into(), profile));
    }
    context.check_identities("patch.add_identities", Some(&stored.profile), &after)?;
    let losers = lose(context, &mut draft, mpid, taken)?;
    let told = Told { taken_from: losers.mpids(), ..Told::of(EventKind::Updated) };
    let profile = draft.update(mpid, stored, after, &told)?;
    Ok(verdict(context, draft, WriteOutcome::Updated, mpid, profile, &losers))
}

/// Creates the profile that the patch should change but that does not exist.
fn create(context: &Context<'_, '_>, key: &ProfileKey, patch: &Patch, drawn: Mpid) -> Result<Verdict, StoreError> {
    let (mpid, last_event, mut after) = blank(context, key, drawn)?;
    let taken = taken(context, patch, mpid)?;
    let limits = &context.command.limits;
    patch.apply(&mut after, limits)?;
    let identities = after.device_identities.len() + after.user_identities.len();
    Invalid::limit("key.identity", "identities", limits.identities, identities)?;
    if let ProfileKey::Identity(ParsedIdentity { key, .. }) = key
        && !keys_of(&after).contains(key)
    {
        // The key would not find the new profile, and each retry would create another.
        let field = patch.removal_of(key);
        return Err(Invalid::field(field, "is the identity that names the profile").into());
    }
    context.check_identities("patch.add_identities", None, &after)?;
    let mut draft = Draft::new(context);
    let losers = lose(context, &mut draft, mpid, taken)?;
    let profile = draft.create(mpid, after, last_event, losers.mpids())?;
    Ok(verdict(context, draft, WriteOutcome::Created, mpid, profile, &losers))
}

/// Returns an empty profile for a key that names none, its mpid, and the latest event of an earlier profile with that
/// mpid.
fn blank(
    context: &Context<'_, '_>,
    key: &ProfileKey,
    drawn: Mpid,
) -> Result<(Mpid, Option<Sequence>, Profile), StoreError> {
    let mut blank = Profile::default();
    match key {
        ProfileKey::Mpid(mpid) => free_mpid(context, *mpid, false).map(|(mpid, last_event)| (mpid, last_event, blank)),
        ProfileKey::Identity(ParsedIdentity { identity, .. }) => {
            let device = identity.is_device();
            let side = if device { &mut blank.device_identities } else { &mut blank.user_identities };
            side.push(identity.clone());
            free_mpid(context, drawn, true).map(|(mpid, last_event)| (mpid, last_event, blank))
        }
    }
}

/// Returns the identities that a patch takes from other profiles, by their owners.
fn taken(context: &Context<'_, '_>, patch: &Patch, to: Mpid) -> Result<BTreeMap<Mpid, Vec<IdentityKey>>, StoreError> {
    let mut taken: BTreeMap<Mpid, Vec<IdentityKey>> = BTreeMap::new();
    for ParsedIdentity { key, .. } in &patch.add {
        match context.owner(key)? {
            Some(owner) if owner == to => {}
            Some(owner) if patch.take => taken.entry(owner).or_default().push(key.clone()),
            Some(owner) => return Err(StoreError::IdentityTaken { kind: key.kind().to_owned(), owner }),
            None => {}
        }
    }
    Invalid::limit("patch.add_identities", "profiles to take identities from", TAKEN_PROFILES, taken.len())?;
    Ok(taken)
}

/// The profiles that lost identities, in the order of their mpids.
struct Losers(Vec<TakenFrom>);

impl Losers {
    fn mpids(&self) -> Vec<Mpid> {
        self.0.iter().filter_map(|loser| Mpid::new(loser.mpid)).collect()
    }
}

/// Changes the profiles that lose identities. Their events come before the command's own.
fn lose(
    context: &Context<'_, '_>,
    draft: &mut Draft<'_, '_, '_>,
    to: Mpid,
    taken: BTreeMap<Mpid, Vec<IdentityKey>>,
) -> Result<Losers, StoreError> {
    let mut losers = Vec::new();
    for (loser, keys) in taken {
        let stored = context.stored(loser)?.ok_or(Kind::Identity.corrupt())?;
        let mut after = context.served(&stored).into_owned();
        patch::unlink(&mut after, &keys);
        let identities_left = i32::try_from(keys_of(&after).len()).unwrap_or(i32::MAX);
        losers.push(TakenFrom { mpid: loser.get(), identities_left });
        draft.update(loser, &stored, after, &Told { taken_by: Some(to), ..Told::of(EventKind::Updated) })?;
    }
    Ok(Losers(losers))
}

fn verdict(
    context: &Context<'_, '_>,
    draft: Draft<'_, '_, '_>,
    outcome: WriteOutcome,
    mpid: Mpid,
    profile: Bytes,
    losers: &Losers,
) -> Verdict {
    let (effects, place) = draft.finish();
    let profile = (context.reply == Reply::WithProfile).then_some(profile);
    let detail = UpdateProfileResponse { taken_from: losers.0.clone(), ..UpdateProfileResponse::default() };
    Verdict { profile, detail: detail.encode_to_vec().into(), ..Verdict::wrote(outcome, mpid, place, effects) }
}
