//! Builds the effects of a command: the rows and the event of each profile that it changes.
//!
//! Each change adds a profile row, an event, and the index rows of the identities that the profile gained and lost. The
//! event links to the profile's previous event, also if both come from the same command.

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

/// The effects of a command while they are being built.
pub(super) struct Draft<'c, 'a, 'txn> {
    context: &'c Context<'a, 'txn>,
    effects: Effects,
    /// The place after the events so far.
    place: Place,
}

impl<'c, 'a, 'txn> Draft<'c, 'a, 'txn> {
    pub fn new(context: &'c Context<'a, 'txn>) -> Self {
        Self { context, effects: Effects::default(), place: context.head.place }
    }

    /// Creates a profile, and returns it encoded. `last_event` is the latest event of an earlier profile with the same
    /// mpid.
    ///
    /// # Errors
    /// [`StoreError`] if the profile is too large, or the index of its identities cannot be read.
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

    /// Changes a profile, and returns it encoded.
    ///
    /// # Errors
    /// Those of [`Draft::create`].
    pub fn update(&mut self, mpid: Mpid, before: &Stored, after: Profile) -> Result<Bytes, StoreError> {
        self.change(mpid, Some(before), Some(after), Some(before.last_event))
    }

    /// Deletes a profile. Its row stays, because the chain of its events begins there.
    ///
    /// # Errors
    /// [`StoreError`] if the index of its identities cannot be read.
    pub fn delete(&mut self, mpid: Mpid, before: &Stored) -> Result<(), StoreError> {
        self.change(mpid, Some(before), None, Some(before.last_event)).map(|_| ())
    }

    /// Returns all effects, and the place after the last event.
    pub fn finish(mut self) -> (Effects, Place) {
        let context = self.context;
        if !self.effects.events.is_empty() {
            let bytes = context.head.bytes + self.effects.held_bytes() as u64;
            let (floor, time) = (context.head.floor, context.event_time());
            self.effects.head = Some(Head { floor, place: self.place, time, bytes });
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
            check_size(old, after, limits)?; // A profile that was already over the limit may still change and shrink.
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

    /// The command carries the id of its first event. Ids of further events count up from there.
    fn event_id(&self, sequence: Sequence) -> Uuid {
        let nth = sequence.get() - self.context.head.place.get() - 1;
        Uuid::from_u128(self.context.command.stamp.event_id.as_u128().wrapping_add(u128::from(nth)))
    }

    /// Removes the identities that the profile has lost from the index, and adds those that it has gained.
    fn relink(&mut self, mpid: Mpid, before: Option<&Profile>, after: Option<&Profile>) -> Result<(), StoreError> {
        let (lost, gained) = relinked(before, after);
        for key in &lost {
            // Another profile may own it: in a file of layout 1, two profiles could have the same identity, each by
            // another name of its type.
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

/// Returns the identities that a profile has lost, and those that it has gained.
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

/// Encodes an event. The fields of a message may come in any order, so the profile, which is already encoded, is
/// appended.
fn encode_event(event: &Event, profile: Option<&[u8]>) -> Vec<u8> {
    let room = profile.map_or(0, |profile| wire::delimited_len(field::event::PROFILE, profile.len()));
    let mut encoded = Vec::with_capacity(event.encoded_len() + room);
    event.encode(&mut encoded).expect("a Vec takes any length");
    if let Some(profile) = profile {
        wire::put_delimited(field::event::PROFILE, profile, &mut encoded);
    }
    encoded
}
