//! The work on an audience, step by step: its members get its name, or leave it.
//!
//! - What is left to do stands in the audience's row, so the work goes on after a restart.
//! - The members are those of the index. A row of it that leads to no member goes without an event.

use super::super::effects::RowTable;
use super::super::error::StoreError;
use super::super::rows::{AudienceRow, Kind, MemberRow, Work, audience_key, member_key};
use super::super::tables::{self, with_prefix};
use super::Verdict;
use super::state::{Context, Stored};
use super::step::Step;
use crate::command::WorkOnAudience;
use crate::model::{AudienceId, Mpid};
use crate::proto::v1::{AudienceMembership, Profile};

pub(super) fn decide(context: &Context<'_, '_>, work: WorkOnAudience) -> Result<Verdict, StoreError> {
    let WorkOnAudience { id, most } = work;
    let AudienceRow { work, registered, .. } = context.audience(id)?.unwrap_or_default();
    let (mut step, most) = (Step::new(context), Step::most(most));
    match (work, registered) {
        (Work::Naming { after, left }, Some(audience)) => {
            let rest = name(&mut step, id, &audience.name, (after, left), most)?;
            step.draft.audience(id)?.work = rest;
        }
        (Work::Deleting, _) if !remove(&mut step, id, most)? => {
            *step.draft.audience(id)? = AudienceRow::default(); // The last member has left.
        }
        _ => {}
    }
    Ok(step.verdict())
}

/// Gives the next members the registered name. Returns what is left to do.
fn name(
    step: &mut Step<'_, '_, '_>,
    id: AudienceId,
    name: &str,
    (mut after, mut left): (Option<Mpid>, u64),
    most: usize,
) -> Result<Work, StoreError> {
    let keys = members(step.context, id, after, most)?;
    let mut has_more = keys.len() == most;
    for key in keys {
        if step.is_full() {
            has_more = true;
            break;
        }
        left = left.saturating_sub(1);
        let Some(mpid) = MemberRow::mpid_in(&key) else {
            remove_row(step, id, key)?; // It would come again: it has no mpid to go on after.
            continue;
        };
        after = Some(mpid);
        let Some(stored) = step.stored(mpid)? else { continue };
        let mut profile = step.context.served(&stored).into_owned();
        if let Some(membership) = membership(&mut profile, id)
            && membership.audience_name != name
        {
            name.clone_into(&mut membership.audience_name);
            step.update(mpid, &stored, profile)?;
        }
    }
    Ok(if has_more { Work::Naming { after, left } } else { Work::None })
}

/// Removes the next members. Returns whether there are more.
fn remove(step: &mut Step<'_, '_, '_>, id: AudienceId, most: usize) -> Result<bool, StoreError> {
    let keys = members(step.context, id, None, most)?;
    let has_more = keys.len() == most;
    for key in keys {
        if step.is_full() {
            return Ok(true);
        }
        let found = match MemberRow::mpid_in(&key) {
            Some(mpid) => step.stored(mpid)?.map(|stored| (mpid, stored)),
            None => None,
        };
        match found.filter(|(_, stored)| is_member(&stored.profile, id)) {
            Some((mpid, stored)) => leave(step, id, mpid, &stored)?,
            None => remove_row(step, id, key)?,
        }
    }
    Ok(has_more)
}

fn leave(step: &mut Step<'_, '_, '_>, id: AudienceId, mpid: Mpid, stored: &Stored) -> Result<(), StoreError> {
    let mut after = step.context.served(stored).into_owned();
    after.audience_memberships.retain(|membership| membership.audience_id != id.get());
    step.update(mpid, stored, after)
}

/// Removes a row that leads to no member.
fn remove_row(step: &mut Step<'_, '_, '_>, id: AudienceId, key: Vec<u8>) -> Result<(), StoreError> {
    step.draft.put(RowTable::Member, key, None);
    let row = step.draft.audience(id)?;
    row.members = row.members.saturating_sub(1);
    Ok(())
}

/// Returns the keys of members in the order of their mpids, whether their rows are sound or not.
fn members(
    context: &Context<'_, '_>,
    id: AudienceId,
    after: Option<Mpid>,
    most: usize,
) -> Result<Vec<Vec<u8>>, StoreError> {
    let after = after.map(|after| member_key(context.workspace, id, after));
    let range = with_prefix(&audience_key(context.workspace, id), after.as_deref());
    tables::rows(&context.state.tables.members, Kind::Member, &range, most, |key, _| Ok(key.to_vec()))
}

fn membership(profile: &mut Profile, id: AudienceId) -> Option<&mut AudienceMembership> {
    profile.audience_memberships.iter_mut().find(|membership| membership.audience_id == id.get())
}

fn is_member(profile: &Profile, id: AudienceId) -> bool {
    profile.audience_memberships.iter().any(|membership| membership.audience_id == id.get())
}
