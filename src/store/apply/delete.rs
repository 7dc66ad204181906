//! `DeleteProfile`. The profile's row stays as a tombstone, and so do those of the profiles that it had absorbed.

use super::super::error::StoreError;
use super::draft::Draft;
use super::state::Context;
use super::{Verdict, merge};
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
    merge::bury_absorbed(context, &mut draft, mpid)?;
    let (effects, place) = draft.finish();
    Ok(Verdict::wrote(WriteOutcome::Deleted, mpid, place, effects))
}
