//! What a decision may look at: the rows, the workspaces and the command.
//!
//! `None` always means that something is truly absent. If damage could hide it, the lookup fails.

use std::borrow::Cow;

use prost::Message;
use redb::{ReadableTable, ReadableTableMetadata};

use super::super::WorkspaceId;
use super::super::effects::Effects;
use super::super::error::StoreError;
use super::super::logs::Logs;
use super::super::rows::{
    AbsorbedRow, AudienceRow, EventRow, Head, Held, IdentityHash, IdentitySettingsRow, Kind, MergeRow, Origin,
    RememberedRow, audience_key, identity_settings_key, merge_key, remembered_prefix, survivor_key,
};
use super::super::tables::{self, Tables, with_prefix};
use super::Reply;
use crate::command::Command;
use crate::model::identity::{ParsedIdentity, keys_of};
use crate::model::profile::remove_expired;
use crate::model::{AudienceId, Etag, IdentityKey, IdentitySettings, Micros, Mpid, ProfileKey, Sequence};
use crate::proto::storage::MergeRecord;
use crate::proto::v1::{self, Event, Profile};

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
    /// The profile was absorbed, directly or not, by the one with this mpid. The sequence is its latest event.
    Absorbed(Mpid, Sequence),
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

    /// Returns the profile with an mpid, or the one that has absorbed it.
    fn survivor(&self, mpid: Mpid) -> Result<Option<(Mpid, Stored)>, StoreError> {
        match self.found(mpid)? {
            Found::Profile(stored) => Ok(Some((mpid, *stored))),
            Found::Absorbed(into, _) => Ok(Some((into, self.stored(into)?.ok_or(Kind::Profile.corrupt())?))),
            Found::Nothing | Found::Gone(_) => Ok(None),
        }
    }

    /// Returns the profile that a key names: of an absorbed one, the survivor.
    pub fn find(&self, key: &ProfileKey) -> Result<Option<(Mpid, Stored)>, StoreError> {
        match key {
            ProfileKey::Mpid(mpid) => self.survivor(*mpid),
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
            Found::Nothing | Found::Gone(_) | Found::Absorbed(..) => None,
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
                Held::Redirect(into) => return Ok(Found::Absorbed(into, last_event)),
            };
            Ok(Found::Profile(Box::new(Stored { profile, last_event, next_expiry })))
        })?;
        Ok(found.unwrap_or(Found::Nothing))
    }

    /// Returns the row of an audience. `None` if it is not registered and has no members.
    pub fn audience(&self, id: AudienceId) -> Result<Option<AudienceRow>, StoreError> {
        let key = audience_key(self.workspace, id);
        tables::row(&self.state.tables.audiences, Kind::Audience, &key, AudienceRow::read)
    }

    /// Returns what a merge needs to be undone.
    pub fn merge(&self, absorbed: Mpid) -> Result<Option<MergeRecord>, StoreError> {
        tables::row(&self.state.tables.merges, Kind::Merge, &merge_key(self.workspace, absorbed), MergeRow::read)
    }

    /// Returns the bytes of what a merge needs to be undone, without a look at them.
    pub fn merge_bytes(&self, absorbed: Mpid) -> Result<usize, StoreError> {
        let key = merge_key(self.workspace, absorbed);
        tables::guarded(Kind::Merge, || Ok(self.state.tables.merges.get(&*key)?.map_or(0, |row| row.value().len())))
    }

    /// Returns the absorbed profiles that would get an identity back if their merge was undone.
    pub fn remembered(&self, key: &IdentityKey) -> Result<Vec<Mpid>, StoreError> {
        let range = with_prefix(&remembered_prefix(self.workspace, self.hash(key)), None);
        tables::rows(&self.state.tables.remembered, Kind::Remembered, &range, usize::MAX, RememberedRow::read)
    }

    /// Returns the profiles that one has absorbed, directly or not, in the order of their mpids; each with the one that
    /// it was merged into directly.
    pub fn absorbed(&self, survivor: Mpid) -> Result<Vec<(Mpid, Mpid)>, StoreError> {
        let range = with_prefix(&survivor_key(self.workspace, survivor), None);
        tables::rows(&self.state.tables.absorbed, Kind::Absorbed, &range, usize::MAX, AbsorbedRow::read)
    }

    /// Returns an event of a profile's chain, and the event before it on that chain.
    pub fn event(&self, mpid: Mpid, sequence: Sequence) -> Result<(Event, Option<Sequence>), StoreError> {
        let read = |row: EventRow<'_>| {
            let event = Event::decode(row.event).map_err(|_| Kind::Event.corrupt())?;
            Ok((event, row.before(mpid, sequence)?))
        };
        self.state.tables.event(self.workspace, sequence, read)?.ok_or(Kind::Event.corrupt())
    }

    /// Returns the identity settings of the workspace as they are stored. `None` if they never changed.
    pub fn stored_identity_settings(&self) -> Result<Option<v1::IdentitySettings>, StoreError> {
        let (key, tables) = (identity_settings_key(self.workspace), self.state.tables);
        if tables.identity_settings.is_empty()? {
            return Ok(None); // The common case costs no search.
        }
        tables::row(&tables.identity_settings, Kind::IdentitySettings, &key, IdentitySettingsRow::read)
    }

    /// Returns the identity settings of the workspace.
    pub fn identity_settings(&self) -> Result<IdentitySettings, StoreError> {
        let parsed =
            self.stored_identity_settings()?.map(|settings| IdentitySettings::parse("settings", settings)).transpose();
        Ok(parsed.map_err(|_| Kind::IdentitySettings.corrupt())?.unwrap_or_default())
    }

    /// Refuses identities that a write links to a profile, if the settings of the workspace do. `field` is the one that has them.
    pub fn check_identities(&self, field: &str, before: Option<&Profile>, after: &Profile) -> Result<(), StoreError> {
        let (old, new) = (before.map(keys_of).unwrap_or_default(), keys_of(after));
        if new.iter().all(|key| old.contains(key)) {
            return Ok(());
        }
        Ok(self.identity_settings()?.check_links(field, &old, &new)?)
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
