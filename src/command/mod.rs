//! What the store is asked to write. A command is complete in itself: two stores that apply the same commands in the
//! same order end in the same state.
//!
//! `identity` has the commands on who is who, and `audience` those on audiences. `encoding` turns commands into bytes and
//! back.

mod audience;
mod encoding;
mod identity;

use std::time::Duration;

use prost::Message;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

pub use audience::{ChangeMembers, CreateAudience, DeleteAudience, Expire, MemberChange, WorkOnAudience};
pub use encoding::Undecodable;
pub use identity::{Begun, Erase, EraseEvents, Identify, Merge, Removal, Rewrite, Unmerge, UpdateIdentitySettings};

use crate::model::limits::REQUEST_ID_CHARS;
use crate::model::{
    Etag, Invalid, Limits, Micros, Mpid, NewProfile, Patch, Place, Position, ProfileKey, Sequence, Settings,
    SubscriptionName, Workspace,
};

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// The workspace to write to.
    pub workspace: Workspace,
    /// When it was made, and the id of its event.
    pub stamp: Stamp,
    /// The caller. `None` without authentication.
    pub actor: Option<String>,
    /// Makes a retry safe. `None` if the caller gave no request id.
    pub request: Option<RequestId>,
    /// Whether its events are silent: see `Event.silent`.
    pub silent: bool,
    /// Whether to check it without writing anything.
    pub validate_only: bool,
    /// The limits that apply to it.
    pub limits: Limits,
    /// The change to make.
    pub change: Change,
}

/// The times of a command and the id of its event. The store sets them, so that applying the command reads no clock and
/// uses no randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The wall-clock time. It decides which memberships have expired. Event times follow it, but never go back.
    pub time: Micros,
    /// See [`crate::clock::Clock::uptime`].
    pub uptime: Micros,
    /// The id of its first event. Further events have the ids that follow.
    pub event_id: Uuid,
}

/// The id of a request, and a fingerprint of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId {
    /// The id as the caller gave it.
    pub id: String,
    /// A hash of everything else in the request.
    pub fingerprint: u128,
}

/// The change that a command makes.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// See [`Create`].
    Create(Create),
    /// See [`Update`].
    Update(Update),
    /// See [`Delete`].
    Delete(Delete),
    /// See [`Erase`].
    Erase(Erase),
    /// See [`EraseEvents`].
    EraseEvents(EraseEvents),
    /// See [`Identify`].
    Identify(Identify),
    /// See [`Merge`].
    Merge(Merge),
    /// See [`Unmerge`].
    Unmerge(Unmerge),
    /// See [`UpdateIdentitySettings`].
    UpdateIdentitySettings(UpdateIdentitySettings),
    /// See [`CreateAudience`].
    CreateAudience(CreateAudience),
    /// See [`DeleteAudience`].
    DeleteAudience(DeleteAudience),
    /// See [`ChangeMembers`].
    ChangeMembers(ChangeMembers),
    /// See [`WorkOnAudience`].
    WorkOnAudience(WorkOnAudience),
    /// See [`Expire`].
    Expire(Expire),
    /// Creates a subscription.
    CreateSubscription(CreateSubscription),
    /// See [`UpdateSubscription`].
    UpdateSubscription(UpdateSubscription),
    /// See [`DeleteSubscription`].
    DeleteSubscription(DeleteSubscription),
    /// See [`SeekSubscription`].
    SeekSubscription(SeekSubscription),
    /// Opens a stream of the subscription, which ends older ones.
    OpenStream(SubscriptionName),
    /// See [`Acknowledge`].
    Acknowledge(Acknowledge),
    /// See [`Trim`].
    Trim(Trim),
}

/// Creates a profile.
#[derive(Debug, Clone, PartialEq)]
pub struct Create {
    /// The profile to create.
    pub profile: Box<NewProfile>,
    /// The mpid of the profile.
    pub mpid: Mpid,
    /// Whether the mpid was chosen at random. If it is already in use, the profile gets the next free one.
    pub drawn: bool,
}

/// Applies a patch.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// The profile to change.
    pub key: ProfileKey,
    /// The patch to apply.
    pub patch: Box<Patch>,
    /// The etag that the profile must have. `None` means any.
    pub etag: Option<Etag>,
    /// A random mpid for the profile that is created if none exists and `key` is an identity. `None` means that no
    /// profile is created.
    pub create_as: Option<Mpid>,
}

/// Deletes a profile.
#[derive(Debug, Clone, PartialEq)]
pub struct Delete {
    /// The profile to delete.
    pub key: ProfileKey,
    /// The etag that the profile must have. `None` means any.
    pub etag: Option<Etag>,
    /// Whether a profile that does not exist is not an error.
    pub allow_missing: bool,
}

/// Creates a subscription.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateSubscription {
    /// Its settings.
    pub settings: Box<Settings>,
    /// Where it starts.
    pub start: Begin,
}

/// Changes settings of a subscription.
#[derive(Debug, Clone, PartialEq)]
pub struct UpdateSubscription {
    /// The new settings.
    pub settings: Box<Settings>,
    /// The names of those that change. Empty means all.
    pub paths: Vec<String>,
}

/// Deletes a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteSubscription {
    /// The subscription to delete.
    pub name: SubscriptionName,
    /// Whether a subscription that does not exist is not an error.
    pub allow_missing: bool,
}

/// Moves the acknowledged position of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeekSubscription {
    /// The subscription to move.
    pub name: SubscriptionName,
    /// Where it continues.
    pub to: Begin,
}

/// Acknowledges what a stream of a subscription has delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledge {
    /// The subscription.
    pub name: SubscriptionName,
    /// The number of the stream.
    pub stream: u64,
    /// Everything at or before it was processed, or skipped.
    pub position: Position,
    /// The events that were skipped, and why.
    pub skipped: Vec<(Sequence, String)>,
}

/// Where a subscription starts, or continues after a seek.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// After the latest event.
    Now,
    /// With the oldest event that the log holds.
    Earliest,
    /// With a snapshot.
    Snapshot,
    /// After a position.
    At(Position),
    /// After a place, or with the oldest event if the log no longer holds what follows the place.
    Since(Place),
}

/// Removes the oldest events of the log. It is a step of the store's own upkeep and appends no event itself.
///
/// An event is removed if it is too old or the log is too large, and if besides no subscription needs it or it may not
/// be held for that any longer. The time of the command decides how old an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trim {
    /// The age from which on an event is too old. `None` means that no event is.
    pub max_age: Option<Duration>,
    /// The bytes above which the log is too large. `None` means that it never is.
    pub max_bytes: Option<u64>,
    /// The age up to which an event is held for a subscription. `None` means any age.
    pub hold_age: Option<Duration>,
    /// The bytes of the log up to which events are held for a subscription. `None` means any number.
    pub hold_bytes: Option<u64>,
    /// The most events to remove. The store may remove fewer.
    pub most: usize,
}

impl Command {
    /// The memory that it takes while it waits, in bytes. This is the size after parsing, not the encoded size.
    #[must_use]
    pub fn weight(&self) -> usize {
        let request = self.request.as_ref().map_or(0, |request| request.id.capacity());
        size_of::<Self>() + self.change.weight() + request
    }
}

impl Change {
    /// The subscription that it is about.
    #[must_use]
    pub fn subscription(&self) -> Option<&SubscriptionName> {
        match self {
            Self::Create(_)
            | Self::Update(_)
            | Self::Delete(_)
            | Self::Erase(_)
            | Self::EraseEvents(_)
            | Self::Identify(_)
            | Self::Merge(_)
            | Self::Unmerge(_)
            | Self::UpdateIdentitySettings(_)
            | Self::CreateAudience(_)
            | Self::DeleteAudience(_)
            | Self::ChangeMembers(_)
            | Self::WorkOnAudience(_)
            | Self::Expire(_)
            | Self::Trim(_) => None,
            Self::CreateSubscription(create) => Some(&create.settings.name),
            Self::UpdateSubscription(update) => Some(&update.settings.name),
            Self::DeleteSubscription(delete) => Some(&delete.name),
            Self::SeekSubscription(seek) => Some(&seek.name),
            Self::OpenStream(name) => Some(name),
            Self::Acknowledge(acknowledge) => Some(&acknowledge.name),
        }
    }

    /// The memory that it takes beyond its own size, in bytes, once it is parsed.
    #[must_use]
    pub fn weight(&self) -> usize {
        let etag = |etag: &Option<Etag>| etag.as_ref().map_or(0, Etag::weight);
        let paths = |paths: &[String]| paths.iter().map(|path| size_of::<String>() + path.len()).sum::<usize>();
        match self {
            Self::Create(create) => create.profile.weight(),
            Self::Update(update) => update.key.weight() + update.patch.weight() + etag(&update.etag),
            Self::Delete(delete) => delete.key.weight() + etag(&delete.etag),
            Self::Erase(erase) => erase.key.weight() + etag(&erase.etag),
            Self::EraseEvents(erase) => erase.weight(),
            Self::Identify(identify) => identify.weight(),
            Self::Merge(merge) => {
                merge.into.weight() + merge.from.weight() + etag(&merge.into_etag) + etag(&merge.from_etag)
            }
            Self::UpdateIdentitySettings(update) => update.settings.weight() + paths(&update.paths),
            Self::CreateAudience(create) => create.audience.weight(),
            Self::ChangeMembers(change) => change.weight(),
            Self::CreateSubscription(create) => create.settings.weight(),
            Self::UpdateSubscription(update) => update.settings.weight() + paths(&update.paths),
            Self::Unmerge(_)
            | Self::DeleteAudience(_)
            | Self::WorkOnAudience(_)
            | Self::Expire(_)
            | Self::DeleteSubscription(_)
            | Self::SeekSubscription(_)
            | Self::OpenStream(_)
            | Self::Trim(_) => 0,
            Self::Acknowledge(acknowledge) => {
                let skipped = acknowledge.skipped.iter();
                skipped.map(|(_, reason)| size_of::<(Sequence, String)>() + reason.capacity()).sum()
            }
        }
    }
}

impl RequestId {
    /// Parses the `request_id` of a request; `None` for an empty one.
    ///
    /// # Errors
    /// [`Invalid::Field`] if it is malformed.
    pub fn parse(id: String) -> Result<Option<String>, Invalid> {
        if id.len() > REQUEST_ID_CHARS || !id.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(Invalid::field("request_id", "must be at most 64 printable ASCII characters"));
        }
        Ok((!id.is_empty()).then_some(id))
    }

    /// The id of a request of `method`, and the fingerprint of `request`, which no longer contains the id.
    #[must_use]
    pub fn new(id: String, method: &str, request: &impl Message) -> Self {
        let mut bytes = method.as_bytes().to_vec();
        bytes.push(0);
        request.encode(&mut bytes).expect("a Vec takes any length");
        Self { id, fingerprint: xxh3_128(&bytes) }
    }
}
