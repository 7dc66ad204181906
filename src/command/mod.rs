//! What the store is asked to write. A command is complete in itself: two stores that apply the same commands in the same
//! order end in the same state.
//!
//! `encoding` is its form as bytes.

mod encoding;

use prost::Message;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

pub use encoding::Undecodable;

use crate::model::limits::REQUEST_ID_CHARS;
use crate::model::{Etag, Invalid, Limits, Micros, Mpid, NewProfile, Patch, ProfileKey, Workspace};

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// The workspace to write to.
    pub workspace: Workspace,
    /// What the clocks said when it was made, and the id of its event.
    pub stamp: Stamp,
    /// Who asks. `None` without authentication.
    pub actor: Option<String>,
    /// Makes a retry safe; `None` if the caller did not ask for that.
    pub request: Option<RequestId>,
    /// Marks its events: see `Event.silent`.
    pub silent: bool,
    /// Decide, but do not write.
    pub validate_only: bool,
    /// What it is judged by.
    pub limits: Limits,
    /// What it changes.
    pub change: Change,
}

/// What is drawn and read off the clocks for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The time of day, by which memberships expire. Event times follow it, but never go back.
    pub time: Micros,
    /// See [`crate::clock::Clock::uptime`].
    pub uptime: Micros,
    /// The id of its first event. Where it has several, they count up from here.
    pub event_id: Uuid,
}

/// The id of a request, and what was asked under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId {
    /// As given.
    pub id: String,
    /// Of everything else in the request.
    pub fingerprint: u128,
}

/// What a command changes.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// See [`Create`].
    Create(Create),
    /// See [`Update`].
    Update(Update),
    /// See [`Delete`].
    Delete(Delete),
}

/// Creates a profile.
#[derive(Debug, Clone, PartialEq)]
pub struct Create {
    /// What it holds.
    pub profile: Box<NewProfile>,
    /// Its key.
    pub mpid: Mpid,
    /// Whether the key was drawn: then it gives way if it is in use.
    pub drawn: bool,
}

/// Applies a patch.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// The profile.
    pub key: ProfileKey,
    /// What changes.
    pub patch: Box<Patch>,
    /// The version to change; `None` for any.
    pub etag: Option<Etag>,
    /// The drawn key of a profile that is created if there is none and `key` is an identity; `None` if none is to be
    /// created.
    pub create_as: Option<Mpid>,
}

/// Deletes a profile.
#[derive(Debug, Clone, PartialEq)]
pub struct Delete {
    /// The profile.
    pub key: ProfileKey,
    /// The version to delete; `None` for any.
    pub etag: Option<Etag>,
    /// Whether it is in order that there is none.
    pub allow_missing: bool,
}

impl Command {
    /// The memory that it takes while it waits, in bytes: what it was parsed into, not what was sent.
    #[must_use]
    pub fn weight(&self) -> usize {
        let etag = |etag: &Option<Etag>| etag.as_ref().map_or(0, Etag::weight);
        let change = match &self.change {
            Change::Create(create) => create.profile.weight(),
            Change::Update(update) => update.key.weight() + update.patch.weight() + etag(&update.etag),
            Change::Delete(delete) => delete.key.weight() + etag(&delete.etag),
        };
        let request = self.request.as_ref().map_or(0, |request| request.id.capacity());
        size_of::<Self>() + change + request
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

    /// Of a request of `method`, from which the id was taken out.
    #[must_use]
    pub fn new(id: String, method: &str, request: &impl Message) -> Self {
        let mut bytes = method.as_bytes().to_vec();
        bytes.push(0);
        request.encode(&mut bytes).expect("a Vec takes any length");
        Self { id, fingerprint: xxh3_128(&bytes) }
    }
}
