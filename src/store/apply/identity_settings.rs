//! `UpdateIdentitySettings`.

use bytes::Bytes;
use prost::Message;

use super::super::effects::RowTable;
use super::super::error::StoreError;
use super::super::rows::{IdentitySettingsRow, identity_settings_key};
use super::Verdict;
use super::draft::Draft;
use super::state::Context;
use crate::command::UpdateIdentitySettings;
use crate::model::{Etag, IdentitySettings};
use crate::proto::v1::{self, UpdateIdentitySettingsResponse, WriteOutcome};

pub(super) fn decide(context: &Context<'_, '_>, update: &UpdateIdentitySettings) -> Result<Verdict, StoreError> {
    let before = if context.exists { context.identity_settings()? } else { IdentitySettings::default() };
    let new = (*update.settings).clone();
    if new.etag.is_some() && new.etag != before.etag {
        return Err(StoreError::EtagMismatch);
    }
    let after = before.clone().updated(new, &update.paths);
    if after == before {
        let detail = response(context, None)?;
        return Ok(Verdict { detail, ..Verdict::unchanged(None, context.head.place, None) });
    }
    let after = after.versioned(Etag::of_settings(context.command.stamp.event_id.as_u128()));
    let key = identity_settings_key(context.workspace);
    let row = IdentitySettingsRow::encode(&key, &after.to_message(), context.now());
    let mut message = after.to_message();
    message.update_time = Some(context.now().to_timestamp());
    let detail = response(context, Some(message))?;
    let mut draft = Draft::new(context);
    draft.put(RowTable::IdentitySettings, key, Some(row));
    let (effects, place) = draft.finish();
    Ok(Verdict { effects, detail, outcome: WriteOutcome::Updated, ..Verdict::unchanged(None, place, None) })
}

/// The response, with the new settings or else those in force.
fn response(context: &Context<'_, '_>, new: Option<v1::IdentitySettings>) -> Result<Bytes, StoreError> {
    let settings = match new {
        Some(new) => new,
        None if context.exists => context.stored_identity_settings()?.unwrap_or_default(),
        None => v1::IdentitySettings::default(),
    };
    let response = UpdateIdentitySettingsResponse { settings: Some(settings) };
    Ok(response.encode_to_vec().into())
}
