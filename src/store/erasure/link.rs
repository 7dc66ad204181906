//! An event as the plan of an erasure reads it.

use prost::Message;

use super::super::error::StoreError;
use super::super::rows::{EventRow, Kind, Other};
use crate::model::identity::keys_of;
use crate::model::{EventKind, IdentityKey, Mpid, Sequence};
use crate::proto::v1::{Event, Profile};

/// An event, and where it is in the chains.
#[derive(Debug)]
pub(in crate::store) struct Link {
    pub mpid: Mpid,
    pub kind: EventKind,
    pub previous: Option<Sequence>,
    pub other: Option<Other>,
    /// The bytes of the encoded event.
    pub bytes: usize,
    pub event: Event,
}

impl Link {
    pub fn read(row: &EventRow<'_>) -> Result<Self, StoreError> {
        let event = Event::decode(row.event).map_err(|_| Kind::Event.corrupt())?;
        let (mpid, kind, previous, other, bytes) = (row.mpid, row.kind, row.previous, row.other, row.event.len());
        Ok(Self { mpid, kind, previous, other, bytes, event })
    }

    pub(super) fn before(&self, mpid: Mpid) -> Option<Sequence> {
        match self.other {
            Some(other) if self.mpid != mpid => other.previous,
            _ => self.previous,
        }
    }

    pub(super) fn tells(&self) -> bool {
        let is_take = self.event.taken_by_mpid != 0 || !self.event.taken_from_mpids.is_empty();
        self.other.is_some() || self.event.merged_mpid != 0 || is_take
    }

    /// Whether an erasure has removed the profiles, or those before.
    pub(super) fn is_stripped(&self) -> bool {
        self.event.redacted || self.kind == EventKind::Erased
    }

    /// The identities that the profile lost by the event.
    pub(super) fn lost(&self) -> Vec<IdentityKey> {
        let (old, new) = identities(&self.event);
        absent(old, &new)
    }
}

/// The identities that a profile gained by an event.
pub(super) fn gained(event: &Event) -> Vec<IdentityKey> {
    let (old, new) = identities(event);
    absent(new, &old)
}

/// The identities of a profile before and after an event.
fn identities(event: &Event) -> (Vec<IdentityKey>, Vec<IdentityKey>) {
    let before = crate::model::transition::before(event);
    (before.as_ref().map(keys_of).unwrap_or_default(), event.profile.as_ref().map(keys_of).unwrap_or_default())
}

fn absent(mut keys: Vec<IdentityKey>, from: &[IdentityKey]) -> Vec<IdentityKey> {
    keys.retain(|key| !from.contains(key));
    keys
}

/// The profiles in an event.
pub(in crate::store) fn profiles(event: &Event) -> impl Iterator<Item = &Profile> {
    event.profile.iter().chain(&event.previous).chain(&event.merged_profile)
}

pub(super) fn holds<'p>(mut profiles: impl Iterator<Item = &'p Profile>, keys: &[IdentityKey]) -> bool {
    profiles.any(|profile| keys_of(profile).iter().any(|key| keys.contains(key)))
}
