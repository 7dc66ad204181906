//! What a command does to the store: a pure function of the two.
//!
//! Decide, then write: every check precedes the first write, because a batch shares one transaction, and half a
//! command could not be undone.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use prost::Message;
use uuid::Uuid;

use super::command::{Change, Command};
use super::error::StoreError;
use super::rows::{EventRow, ProfileRow, RequestRow};
use super::tables::{Head, Tables};
use super::{Committed, WorkspaceId};
use crate::model::identity::{ParsedIdentity, keys_of};
use crate::model::profile::{is_expired, next_expiry};
use crate::model::time::to_timestamp;
use crate::model::{
    EventKind, IdentityKey, Invalid, Limits, LogId, Micros, Mpid, NewProfile, Patch, ProfileKey, Sequence, Workspace,
    change, patch, wire,
};
use crate::proto::v1::Profile;

/// How long a request id is remembered.
const REQUEST_MEMORY: Micros = 24 * 60 * 60 * 1_000_000;
/// Old request ids forgotten by each command that brings a new one: more than one, so that they cannot pile up.
const FORGET_PER_COMMAND: usize = 2;
/// `Event.profile`.
const EVENT_PROFILE: u32 = 6;

/// What a command did. The number is what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum WriteOutcome {
    /// The profile is new.
    Created = 1,
    /// The profile changed.
    Updated = 2,
    /// The profile is gone.
    Deleted = 3,
    /// There was nothing to do, and there is no event.
    Unchanged = 4,
}

impl WriteOutcome {
    pub(super) fn from_number(number: u8) -> Option<Self> {
        [Self::Created, Self::Updated, Self::Deleted, Self::Unchanged]
            .into_iter()
            .find(|outcome| *outcome as u8 == number)
    }
}

/// The answer to a command.
#[derive(Debug, Clone)]
pub struct Written {
    /// What it did.
    pub outcome: WriteOutcome,
    /// Of its own event; where nothing changed, of the profile's latest, or of the log's latest if there is no profile.
    /// 0 if nothing was to be written.
    pub sequence: Sequence,
    /// Encoded `Profile` after it; `None` where there is none.
    pub profile: Option<Bytes>,
}

/// What holds for all commands of a store.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub log: LogId,
    pub limits: Limits,
}

/// The ends of the logs that this store has written to: a cache of [`Tables::head`].
#[derive(Debug, Default)]
pub(super) struct Heads(HashMap<Workspace, Head>);

impl Heads {
    fn get(&mut self, tables: &Tables<'_>, workspace: &Workspace) -> Result<Head, StoreError> {
        if let Some(head) = self.0.get(workspace) {
            return Ok(*head);
        }
        let head = tables.head(workspace)?;
        if head.workspace.is_some() {
            self.0.insert(workspace.clone(), head);
        }
        Ok(head)
    }
}

/// Applies a command; its events are added to `committed`.
pub(super) fn apply(
    tables: &mut Tables<'_>,
    heads: &mut Heads,
    rules: &Rules,
    command: &Command,
    committed: &mut Vec<Committed>,
) -> Result<Written, StoreError> {
    let head = heads.get(tables, &command.workspace)?;
    let decider = Decider { tables, head, rules, command, time: command.time.max(head.time) };
    if let Some(first) = decider.first_answer()? {
        return Ok(first);
    }
    let decision = decider.decide()?;
    if command.validate_only {
        return Ok(decision.preview());
    }
    write(tables, heads, head, command, decision, committed)
}

/// What will be written.
struct Decision {
    outcome: WriteOutcome,
    mpid: Option<Mpid>,
    /// The sequence of the answer.
    sequence: Sequence,
    /// The profile of the answer.
    profile: Option<Bytes>,
    time: Micros,
    /// In the order of their events; the command's own is the last.
    steps: Vec<Step>,
}

/// One profile's change, encoded and ready.
struct Step {
    mpid: Mpid,
    kind: EventKind,
    sequence: Sequence,
    profile_row: ProfileRowParts,
    previous_event: Sequence,
    event: Vec<u8>,
    unlinked: Vec<IdentityKey>,
    linked: Vec<IdentityKey>,
}

struct ProfileRowParts {
    next_expiry: Micros,
    profile: Bytes,
}

/// A profile as it is stored.
struct Stored {
    profile: Profile,
    last_event: Sequence,
}

/// Everything a decision depends on.
struct Decider<'a, 'txn> {
    tables: &'a Tables<'txn>,
    head: Head,
    rules: &'a Rules,
    command: &'a Command,
    /// Of the command's events: never before that of the log's latest.
    time: Micros,
}

impl Decider<'_, '_> {
    fn decide(&self) -> Result<Decision, StoreError> {
        match &self.command.change {
            Change::Create { profile, mpid, drawn } => self.create(profile, *mpid, *drawn),
            Change::Update { key, patch, etag, allow_missing } => self.update(key, patch, etag, *allow_missing),
            Change::Delete { key, etag, allow_missing } => self.delete(key, etag, *allow_missing),
        }
    }

    /// The answer that this request was given before, if it was.
    fn first_answer(&self) -> Result<Option<Written>, StoreError> {
        let (Some(request), Some(workspace)) = (&self.command.request, self.head.workspace) else { return Ok(None) };
        let Some(row) = self.tables.request(workspace, &request.id)? else { return Ok(None) };
        if row.time.saturating_add(REQUEST_MEMORY) <= self.command.time {
            return Ok(None);
        }
        if row.fingerprint != request.fingerprint {
            return Err(StoreError::RequestIdReused);
        }
        let profile = match row.mpid {
            Some(mpid) if row.outcome != WriteOutcome::Deleted => self.profile_as_of(workspace, mpid, row.sequence)?,
            _ => None,
        };
        Ok(Some(Written { outcome: row.outcome, sequence: row.sequence, profile }))
    }

    /// The profile after that event of it.
    fn profile_as_of(
        &self,
        workspace: WorkspaceId,
        mpid: Mpid,
        sequence: Sequence,
    ) -> Result<Option<Bytes>, StoreError> {
        let latest = self.tables.profile(workspace, mpid, |row| {
            Ok((row.last_event == sequence).then(|| Bytes::copy_from_slice(row.profile)))
        })?;
        if let Some(Some(latest)) = latest {
            return Ok(Some(latest));
        }
        let from_event = self.tables.event(workspace, sequence, |row| {
            let profile = wire::find(row.event, EVENT_PROFILE).map_err(|_| StoreError::Corrupt { table: "event" })?;
            Ok(profile.map(Bytes::copy_from_slice))
        })?;
        Ok(from_event.flatten())
    }

    fn create(&self, new: &NewProfile, mpid: Mpid, drawn: bool) -> Result<Decision, StoreError> {
        let mpid = self.free_mpid(mpid, drawn)?;
        for key in &new.identities {
            if let Some(owner) = self.owner(key)? {
                return Err(StoreError::IdentityTaken { kind: key.kind().to_owned(), owner });
            }
        }
        self.decided(mpid, None, new.profile.clone(), BTreeMap::new())
    }

    fn free_mpid(&self, mut mpid: Mpid, drawn: bool) -> Result<Mpid, StoreError> {
        while self.stored(mpid)?.is_some() {
            if !drawn {
                return Err(StoreError::ProfileExists { mpid });
            }
            mpid = mpid.next_drawn();
        }
        Ok(mpid)
    }

    fn update(
        &self,
        key: &ProfileKey,
        patch: &Patch,
        etag: &str,
        allow_missing: Option<Mpid>,
    ) -> Result<Decision, StoreError> {
        let Some((mpid, stored)) = self.find(key)? else {
            return match allow_missing {
                Some(_) if !etag.is_empty() => Err(StoreError::EtagMismatch),
                Some(drawn) => self.upsert(key, patch, drawn),
                None => Err(not_found(key)),
            };
        };
        check_etag(&stored, etag)?;
        let taken = self.taken(patch, mpid)?;
        let mut after = stored.profile.clone();
        patch.apply(&mut after, &self.rules.limits)?;
        self.decided(mpid, Some(stored), after, taken)
    }

    fn upsert(&self, key: &ProfileKey, patch: &Patch, drawn: Mpid) -> Result<Decision, StoreError> {
        let mut after = Profile::default();
        let mpid = match key {
            ProfileKey::Mpid(mpid) => *mpid,
            ProfileKey::Identity(ParsedIdentity { identity, .. }) => {
                let device = identity.is_device();
                let side = if device { &mut after.device_identities } else { &mut after.user_identities };
                side.push(identity.clone());
                self.free_mpid(drawn, true)?
            }
        };
        let taken = self.taken(patch, mpid)?;
        patch.apply(&mut after, &self.rules.limits)?;
        self.decided(mpid, None, after, taken)
    }

    fn delete(&self, key: &ProfileKey, etag: &str, allow_missing: bool) -> Result<Decision, StoreError> {
        let Some((mpid, stored)) = self.find(key)? else {
            return match allow_missing {
                true if !etag.is_empty() => Err(StoreError::EtagMismatch),
                true => Ok(self.unchanged(None, self.head.sequence, None)),
                false => Err(not_found(key)),
            };
        };
        check_etag(&stored, etag)?;
        let sequence = self.head.sequence + 1;
        let step = self.step(mpid, sequence, Some(&stored.profile), None, stored.last_event);
        Ok(Decision {
            outcome: WriteOutcome::Deleted,
            mpid: Some(mpid),
            sequence,
            profile: None,
            time: self.time,
            steps: vec![step],
        })
    }

    /// The identities that a patch takes, by the profile that loses them.
    fn taken(&self, patch: &Patch, to: Mpid) -> Result<BTreeMap<Mpid, Vec<IdentityKey>>, StoreError> {
        let mut taken: BTreeMap<Mpid, Vec<IdentityKey>> = BTreeMap::new();
        for ParsedIdentity { key, .. } in &patch.add {
            match self.owner(key)? {
                Some(owner) if owner == to => {}
                Some(owner) if patch.take => taken.entry(owner).or_default().push(key.clone()),
                Some(owner) => return Err(StoreError::IdentityTaken { kind: key.kind().to_owned(), owner }),
                None => {}
            }
        }
        Ok(taken)
    }

    /// Decides for the profile after the change, and for those that it takes identities from.
    fn decided(
        &self,
        mpid: Mpid,
        before: Option<Stored>,
        mut after: Profile,
        taken: BTreeMap<Mpid, Vec<IdentityKey>>,
    ) -> Result<Decision, StoreError> {
        if let Some(stored) = before.as_ref().filter(|stored| stored.profile == after) {
            let profile = Bytes::from(after.encode_to_vec());
            return Ok(self.unchanged(Some(mpid), stored.last_event, Some(profile)));
        }
        let mut steps = Vec::with_capacity(taken.len() + 1);
        for (loser, keys) in taken {
            steps.push(self.lose(loser, &keys, self.head.sequence + 1 + steps.len() as u64)?);
        }
        let sequence = self.head.sequence + 1 + steps.len() as u64;
        let created = before.as_ref().and_then(|stored| stored.profile.create_time);
        after.mpid = mpid.get();
        after.create_time = Some(created.unwrap_or_else(|| to_timestamp(self.time)));
        let previous_event = match &before {
            Some(stored) => stored.last_event,
            None => self.last_event(mpid)?,
        };
        let before = before.map(|stored| stored.profile);
        let step = self.step(mpid, sequence, before.as_ref(), Some(after), previous_event);
        let found = step.profile_row.profile.len();
        if found > self.rules.limits.profile_bytes {
            return Err(Invalid::ProfileTooLarge { limit: self.rules.limits.profile_bytes, found }.into());
        }
        let outcome = if before.is_some() { WriteOutcome::Updated } else { WriteOutcome::Created };
        let profile = Some(step.profile_row.profile.clone());
        steps.push(step);
        Ok(Decision { outcome, mpid: Some(mpid), sequence, profile, time: self.time, steps })
    }

    fn lose(&self, loser: Mpid, keys: &[IdentityKey], sequence: Sequence) -> Result<Step, StoreError> {
        let stored = self.stored(loser)?.ok_or(StoreError::Corrupt { table: "identity" })?;
        let mut after = stored.profile.clone();
        patch::unlink(&mut after, keys);
        Ok(self.step(loser, sequence, Some(&stored.profile), Some(after), stored.last_event))
    }

    /// Stamps the profile, and encodes it and its event.
    fn step(
        &self,
        mpid: Mpid,
        sequence: Sequence,
        before: Option<&Profile>,
        mut after: Option<Profile>,
        previous_event: Sequence,
    ) -> Step {
        if let Some(after) = &mut after {
            after.audience_memberships.retain(|membership| !is_expired(membership, self.time));
            after.update_time = Some(to_timestamp(self.time));
            after.etag = format!("{sequence:x}-{:08x}", self.rules.log.0 >> 32);
        }
        let after = after.as_ref();
        let mut event = change::describe(before, after);
        event.id = self.event_id(sequence).to_string();
        event.sequence = sequence;
        event.time = Some(to_timestamp(self.time));
        event.actor.clone_from(&self.command.actor);
        event.request_id = self.command.request.as_ref().map(|request| request.id.clone()).unwrap_or_default();

        let profile = Bytes::from(after.map(Profile::encode_to_vec).unwrap_or_default());
        let room = wire::delimited_len(EVENT_PROFILE, profile.len());
        let mut encoded = Vec::with_capacity(event.encoded_len() + room);
        event.encode(&mut encoded).expect("a Vec takes any length");
        if after.is_some() {
            // Fields may stand in any order: the profile, encoded once, goes last.
            wire::put_delimited(EVENT_PROFILE, &profile, &mut encoded);
        }
        let (unlinked, linked) = relinked(before, after);
        let next_expiry = after.map_or(Micros::MAX, next_expiry);
        Step {
            mpid,
            kind: change::kind(before, after),
            sequence,
            profile_row: ProfileRowParts { next_expiry, profile },
            previous_event,
            event: encoded,
            unlinked,
            linked,
        }
    }

    fn event_id(&self, sequence: Sequence) -> Uuid {
        let nth = sequence - self.head.sequence - 1;
        Uuid::from_u128(self.command.event_id.as_u128().wrapping_add(u128::from(nth)))
    }

    fn unchanged(&self, mpid: Option<Mpid>, sequence: Sequence, profile: Option<Bytes>) -> Decision {
        let outcome = WriteOutcome::Unchanged;
        Decision { outcome, mpid, sequence, profile, time: self.time, steps: Vec::new() }
    }

    fn find(&self, key: &ProfileKey) -> Result<Option<(Mpid, Stored)>, StoreError> {
        let mpid = match key {
            ProfileKey::Mpid(mpid) => Some(*mpid),
            ProfileKey::Identity(ParsedIdentity { key, .. }) => self.owner(key)?,
        };
        let Some(mpid) = mpid else { return Ok(None) };
        Ok(self.stored(mpid)?.map(|stored| (mpid, stored)))
    }

    fn owner(&self, key: &IdentityKey) -> Result<Option<Mpid>, StoreError> {
        self.head.workspace.map_or(Ok(None), |workspace| self.tables.owner(workspace, key))
    }

    /// A profile that was not deleted.
    fn stored(&self, mpid: Mpid) -> Result<Option<Stored>, StoreError> {
        let Some(workspace) = self.head.workspace else { return Ok(None) };
        let stored = self.tables.profile(workspace, mpid, |row| {
            if row.profile.is_empty() {
                return Ok(None);
            }
            let profile = Profile::decode(row.profile).map_err(|_| StoreError::Corrupt { table: "profile" })?;
            Ok(Some(Stored { profile, last_event: row.last_event }))
        })?;
        Ok(stored.flatten())
    }

    /// The latest event of a profile, of a deleted one too; 0 for none.
    fn last_event(&self, mpid: Mpid) -> Result<Sequence, StoreError> {
        let Some(workspace) = self.head.workspace else { return Ok(0) };
        Ok(self.tables.profile(workspace, mpid, |row| Ok(row.last_event))?.unwrap_or(0))
    }
}

impl Decision {
    /// What `validate_only` answers: as the write would, without what only the write gives.
    fn preview(self) -> Written {
        let without_etag = |bytes: Bytes| {
            let mut profile = Profile::decode(bytes).expect("it was encoded just now");
            profile.etag.clear();
            Bytes::from(profile.encode_to_vec())
        };
        let profile = if self.steps.is_empty() { self.profile } else { self.profile.map(without_etag) };
        Written { outcome: self.outcome, sequence: 0, profile }
    }
}

fn write(
    tables: &mut Tables<'_>,
    heads: &mut Heads,
    head: Head,
    command: &Command,
    decision: Decision,
    committed: &mut Vec<Committed>,
) -> Result<Written, StoreError> {
    let Decision { outcome, mpid, sequence, profile, time, steps } = decision;
    let written = Written { outcome, sequence, profile };
    let workspace = match head.workspace {
        Some(workspace) => workspace,
        // Only what has events brings a workspace into being.
        None if steps.is_empty() => return Ok(written),
        None => tables.intern(&command.workspace)?,
    };
    for step in steps {
        committed.push(write_step(tables, workspace, command, step, time)?);
    }
    if let Some(request) = &command.request {
        let row = RequestRow { fingerprint: request.fingerprint, time: command.time, mpid, sequence, outcome };
        tables.forget_requests(command.time.saturating_sub(REQUEST_MEMORY), FORGET_PER_COMMAND)?;
        tables.set_request(workspace, &request.id, &row)?;
    }
    if outcome != WriteOutcome::Unchanged {
        heads.0.insert(command.workspace.clone(), Head { workspace: Some(workspace), sequence, time });
    }
    Ok(written)
}

fn write_step(
    tables: &mut Tables<'_>,
    workspace: WorkspaceId,
    command: &Command,
    step: Step,
    time: Micros,
) -> Result<Committed, StoreError> {
    for key in &step.unlinked {
        tables.remove_owner(workspace, key)?;
    }
    for key in &step.linked {
        tables.set_owner(workspace, key, step.mpid)?;
    }
    let ProfileRowParts { next_expiry, profile } = &step.profile_row;
    let row = ProfileRow { next_expiry: *next_expiry, last_event: step.sequence, profile };
    tables.set_profile(workspace, step.mpid, &row.encode(workspace, step.mpid))?;
    let (mpid, kind) = (step.mpid, step.kind);
    let row = EventRow { previous: step.previous_event, mpid, time, kind, event: &step.event };
    tables.append_event(workspace, step.sequence, &row.encode(workspace, step.sequence))?;
    Ok(Committed {
        workspace: command.workspace.clone(),
        id: workspace,
        sequence: step.sequence,
        mpid,
        kind,
        event: step.event.into(),
    })
}

/// The identities that a profile no longer owns, and those that it owns now.
fn relinked(before: Option<&Profile>, after: Option<&Profile>) -> (Vec<IdentityKey>, Vec<IdentityKey>) {
    if let (Some(before), Some(after)) = (before, after)
        && before.device_identities == after.device_identities
        && before.user_identities == after.user_identities
    {
        return (Vec::new(), Vec::new());
    }
    let old = before.map(keys_of).unwrap_or_default();
    let new = after.map(keys_of).unwrap_or_default();
    let absent = |keys: &[IdentityKey], others: &[IdentityKey]| {
        keys.iter().filter(|key| others.binary_search(key).is_err()).cloned().collect()
    };
    (absent(&old, &new), absent(&new, &old))
}

fn check_etag(stored: &Stored, etag: &str) -> Result<(), StoreError> {
    if etag.is_empty() || etag == stored.profile.etag { Ok(()) } else { Err(StoreError::EtagMismatch) }
}

fn not_found(key: &ProfileKey) -> StoreError {
    match key {
        ProfileKey::Mpid(mpid) => StoreError::ProfileNotFound { mpid: Some(*mpid) },
        ProfileKey::Identity(_) => StoreError::ProfileNotFound { mpid: None },
    }
}
