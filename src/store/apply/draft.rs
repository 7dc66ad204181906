//! The rows and the event of a profile's change.

use bytes::Bytes;
use prost::Message;
use uuid::Uuid;

use super::super::effects::{Effects, EventWrite, OwnerWrite, ProfileWrite};
use super::super::error::StoreError;
use super::super::rows::{EventRow, Head, Held, ProfileRow};
use super::state::{Context, Stored};
use crate::model::identity::keys_of;
use crate::model::profile::{check_size, next_expiry};
use crate::model::{Etag, IdentityKey, Mpid, Place, Sequence, change, wire};
use crate::proto::field;
use crate::proto::v1::{Event, Profile};

/// The effects of a command, as they are put together.
pub(super) struct Draft<'c, 'a, 'txn> {
    context: &'c Context<'a, 'txn>,
    effects: Effects,
    /// After the events so far.
    place: Place,
}

impl<'c, 'a, 'txn> Draft<'c, 'a, 'txn> {
    pub fn new(context: &'c Context<'a, 'txn>) -> Self {
        Self { context, effects: Effects::default(), place: context.head.place }
    }

    /// Creates a profile, whose mpid may have had one before.
    ///
    /// # Errors
    /// [`StoreError`] if it is too large, or what it takes to link its identities cannot be read.
    pub fn create(
        &mut self,
        mpid: Mpid,
        mut after: Profile,
        last_event: Option<Sequence>,
    ) -> Result<Bytes, StoreError> {
        let time = self.context.event_time().to_timestamp();
        after.create_time = Some(time);
        self.change(mpid, None, Some(after), last_event)
    }

    /// Changes a profile.
    ///
    /// # Errors
    /// As of [`Draft::create`].
    pub fn update(&mut self, mpid: Mpid, before: &Stored, after: Profile) -> Result<Bytes, StoreError> {
        self.change(mpid, Some(before), Some(after), Some(before.last_event))
    }

    /// Deletes a profile. Its row stays, as the head of the chain of its events.
    ///
    /// # Errors
    /// [`StoreError`] if the index of its identities cannot be read.
    pub fn delete(&mut self, mpid: Mpid, before: &Stored) -> Result<(), StoreError> {
        self.change(mpid, Some(before), None, Some(before.last_event)).map(|_| ())
    }

    /// Everything, and the place after it.
    pub fn finish(mut self) -> (Effects, Place) {
        let context = self.context;
        if !self.effects.events.is_empty() {
            let time = context.event_time();
            self.effects.head = Some(Head { floor: context.head.floor, place: self.place, time });
        }
        (self.effects, self.place)
    }

    fn change(
        &mut self,
        mpid: Mpid,
        before: Option<&Stored>,
        mut after: Option<Profile>,
        previous: Option<Sequence>,
    ) -> Result<Bytes, StoreError> {
        let sequence = self.place.next();
        let earlier = self.effects.events.iter().rev().find(|event| event.mpid == mpid);
        let previous = earlier.map(|event| event.sequence).or(previous);
        let old = before.map(|stored| &stored.profile);
        if let Some(after) = &mut after {
            after.mpid = mpid.get();
            after.update_time = Some(self.context.event_time().to_timestamp());
            after.etag = Etag::new(self.context.state.origin.log, sequence).into_string();
        }
        let after = after.as_ref();
        let profile = Bytes::from(after.map(Profile::encode_to_vec).unwrap_or_default());
        let limits = &self.context.command.limits;
        if let Some(after) = after.filter(|_| profile.len() > limits.profile_bytes) {
            check_size(old, after, limits)?; // It may have been over the limit before.
        }
        self.relink(mpid, old, after)?;
        let expiry_is = after.and_then(next_expiry);
        let held = if after.is_some() { Held::Profile(&profile) } else { Held::Tombstone };
        let row = ProfileRow { next_expiry: expiry_is, last_event: sequence, held };
        self.effects.profiles.push(ProfileWrite {
            mpid,
            row: row.encode(self.context.workspace, mpid),
            expiry_was: before.and_then(|stored| stored.next_expiry),
            expiry_is,
        });
        self.append(mpid, sequence, old, after, &profile, previous);
        self.place = sequence.into();
        Ok(profile)
    }

    fn append(
        &mut self,
        mpid: Mpid,
        sequence: Sequence,
        before: Option<&Profile>,
        after: Option<&Profile>,
        profile: &[u8],
        previous: Option<Sequence>,
    ) {
        let event = encode_event(&self.describe(sequence, before, after), after.map(|_| profile));
        let (kind, silent, time) =
            (change::kind(before, after), self.context.command.silent, self.context.event_time());
        let row = EventRow { previous, mpid, time, kind, silent, event: &event };
        let row = Bytes::from(row.encode(self.context.workspace, sequence));
        let event = row.slice(row.len() - event.len()..);
        self.effects.events.push(EventWrite { sequence, mpid, kind, silent, row, event });
    }

    fn describe(&self, sequence: Sequence, before: Option<&Profile>, after: Option<&Profile>) -> Event {
        let command = self.context.command;
        Event {
            id: self.event_id(sequence).to_string(),
            sequence: sequence.get(),
            time: Some(self.context.event_time().to_timestamp()),
            silent: command.silent,
            actor: command.actor.clone().unwrap_or_default(),
            request_id: command.request.as_ref().map(|request| request.id.clone()).unwrap_or_default(),
            ..change::describe(before, after, self.context.now())
        }
    }

    fn event_id(&self, sequence: Sequence) -> Uuid {
        let nth = sequence.get() - self.context.head.place.get() - 1;
        Uuid::from_u128(self.context.command.stamp.event_id.as_u128().wrapping_add(u128::from(nth)))
    }

    /// Takes the identities that the profile has lost out of the index, and puts in those that it has gained.
    fn relink(&mut self, mpid: Mpid, before: Option<&Profile>, after: Option<&Profile>) -> Result<(), StoreError> {
        let (lost, gained) = relinked(before, after);
        for key in &lost {
            // Only its own: a file of format 1 may have a profile with an identity that another owns by another name.
            if self.context.owner(key)? == Some(mpid) {
                self.effects.owners.push(OwnerWrite { identity: self.context.hash(key), owner: None });
            }
        }
        for key in &gained {
            self.effects.owners.push(OwnerWrite { identity: self.context.hash(key), owner: Some(mpid) });
        }
        Ok(())
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

/// Fields may stand in any order: the profile, which is encoded once, goes last.
fn encode_event(event: &Event, profile: Option<&[u8]>) -> Vec<u8> {
    let room = profile.map_or(0, |profile| wire::delimited_len(field::event::PROFILE, profile.len()));
    let mut encoded = Vec::with_capacity(event.encoded_len() + room);
    event.encode(&mut encoded).expect("a Vec takes any length");
    if let Some(profile) = profile {
        wire::put_delimited(field::event::PROFILE, profile, &mut encoded);
    }
    encoded
}
