//! `AddAudienceMembers` and `RemoveAudienceMembers`: one command for all the profiles, with a result for each.

use std::collections::BTreeMap;

use prost::Message;

use super::super::error::StoreError;
use super::super::rows::Work;
use super::draft::{Draft, Told};
use super::state::{Context, Stored};
use super::{Verdict, Written};
use crate::command::{ChangeMembers, MemberChange};
use crate::model::limits::MEMBERS_BYTES;
use crate::model::{AudienceId, EventKind, Invalid, Micros, Mpid, ProfileKey};
use crate::proto::storage::member_changed::Refusal;
use crate::proto::storage::{Excess, MemberChanged, MembersChanged};
use crate::proto::v1::{AudienceMembership, Profile, WriteOutcome};

/// What a change of memberships did to one profile.
#[derive(Debug)]
pub struct MemberResult {
    /// The profile. `None` if the key names none.
    pub mpid: Option<Mpid>,
    /// Whether the membership changed, or why it could not.
    pub outcome: Result<WriteOutcome, StoreError>,
}

/// A change of memberships while it is decided.
struct Members<'c, 'a, 'txn> {
    draft: Draft<'c, 'a, 'txn>,
    id: AudienceId,
    /// The new membership; `None` if the profiles leave.
    joined: Option<AudienceMembership>,
    /// The profiles so far. One that is named again is as its first key has left it.
    done: BTreeMap<Mpid, MemberChanged>,
}

pub(super) fn decide(context: &Context<'_, '_>, change: &ChangeMembers) -> Result<Verdict, StoreError> {
    let joined = joined(context, change)?;
    let draft = Draft::new(context);
    let mut members = Members { draft, id: change.id, joined, done: BTreeMap::new() };
    let mut results = Vec::with_capacity(change.keys.len());
    for key in &change.keys {
        results.push(members.change(key)?);
        let found = members.draft.event_bytes();
        Invalid::limit("keys", "bytes of events", MEMBERS_BYTES, found)?;
    }
    let (effects, place) = members.draft.finish();
    let outcome = if effects.events.is_empty() { WriteOutcome::Unchanged } else { WriteOutcome::Updated };
    let detail = MembersChanged { results }.encode_to_vec().into();
    Ok(Verdict { outcome, detail, effects, ..Verdict::unchanged(None, place, None) })
}

/// Returns the membership that the profiles get; `None` if they leave.
fn joined(context: &Context<'_, '_>, change: &ChangeMembers) -> Result<Option<AudienceMembership>, StoreError> {
    let id = change.id;
    let row = context.audience(id)?.unwrap_or_default();
    let Some(audience) = row.registered else { return Err(StoreError::AudienceNotFound { id }) };
    let MemberChange::Join(end) = change.change else { return Ok(None) };
    if row.work == Work::Deleting {
        return Err(StoreError::AudienceDeleting { id });
    }
    if end.is_some_and(|end| end <= context.now()) {
        return Err(Invalid::field("expire_time", "must lie in the future").into());
    }
    let expire_time = end.map(Micros::to_timestamp);
    Ok(Some(AudienceMembership { audience_id: id.get(), audience_name: audience.name, expire_time }))
}

impl Members<'_, '_, '_> {
    fn change(&mut self, key: &ProfileKey) -> Result<MemberChanged, StoreError> {
        let (mpid, stored) = match self.draft.context.find(key) {
            Ok(Some(found)) => found,
            Ok(None) => return refused(None, StoreError::not_found(key)),
            Err(error) => return refused(None, error),
        };
        if let Some(first) = self.done.get(&mpid) {
            let outcome = if first.refusal.is_none() { WriteOutcome::Unchanged } else { WriteOutcome::Unspecified };
            return Ok(MemberChanged { outcome: outcome.into(), ..*first });
        }
        let changed = match self.change_one(mpid, &stored) {
            Ok(outcome) => MemberChanged { mpid: mpid.get(), outcome: outcome.into(), refusal: None },
            Err(error) => refused(Some(mpid), error)?,
        };
        self.done.insert(mpid, changed);
        Ok(changed)
    }

    /// An error leaves the draft as it was: the limits of a profile are checked before anything is written of it.
    fn change_one(&mut self, mpid: Mpid, stored: &Stored) -> Result<WriteOutcome, StoreError> {
        let context = self.draft.context;
        let served = context.served(stored);
        let mut after = Profile::clone(&served);
        let at = after.audience_memberships.iter().position(|member| member.audience_id == self.id.get());
        match (&self.joined, at) {
            (Some(joined), Some(at)) => after.audience_memberships[at].clone_from(joined),
            (Some(joined), None) => after.audience_memberships.push(joined.clone()),
            (None, Some(at)) => drop(after.audience_memberships.remove(at)),
            (None, None) => {}
        }
        if after == *served {
            return Ok(WriteOutcome::Unchanged);
        }
        let (before, found) = (served.audience_memberships.len(), after.audience_memberships.len());
        if found > before {
            let limit = context.command.limits.audience_memberships;
            Invalid::limit("keys", MEMBERSHIPS, limit, found)?;
        }
        self.draft.update(mpid, stored, after, &Told::of(EventKind::Updated))?;
        Ok(WriteOutcome::Updated)
    }
}

/// The subject of the limit of a profile's memberships.
const MEMBERSHIPS: &str = "audience memberships";

/// The result for a profile whose membership did not change.
///
/// # Errors
/// Any other error: it is one of the whole command.
fn refused(mpid: Option<Mpid>, error: StoreError) -> Result<MemberChanged, StoreError> {
    let excess = |limit: usize, found: usize| Excess { limit: limit as u64, found: found as u64 };
    let (mpid, refusal) = match error {
        StoreError::ProfileNotFound { mpid } => (mpid, Refusal::NotFound(true)),
        StoreError::Corrupt { .. } => (mpid, Refusal::Corrupt(true)),
        StoreError::Invalid(Invalid::Limit { limit, found, .. }) => (mpid, Refusal::Memberships(excess(limit, found))),
        StoreError::Invalid(Invalid::ProfileTooLarge { limit, found }) => (mpid, Refusal::Bytes(excess(limit, found))),
        other => return Err(other),
    };
    let mpid = mpid.map_or(0, Mpid::get);
    Ok(MemberChanged { mpid, outcome: WriteOutcome::Unspecified.into(), refusal: Some(refusal) })
}

impl Written {
    /// What a change of memberships did, one result for each key.
    #[must_use]
    pub fn member_results(&self) -> Vec<MemberResult> {
        let MembersChanged { results } = MembersChanged::decode(&*self.detail).unwrap_or_default();
        results.into_iter().map(MemberResult::read).collect()
    }
}

impl MemberResult {
    fn read(changed: MemberChanged) -> Self {
        let mpid = Mpid::new(changed.mpid);
        let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let error = match changed.refusal {
            None => {
                let outcome = WriteOutcome::try_from(changed.outcome).unwrap_or_default();
                return Self { mpid, outcome: Ok(outcome) };
            }
            Some(Refusal::NotFound(_)) => {
                return Self { mpid: None, outcome: Err(StoreError::ProfileNotFound { mpid }) };
            }
            Some(Refusal::Corrupt(_)) => StoreError::corrupt("profile"),
            Some(Refusal::Memberships(Excess { limit, found })) => {
                let (limit, found) = (number(limit), number(found));
                Invalid::Limit { field: "keys".into(), subject: MEMBERSHIPS, limit, found }.into()
            }
            Some(Refusal::Bytes(Excess { limit, found })) => {
                Invalid::ProfileTooLarge { limit: number(limit), found: number(found) }.into()
            }
        };
        Self { mpid, outcome: Err(error) }
    }
}
