//! What the store should do, written from what the protos promise: plain maps, and no look at the code under test.

use std::collections::{BTreeMap, BTreeSet};

use super::commands::{Edit, Key, Op};
use super::person::{Given, Id, LIMITS_ADS, OPTED_OUT, Person, split};
use super::resolve::{Resolved, Rules};
use crate::proto::v1::{
    EraseProfileResponse, Event, MergeConflict, MergeProfilesResponse, OnConflict, TakenFrom, UnmergeProfilesResponse,
    UpdateProfileResponse, WriteOutcome,
};

/// The profiles of a workspace, and what can be undone.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// The profiles as they were when they last changed.
    pub people: BTreeMap<i64, Person>,
    /// The survivor of each absorbed profile.
    pub redirects: BTreeMap<i64, i64>,
    pub merges: BTreeMap<i64, Merged>,
    /// The mpids whose profile was deleted or erased; those that were absorbed, with their survivor.
    pub gone: BTreeMap<i64, Option<i64>>,
    pub rules: Rules,
    /// How many merges there were.
    clock: u64,
}

/// A merge that can be undone.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    pub into: i64,
    pub absorbed: Person,
    /// What the survivor got: the value before and after.
    given: BTreeMap<String, (Given, Given)>,
    /// The partners that the survivor had before.
    partners: Vec<String>,
    time: u64,
}

/// What a command should lead to.
#[derive(Debug, Clone, PartialEq)]
pub enum Expected {
    Done(Answer),
    /// Any of these refusals: the protos give no order.
    Refused(Vec<String>),
    /// A profile that is gone is to be erased. Whether there is anything left to erase is for the log to say.
    EraseGone(i64),
}

/// The result of a command.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub outcome: WriteOutcome,
    pub mpid: Option<i64>,
    /// The rest of the response.
    pub response: String,
    /// The mpids that were erased.
    pub erased: Vec<i64>,
}

impl Answer {
    fn new(outcome: WriteOutcome, mpid: i64, response: &impl std::fmt::Debug) -> Self {
        Self { outcome, mpid: Some(mpid), response: format!("{response:?}"), erased: Vec::new() }
    }
}

fn refused(why: impl Into<String>) -> Expected {
    Expected::Refused(vec![why.into()])
}

impl Model {
    /// Applies a command. `log` is what a client can read of the log before it.
    pub fn apply(&mut self, op: &Op, now: i64, log: &[Event]) -> Expected {
        let before = self.clone();
        let expected = match op {
            Op::Create { mpid, drawn, person } => self.create(*mpid, *drawn, person, now),
            Op::Update { key, edit, create_as } => self.update(key, edit, *create_as, now),
            Op::Delete { key, allow_missing } => self.delete(key, *allow_missing),
            Op::Erase { key, allow_missing, .. } => self.erase(key, *allow_missing),
            Op::Identify { ids, edit, on_conflict, create_as } => {
                self.identify(ids, edit, *on_conflict, *create_as, now)
            }
            Op::Merge { into, from, prefer_newer } => self.merge(into, from, prefer_newer.then_some(log), now),
            Op::Unmerge { mpid } => self.unmerge(*mpid, now),
            Op::Rules(rules) => {
                self.rules = rules.clone();
                return Expected::Done(Answer {
                    outcome: WriteOutcome::Unspecified,
                    mpid: None,
                    response: String::new(),
                    erased: Vec::new(),
                });
            }
            Op::Trim { .. } => unreachable!("a trim changes no profile"),
        };
        if matches!(expected, Expected::Refused(_)) {
            *self = before;
        }
        expected
    }

    pub fn owner(&self, id: &Id) -> Option<i64> {
        self.people.iter().find(|(_, person)| person.has(id)).map(|(mpid, _)| *mpid)
    }

    /// The profile that a key names.
    pub fn find(&self, key: &Key) -> Option<i64> {
        match key {
            Key::Mpid(mpid) if self.people.contains_key(mpid) => Some(*mpid),
            Key::Mpid(mpid) => self.redirects.get(mpid).copied(),
            Key::Id(id) => self.owner(id),
        }
    }

    fn free(&self, mut mpid: i64, drawn: bool) -> Result<i64, String> {
        let is_used = |mpid| self.people.contains_key(&mpid) || self.redirects.contains_key(&mpid);
        while is_used(mpid) {
            if !drawn {
                return Err("ProfileExists".into());
            }
            mpid += 1;
        }
        Ok(mpid)
    }

    fn create(&mut self, mpid: i64, drawn: bool, person: &Person, now: i64) -> Expected {
        let mut why = Vec::new();
        let mpid = self.free(mpid, drawn).unwrap_or_else(|taken| {
            why.push(taken);
            mpid
        });
        if person.ids().any(|id| self.owner(id).is_some()) {
            why.push("IdentityTaken".into());
        }
        if person.memberships.iter().any(|joined| joined.has_ended(now)) {
            why.push("Field".into());
        }
        why.extend(self.rules.growth(&Person::default(), person));
        if !why.is_empty() {
            return Expected::Refused(why);
        }
        self.gone.remove(&mpid);
        self.people.insert(mpid, person.clone());
        Expected::Done(Answer::new(WriteOutcome::Created, mpid, &""))
    }

    fn update(&mut self, key: &Key, edit: &Edit, create_as: Option<i64>, now: i64) -> Expected {
        let mut why = Vec::new();
        if edit.join.iter().any(|joined| joined.has_ended(now)) {
            why.push("Field".into());
        }
        let found = self.find(key);
        let (mpid, before) = match (found, create_as) {
            (Some(mpid), _) => (mpid, self.people[&mpid].clone().at(now)),
            (None, None) => {
                why.push("ProfileNotFound".into());
                return Expected::Refused(why);
            }
            (None, Some(drawn)) => {
                let (mpid, is_drawn) = if let Key::Mpid(mpid) = key { (*mpid, false) } else { (drawn, true) };
                (self.free(mpid, is_drawn).unwrap(), Person::default())
            }
        };
        let mut after = before.clone();
        if let (None, Key::Id(id)) = (found, key) {
            after.link(id);
        }
        let mut losers: BTreeMap<i64, Vec<Id>> = BTreeMap::new();
        for id in &edit.add {
            match self.owner(id) {
                Some(owner) if owner != mpid && !edit.take => why.push("IdentityTaken".into()),
                Some(owner) if owner != mpid => losers.entry(owner).or_default().push(id.clone()),
                _ => {}
            }
        }
        edit.apply(&mut after);
        if let (None, Key::Id(id)) = (found, key)
            && !after.has(id)
        {
            why.push("Field".into());
        }
        why.extend(self.rules.growth(&before, &after));
        if !why.is_empty() {
            return Expected::Refused(why);
        }
        if found.is_some() && after == before {
            let response = UpdateProfileResponse::default();
            return Expected::Done(Answer::new(WriteOutcome::Unchanged, mpid, &response));
        }
        let mut taken_from = Vec::new();
        for (loser, ids) in losers {
            let mut left = self.people[&loser].clone().at(now);
            left.unlink(&ids);
            let identities_left = i32::try_from(left.ids().count()).unwrap();
            taken_from.push(TakenFrom { mpid: loser, identities_left });
            self.people.insert(loser, left);
        }
        self.gone.remove(&mpid);
        self.people.insert(mpid, after);
        let outcome = if found.is_some() { WriteOutcome::Updated } else { WriteOutcome::Created };
        Expected::Done(Answer::new(outcome, mpid, &UpdateProfileResponse { taken_from, ..Default::default() }))
    }

    /// Removes a profile and those that it has absorbed. Returns their mpids, in order.
    fn remove(&mut self, mpid: i64) -> Vec<i64> {
        self.people.remove(&mpid);
        let absorbed = |survivor: i64| move |(_, into): &(&i64, &i64)| **into == survivor;
        let absorbed: Vec<_> = self.redirects.iter().filter(absorbed(mpid)).map(|(absorbed, _)| *absorbed).collect();
        for absorbed in &absorbed {
            self.redirects.remove(absorbed);
            self.merges.remove(absorbed);
            self.gone.insert(*absorbed, Some(mpid));
        }
        self.gone.insert(mpid, None);
        [vec![mpid], absorbed].concat()
    }

    fn delete(&mut self, key: &Key, allow_missing: bool) -> Expected {
        match self.find(key) {
            Some(mpid) => {
                self.remove(mpid);
                Expected::Done(Answer::new(WriteOutcome::Deleted, mpid, &""))
            }
            None if allow_missing => {
                Expected::Done(Answer { mpid: None, ..Answer::new(WriteOutcome::Unchanged, 0, &"") })
            }
            None => refused("ProfileNotFound"),
        }
    }

    fn erase(&mut self, key: &Key, allow_missing: bool) -> Expected {
        match (self.find(key), key) {
            (Some(mpid), _) => {
                let erased = self.remove(mpid);
                let response = EraseProfileResponse { mpids: erased.clone(), ..EraseProfileResponse::default() };
                Expected::Done(Answer { erased, ..Answer::new(WriteOutcome::Erased, mpid, &response) })
            }
            (None, Key::Mpid(mpid)) if self.gone.contains_key(mpid) => Expected::EraseGone(*mpid),
            (None, _) if allow_missing => {
                let response = EraseProfileResponse::default();
                Expected::Done(Answer { mpid: None, ..Answer::new(WriteOutcome::Unchanged, 0, &response) })
            }
            (None, _) => refused("ProfileNotFound"),
        }
    }

    fn identify(&mut self, ids: &[Id], edit: &Edit, on_conflict: OnConflict, create_as: i64, now: i64) -> Expected {
        let mut why = Vec::new();
        if edit.join.iter().any(|joined| joined.has_ended(now)) {
            why.push("Field".to_owned());
        }
        let mut resolved = match Resolved::of(self, ids) {
            Ok(resolved) if why.is_empty() => resolved,
            refused => {
                why.extend(refused.err());
                return Expected::Refused(why);
            }
        };
        if on_conflict == OnConflict::Fail && !resolved.others.is_empty() {
            return refused(resolved.conflict());
        }
        let Some(mpid) = resolved.found else {
            let mut person = Person::default();
            resolved.link(&self.rules, ids, &mut person);
            if person.ids().next().is_none() {
                return refused(resolved.conflict());
            }
            edit.apply(&mut person);
            let mpid = self.free(create_as, true).unwrap();
            self.gone.remove(&mpid);
            self.people.insert(mpid, person);
            return Expected::Done(Answer::new(WriteOutcome::Created, mpid, &resolved.explain()));
        };
        let mut has_merged = false;
        if on_conflict == OnConflict::Merge {
            for other in resolved.mergeable() {
                if self.rules.contradicts(&self.people[&mpid], &self.people[&other]) {
                    resolved.contradicts(other);
                    continue;
                }
                if let Err(why) = self.absorb(mpid, other, None, now) {
                    return Expected::Refused(why);
                }
                resolved.merged(other);
                has_merged = true;
            }
        }
        let before = self.people[&mpid].clone().at(now);
        let mut after = before.clone();
        resolved.link(&self.rules, ids, &mut after);
        edit.apply(&mut after);
        let outcome = if has_merged || after != before { WriteOutcome::Updated } else { WriteOutcome::Unchanged };
        if after != before {
            self.people.insert(mpid, after);
        }
        Expected::Done(Answer::new(outcome, mpid, &resolved.explain()))
    }

    fn merge(&mut self, into: &Key, from: &Key, log: Option<&[Event]>, now: i64) -> Expected {
        let (Some(survivor), Some(absorbed)) = (self.find(into), self.find(from)) else {
            return refused("ProfileNotFound");
        };
        if survivor == absorbed {
            let is_other = |key: &Key| matches!(key, Key::Mpid(mpid) if *mpid != survivor);
            return refused(if is_other(into) || is_other(from) { "MergeCycle" } else { "MergeSelf" });
        }
        if self.rules.contradicts(&self.people[&survivor], &self.people[&absorbed]) {
            return refused(format!("IdentityConflict profiles/{absorbed}"));
        }
        match self.absorb(survivor, absorbed, log, now) {
            Ok(conflicts) => {
                let response = MergeProfilesResponse { merged_mpid: absorbed, conflicts, ..Default::default() };
                Expected::Done(Answer::new(WriteOutcome::Updated, survivor, &response))
            }
            Err(why) => Expected::Refused(why),
        }
    }

    /// Merges a profile into another. With `log` the value that changed last survives.
    fn absorb(
        &mut self,
        into: i64,
        from: i64,
        log: Option<&[Event]>,
        now: i64,
    ) -> Result<Vec<MergeConflict>, Vec<String>> {
        let (own, other) = (self.people[&into].clone().at(now), self.people[&from].clone().at(now));
        let (mut merged, mut conflicts, mut given) = (own.clone(), Vec::new(), BTreeMap::new());
        for field in other.contestable() {
            let (ours, theirs) = (own.read(&field), other.read(&field));
            let is_newer = || log.is_some_and(|log| last_change(log, from, &field) > last_change(log, into, &field));
            let Some((is_conflict, from_absorbed)) = contest(&ours, &theirs, is_newer) else { continue };
            if is_conflict {
                conflicts.push(MergeConflict { field: field.clone(), from_absorbed });
            }
            if from_absorbed {
                merged.give(&field, theirs.clone());
                given.insert(field, (ours, theirs));
            }
        }
        other.ids().for_each(|id| merged.link(id));
        merged.partners.extend(other.partners.iter().filter(|partner| !own.partners.contains(partner)).cloned());
        let why = self.rules.counts(&own, &merged);
        if !why.is_empty() {
            return Err(why);
        }
        self.clock += 1;
        let merge = Merged { into, absorbed: other, given, partners: own.partners, time: self.clock };
        self.merges.insert(from, merge);
        self.people.insert(into, merged);
        self.people.remove(&from);
        self.redirects.values_mut().filter(|survivor| **survivor == from).for_each(|survivor| *survivor = into);
        self.redirects.insert(from, into);
        Ok(conflicts)
    }

    fn unmerge(&mut self, mpid: i64, now: i64) -> Expected {
        let Some(survivor) = self.redirects.get(&mpid).copied() else { return refused("MergeNotFound") };
        let Merged { into, absorbed, given, partners, time } = self.merges[&mpid].clone();
        if into != survivor {
            return refused(format!("MergeNotReversible profiles/{into}"));
        }
        let is_in_the_way = |id: &Id| self.owner(id).is_some_and(|owner| owner != into);
        let problems = |field: &str, ids: &[Id]| -> Vec<String> {
            let places = ids.iter().enumerate().filter(|(_, id)| is_in_the_way(id));
            places.map(|(index, _)| format!("{field}[{index}]")).collect()
        };
        let problems = [problems("device_identities", &absorbed.devices), problems("user_identities", &absorbed.users)];
        if problems.iter().any(|problems| !problems.is_empty()) {
            return refused(format!("MergeNotReversible {}", problems.concat().join(" ")));
        }
        let now_is = self.people[&into].clone().at(now);
        let (mut left, mut kept_fields) = (now_is.clone(), Vec::new());
        for (field, (was, became)) in &given {
            match (now_is.read(field), became) {
                (is, _) if is == *became => left.give(field, was.clone()),
                (Given::Membership(Some(is)), Given::Membership(Some(became))) if is.end == became.end => {
                    left.give(field, was.clone());
                }
                (Given::Membership(None), Given::Membership(Some(became))) if became.has_ended(now) => {}
                _ => kept_fields.push(field.to_owned()),
            }
        }
        left.unlink(&absorbed.ids().cloned().collect::<Vec<_>>());
        left.partners.retain(|partner| partners.contains(partner) || !absorbed.partners.contains(partner));
        self.merges.remove(&mpid);
        self.keep_opt_outs(into, &now_is, &mut left);
        self.people.insert(into, left.at(now));
        self.people.insert(mpid, absorbed.at(now));
        self.forget_given(into, &given, time);
        self.redirects.remove(&mpid);
        let with_it: Vec<_> =
            self.redirects.keys().copied().filter(|absorbed| self.leads_to(*absorbed, mpid)).collect();
        for absorbed in with_it {
            self.redirects.insert(absorbed, mpid);
        }
        let response = UnmergeProfilesResponse { survivor_mpid: into, kept_fields, ..Default::default() };
        Expected::Done(Answer::new(WriteOutcome::Updated, mpid, &response))
    }

    /// No opt-out is lost that another absorbed profile has too. It comes then from the first of those that was absorbed.
    fn keep_opt_outs(&mut self, survivor: i64, now_is: &Person, left: &mut Person) {
        let others = self.merges.values_mut().filter(|merge| merge.into == survivor && merge.absorbed.opted_out);
        if now_is.opted_out
            && !left.opted_out
            && let Some(other) = others.min_by_key(|merge| merge.time)
        {
            left.opted_out = true;
            other.given.insert(OPTED_OUT.into(), (Given::OptedOut(false), Given::OptedOut(true)));
        }
        let limits = |merge: &&mut Merged| merge.into == survivor && merge.absorbed.limits_ads == Some(true);
        let others = self.merges.values_mut().filter(limits);
        if now_is.limits_ads == Some(true)
            && left.limits_ads != Some(true)
            && let Some(other) = others.min_by_key(|merge| merge.time)
        {
            let given = || (Given::LimitsAds(left.limits_ads), Given::LimitsAds(Some(true)));
            other.given.entry(LIMITS_ADS.into()).or_insert_with(given);
            left.limits_ads = Some(true);
        }
    }

    /// What the survivor got from a profile that is gone from it, it does not get back when a later merge is undone.
    fn forget_given(&mut self, survivor: i64, given: &BTreeMap<String, (Given, Given)>, time: u64) {
        for later in self.merges.values_mut().filter(|merge| merge.into == survivor && merge.time > time) {
            for (field, (was, became)) in given {
                if let Some((before, _)) = later.given.get_mut(field)
                    && before == became
                {
                    before.clone_from(was);
                }
            }
        }
    }

    /// An erasure has removed identities that its person took: no unmerge gives them back. `is_erased` says of which.
    pub fn forget_taken(&mut self, stored: &BTreeMap<i64, Person>, is_erased: impl Fn(&Id) -> bool) {
        for (mpid, merge) in &mut self.merges {
            let left = &stored[mpid];
            let lost: Vec<_> = merge.absorbed.ids().filter(|id| !left.has(id)).cloned().collect();
            assert!(lost.iter().all(&is_erased), "the merge of {mpid} has lost {lost:?}");
            merge.absorbed.unlink(&lost);
        }
    }

    /// Whether a profile was merged into another, directly or not.
    fn leads_to(&self, absorbed: i64, survivor: i64) -> bool {
        let mut seen = BTreeSet::from([absorbed]);
        let mut at = absorbed;
        while let Some(merge) = self.merges.get(&at) {
            at = merge.into;
            if at == survivor {
                return true;
            }
            if !seen.insert(at) {
                break;
            }
        }
        false
    }
}

/// Whether two values are in conflict, and whether the absorbed profile's survives. `None` if nothing is contested.
fn contest(ours: &Given, theirs: &Given, is_newer: impl Fn() -> bool) -> Option<(bool, bool)> {
    match (ours, theirs) {
        (Given::OptedOut(ours), Given::OptedOut(theirs)) => (ours != theirs).then_some((true, *theirs)),
        (Given::LimitsAds(_), Given::LimitsAds(None)) => None,
        (Given::LimitsAds(None) | Given::Attribute(None) | Given::Membership(None), _) => Some((false, true)),
        (Given::LimitsAds(ours), Given::LimitsAds(theirs)) => (ours != theirs).then_some((true, *theirs == Some(true))),
        (Given::Attribute(ours), Given::Attribute(theirs)) => (ours != theirs).then(|| (true, is_newer())),
        (Given::Membership(Some(ours)), Given::Membership(Some(theirs))) => {
            (ours.end != theirs.end).then(|| (true, theirs.ends_later(ours)))
        }
        _ => unreachable!("{ours:?} {theirs:?}"),
    }
}

/// The latest event of a profile that changed an attribute, as far as the log tells. That a merge was undone is no change
/// of the profile that it restored.
fn last_change(log: &[Event], mpid: i64, field: &str) -> Option<u64> {
    let (map, key) = split(field);
    let value = |profile: &Option<crate::proto::v1::Profile>| {
        profile.as_ref().and_then(|profile| Person::of(profile).attributes.get(field).cloned())
    };
    let tells = |event: &&Event| match map {
        "user_attributes" => event.changed_user_attributes.iter().any(|changed| changed == key),
        _ => value(&event.profile) != value(&event.previous) && names(event, map),
    };
    let is_return = |event: &Event| event.r#type == "profile.unmerged" && event.previous.is_none();
    let mut own = log.iter().rev().filter(|event| event.mpid == mpid && !event.redacted && !is_return(event));
    own.find(tells).map(|event| event.sequence)
}

fn names(event: &Event, field: &str) -> bool {
    event.changed_fields.iter().flat_map(|mask| &mask.paths).any(|path| path == field)
}
