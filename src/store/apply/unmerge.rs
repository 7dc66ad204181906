//! `UnmergeProfiles`: the absorbed profile is restored, and the survivor loses what came from it and has not changed
//! since.

use prost::Message;

use super::super::effects::RowTable;
use super::super::error::{Problem, StoreError};
use super::super::rows::{Kind, absorbed_key};
use super::draft::{Draft, Told};
use super::merge::{last_event, put_absorbed};
use super::state::{Context, Found};
use super::{Reply, Verdict, records};
use crate::command::Unmerge;
use crate::model::merge::{Undone, forget, keep_opt_outs, part};
use crate::model::profile::remove_expired;
use crate::model::{EventKind, IdentityKey, Mpid};
use crate::proto::v1::{Profile, UnmergeProfilesResponse, WriteOutcome};

pub(super) fn decide(context: &Context<'_, '_>, unmerge: Unmerge) -> Result<Verdict, StoreError> {
    let Unmerge { merged: mpid } = unmerge;
    let Found::Absorbed(survivor, _) = context.found(mpid)? else {
        return Err(StoreError::MergeNotFound { mpid });
    };
    let mut record = context.merge(mpid)?.ok_or(Kind::Merge.corrupt())?;
    let mut draft = Draft::new(context);
    draft.leave_gone(&mut record)?;
    let (Some(into), Some(absorbed), Some(before), Some(merged)) =
        (Mpid::new(record.into), &record.absorbed, &record.survivor, &record.merged)
    else {
        return Err(Kind::Merge.corrupt());
    };
    if into != survivor {
        let (subject, why) = (format!("profiles/{into}"), format!("was merged into profiles/{survivor}"));
        return Err(StoreError::MergeNotReversible { problems: vec![Problem { subject, why }] });
    }
    let stored = context.stored(into)?.ok_or(Kind::Profile.corrupt())?;
    check_identities(context, into, absorbed)?;

    let now = context.served(&stored);
    let undone = Undone { absorbed, survivor: before, merged, now: &now };
    let (mut parted, kept_fields) = part(undone, context.now());
    draft.leave_deleted(&mut parted)?;
    let mut restored = absorbed.clone();
    remove_expired(&mut restored, context.now());
    draft.leave_deleted(&mut restored)?;
    forget_given(context, &mut draft, (mpid, into, record.sequence), (before, merged, &now), &mut parted)?;
    give_back_absorbed(context, &mut draft, mpid, into)?;
    records::put(&mut draft, mpid, Some(&record), None);
    let told = Told { parted_from: Some(mpid), ..Told::of(EventKind::Unmerged) };
    draft.update(into, &stored, parted, &told)?;
    let profile = draft.restore(mpid, restored, Some(last_event(context, mpid)?), into)?;
    let (effects, place) = draft.finish();
    let response =
        UnmergeProfilesResponse { survivor_mpid: into.get(), kept_fields, ..UnmergeProfilesResponse::default() };
    let profile = (context.reply == Reply::WithProfile).then_some(profile);
    let detail = response.encode_to_vec().into();
    Ok(Verdict { profile, detail, ..Verdict::wrote(WriteOutcome::Updated, mpid, place, effects) })
}

/// Refuses if an identity of the absorbed profile belongs to a third one now.
fn check_identities(context: &Context<'_, '_>, survivor: Mpid, absorbed: &Profile) -> Result<(), StoreError> {
    let mut problems = Vec::new();
    let sides = [("device_identities", &absorbed.device_identities), ("user_identities", &absorbed.user_identities)];
    for (field, identities) in sides {
        for (index, identity) in identities.iter().enumerate() {
            if let Some(owner) = context.owner(&IdentityKey::of(identity))?.filter(|owner| *owner != survivor) {
                let (subject, why) = (format!("{field}[{index}]"), format!("belongs to profiles/{owner}"));
                problems.push(Problem { subject, why });
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(StoreError::MergeNotReversible { problems }) }
}

/// What the survivor had from the restored profile, it does not get back when a later merge is undone. An opt-out that
/// it has from another profile too, it keeps: the first merge that has it gave it then.
fn forget_given(
    context: &Context<'_, '_>,
    draft: &mut Draft<'_, '_, '_>,
    (restored, survivor, sequence): (Mpid, Mpid, u64),
    (before, merged, now): (&Profile, &Profile, &Profile),
    parted: &mut Profile,
) -> Result<(), StoreError> {
    let mut others = Vec::new();
    for (mpid, direct) in context.absorbed(survivor)? {
        if direct == survivor && mpid != restored {
            others.push((mpid, context.merge(mpid)?.ok_or(Kind::Merge.corrupt())?));
        }
    }
    others.sort_unstable_by_key(|(_, record)| record.sequence);
    for (mpid, was) in others {
        let mut record = was.clone();
        if let (Some(later), Some(after)) = (&mut record.survivor, &record.merged)
            && record.sequence > sequence
        {
            forget(later, after, before, merged);
        }
        if let (Some(own), Some(absorbed)) = (&mut record.survivor, &record.absorbed) {
            keep_opt_outs(parted, now, own, absorbed);
        }
        if record != was {
            records::put(draft, mpid, Some(&was), Some(&record));
        }
    }
    Ok(())
}

/// The profiles that the restored one had absorbed lead to it again.
fn give_back_absorbed(
    context: &Context<'_, '_>,
    draft: &mut Draft<'_, '_, '_>,
    restored: Mpid,
    survivor: Mpid,
) -> Result<(), StoreError> {
    let all = context.absorbed(survivor)?;
    let mut belong = vec![restored];
    loop {
        let more = all.iter().filter(|(mpid, direct)| belong.contains(direct) && !belong.contains(mpid));
        let more: Vec<_> = more.map(|(mpid, _)| *mpid).collect();
        if more.is_empty() {
            break;
        }
        belong.extend(more);
    }
    draft.put(RowTable::Absorbed, absorbed_key(context.workspace, survivor, restored), None);
    for (mpid, direct) in all.into_iter().filter(|(mpid, _)| *mpid != restored && belong.contains(mpid)) {
        draft.put(RowTable::Absorbed, absorbed_key(context.workspace, survivor, mpid), None);
        put_absorbed(draft, restored, mpid, direct);
        draft.redirect(mpid, restored, last_event(context, mpid)?);
    }
    Ok(())
}
