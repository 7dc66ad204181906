//! `IdentifyProfile`: finds the profile that some identities belong to, or creates it. Links the identities without an
//! owner, and may merge the profiles of other owners into it.

use bytes::Bytes;
use prost::Message;

use super::super::error::StoreError;
use super::super::resolution::{Owners, Resolution};
use super::super::rows::Kind;
use super::create::free_mpid;
use super::draft::{Draft, Told};
use super::merge::absorb;
use super::state::{Context, Stored};
use super::{Reply, Verdict};
use crate::command::Identify;
use crate::model::identity::{ParsedIdentity, keys_of};
use crate::model::limits::MEMBERS_BYTES;
use crate::model::profile::next_expiry;
use crate::model::{EventKind, IdentityKey, IdentitySettings, Invalid, Mpid};
use crate::proto::v1::{InvolvedOutcome, OnConflict, Profile, WriteOutcome};

pub(super) fn decide(context: &Context<'_, '_>, identify: &Identify) -> Result<Verdict, StoreError> {
    identify.patch.check_as_of(context.now())?;
    let settings = if context.exists { context.identity_settings()? } else { IdentitySettings::default() };
    let resolution = Resolution::of(context, &settings, &identify.identities)?;
    if identify.on_conflict == OnConflict::Fail
        && let Some(conflict) = resolution.conflict()
    {
        return Err(conflict);
    }
    match resolution.found {
        Some(mpid) => change(context, identify, &settings, resolution, mpid),
        None => create(context, identify, &settings, resolution),
    }
}

fn create(
    context: &Context<'_, '_>,
    identify: &Identify,
    settings: &IdentitySettings,
    mut resolution: Resolution,
) -> Result<Verdict, StoreError> {
    let links = resolution.link(settings, &identify.identities, &[]);
    if links.is_empty() {
        // All identities belong to profiles that are other persons.
        return Err(resolution.conflict().ok_or(StoreError::Panicked)?);
    }
    let mut profile = Profile::default();
    link(&mut profile, &identify.identities, &links);
    identify.patch.apply(&mut profile, &context.command.limits)?;
    check_count(context, 0, &profile)?;
    let (mpid, last_event) = free_mpid(context, identify.create_as, true)?;
    let mut draft = Draft::new(context);
    let profile = draft.create(mpid, profile, last_event, Vec::new())?;
    Ok(verdict(context, draft, WriteOutcome::Created, mpid, profile, resolution))
}

fn change(
    context: &Context<'_, '_>,
    identify: &Identify,
    settings: &IdentitySettings,
    mut resolution: Resolution,
    mpid: Mpid,
) -> Result<Verdict, StoreError> {
    let mut draft = Draft::new(context);
    let mut stored = context.stored(mpid)?.ok_or(Kind::Identity.corrupt())?;
    let mut encoded = None;
    if identify.on_conflict == OnConflict::Merge {
        encoded = merge_others(context, &mut draft, settings, &mut resolution, (mpid, &mut stored))?;
    }
    let served = context.served(&stored).into_owned();
    let mut after = served.clone();
    let links = resolution.link(settings, &identify.identities, &keys_of(&served));
    link(&mut after, &identify.identities, &links);
    identify.patch.apply(&mut after, &context.command.limits)?;
    draft.name_memberships(Some(&stored.profile), &mut after)?; // First: another name than the registered is no change.
    if after != served {
        check_count(context, keys_of(&served).len(), &after)?;
        encoded = Some(draft.update(mpid, &stored, after, &Told::of(EventKind::Updated))?);
    }
    if let Some(profile) = encoded {
        return Ok(verdict(context, draft, WriteOutcome::Updated, mpid, profile, resolution));
    }
    let profile = (context.reply == Reply::WithProfile).then(|| Bytes::from(served.encode_to_vec()));
    let detail = resolution.explain().encode_to_vec().into();
    Ok(Verdict { detail, ..Verdict::unchanged(Some(mpid), stored.last_event.into(), profile) })
}

/// Merges the other owners into the match, except those that are another person. Returns the survivor, encoded, if there
/// was any to merge.
fn merge_others(
    context: &Context<'_, '_>,
    draft: &mut Draft<'_, '_, '_>,
    settings: &IdentitySettings,
    resolution: &mut Resolution,
    (into, survivor): (Mpid, &mut Stored),
) -> Result<Option<Bytes>, StoreError> {
    let mut encoded = None;
    for (from, involved) in &mut resolution.others {
        let absorbed = context.stored(*from)?.ok_or(Kind::Identity.corrupt())?;
        let is_other_person = involved.outcome == InvolvedOutcome::Contradicts
            || settings.contradiction(&keys_of(&survivor.profile), &keys_of(&absorbed.profile)).is_some();
        if is_other_person {
            involved.outcome = InvolvedOutcome::Contradicts;
            continue;
        }
        let (profile, _) = absorb(draft, "identities", (into, survivor), (*from, &absorbed), false)?;
        let bytes = draft.event_bytes();
        Invalid::limit("identities", "bytes of events of merges", MEMBERS_BYTES, bytes)?;
        involved.outcome = InvolvedOutcome::Merged;
        let merged = Profile::decode(&*profile).expect("it was just encoded");
        let last_event = draft.place().last().expect("the merge has an event");
        *survivor = Stored { next_expiry: next_expiry(&merged), profile: merged, last_event };
        encoded = Some(profile);
    }
    Ok(encoded)
}

fn link(profile: &mut Profile, identities: &[ParsedIdentity], links: &[usize]) {
    for index in links {
        let identity = identities[*index].identity.clone();
        let side = if identity.is_device() { &mut profile.device_identities } else { &mut profile.user_identities };
        side.push(identity);
    }
}

fn check_count(context: &Context<'_, '_>, before: usize, after: &Profile) -> Result<(), Invalid> {
    let found = after.device_identities.len() + after.user_identities.len();
    if found > before {
        Invalid::limit("identities", "identities", context.command.limits.identities, found)
    } else {
        Ok(())
    }
}

fn verdict(
    context: &Context<'_, '_>,
    draft: Draft<'_, '_, '_>,
    outcome: WriteOutcome,
    mpid: Mpid,
    profile: Bytes,
    resolution: Resolution,
) -> Verdict {
    let (effects, place) = draft.finish();
    let profile = (context.reply == Reply::WithProfile).then_some(profile);
    let detail = resolution.explain().encode_to_vec().into();
    Verdict { profile, detail, ..Verdict::wrote(outcome, mpid, place, effects) }
}

impl Owners for Context<'_, '_> {
    fn owner_of(&self, key: &IdentityKey) -> Result<Option<Mpid>, StoreError> {
        self.owner(key)
    }

    fn identities_of(&self, mpid: Mpid) -> Result<Vec<IdentityKey>, StoreError> {
        Ok(keys_of(&self.stored(mpid)?.ok_or(Kind::Identity.corrupt())?.profile))
    }
}
