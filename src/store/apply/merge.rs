//! `MergeProfiles`: one profile absorbs another.
//!
//! - The survivor gets what the absorbed profile has, in one event that belongs to the chains of both.
//! - The row of the absorbed profile leads to the survivor, and so do those of the profiles that it had absorbed. So a
//!   redirect is one step.
//! - A row keeps what is needed to undo the merge.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;

use super::super::effects::RowTable;
use super::super::error::{Problem, StoreError};
use super::super::rows::{AbsorbedRow, Kind, absorbed_key};
use super::draft::{Absorbed, Draft};
use super::state::{Context, Found, Stored};
use super::{Reply, Verdict, records};
use crate::command::Merge;
use crate::model::identity::keys_of;
use crate::model::limits::{ABSORBED_PROFILES, MERGE_BYTES, NEWER_BYTES, NEWER_EVENTS};
use crate::model::merge::{self, Map};
use crate::model::{EventKind, IdentityKey, Invalid, Mpid, Place, ProfileKey, Sequence};
use crate::proto::storage::MergeRecord;
use crate::proto::v1::{Event, MergeConflict, MergeProfilesResponse, Profile, WriteOutcome};

/// A profile and its mpid.
pub(super) type Named<'p> = (Mpid, &'p Stored);

pub(super) fn decide(context: &Context<'_, '_>, merge: &Merge) -> Result<Verdict, StoreError> {
    let (into, survivor) = context.find(&merge.into)?.ok_or_else(|| StoreError::not_found(&merge.into))?;
    let (from, absorbed) = context.find(&merge.from)?.ok_or_else(|| StoreError::not_found(&merge.from))?;
    if into == from {
        return Err(same(into, &merge.into, &merge.from));
    }
    survivor.check(merge.into_etag.as_ref())?;
    absorbed.check(merge.from_etag.as_ref())?;
    let mut draft = Draft::new(context);
    let (survivor, absorbed) = ((into, &survivor), (from, &absorbed));
    let (profile, conflicts) = absorb(&mut draft, "from", survivor, absorbed, merge.prefer_newer)?;
    let (effects, place) = draft.finish();
    let response = MergeProfilesResponse { merged_mpid: from.get(), conflicts, ..MergeProfilesResponse::default() };
    let profile = (context.reply == Reply::WithProfile).then_some(profile);
    let detail = response.encode_to_vec().into();
    Ok(Verdict { profile, detail, ..Verdict::wrote(WriteOutcome::Updated, into, place, effects) })
}

/// Both keys name the same profile: one of them by a profile that was absorbed, or both by itself.
fn same(mpid: Mpid, into: &ProfileKey, from: &ProfileKey) -> StoreError {
    let absorbed = [into, from].into_iter().find_map(|key| match key {
        ProfileKey::Mpid(named) if *named != mpid => Some(*named),
        _ => None,
    });
    absorbed.map_or(StoreError::MergeSelf, |absorbed| StoreError::MergeCycle { absorbed, into: mpid })
}

/// Merges the second profile into the first. Returns the survivor, encoded, and what both had. `field` names the second
/// in refusals.
///
/// # Errors
/// [`StoreError`] if they are two persons, or the survivor would be over a limit.
pub(super) fn absorb(
    draft: &mut Draft<'_, '_, '_>,
    field: &str,
    (into, survivor): Named<'_>,
    (from, absorbed): Named<'_>,
    prefer_newer: bool,
) -> Result<(Bytes, Vec<MergeConflict>), StoreError> {
    let context = draft.context;
    let (own, mut other) = (context.served(survivor).into_owned(), context.served(absorbed).into_owned());
    draft.leave_deleted(&mut other)?;
    check_persons(context, (into, &own), (from, &other))?;
    let moved = context.absorbed(from)?;
    let before = if let Some(absorbed) = draft.absorbed {
        absorbed
    } else {
        let absorbed = context.absorbed(into)?;
        Absorbed { count: absorbed.len(), bytes: records::bytes(context, &absorbed)? }
    };
    let found = before.count + moved.len() + 1;
    Invalid::limit(field, "absorbed profiles", ABSORBED_PROFILES, found)?;

    let newer = if prefer_newer { newer(context, (into, survivor), (from, absorbed))? } else { BTreeSet::new() };
    let (merged, conflicts) = merge::merge(&own, &other, |map, key| newer.contains(&(map, key.to_owned())));
    merge::check_counts(field, &own, &merged, &context.command.limits)?;
    context.identity_settings()?.check_counts(field, &keys_of(&own), &keys_of(&merged))?;
    let profile = draft.absorb((into, survivor), (from, absorbed), merged)?;
    let bytes = remember(draft, (into, own), (from, other), &profile)? + records::bytes(context, &moved)?;
    let bytes = before.bytes + bytes;
    Invalid::limit(field, "bytes of records of merges", MERGE_BYTES, bytes)?;
    draft.absorbed = Some(Absorbed { count: found, bytes });
    for (mpid, direct) in moved {
        draft.put(RowTable::Absorbed, absorbed_key(context.workspace, from, mpid), None);
        put_absorbed(draft, into, mpid, direct);
        draft.redirect(mpid, into, last_event(context, mpid)?);
    }
    put_absorbed(draft, into, from, into);
    Ok((profile, conflicts))
}

fn check_persons(
    context: &Context<'_, '_>,
    (into, survivor): (Mpid, &Profile),
    (from, absorbed): (Mpid, &Profile),
) -> Result<(), StoreError> {
    let (own, other) = (keys_of(survivor), keys_of(absorbed));
    let Some(kind) = context.identity_settings()?.contradiction(&own, &other).map(str::to_owned) else {
        return Ok(());
    };
    let why = format!("has another identity of the unique type {kind} than profiles/{into}");
    Err(StoreError::IdentityConflict { problems: vec![Problem { subject: format!("profiles/{from}"), why }] })
}

/// Keeps what is needed to undo a merge. Returns the bytes of the row.
fn remember(
    draft: &mut Draft<'_, '_, '_>,
    (into, survivor): (Mpid, Profile),
    (from, absorbed): (Mpid, Profile),
    merged: &[u8],
) -> Result<usize, StoreError> {
    let audiences = draft.registered(&absorbed)?;
    let merged = Profile::decode(merged).expect("it was just encoded");
    let (survivor, merged) = merge::reduced(&survivor, &absorbed, &merged);
    let record = MergeRecord {
        into: into.get(),
        absorbed: Some(absorbed),
        survivor: Some(survivor),
        merged: Some(merged),
        sequence: draft.place().get(),
        audiences,
    };
    Ok(records::put(draft, from, None, Some(&record)))
}

/// Notes that a profile was absorbed. `direct` is the profile that it was merged into, which may have been absorbed too.
pub(super) fn put_absorbed(draft: &mut Draft<'_, '_, '_>, survivor: Mpid, mpid: Mpid, direct: Mpid) {
    let key = absorbed_key(draft.context.workspace, survivor, mpid);
    let row = AbsorbedRow::encode(&key, direct);
    draft.put(RowTable::Absorbed, key, Some(row));
}

/// Returns the latest event of an absorbed profile.
pub(super) fn last_event(context: &Context<'_, '_>, absorbed: Mpid) -> Result<Sequence, StoreError> {
    match context.found(absorbed)? {
        Found::Absorbed(_, last_event) => Ok(last_event),
        _ => Err(Kind::Absorbed.corrupt()),
    }
}

/// The profiles that one has absorbed go with it: their rows stay as tombstones, and their merges cannot be undone.
/// Returns their mpids, and the identities that unmerges would have given back.
pub(super) fn bury_absorbed(
    context: &Context<'_, '_>,
    draft: &mut Draft<'_, '_, '_>,
    survivor: Mpid,
) -> Result<(Vec<Mpid>, BTreeSet<IdentityKey>), StoreError> {
    let (mut buried, mut identities) = (Vec::new(), BTreeSet::new());
    for (mpid, _) in context.absorbed(survivor)? {
        draft.put(RowTable::Absorbed, absorbed_key(context.workspace, survivor, mpid), None);
        identities.extend(records::remove(draft, mpid)?);
        draft.bury(mpid, last_event(context, mpid)?);
        buried.push(mpid);
    }
    Ok((buried, identities))
}

/// Returns the attributes that both profiles have, and that changed last in the absorbed one.
fn newer(
    context: &Context<'_, '_>,
    (into, survivor): Named<'_>,
    (from, absorbed): Named<'_>,
) -> Result<BTreeSet<(Map, String)>, StoreError> {
    let contested: BTreeSet<_> = merge::contested(&survivor.profile, &absorbed.profile).into_iter().collect();
    if contested.is_empty() {
        return Ok(contested);
    }
    let own = last_changes(context, into, survivor.last_event, &contested)?;
    let other = last_changes(context, from, absorbed.last_event, &contested)?;
    Ok(contested.into_iter().filter(|attribute| other.get(attribute) > own.get(attribute)).collect())
}

/// Returns the latest event that changed each of these attributes, as far as the log tells. While the profile was part of
/// another, nothing of it changed, and neither did its return change anything.
fn last_changes(
    context: &Context<'_, '_>,
    mpid: Mpid,
    latest: Sequence,
    attributes: &BTreeSet<(Map, String)>,
) -> Result<BTreeMap<(Map, String), Sequence>, StoreError> {
    let (mut found, mut next, mut bytes) = (BTreeMap::new(), Some(latest), 0);
    for _ in 0..NEWER_EVENTS {
        let next_held = next.filter(|next| Place::from(*next) > context.head.floor && bytes < NEWER_BYTES);
        let Some(sequence) = next_held else { break };
        let (event, previous) = context.event(mpid, sequence)?;
        bytes += event.encoded_len();
        if event.mpid == mpid.get() && !is_return(&event) {
            for attribute in attributes.iter().filter(|(map, key)| has_changed(&event, *map, key)) {
                found.entry(attribute.clone()).or_insert(sequence);
            }
        }
        if found.len() == attributes.len() {
            break;
        }
        next = previous;
    }
    Ok(found)
}

/// Whether an event is that of a profile that an unmerge has restored: it lists all that the profile has.
fn is_return(event: &Event) -> bool {
    event.r#type == EventKind::Unmerged.name() && event.previous.is_none()
}

fn has_changed(event: &Event, map: Map, key: &str) -> bool {
    match map {
        Map::User => event.changed_user_attributes.iter().any(|changed| changed == key),
        Map::Account => {
            let has_changed = event.changed_fields.iter().flat_map(|mask| &mask.paths).any(|path| path == map.name());
            let value = |profile: &Option<Profile>| {
                profile.as_ref().and_then(|profile| map.of(profile)).and_then(|map| map.fields.get(key)).cloned()
            };
            has_changed && value(&event.previous) != value(&event.profile)
        }
    }
}
