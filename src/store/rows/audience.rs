//! The rows of audiences: the audiences themselves, their members, and when the next membership of a profile ends.

use prost::Message;

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::{Kind, begin, number, seal, sorted, unseal, unsorted};
use crate::model::{AudienceId, Micros, Mpid};
use crate::proto::v1::{Audience, AudienceState};

/// An audience that is registered, or has members, or both.
#[derive(Debug, Clone, PartialEq, Default)]
pub(in crate::store) struct AudienceRow {
    /// The rows of its members.
    pub members: u64,
    pub work: Work,
    /// The audience, if it is registered: without the fields that say what the server does with it.
    pub registered: Option<Audience>,
}

/// What the server still has to do with the members of an audience.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::store) enum Work {
    #[default]
    None,
    /// Members after this one may have another name in their memberships. So many are left, as far as is known.
    Naming { after: Option<Mpid>, left: u64 },
    /// All members leave.
    Deleting,
}

/// A member of an audience: when the membership ends. The audience and the profile are in the key.
pub(in crate::store) struct MemberRow;

/// A profile of which a membership ends. The time and the profile are in the key.
pub(in crate::store) struct ExpiryRow;

/// Where each field of the body of an [`AudienceRow`] begins. The audience follows.
const MEMBERS: usize = 0;
const WORK: usize = 8;
const AFTER: usize = 9;
const LEFT: usize = 17;
const IS_REGISTERED: usize = 25;
const HEADER: usize = 26;
/// The values of the byte that says what work there is.
const NO_WORK: u8 = 0;
const NAMING: u8 = 1;
const DELETING: u8 = 2;
/// Stored as the end of a membership that does not end.
const NEVER: i64 = i64::MAX;
/// Bytes of a time.
const TIME: usize = 8;
/// Where the number and the mpid begin in the keys of members and of expiries.
const FIRST: usize = 4;
const SECOND: usize = 12;

/// The key of an audience.
pub(in crate::store) fn audience_key(workspace: WorkspaceId, audience: AudienceId) -> Vec<u8> {
    [&workspace.0.to_be_bytes()[..], &sorted(audience.get())].concat()
}

/// The key of a member: that of the audience, and the mpid.
pub(in crate::store) fn member_key(workspace: WorkspaceId, audience: AudienceId, mpid: Mpid) -> Vec<u8> {
    [&audience_key(workspace, audience)[..], &sorted(mpid.get())].concat()
}

/// The key of an expiry: the time, and the mpid.
pub(in crate::store) fn expiry_key(workspace: WorkspaceId, time: Micros, mpid: Mpid) -> Vec<u8> {
    [&workspace.0.to_be_bytes()[..], &sorted(time.get()), &sorted(mpid.get())].concat()
}

impl AudienceRow {
    pub fn encode(&self, key: &[u8]) -> Vec<u8> {
        let (work, after, left) = match self.work {
            Work::None => (NO_WORK, None, 0),
            Work::Naming { after, left } => (NAMING, after, left),
            Work::Deleting => (DELETING, None, 0),
        };
        let audience = self.registered.as_ref();
        let mut row = begin(Kind::Audience, HEADER + audience.map_or(0, Message::encoded_len));
        row.extend_from_slice(&self.members.to_le_bytes());
        row.push(work);
        row.extend_from_slice(&after.map_or(0, Mpid::get).to_le_bytes());
        row.extend_from_slice(&left.to_le_bytes());
        row.push(audience.is_some().into());
        if let Some(audience) = audience {
            audience.encode(&mut row).expect("a Vec takes any length");
        }
        seal(Kind::Audience, key, row)
    }

    pub fn read(key: &[u8], row: &[u8]) -> Result<Self, StoreError> {
        let body = unseal(Kind::Audience, key, row, HEADER)?;
        let left = u64::from_le_bytes(number(body, LEFT));
        let work = match body[WORK] {
            NO_WORK => Work::None,
            NAMING => Work::Naming { after: Mpid::new(i64::from_le_bytes(number(body, AFTER))), left },
            DELETING => Work::Deleting,
            _ => return Err(Kind::Audience.corrupt()),
        };
        let registered = match body[IS_REGISTERED] {
            0 => None,
            _ => Some(Audience::decode(&body[HEADER..]).map_err(|_| Kind::Audience.corrupt())?),
        };
        Ok(Self { members: u64::from_le_bytes(number(body, MEMBERS)), work, registered })
    }

    /// Returns the audience as callers see it. `None` if it is not registered.
    pub fn message(&self) -> Option<Audience> {
        let count = |members: u64| i64::try_from(members).unwrap_or(i64::MAX);
        let (state, remaining) = match self.work {
            Work::None => (AudienceState::Active, 0),
            Work::Naming { left, .. } => (AudienceState::Naming, left),
            Work::Deleting => (AudienceState::Deleting, self.members),
        };
        let audience = self.registered.clone()?;
        let (member_count, remaining_members) = (count(self.members), count(remaining));
        Some(Audience { member_count, state: state.into(), remaining_members, ..audience })
    }

    /// The audience in the key of its row.
    pub fn id_in(key: &[u8]) -> Result<AudienceId, StoreError> {
        let id = key.get(FIRST..SECOND).filter(|_| key.len() == SECOND).map(|id| unsorted(number(id, 0)));
        id.and_then(AudienceId::new).ok_or(Kind::Audience.corrupt())
    }
}

impl MemberRow {
    pub fn encode(key: &[u8], end: Option<Micros>) -> Vec<u8> {
        let mut row = begin(Kind::Member, TIME);
        row.extend_from_slice(&end.map_or(NEVER, Micros::get).to_le_bytes());
        seal(Kind::Member, key, row)
    }

    /// The profile in the key of a row, whether the row is sound or not.
    pub fn mpid_in(key: &[u8]) -> Option<Mpid> {
        mpid_in(key, Kind::Member).ok()
    }

    /// Returns the mpid of the member, and when the membership ends.
    pub fn read(key: &[u8], row: &[u8]) -> Result<(Mpid, Option<Micros>), StoreError> {
        let end = i64::from_le_bytes(number(unseal(Kind::Member, key, row, TIME)?, 0));
        Ok((mpid_in(key, Kind::Member)?, (end != NEVER).then_some(Micros::new(end))))
    }
}

impl ExpiryRow {
    pub fn encode(key: &[u8]) -> Vec<u8> {
        seal(Kind::Expiry, key, begin(Kind::Expiry, 0))
    }

    /// The time and the profile in the key of a row, whether the row is sound or not.
    pub fn parts_in(key: &[u8]) -> Option<(Micros, Mpid)> {
        let mpid = mpid_in(key, Kind::Expiry).ok()?;
        Some((Micros::new(unsorted(number(key, FIRST))), mpid))
    }

    /// Returns when a membership ends, and of which profile.
    pub fn read(key: &[u8], row: &[u8]) -> Result<(Micros, Mpid), StoreError> {
        unseal(Kind::Expiry, key, row, 0)?;
        Self::parts_in(key).ok_or(Kind::Expiry.corrupt())
    }
}

fn mpid_in(key: &[u8], kind: Kind) -> Result<Mpid, StoreError> {
    let mpid = key.get(SECOND..).and_then(|mpid| Some(unsorted(*mpid.first_chunk()?)));
    mpid.filter(|_| key.len() == SECOND + 8).and_then(Mpid::new).ok_or(kind.corrupt())
}
