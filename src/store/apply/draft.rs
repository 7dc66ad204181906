//! Builds the effects of a command: the rows and the event of each profile that it changes.
//!
//! - Each change adds a profile row, an event, the index rows of the identities that the profile gained and lost, and
//!   those of its memberships. The event links to the profile's previous event, also if both come from the same command.
//! - The event of a merge belongs to the chains of two profiles.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use uuid::Uuid;

use super::super::effects::{Effects, EventWrite, OwnerWrite, ProfileWrite, RowTable, RowWrite};
use super::super::error::StoreError;
use super::super::rows::{AudienceRow, EventRow, Head, Held, Other, ProfileRow};
use super::state::{Context, Stored};
use crate::model::identity::keys_of;
use crate::model::profile::{check_size, next_expiry};
use crate::model::{AudienceId, Etag, EventKind, IdentityKey, Mpid, Place, Sequence, change, wire};
use crate::proto::field;
use crate::proto::v1::{Event, Profile};

/// The effects of a command while they are being built.
pub(super) struct Draft<'c, 'a, 'txn> {
    pub(super) context: &'c Context<'a, 'txn>,
    pub(super) effects: Effects,
    /// The rows of audiences that the command has looked at. Those that it changed are written at the end.
    pub(super) audiences: BTreeMap<AudienceId, Looked>,
    /// The place after the events so far.
    place: Place,
    /// The bytes of the events that lose values, before and after. One that loses little grows by its mark.
    pub(super) rewritten: [u64; 2],
    /// What the survivor of merges has absorbed, once that is known.
    pub(super) absorbed: Option<Absorbed>,
}

/// The profiles that a survivor has absorbed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Absorbed {
    pub count: usize,
    /// The bytes of the records of their merges.
    pub bytes: usize,
}

/// The row of an audience, as it was and as it will be.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub was: AudienceRow,
    pub is: AudienceRow,
}

/// What an event tells besides the profile before and after it.
#[derive(Debug)]
pub(super) struct Told<'p> {
    pub kind: EventKind,
    /// The profile that is absorbed, and its mpid.
    pub absorbed: Option<(Mpid, &'p Stored)>,
    /// The other profile of a merge that is undone.
    pub parted_from: Option<Mpid>,
    /// The profiles that lose identities to this one.
    pub taken_from: Vec<Mpid>,
    /// The profile that takes identities from this one.
    pub taken_by: Option<Mpid>,
}

impl Told<'_> {
    pub fn of(kind: EventKind) -> Self {
        Self { kind, absorbed: None, parted_from: None, taken_from: Vec::new(), taken_by: None }
    }

    fn other(&self) -> Option<Mpid> {
        self.absorbed.map(|(mpid, _)| mpid).or(self.parted_from)
    }
}

impl<'c, 'a, 'txn> Draft<'c, 'a, 'txn> {
    pub fn new(context: &'c Context<'a, 'txn>) -> Self {
        let (effects, audiences) = (Effects::default(), BTreeMap::new());
        Self { context, effects, audiences, place: context.head.place, rewritten: [0, 0], absorbed: None }
    }

    /// Creates a profile, and returns it encoded. `last_event` is the latest event of an earlier profile with the same
    /// mpid. `taken_from` are the profiles that lose identities to it.
    ///
    /// # Errors
    /// [`StoreError`] if the profile is too large, it joins an audience that is being deleted, or an index cannot be
    /// read.
    pub fn create(
        &mut self,
        mpid: Mpid,
        mut after: Profile,
        last_event: Option<Sequence>,
        taken_from: Vec<Mpid>,
    ) -> Result<Bytes, StoreError> {
        after.create_time = Some(self.context.event_time().to_timestamp());
        self.change(mpid, None, Some(after), last_event, &Told { taken_from, ..Told::of(EventKind::Created) })
    }

    /// Changes a profile, and returns it encoded.
    ///
    /// # Errors
    /// Those of [`Draft::create`].
    pub fn update(
        &mut self,
        mpid: Mpid,
        before: &Stored,
        after: Profile,
        told: &Told<'_>,
    ) -> Result<Bytes, StoreError> {
        self.change(mpid, Some(before), Some(after), Some(before.last_event), told)
    }

    /// Deletes a profile. Its row stays, because the chain of its events begins there.
    ///
    /// # Errors
    /// [`StoreError`] if an index cannot be read.
    pub fn delete(&mut self, mpid: Mpid, before: &Stored) -> Result<(), StoreError> {
        self.change(mpid, Some(before), None, Some(before.last_event), &Told::of(EventKind::Deleted)).map(|_| ())
    }

    /// Erases a profile: as a delete, with an event that has no value of it.
    ///
    /// # Errors
    /// [`StoreError`] if an index cannot be read.
    pub fn erase(&mut self, mpid: Mpid, before: &Stored) -> Result<(), StoreError> {
        self.change(mpid, Some(before), None, Some(before.last_event), &Told::of(EventKind::Erased)).map(|_| ())
    }

    /// Merges a profile into another, which becomes `after`. Returns the survivor, encoded.
    ///
    /// # Errors
    /// Those of [`Draft::create`].
    pub fn absorb(
        &mut self,
        (into, survivor): (Mpid, &Stored),
        (from, absorbed): (Mpid, &Stored),
        after: Profile,
    ) -> Result<Bytes, StoreError> {
        self.relink(from, Some(&absorbed.profile), None)?; // First, so that the survivor can have its identities.
        let told = Told { absorbed: Some((from, absorbed)), ..Told::of(EventKind::Merged) };
        let profile = self.update(into, survivor, after, &told)?;
        let last_event = self.place.last().expect("the event was just added");
        self.redirect(from, into, last_event);
        self.reindex(from, Some(&absorbed.profile), None)?;
        self.expire(from, absorbed.next_expiry, None);
        Ok(profile)
    }

    /// Brings back a profile that `survivor` had absorbed, and returns it encoded.
    ///
    /// # Errors
    /// Those of [`Draft::create`].
    pub fn restore(
        &mut self,
        mpid: Mpid,
        after: Profile,
        last_event: Option<Sequence>,
        survivor: Mpid,
    ) -> Result<Bytes, StoreError> {
        let told = Told { parted_from: Some(survivor), ..Told::of(EventKind::Unmerged) };
        self.change(mpid, None, Some(after), last_event, &told)
    }

    /// Makes the row of an absorbed profile lead to another. `last_event` is its latest event.
    pub fn redirect(&mut self, absorbed: Mpid, to: Mpid, last_event: Sequence) {
        self.hold(absorbed, ProfileRow { next_expiry: None, last_event, held: Held::Redirect(to) });
    }

    /// Makes the row of an absorbed profile one of a profile that is gone.
    pub fn bury(&mut self, absorbed: Mpid, last_event: Sequence) {
        self.hold(absorbed, ProfileRow { next_expiry: None, last_event, held: Held::Tombstone });
    }

    /// Writes a row of a table that has bytes for keys.
    pub fn put(&mut self, table: RowTable, key: Vec<u8>, row: Option<Vec<u8>>) {
        self.effects.rows.push(RowWrite { table, key, row });
    }

    /// The bytes of the events so far.
    pub fn event_bytes(&self) -> usize {
        self.effects.held_bytes()
    }

    /// The place after the events so far.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Returns all effects, and the place after the last event.
    pub fn finish(mut self) -> (Effects, Place) {
        self.write_audiences();
        let context = self.context;
        let has_events = !self.effects.events.is_empty();
        if has_events || !self.effects.rewritten.is_empty() {
            let added = self.effects.held_bytes() as u64;
            let [was, is] = self.rewritten;
            let bytes = (context.head.bytes + added + is).saturating_sub(was);
            let time = if has_events { context.event_time() } else { context.head.time };
            self.effects.head = Some(Head { place: self.place, time, bytes, ..context.head });
        }
        (self.effects, self.place)
    }

    fn change(
        &mut self,
        mpid: Mpid,
        before: Option<&Stored>,
        mut after: Option<Profile>,
        previous: Option<Sequence>,
        told: &Told<'_>,
    ) -> Result<Bytes, StoreError> {
        let sequence = self.place.next();
        let earlier = self.effects.events.iter().rev().find(|event| event.mpid == mpid || event.other == Some(mpid));
        let previous = earlier.map(|event| event.sequence).or(previous);
        let old = before.map(|stored| &stored.profile);
        if let Some(after) = &mut after {
            after.mpid = mpid.get();
            after.update_time = Some(self.context.event_time().to_timestamp());
            after.etag = Etag::new(self.context.state.origin.log, sequence).into_string();
            self.name_memberships(old, after)?;
        }
        let after = after.as_ref();
        let profile = Bytes::from(after.map(Profile::encode_to_vec).unwrap_or_default());
        let limits = &self.context.command.limits;
        if let Some(after) = after.filter(|_| profile.len() > limits.profile_bytes) {
            check_size(old, after, limits)?; // A profile that was already over the limit may still change and shrink.
        }
        self.relink(mpid, old, after)?;
        self.reindex(mpid, old, after)?;
        let (expiry_was, next_expiry) = (before.and_then(|stored| stored.next_expiry), after.and_then(next_expiry));
        self.expire(mpid, expiry_was, next_expiry);
        let held = if after.is_some() { Held::Profile(&profile) } else { Held::Tombstone };
        self.hold(mpid, ProfileRow { next_expiry, last_event: sequence, held });
        self.append(mpid, sequence, old, after, &profile, previous, told);
        self.place = sequence.into();
        Ok(profile)
    }

    fn hold(&mut self, mpid: Mpid, row: ProfileRow<'_>) {
        self.effects.profiles.push(ProfileWrite { mpid, row: row.encode(self.context.workspace, mpid) });
    }

    #[allow(clippy::too_many_arguments)] // They are the parts of one event.
    fn append(
        &mut self,
        mpid: Mpid,
        sequence: Sequence,
        before: Option<&Profile>,
        after: Option<&Profile>,
        profile: &[u8],
        previous: Option<Sequence>,
        told: &Told<'_>,
    ) {
        let event = encode_event(&self.describe(mpid, sequence, before, after, told), after.map(|_| profile));
        let (kind, silent, time) = (told.kind, self.context.command.silent, self.context.event_time());
        let other = told.absorbed.map(|(mpid, absorbed)| Other { mpid, previous: Some(absorbed.last_event) });
        let row = EventRow { previous, mpid, time, kind, silent, other, event: &event };
        let row = Bytes::from(row.encode(self.context.workspace, sequence));
        let (event, other) = (row.slice(row.len() - event.len()..), other.map(|other| other.mpid));
        self.effects.events.push(EventWrite { sequence, mpid, kind, silent, other, row, event });
    }

    fn describe(
        &self,
        mpid: Mpid,
        sequence: Sequence,
        before: Option<&Profile>,
        after: Option<&Profile>,
        told: &Told<'_>,
    ) -> Event {
        let command = self.context.command;
        // Of a profile that is erased, the event tells nothing.
        let before = before.filter(|_| told.kind != EventKind::Erased);
        let is_erased = told.kind == EventKind::Erased;
        let request_id = command.request.as_ref().filter(|_| !is_erased).map(|request| request.id.clone());
        Event {
            id: self.event_id(sequence).to_string(),
            sequence: sequence.get(),
            time: Some(self.context.event_time().to_timestamp()),
            mpid: mpid.get(),
            silent: command.silent,
            actor: command.actor.clone().unwrap_or_default(),
            request_id: request_id.unwrap_or_default(),
            merged_mpid: told.other().map_or(0, Mpid::get),
            merged_profile: told.absorbed.map(|(_, absorbed)| absorbed.profile.clone()),
            taken_from_mpids: told.taken_from.iter().map(|mpid| mpid.get()).collect(),
            taken_by_mpid: told.taken_by.map_or(0, Mpid::get),
            ..change::describe(told.kind, before, after, self.context.now())
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
