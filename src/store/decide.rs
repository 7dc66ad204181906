//! What a command would do to the store: every check, and everything that will be written, encoded. Nothing is written
//! here.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use uuid::Uuid;

use super::WorkspaceId;
use super::command::{Change, Command, Written};
use super::error::StoreError;
use super::tables::{Head, Tables};
use crate::model::identity::{ParsedIdentity, keys_of};
use crate::model::limits::TAKEN_PROFILES;
use crate::model::profile::{is_expired, next_expiry};
use crate::model::time::to_timestamp;
use crate::model::{
    EventKind, IdentityKey, Invalid, Limits, LogId, Micros, Mpid, NewProfile, Patch, ProfileKey, Sequence, change,
    patch, wire,
};
use crate::proto::field::event;
use crate::proto::v1::{Profile, WriteOutcome};

/// How long a request id is remembered.
pub(super) const REQUEST_MEMORY: Micros = 24 * 60 * 60 * 1_000_000;

/// What holds for all commands of a store.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub log: LogId,
    pub limits: Limits,
}

/// What will be written.
pub(super) struct Decision {
    pub outcome: WriteOutcome,
    pub mpid: Option<Mpid>,
    /// The sequence of the answer.
    pub sequence: Sequence,
    /// The profile of the answer.
    pub profile: Option<Bytes>,
    pub time: Micros,
    /// In the order of their events; the command's own is the last.
    pub steps: Vec<Step>,
}

/// One profile's change, encoded and ready.
pub(super) struct Step {
    pub mpid: Mpid,
    pub kind: EventKind,
    pub sequence: Sequence,
    /// The profile's event before this; 0 for none.
    pub previous_event: Sequence,
    pub next_expiry: Micros,
    /// Encoded; empty if it is deleted.
    pub profile: Bytes,
    /// Encoded.
    pub event: Vec<u8>,
    pub unlinked: Vec<IdentityKey>,
    pub linked: Vec<IdentityKey>,
}

/// A profile as it is stored.
struct Stored {
    profile: Profile,
    last_event: Sequence,
}

/// Everything a decision depends on.
pub(super) struct Decider<'a, 'txn> {
    pub tables: &'a Tables<'txn>,
    pub head: Head,
    pub rules: &'a Rules,
    pub command: &'a Command,
    /// Of the command's events: never before that of the log's latest.
    pub time: Micros,
}

impl Decider<'_, '_> {
    pub fn decide(&self) -> Result<Decision, StoreError> {
        match &self.command.change {
            Change::Create { profile, mpid, drawn } => self.create(profile, *mpid, *drawn),
            Change::Update { key, patch, etag, allow_missing } => self.update(key, patch, etag, *allow_missing),
            Change::Delete { key, etag, allow_missing } => self.delete(key, etag, *allow_missing),
        }
    }

    /// The answer that this request was given before, if it was.
    pub fn first_answer(&self) -> Result<Option<Written>, StoreError> {
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
            let profile = wire::find(row.event, event::PROFILE).map_err(|_| StoreError::Corrupt { table: "event" })?;
            Ok(profile.map(Bytes::copy_from_slice))
        })?;
        Ok(from_event.flatten())
    }

    fn create(&self, new: &NewProfile, mpid: Mpid, drawn: bool) -> Result<Decision, StoreError> {
        new.check_as_of(self.time)?;
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
        patch.check_as_of(self.time)?;
        let Some((mpid, stored)) = self.find(key)? else {
            return match allow_missing {
                Some(_) if !etag.is_empty() => Err(StoreError::EtagMismatch),
                Some(drawn) => self.upsert(key, patch, drawn),
                None => Err(StoreError::not_found(key)),
            };
        };
        check_etag(&stored, etag)?;
        let taken = self.taken(patch, mpid)?;
        let mut after = self.served(&stored).into_owned();
        patch.apply(&mut after, &self.rules.limits)?;
        if after == *self.served(&stored) {
            let profile = Bytes::from(after.encode_to_vec());
            return Ok(self.unchanged(Some(mpid), stored.last_event, Some(profile)));
        }
        self.decided(mpid, Some(stored), after, taken)
    }

    /// The profile as a reader sees it: without memberships that have expired.
    fn served<'p>(&self, stored: &'p Stored) -> Cow<'p, Profile> {
        if next_expiry(&stored.profile) > self.time {
            return Cow::Borrowed(&stored.profile);
        }
        let mut served = stored.profile.clone();
        served.audience_memberships.retain(|membership| !is_expired(membership, self.time));
        Cow::Owned(served)
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
        let identities = after.device_identities.len() + after.user_identities.len();
        Invalid::limit("identity", "identities", self.rules.limits.identities, identities)?;
        if matches!(key, ProfileKey::Identity(identity) if !keys_of(&after).contains(&identity.key)) {
            // It would be created anew each time.
            return Err(Invalid::field("patch.remove_identities", "is the identity that names the profile").into());
        }
        self.decided(mpid, None, after, taken)
    }

    fn delete(&self, key: &ProfileKey, etag: &str, allow_missing: bool) -> Result<Decision, StoreError> {
        let Some((mpid, stored)) = self.find(key)? else {
            return match allow_missing {
                true if !etag.is_empty() => Err(StoreError::EtagMismatch),
                true => Ok(self.unchanged(None, self.head.sequence, None)),
                false => Err(StoreError::not_found(key)),
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
        Invalid::limit("patch.add_identities", "profiles to take identities from", TAKEN_PROFILES, taken.len())?;
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
        let found = step.profile.len();
        if found > self.rules.limits.profile_bytes {
            return Err(Invalid::ProfileTooLarge { limit: self.rules.limits.profile_bytes, found }.into());
        }
        let outcome = if before.is_some() { WriteOutcome::Updated } else { WriteOutcome::Created };
        let profile = Some(step.profile.clone());
        steps.push(step);
        Ok(Decision { outcome, mpid: Some(mpid), sequence, profile, time: self.time, steps })
    }

    fn lose(&self, loser: Mpid, keys: &[IdentityKey], sequence: Sequence) -> Result<Step, StoreError> {
        let stored = self.stored(loser)?.ok_or(StoreError::Corrupt { table: "identity" })?;
        let mut after = self.served(&stored).into_owned();
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
            after.update_time = Some(to_timestamp(self.time));
            after.etag = format!("{sequence:x}-{:08x}", self.rules.log.0 >> 32);
        }
        let after = after.as_ref();
        let mut event = change::describe(before, after, self.time);
        event.id = self.event_id(sequence).to_string();
        event.sequence = sequence;
        event.time = Some(to_timestamp(self.time));
        event.silent = self.command.silent;
        event.actor.clone_from(&self.command.actor);
        event.request_id = self.command.request.as_ref().map(|request| request.id.clone()).unwrap_or_default();

        let profile = Bytes::from(after.map(Profile::encode_to_vec).unwrap_or_default());
        let room = wire::delimited_len(event::PROFILE, profile.len());
        let mut encoded = Vec::with_capacity(event.encoded_len() + room);
        event.encode(&mut encoded).expect("a Vec takes any length");
        if after.is_some() {
            // Fields may stand in any order: the profile, encoded once, goes last.
            wire::put_delimited(event::PROFILE, &profile, &mut encoded);
        }
        let (unlinked, linked) = relinked(before, after);
        let next_expiry = after.map_or(Micros::MAX, next_expiry);
        Step {
            mpid,
            kind: change::kind(before, after),
            sequence,
            previous_event,
            next_expiry,
            profile,
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
    pub fn preview(self) -> Written {
        let without_etag = |bytes: Bytes| {
            let mut profile = Profile::decode(bytes).expect("it was encoded just now");
            profile.etag.clear();
            Bytes::from(profile.encode_to_vec())
        };
        let profile = if self.steps.is_empty() { self.profile } else { self.profile.map(without_etag) };
        Written { outcome: self.outcome, sequence: 0, profile }
    }
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
