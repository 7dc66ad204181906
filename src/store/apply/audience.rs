//! `CreateAudience` and `DeleteAudience`. The memberships follow in the background: see `upkeep`.

use prost::Message;

use super::super::error::StoreError;
use super::super::rows::{AudienceRow, Work};
use super::Verdict;
use super::draft::Draft;
use super::state::Context;
use crate::command::{CreateAudience, DeleteAudience};
use crate::model::AudienceId;
use crate::model::audience::NewAudience;
use crate::proto::v1::{CreateAudienceResponse, DeleteAudienceResponse, WriteOutcome};

pub(super) fn create(context: &Context<'_, '_>, create: &CreateAudience) -> Result<Verdict, StoreError> {
    let id = free_id(context, create)?;
    let audience = NewAudience { id, ..NewAudience::clone(&create.audience) }.into_message(context.now());
    let mut draft = Draft::new(context);
    let row = draft.audience(id)?;
    if row.members > 0 {
        row.work = Work::Naming { after: None, left: row.members };
    }
    row.registered = Some(audience);
    let response = CreateAudienceResponse { audience: row.message() };
    Ok(verdict(draft, WriteOutcome::Created, &response))
}

/// Returns the id for a new audience. A drawn one that is in use, be it only by patches, gives way to the next.
fn free_id(context: &Context<'_, '_>, create: &CreateAudience) -> Result<AudienceId, StoreError> {
    let mut id = create.audience.id;
    loop {
        match context.audience(id)? {
            Some(_) if create.drawn => id = id.next_drawn(),
            Some(row) if row.registered.is_some() => return Err(StoreError::AudienceExists { id }),
            None | Some(_) => return Ok(id),
        }
    }
}

pub(super) fn delete(context: &Context<'_, '_>, delete: DeleteAudience) -> Result<Verdict, StoreError> {
    let DeleteAudience { id, allow_missing } = delete;
    let mut draft = Draft::new(context);
    let row = draft.audience(id)?;
    if row.registered.is_none() && !allow_missing {
        return Err(StoreError::AudienceNotFound { id });
    }
    if row.registered.is_none() || row.work == Work::Deleting {
        let outcome = WriteOutcome::Unchanged;
        let response = DeleteAudienceResponse { audience: row.message(), outcome: outcome.into() };
        return Ok(verdict(draft, outcome, &response));
    }
    if row.members > 0 {
        row.work = Work::Deleting;
    } else {
        *row = AudienceRow::default();
    }
    let outcome = WriteOutcome::Deleted;
    let response = DeleteAudienceResponse { audience: row.message(), outcome: outcome.into() };
    Ok(verdict(draft, outcome, &response))
}

fn verdict(draft: Draft<'_, '_, '_>, outcome: WriteOutcome, response: &impl Message) -> Verdict {
    let (effects, place) = draft.finish();
    let detail = response.encode_to_vec().into();
    Verdict { outcome, detail, effects, ..Verdict::unchanged(None, place, None) }
}
