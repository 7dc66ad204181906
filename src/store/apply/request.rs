//! Request ids: a repeat gets the first answer.
//!
//! An id is remembered for [`REQUEST_MEMORY`] of the store's uptime, which no setting of a clock moves.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::super::effects::RequestWrite;
use super::super::error::StoreError;
use super::super::rows::{AgeKey, Kind, RequestRow, request_key};
use super::state::Context;
use super::{Decision, Reply, Written};
use crate::model::profile::{is_expired, remove_expired};
use crate::model::{Micros, Mpid, Sequence, wire};
use crate::proto::field;
use crate::proto::v1::{Profile, WriteOutcome};

/// How long a request id is remembered.
pub(in crate::store) const REQUEST_MEMORY: Duration = Duration::from_secs(24 * 60 * 60);
/// Old request ids forgotten by each command that brings a new one: more than one, so that they cannot pile up.
const FORGET_PER_COMMAND: usize = 2;

/// What is remembered of the request's id.
pub(super) fn earlier(context: &Context<'_, '_>) -> Result<Option<RequestRow>, StoreError> {
    match &context.command.request {
        Some(request) if context.exists => context.state.tables.request(&request_key(context.workspace, &request.id)),
        _ => Ok(None),
    }
}

/// The answer that this request was given before, if it was.
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
    let profile = match (row.mpid, row.place.last()) {
        (Some(mpid), Some(event)) if row.outcome != WriteOutcome::Deleted && context.reply == Reply::WithProfile => {
            profile_as_of(context, mpid, event)?.map(|profile| as_answered(profile, row.time)).transpose()?
        }
        _ => None,
    };
    Ok(Some(Written { outcome: row.outcome, place: Some(row.place), profile }))
}

/// Remembers what the command is answered, and forgets a few that are old.
pub(super) fn remember(
    context: &Context<'_, '_>,
    earlier: Option<&RequestRow>,
    mpid: Option<Mpid>,
    decision: &mut Decision,
) -> Result<(), StoreError> {
    let Some(request) = &context.command.request else { return Ok(()) };
    let key = request_key(context.workspace, &request.id);
    let uptime = context.command.stamp.uptime;
    let row = RequestRow {
        fingerprint: request.fingerprint,
        time: context.now(),
        uptime,
        mpid,
        place: decision.written.place.unwrap_or_default(),
        outcome: decision.written.outcome,
    };
    let replaces = earlier.map(|earlier| AgeKey::new(earlier.uptime, &key));
    let age = AgeKey::new(uptime, &key);
    forget(context, uptime, decision)?;
    decision.effects.request = Some(RequestWrite { row: row.encode(&key), key, age, replaces });
    Ok(())
}

fn forget(context: &Context<'_, '_>, uptime: Micros, decision: &mut Decision) -> Result<(), StoreError> {
    // Where they cannot be read, nothing is forgotten.
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

/// The profile after that event of it.
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
        return Ok(None); // The log no longer holds it.
    }
    let from_event = tables.event(context.workspace, event, |row| {
        let profile = wire::find(row.event, field::event::PROFILE).map_err(|_| Kind::Event.corrupt())?;
        Ok(profile.map(Bytes::copy_from_slice))
    })?;
    from_event.ok_or(Kind::Event.corrupt())
}

/// An answer that changed nothing left out what had expired when it was given.
fn as_answered(profile: Bytes, time: Micros) -> Result<Bytes, StoreError> {
    let mut decoded = Profile::decode(&*profile).map_err(|_| Kind::Profile.corrupt())?;
    if !decoded.audience_memberships.iter().any(|membership| is_expired(membership, time)) {
        return Ok(profile);
    }
    remove_expired(&mut decoded, time);
    Ok(decoded.encode_to_vec().into())
}
