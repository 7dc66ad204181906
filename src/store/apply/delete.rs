//! `DeleteProfile`. The profile's row stays as a tombstone.

use super::super::error::StoreError;
use super::Verdict;
use super::draft::Draft;
use super::state::Context;
use crate::command::Delete;
use crate::proto::v1::WriteOutcome;

pub(super) fn decide(context: &Context<'_, '_>, delete: &Delete) -> Result<Verdict, StoreError> {
    let Delete { key, etag, allow_missing } = delete;
    let Some((mpid, stored)) = context.find(key)? else {
        return match allow_missing {
            true if etag.is_some() => Err(StoreError::EtagMismatch),
            true => Ok(Verdict::unchanged(None, context.head.place, None)),
            false => Err(StoreError::not_found(key)),
        };
    };
    stored.check(etag.as_ref())?;
    let mut draft = Draft::new(context);
    draft.delete(mpid, &stored)?;
    let (effects, place) = draft.finish();
    Ok(Verdict { outcome: WriteOutcome::Deleted, mpid: Some(mpid), place, profile: None, subscription: None, effects })
}
