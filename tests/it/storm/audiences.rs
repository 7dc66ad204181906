//! What is known of the audiences, and what the events of their members must say.
//!
//! An audience has no events of its own. So writers note between which places they changed it, and nobody else writes
//! meanwhile, except for the server itself.

use std::collections::{BTreeMap, BTreeSet};

use cameo::proto::v1::*;

use super::log::Profiles;

/// A change of an audience: after one place, and by another.
#[derive(Debug, Clone)]
pub struct Change {
    pub id: i64,
    pub after: u64,
    pub by: u64,
    pub what: Changed,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Changed {
    /// It was registered under this name.
    Registered(String),
    Deleted,
}

/// What is known of the audiences that are registered.
#[derive(Default)]
pub struct Audiences {
    /// All changes that writers have noted.
    changes: Vec<Change>,
    /// How many of them the log has reached.
    reached: usize,
    /// How each was last changed. One that was deleted is here until its last member has left.
    states: BTreeMap<i64, Changed>,
    /// How many there were that had members: these leave in the background, or get the name.
    pub deleted: usize,
    pub named: usize,
}

impl Audiences {
    /// Takes note of all changes so far.
    pub fn learn(&mut self, changes: Vec<Change>) {
        self.changes = changes;
    }

    /// Whether nothing is noted that is not over.
    pub fn is_settled(&self) -> bool {
        self.reached == self.changes.len() && self.deleting().is_empty()
    }

    /// The audiences that are being deleted: nobody can join them.
    pub fn deleting(&self) -> BTreeSet<i64> {
        self.states.iter().filter(|(_, changed)| **changed == Changed::Deleted).map(|(id, _)| *id).collect()
    }

    /// The audiences that may have been deleted after one event and before another.
    pub fn deleted_between(&self, after: u64, before: u64) -> BTreeSet<i64> {
        let deleted = self.changes.iter().filter(|change| change.what == Changed::Deleted);
        deleted.filter(|change| change.by >= after && change.after < before).map(|change| change.id).collect()
    }

    /// Applies the changes before an event. Returns what is wrong with one.
    pub fn reach(&mut self, sequence: u64, profiles: &Profiles) -> Option<&'static str> {
        while let Some(Change { id, what, .. }) = self.changes.get(self.reached).filter(|next| next.by < sequence) {
            self.reached += 1;
            let was = self.states.insert(*id, what.clone());
            let has_members = has_members(profiles, *id);
            let is_right = match what {
                Changed::Registered(_) => {
                    self.named += usize::from(has_members);
                    was.is_none()
                }
                Changed::Deleted => {
                    self.deleted += usize::from(has_members);
                    matches!(was, Some(Changed::Registered(_)))
                }
            };
            if !is_right {
                return Some("the audience that was changed");
            }
            self.forget_deleted(profiles);
        }
        None
    }

    /// Which part of an event does not say what becomes of members, if one does not.
    pub fn wrong_members(&self, event: &Event) -> Option<&'static str> {
        let joined = event.profile.iter().flat_map(|profile| &profile.audience_memberships);
        let entered = joined.filter(|joined| event.entered_audience_ids.contains(&joined.audience_id));
        let is_wrong = |joined: &AudienceMembership| match self.states.get(&joined.audience_id) {
            Some(Changed::Registered(name)) => joined.audience_name != *name,
            Some(Changed::Deleted) => true,
            None => false,
        };
        let mut certain = entered.filter(|joined| !self.is_changing(joined.audience_id, event.sequence));
        certain.any(is_wrong).then_some("the membership of an audience that was changed")
    }

    /// An audience that was deleted is gone when its last member has left. Both events of an unmerge come from one
    /// write, which found the audience as it was before them.
    pub fn follow(&mut self, event: &Event, profiles: &Profiles) {
        let is_parting = event.r#type == "profile.unmerged" && event.previous.is_some();
        if !is_parting {
            self.forget_deleted(profiles);
        }
    }

    fn forget_deleted(&mut self, profiles: &Profiles) {
        self.states.retain(|id, changed| *changed != Changed::Deleted || has_members(profiles, *id));
    }

    /// Whether nobody can tell if an audience was changed before an event or after it.
    fn is_changing(&self, id: i64, sequence: u64) -> bool {
        let mut next = self.changes[self.reached..].iter();
        next.any(|change| change.id == id && (change.after + 1..=change.by).contains(&sequence))
    }
}

fn has_members(profiles: &Profiles, id: i64) -> bool {
    profiles.values().flat_map(|profile| &profile.audience_memberships).any(|joined| joined.audience_id == id)
}
