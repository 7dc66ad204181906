//! Which values are whose, and which must be nowhere after an erasure.

use std::collections::{BTreeMap, BTreeSet};

use super::commands::Op;
use super::model::Model;
use super::person::Id;

/// The values that commands have planted.
#[derive(Debug, Default)]
pub struct Values {
    /// The profile that each was planted in.
    planted: BTreeMap<String, i64>,
    /// The values of persons that were erased. They never come back, for every value is planted once.
    gone: BTreeSet<String>,
    /// Who has owned each identity, and how it came to it.
    owned: BTreeMap<Id, Vec<(i64, Came)>>,
    /// Profiles that were absorbed when their survivor went.
    buried: BTreeSet<i64>,
    /// The identities that persons who were erased have had.
    pub had: BTreeSet<Id>,
}

/// How a profile came to an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    Free,
    /// Taken from another profile.
    Taken(i64),
    /// From another profile, by a merge of the two or because one was undone.
    Merged(i64),
}

impl Values {
    /// Notes what a command has planted, and which identities have changed hands.
    pub fn follow(&mut self, op: &Op, mpid: Option<i64>, before: &Model, after: &Model, is_trimmed: bool) {
        if let Some(mpid) = mpid {
            self.planted.extend(op.values().into_iter().map(|value| (value, mpid)));
        }
        self.buried.extend(after.gone.iter().filter(|(_, survivor)| survivor.is_some()).map(|(mpid, _)| *mpid));
        if is_trimmed {
            self.trim();
        }
        let is_take = matches!(op, Op::Update { .. });
        for (mpid, person) in &after.people {
            for id in person.ids() {
                let came = match before.owner(id) {
                    Some(owner) if owner == *mpid => continue,
                    Some(owner) if is_take => Came::Taken(owner),
                    Some(owner) => Came::Merged(owner),
                    None => Came::Free,
                };
                self.owned.entry(id.clone()).or_default().push((*mpid, came));
            }
        }
    }

    /// Notes that these profiles were erased as one person. Returns the identities that must be nowhere now.
    pub fn erase(&mut self, person: &[i64], after: &Model, is_trimmed: bool) -> Vec<String> {
        if person.is_empty() {
            return Vec::new();
        }
        let theirs = self.planted.iter().filter(|(_, mpid)| person.contains(mpid));
        self.gone.extend(theirs.map(|(value, _)| value.clone()));
        let mut nowhere = Vec::new();
        for (id, owned) in &mut self.owned {
            let had = owned.iter().any(|(mpid, _)| person.contains(mpid));
            if had {
                self.had.insert(id.clone());
            }
            if had && after.owner(id).is_none() && go_with(owned, person, is_trimmed) {
                nowhere.push(id.value.clone());
                owned.clear();
            }
        }
        nowhere
    }

    /// The log has lost its oldest events. It may no longer tell with whom a profile went, and then an erasure of the
    /// absorbed profile alone leaves its values with the survivor, which was deleted too.
    pub fn trim(&mut self) {
        self.planted.retain(|_, mpid| !self.buried.contains(mpid));
    }

    /// Whether a profile has had this identity since the last erasure that left it nowhere.
    pub fn is_owned(&self, value: &str) -> bool {
        self.owned.iter().any(|(id, owned)| id.value == value && !owned.is_empty())
    }

    pub fn gone(&self) -> impl Iterator<Item = &String> {
        self.gone.iter()
    }
}

/// Whether all that an identity has been part of goes with a person: the person had it, or took it from who had it
/// before. A log that was trimmed may not tell of that.
fn go_with(owned: &[(i64, Came)], person: &[i64], is_trimmed: bool) -> bool {
    let mut goes: Vec<_> = owned.iter().map(|(mpid, _)| person.contains(mpid)).collect();
    // From the latest to the first: it comes from an earlier owner.
    for at in (0..owned.len()).rev().filter(|_| !is_trimmed) {
        let (mpid, came) = owned[at];
        let from = match came {
            Came::Taken(from) => from,
            Came::Merged(from) if !person.contains(&mpid) => from,
            _ => continue,
        };
        if goes[at] {
            (0..at).filter(|earlier| owned[*earlier].0 == from).for_each(|earlier| goes[earlier] = true);
        }
    }
    goes.into_iter().all(|goes| goes)
}
