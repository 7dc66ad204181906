//! Which profile some identities name, as the protos promise it.

use std::collections::{BTreeMap, BTreeSet};

use super::model::Model;
use super::person::{Id, Person};
use crate::proto::v1::{
    IdentifyProfileResponse, IdentityMatch, IdentitySettings, InvolvedOutcome, InvolvedProfile, MatchReason,
    UnlinkedIdentity, UnlinkedReason,
};

/// The identity settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    pub priority: Vec<String>,
    pub unique: BTreeSet<String>,
    pub limits: BTreeMap<String, i32>,
    pub never: BTreeSet<String>,
}

impl Rules {
    pub fn to_proto(&self) -> IdentitySettings {
        IdentitySettings {
            priority: self.priority.clone(),
            unique_types: self.unique.iter().cloned().collect(),
            type_limits: self.limits.clone(),
            never_link_types: self.never.iter().cloned().collect(),
            ..IdentitySettings::default()
        }
    }

    fn limit(&self, kind: &str) -> Option<usize> {
        let limit = self.limits.get(kind).map(|limit| usize::try_from(*limit).unwrap());
        if self.unique.contains(kind) { Some(1) } else { limit }
    }

    fn rank(&self, kind: &str) -> (usize, usize) {
        let named = self.priority.iter().position(|named| named == kind).unwrap_or(self.priority.len());
        let default = match kind {
            "customer_id" => 0,
            "ios_idfa" => 2,
            _ => 1,
        };
        (named, default)
    }

    /// Whether two profiles are two persons.
    pub fn contradicts(&self, one: &Person, other: &Person) -> bool {
        self.are_apart(&one.ids().collect::<Vec<_>>(), &other.ids().collect::<Vec<_>>())
    }

    /// Whether both have identities of a unique type, and none in common.
    fn are_apart(&self, ours: &[&Id], theirs: &[&Id]) -> bool {
        self.unique.iter().any(|kind| {
            let of =
                |ids: &[&Id]| ids.iter().filter(|id| id.kind == *kind).map(|id| (*id).clone()).collect::<BTreeSet<_>>();
            let (ours, theirs) = (of(ours), of(theirs));
            !ours.is_empty() && !theirs.is_empty() && ours.is_disjoint(&theirs)
        })
    }

    /// Why a profile may not be linked its new identities.
    pub fn growth(&self, before: &Person, after: &Person) -> Vec<String> {
        let mut new = after.ids().filter(|id| !before.has(id));
        let why = new.any(|id| self.never.contains(&id.kind)).then(|| "Field".to_owned());
        why.into_iter().chain(self.counts(before, after)).collect()
    }

    /// Why a profile may not have its new identities, wherever they come from.
    pub fn counts(&self, before: &Person, after: &Person) -> Vec<String> {
        let mut why = Vec::new();
        for id in after.ids().filter(|id| !before.has(id)) {
            if self.limit(&id.kind).is_some_and(|limit| after.count(&id.kind) > limit) {
                why.push("Limit".to_owned());
            }
        }
        why
    }
}

pub struct Resolved {
    pub found: Option<i64>,
    matched: Option<IdentityMatch>,
    pub others: BTreeMap<i64, InvolvedProfile>,
    free: Vec<usize>,
    linked: Vec<i32>,
    unlinked: BTreeMap<usize, UnlinkedReason>,
}

fn place(index: usize) -> i32 {
    i32::try_from(index).unwrap()
}

impl Resolved {
    /// Finds the profile that matches; a refusal if the identities cannot be used.
    pub fn of(model: &Model, ids: &[Id]) -> Result<Self, String> {
        let rules = &model.rules;
        let (mut linking, never): (Vec<_>, Vec<_>) =
            (0..ids.len()).partition(|index| !rules.never.contains(&ids[*index].kind));
        let asked: Vec<_> = linking.iter().map(|index| &ids[*index]).collect();
        if linking.is_empty() || asked.iter().any(|id| rules.unique.contains(&id.kind) && is_repeated(id, &asked)) {
            return Err("Field".into());
        }
        linking.sort_by_key(|index| (rules.rank(&ids[*index].kind), *index));
        let owned: Vec<_> =
            linking.iter().filter_map(|index| model.owner(&ids[*index]).map(|owner| (*index, owner))).collect();
        let is_another = |owner: &i64| rules.are_apart(&model.people[owner].ids().collect::<Vec<_>>(), &asked);
        let owners: BTreeSet<_> = owned.iter().map(|(_, owner)| *owner).collect();
        let matching = owned.iter().position(|(_, owner)| !is_another(owner));
        let matched = matching.map(|at| {
            let reason = match at {
                _ if owners.len() == 1 => MatchReason::OnlyOwner,
                0 => MatchReason::HighestPriority,
                _ => MatchReason::OthersContradict,
            };
            let index = owned[at].0;
            IdentityMatch { index: place(index), r#type: ids[index].kind.clone(), reason: reason.into() }
        });
        let found = matching.map(|at| owned[at].1);
        let involved = |mpid: i64| {
            let mut indexes: Vec<_> =
                owned.iter().filter(|(_, owner)| *owner == mpid).map(|(index, _)| place(*index)).collect();
            indexes.sort_unstable();
            let outcome = if is_another(&mpid) { InvolvedOutcome::Contradicts } else { InvolvedOutcome::Kept };
            (mpid, InvolvedProfile { mpid, indexes, outcome: outcome.into() })
        };
        let others = owners.into_iter().filter(|owner| Some(*owner) != found).map(involved).collect();
        let free = (0..ids.len()).filter(|index| linking.contains(index) && model.owner(&ids[*index]).is_none());
        let unlinked = never.into_iter().map(|index| (index, UnlinkedReason::NeverLinks)).collect();
        Ok(Self { found, matched, others, free: free.collect(), linked: Vec::new(), unlinked })
    }

    pub fn conflict(&self) -> String {
        let subjects: Vec<_> = self.others.keys().map(|mpid| format!("profiles/{mpid}")).collect();
        format!("IdentityConflict {}", subjects.join(" "))
    }

    /// The others that are not another person.
    pub fn mergeable(&self) -> Vec<i64> {
        let kept = i32::from(InvolvedOutcome::Kept);
        self.others.values().filter(|other| other.outcome == kept).map(|other| other.mpid).collect()
    }

    pub fn merged(&mut self, mpid: i64) {
        self.others.get_mut(&mpid).unwrap().outcome = InvolvedOutcome::Merged.into();
    }

    pub fn contradicts(&mut self, mpid: i64) {
        self.others.get_mut(&mpid).unwrap().outcome = InvolvedOutcome::Contradicts.into();
    }

    /// Links what nobody owns, as far as there is room.
    pub fn link(&mut self, rules: &Rules, ids: &[Id], person: &mut Person) {
        for index in self.free.clone() {
            let id = &ids[index];
            if rules.limit(&id.kind).is_some_and(|limit| person.count(&id.kind) >= limit) {
                self.unlinked.insert(index, UnlinkedReason::TypeFull);
            } else {
                person.link(id);
                self.linked.push(place(index));
            }
        }
    }

    pub fn explain(self) -> IdentifyProfileResponse {
        let unlinked =
            |(index, reason): (usize, UnlinkedReason)| UnlinkedIdentity { index: place(index), reason: reason.into() };
        IdentifyProfileResponse {
            created: self.found.is_none(),
            r#match: self.matched,
            others: self.others.into_values().collect(),
            linked: self.linked,
            unlinked: self.unlinked.into_iter().map(unlinked).collect(),
            ..IdentifyProfileResponse::default()
        }
    }
}

fn is_repeated(id: &Id, all: &[&Id]) -> bool {
    all.iter().filter(|other| other.kind == id.kind).count() > 1
}
