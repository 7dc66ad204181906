//! Request ids: a repeated request gets the result of the first.
//!
//! An id is remembered for [`REQUEST_MEMORY`]. Its age is measured by the store's uptime, so setting a clock does not
//! change it.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::super::effects::RequestWrite;
use super::super::error::StoreError;
use super::super::rows::{AgeKey, Kind, RequestRow, request_key};
use super::state::Context;
use super::{Decision, Reply, Written, subscription};
use crate::command::RequestId;
use crate::model::profile::{is_expired, remove_expired};
use crate::model::{Micros, Mpid, Sequence, wire};
use crate::proto::field;
use crate::proto::v1::{Profile, WriteOutcome};

/// How long a request id is remembered.
pub(in crate::store) const REQUEST_MEMORY: Duration = Duration::from_secs(24 * 60 * 60);
/// The most expired ids that a command with a new id forgets. It is more than one, so that expired ids cannot pile up.
const FORGET_PER_COMMAND: usize = 2;

fn key_of(context: &Context<'_, '_>, request: &RequestId) -> Vec<u8> {
    request_key(context.workspace, context.command.actor.as_deref(), &request.id)
}

/// Returns what is remembered of the request's id, expired or not.
pub(super) fn earlier(context: &Context<'_, '_>) -> Result<Option<RequestRow>, StoreError> {
    match &context.command.request {
        Some(request) if context.exists => context.state.tables.request(&key_of(context, request)),
        _ => Ok(None),
    }
}

/// Returns the result that this request got before, if it is a repeat.
///
/// # Errors
/// [`StoreError::RequestIdReused`] if the id was used for a different request.
pub(super) fn first_answer(
    context: &Context<'_, '_>,
    earlier: Option<&RequestRow>,
) -> Result<Option<Written>, StoreError> {
    let (Some(request), Some(row)) = (&context.command.request, earlier) else { return Ok(None) };
    if row.uptime.plus(REQUEST_MEMORY) <= context.command.stamp.uptime {
        return Ok(None);
    }
    if row.fingerprint != request.fingerprint {
        return Err(StoreError::RequestIdReused);
    }
    let is_gone = matches!(row.outcome, WriteOutcome::Deleted | WriteOutcome::Erased);
    let profile = match (row.mpid, row.place.last()) {
        (Some(mpid), Some(event)) if !is_gone && context.reply == Reply::WithProfile => {
            profile_as_of(context, mpid, event)?.map(|profile| as_answered(profile, row.time)).transpose()?
        }
        _ => None,
    };
    let subscription = subscription::state_of(context)?;
    let (outcome, mpid, place, detail) = (row.outcome, row.mpid, Some(row.place), row.detail.clone());
    Ok(Some(Written { outcome, place, mpid, profile, subscription, detail }))
}

/// Remembers the result of the command, and forgets a few expired ids.
pub(super) fn remember(
    context: &Context<'_, '_>,
    earlier: Option<&RequestRow>,
    decision: &mut Decision,
) -> Result<(), StoreError> {
    let Some(request) = &context.command.request else { return Ok(()) };
    let key = key_of(context, request);
    let uptime = context.command.stamp.uptime;
    let row = RequestRow {
        fingerprint: request.fingerprint,
        time: context.now(),
        uptime,
        mpid: decision.written.mpid,
        place: decision.written.place.unwrap_or_default(),
        outcome: decision.written.outcome,
        detail: decision.written.detail.clone(),
    };
    let replaces = earlier.map(|earlier| AgeKey::new(earlier.uptime, &key));
    let age = AgeKey::new(uptime, &key);
    forget(context, uptime, decision)?;
    decision.effects.request = Some(RequestWrite { row: row.encode(&key), key, age, replaces });
    Ok(())
}

fn forget(context: &Context<'_, '_>, uptime: Micros, decision: &mut Decision) -> Result<(), StoreError> {
    // If the oldest cannot be read, none is forgotten.
    let oldest = match context.state.tables.oldest_requests(FORGET_PER_COMMAND) {
        Err(StoreError::Corrupt { .. }) => Vec::new(),
        oldest => oldest?,
    };
    for (key, sound) in oldest {
        match AgeKey::stored(&key).filter(|_| sound) {
            Some(age) if age.uptime().plus(REQUEST_MEMORY) <= uptime => decision.effects.forgotten.push(age),
            Some(_) => break,
            None => decision.effects.damaged_ages.push(key),
        }
    }
    Ok(())
}

/// Returns the profile as it was after one of its events. `None` if the log no longer holds the event.
fn profile_as_of(context: &Context<'_, '_>, mpid: Mpid, event: Sequence) -> Result<Option<Bytes>, StoreError> {
    let tables = context.state.tables;
    let latest = tables.profile(context.workspace, mpid, |row| {
        let is_latest = row.last_event == event;
        Ok(row.profile().filter(|_| is_latest).map(Bytes::copy_from_slice))
    })?;
    if let Some(Some(latest)) = latest {
        return Ok(Some(latest));
    }
    if context.head.floor >= event.into() {
        return Ok(None);
    }
    let from_event = tables.event(context.workspace, event, |row| {
        let profile = wire::find(row.event, field::event::PROFILE).map_err(|_| Kind::Event.corrupt())?;
        Ok(profile.map(Bytes::copy_from_slice))
    })?;
    from_event.ok_or(Kind::Event.corrupt())
}

/// Removes the memberships that had expired when the first result was returned: that result did not have them either.
fn as_answered(profile: Bytes, time: Micros) -> Result<Bytes, StoreError> {
    let mut decoded = Profile::decode(&*profile).map_err(|_| Kind::Profile.corrupt())?;
    if !decoded.audience_memberships.iter().any(|membership| is_expired(membership, time)) {
        return Ok(profile);
    }
    remove_expired(&mut decoded, time);
    Ok(decoded.encode_to_vec().into())
}
