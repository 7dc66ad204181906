//! The commands on who is who: identify, merge and unmerge, erase, and the settings of identities.

use crate::model::identity::ParsedIdentity;
use crate::model::{Etag, IdentityKey, IdentitySettings, Mpid, Patch, Place, ProfileKey, Sequence};
use crate::proto::v1::OnConflict;

/// Finds the profile of some identities, or creates it.
#[derive(Debug, Clone, PartialEq)]
pub struct Identify {
    /// What is known of the person. Not empty, and without repeats.
    pub identities: Vec<ParsedIdentity>,
    /// The change to apply to the profile. It leaves identities alone.
    pub patch: Box<Patch>,
    /// What happens to other owners of the identities. Never unspecified.
    pub on_conflict: OnConflict,
    /// A random mpid for the profile that is created if none is found.
    pub create_as: Mpid,
}

/// Merges a profile into another.
#[derive(Debug, Clone, PartialEq)]
pub struct Merge {
    /// The profile that survives.
    pub into: ProfileKey,
    /// The profile that is absorbed.
    pub from: ProfileKey,
    /// Whether, of an attribute that both have, the value that changed last survives.
    pub prefer_newer: bool,
    /// The etag that `into` must have. `None` means any.
    pub into_etag: Option<Etag>,
    /// The etag that `from` must have. `None` means any.
    pub from_etag: Option<Etag>,
}

/// Undoes a merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unmerge {
    /// The profile that was absorbed.
    pub merged: Mpid,
}

/// Erases a profile and what the log holds of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Erase {
    /// The profile to erase.
    pub key: ProfileKey,
    /// The etag that the profile must have. `None` means any.
    pub etag: Option<Etag>,
    /// Whether it is not an error if there is nothing to erase.
    pub allow_missing: bool,
    /// The most events to rewrite. If there are more, the command is refused: see [`EraseEvents`].
    pub most: usize,
    /// What [`EraseEvents`] have done already. `None` if there were none.
    pub begun: Option<Begun>,
}

/// The part of an erasure that comes before its last command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// The profile of which events were rewritten. If the key leads to another by now, that one has all its events yet.
    pub mpid: Mpid,
    /// The events up to this place have been rewritten.
    pub read_to: Place,
}

/// Removes values from events: the part of a large erasure that comes before [`Erase`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EraseEvents {
    /// The events, each at most once.
    pub rewrites: Vec<Rewrite>,
}

/// Removes values from an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// The event.
    pub sequence: Sequence,
    /// What goes.
    pub what: Removal,
}

/// What goes from an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// All values: the event becomes `profile.erased`.
    All,
    /// The profiles in it: the event is redacted.
    Profiles,
    /// The profile before it: the event is redacted.
    Previous,
    /// These identities.
    Identities(Vec<IdentityKey>),
}

/// Changes the identity settings of the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateIdentitySettings {
    /// The new settings. If they have an etag, the settings in force must have it.
    pub settings: Box<IdentitySettings>,
    /// The names of those that change. Empty means all.
    pub paths: Vec<String>,
}

impl Identify {
    pub(super) fn weight(&self) -> usize {
        self.identities.iter().map(ParsedIdentity::weight).sum::<usize>() + self.patch.weight()
    }
}

impl EraseEvents {
    pub(super) fn weight(&self) -> usize {
        let of = |rewrite: &Rewrite| match &rewrite.what {
            Removal::All | Removal::Profiles | Removal::Previous => 0,
            Removal::Identities(keys) => keys.iter().map(|key| size_of::<IdentityKey>() + key.as_bytes().len()).sum(),
        };
        self.rewrites.iter().map(|rewrite| size_of::<Rewrite>() + of(rewrite)).sum()
    }
}
