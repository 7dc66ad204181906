//! The commands on audiences and their members.

use crate::model::audience::{AudienceId, NewAudience};
use crate::model::{Micros, ProfileKey};

/// Registers an audience.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateAudience {
    /// The audience to register.
    pub audience: Box<NewAudience>,
    /// Whether the id was chosen at random. If it is already in use, the audience gets the next free one.
    pub drawn: bool,
}

/// Deletes an audience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeleteAudience {
    /// The audience to delete.
    pub id: AudienceId,
    /// Whether an audience that does not exist is not an error.
    pub allow_missing: bool,
}

/// Changes memberships of an audience.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangeMembers {
    /// The audience.
    pub id: AudienceId,
    /// The profiles. Not empty.
    pub keys: Vec<ProfileKey>,
    /// Whether they join or leave.
    pub change: MemberChange,
}

/// What becomes of memberships.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberChange {
    /// They last until this time, or for ever.
    Join(Option<Micros>),
    /// They end.
    Leave,
}

/// Takes a step of the work on an audience: gives its name to members that joined before it was registered, or removes
/// members of a deleted audience. It is a step of the store's own upkeep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkOnAudience {
    /// The audience.
    pub id: AudienceId,
    /// The most members to change. The store may change fewer.
    pub most: usize,
}

/// Ends memberships whose time is over at the command's own time, in the order of their ends. It is a step of the
/// store's own upkeep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expire {
    /// The most profiles to change. The store may change fewer.
    pub most: usize,
}

impl ChangeMembers {
    pub(super) fn weight(&self) -> usize {
        self.keys.iter().map(|key| size_of::<ProfileKey>() + key.weight()).sum()
    }
}
