//! `CreateProfile`.

use super::super::error::StoreError;
use super::draft::Draft;
use super::state::{Context, Found};
use super::{Reply, Verdict};
use crate::command::Create;
use crate::model::{Mpid, Sequence};
use crate::proto::v1::WriteOutcome;

pub(super) fn decide(context: &Context<'_, '_>, create: &Create) -> Result<Verdict, StoreError> {
    let Create { profile, mpid, drawn } = create;
    profile.check_as_of(context.now())?;
    let (mpid, last_event) = free_mpid(context, *mpid, *drawn)?;
    for key in &profile.identities {
        if let Some(owner) = context.owner(key)? {
            return Err(StoreError::IdentityTaken { kind: key.kind().to_owned(), owner });
        }
    }
    context.check_identities("profile", None, &profile.profile)?;
    let mut draft = Draft::new(context);
    let profile = draft.create(mpid, profile.profile.clone(), last_event, Vec::new())?;
    let (effects, place) = draft.finish();
    let profile = (context.reply == Reply::WithProfile).then_some(profile);
    Ok(Verdict { profile, ..Verdict::wrote(WriteOutcome::Created, mpid, place, effects) })
}

/// Returns the mpid for a new profile, and the latest event of an earlier profile with that mpid, if there was one. The
/// new profile's events are linked to it.
///
/// A drawn mpid that is in use gives way to the next one.
///
/// # Errors
/// [`StoreError::ProfileExists`] if an mpid that the caller chose is in use.
pub(super) fn free_mpid(
    context: &Context<'_, '_>,
    mut mpid: Mpid,
    drawn: bool,
) -> Result<(Mpid, Option<Sequence>), StoreError> {
    loop {
        match context.found(mpid)? {
            Found::Nothing => return Ok((mpid, None)),
            Found::Gone(last_event) => return Ok((mpid, Some(last_event))),
            Found::Profile(_) | Found::Absorbed(..) if drawn => mpid = mpid.next_drawn(),
            Found::Profile(_) | Found::Absorbed(..) => return Err(StoreError::ProfileExists { mpid }),
        }
    }
}
