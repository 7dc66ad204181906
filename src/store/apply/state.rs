//! What a decision may look at: the rows, the workspaces and the command.
//!
//! `None` always means that something is truly absent. If damage could hide it, the lookup fails.

use std::borrow::Cow;

use prost::Message;

use super::super::WorkspaceId;
use super::super::effects::Effects;
use super::super::error::StoreError;
use super::super::logs::Logs;
use super::super::rows::{Head, Held, IdentityHash, Kind, Origin};
use super::super::tables::Tables;
use super::Reply;
use crate::command::Command;
use crate::model::identity::ParsedIdentity;
use crate::model::profile::remove_expired;
use crate::model::{Etag, IdentityKey, Micros, Mpid, ProfileKey, Sequence};
use crate::proto::v1::Profile;

/// The store before the command.
pub(in crate::store) struct State<'a, 'txn> {
    pub origin: Origin,
    pub tables: &'a Tables<'txn>,
    pub logs: &'a Logs,
}

/// A command, and the store before it.
pub(super) struct Context<'a, 'txn> {
    pub state: &'a State<'a, 'txn>,
    pub command: &'a Command,
    pub reply: Reply,
    /// The number of the workspace. If the workspace does not exist yet, it is the number that it will get.
    pub workspace: WorkspaceId,
    /// Whether the workspace exists.
    pub exists: bool,
    pub head: Head,
}

/// A profile as it is stored.
#[derive(Debug)]
pub(super) struct Stored {
    pub profile: Profile,
    pub last_event: Sequence,
    pub next_expiry: Option<Micros>,
}

/// What the store has under an mpid.
pub(super) enum Found {
    /// There never was a profile.
    Nothing,
    /// The profile was deleted. This is its latest event.
    Gone(Sequence),
    /// The profile was absorbed by another.
    Absorbed,
    Profile(Box<Stored>),
}

impl<'a, 'txn> Context<'a, 'txn> {
    pub fn new(state: &'a State<'a, 'txn>, command: &'a Command, reply: Reply) -> Self {
        let id = state.logs.id(&command.workspace);
        let workspace = id.unwrap_or_else(|| state.logs.next_id());
        let head = id.map(|id| state.logs.head(id)).unwrap_or_default();
        Self { state, command, reply, workspace, exists: id.is_some(), head }
    }

    /// Returns the command's own time, which decides what memberships have expired.
    pub fn now(&self) -> Micros {
        self.command.stamp.time
    }

    /// Returns the time of the command's events. Within a log it never goes back.
    pub fn event_time(&self) -> Micros {
        self.now().max(self.head.time)
    }

    /// Creates the workspace if it does not exist and there is something to write to it.
    ///
    /// # Errors
    /// [`StoreError::TooManyWorkspaces`] if that would exceed the limit.
    pub fn found_workspace(&self, effects: &mut Effects) -> Result<(), StoreError> {
        if effects.is_empty() {
            return Ok(());
        }
        effects.workspace = Some(self.workspace);
        if !self.exists {
            let limit = self.command.limits.workspaces;
            if self.state.logs.count() >= limit {
                return Err(StoreError::TooManyWorkspaces { limit });
            }
            effects.born = Some(self.command.workspace.clone());
        }
        Ok(())
    }

    pub fn hash(&self, key: &IdentityKey) -> IdentityHash {
        self.state.origin.secret.hash(self.workspace, key)
    }

    /// Returns the profile that a key names.
    pub fn find(&self, key: &ProfileKey) -> Result<Option<(Mpid, Stored)>, StoreError> {
        match key {
            ProfileKey::Mpid(mpid) => Ok(self.stored(*mpid)?.map(|stored| (*mpid, stored))),
            ProfileKey::Identity(ParsedIdentity { key, .. }) => self.find_by_identity(key),
        }
    }

    /// Checks the index against the profile: the index has only the identity's hash, and one table may be damaged while
    /// the other is sound. An owner that does not exist, or does not have the identity, means damage.
    fn find_by_identity(&self, key: &IdentityKey) -> Result<Option<(Mpid, Stored)>, StoreError> {
        let Some(owner) = self.owner(key)? else { return Ok(None) };
        let stored = self.stored(owner)?.ok_or(Kind::Identity.corrupt())?;
        let Profile { device_identities, user_identities, .. } = &stored.profile;
        let owns = device_identities.iter().chain(user_identities).any(|identity| IdentityKey::of(identity) == *key);
        if owns { Ok(Some((owner, stored))) } else { Err(Kind::Identity.corrupt()) }
    }

    /// Returns the owner of an identity. `None` only if the index shows that there is none.
    pub fn owner(&self, key: &IdentityKey) -> Result<Option<Mpid>, StoreError> {
        if self.exists { self.state.tables.owner(self.workspace, self.hash(key)) } else { Ok(None) }
    }

    pub fn stored(&self, mpid: Mpid) -> Result<Option<Stored>, StoreError> {
        Ok(match self.found(mpid)? {
            Found::Profile(stored) => Some(*stored),
            Found::Nothing | Found::Gone(_) | Found::Absorbed => None,
        })
    }

    pub fn found(&self, mpid: Mpid) -> Result<Found, StoreError> {
        if !self.exists {
            return Ok(Found::Nothing);
        }
        let found = self.state.tables.profile(self.workspace, mpid, |row| {
            let (last_event, next_expiry) = (row.last_event, row.next_expiry);
            let profile = match row.held {
                Held::Profile(profile) => Profile::decode(profile).map_err(|_| Kind::Profile.corrupt())?,
                Held::Tombstone => return Ok(Found::Gone(last_event)),
                Held::Redirect(_) => return Ok(Found::Absorbed),
            };
            Ok(Found::Profile(Box::new(Stored { profile, last_event, next_expiry })))
        })?;
        Ok(found.unwrap_or(Found::Nothing))
    }

    /// Returns the profile as a reader sees it: without expired memberships.
    pub fn served<'p>(&self, stored: &'p Stored) -> Cow<'p, Profile> {
        if stored.next_expiry.is_none_or(|expiry| expiry > self.now()) {
            return Cow::Borrowed(&stored.profile);
        }
        let mut served = stored.profile.clone();
        remove_expired(&mut served, self.now());
        Cow::Owned(served)
    }
}

impl Stored {
    /// Refuses a profile whose version is not the one that the caller named.
    pub fn check(&self, etag: Option<&Etag>) -> Result<(), StoreError> {
        match etag {
            Some(etag) if etag.as_str() != self.profile.etag => Err(StoreError::EtagMismatch),
            _ => Ok(()),
        }
    }
}
