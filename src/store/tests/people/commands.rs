//! Random commands on people. The same numbers give the same commands.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::super::harness::*;
use super::person::{Id, Membership, Person, attribution, map_of, split};
use super::resolve::Rules;
use crate::command::{Change, Create, Delete, Erase, Identify, Merge, Trim, Unmerge, Update, UpdateIdentitySettings};
use crate::model::identity::ParsedIdentity;
use crate::model::{IdentitySettings, Limits, Mpid, NewProfile, Patch, ProfileKey};
use crate::proto::v1::{OnConflict, ProfilePatch};

/// Few mpids, so that commands meet.
const MPIDS: i64 = 6;
/// The mpids of profiles that the store names, so that they meet too.
const DRAWN: i64 = 5;
const KINDS: [&str; 3] = ["customer_id", "email", "ios_idfa"];
const ATTRIBUTES: [&str; 4] = [
    "user_attributes[\"a\"]",
    "user_attributes[\"b\"]",
    "account_user_attributes[\"c\"]",
    "account_user_attributes[\"d\"]",
];
const AUDIENCES: i64 = 3;

/// A command as the model reads it.
#[derive(Debug, Clone)]
pub enum Op {
    Create {
        mpid: i64,
        drawn: bool,
        person: Person,
    },
    Update {
        key: Key,
        edit: Edit,
        create_as: Option<i64>,
    },
    Delete {
        key: Key,
        allow_missing: bool,
    },
    /// With `most`, the commands of an erasure that rewrites at most so many events in its last.
    Erase {
        key: Key,
        allow_missing: bool,
        most: Option<usize>,
    },
    Identify {
        ids: Vec<Id>,
        edit: Edit,
        on_conflict: OnConflict,
        create_as: i64,
    },
    Merge {
        into: Key,
        from: Key,
        prefer_newer: bool,
    },
    Unmerge {
        mpid: i64,
    },
    Rules(Rules),
    Trim {
        most: usize,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub enum Key {
    Mpid(i64),
    Id(Id),
}

/// A patch.
#[derive(Debug, Clone, Default)]
pub struct Edit {
    pub opted_out: Option<bool>,
    pub limits_ads: Option<bool>,
    pub set: BTreeMap<String, String>,
    pub remove: Vec<String>,
    pub add: Vec<Id>,
    pub drop: Vec<Id>,
    pub take: bool,
    pub join: Vec<Membership>,
    pub leave: Vec<i64>,
    pub partners: Vec<String>,
}

impl Edit {
    pub fn apply(&self, person: &mut Person) {
        person.opted_out = self.opted_out.unwrap_or(person.opted_out);
        person.limits_ads = self.limits_ads.or(person.limits_ads);
        person.unlink(&self.drop);
        self.add.iter().for_each(|id| person.link(id));
        person.attributes.extend(self.set.clone());
        person.attributes.retain(|field, _| !self.remove.contains(field));
        person.memberships.retain(|membership| !self.leave.contains(&membership.audience));
        self.join.iter().for_each(|joined| person.join(joined));
        person.partners.extend(self.partners.iter().cloned()); // Every partner of a test is new.
    }

    /// The values that it gives, without identities.
    pub fn values(&self) -> impl Iterator<Item = &String> {
        let names = self.join.iter().map(|joined| &joined.name);
        self.set.values().chain(names).chain(&self.partners)
    }

    fn to_patch(&self) -> Box<Patch> {
        let of_map = |map: &str| -> Vec<String> {
            let fields = self.remove.iter().filter(|field| split(field).0 == map);
            fields.map(|field| split(field).1.to_owned()).collect()
        };
        let patch = ProfilePatch {
            is_opted_out: self.opted_out,
            limit_ad_tracking: self.limits_ads,
            set_user_attributes: map_of(false, &self.set),
            set_account_user_attributes: map_of(true, &self.set),
            remove_user_attributes: of_map("user_attributes"),
            remove_account_user_attributes: of_map("account_user_attributes"),
            add_identities: self.add.iter().map(Id::to_proto).collect(),
            remove_identities: self.drop.iter().map(Id::to_proto).collect(),
            take_identities: self.take,
            join_audiences: self.join.iter().map(Membership::to_proto).collect(),
            leave_audiences: self.leave.clone(),
            add_attribution: self.partners.iter().map(|partner| attribution(partner)).collect(),
            ..ProfilePatch::default()
        };
        Box::new(Patch::parse(patch, &Limits::default()).unwrap())
    }
}

fn mpid(number: i64) -> Mpid {
    Mpid::new(number).unwrap()
}

fn parsed(id: &Id) -> ParsedIdentity {
    ParsedIdentity::parse("identity", id.to_proto(), &Limits::default()).unwrap()
}

impl Key {
    pub fn parse(&self) -> ProfileKey {
        match self {
            Self::Mpid(number) => ProfileKey::Mpid(mpid(*number)),
            Self::Id(id) => ProfileKey::Identity(parsed(id)),
        }
    }
}

impl Op {
    /// The command as the store takes it.
    pub fn to_change(&self) -> Change {
        match self {
            Self::Create { mpid: number, drawn, person } => {
                let profile = Box::new(NewProfile::parse(person.to_proto(), &Limits::default()).unwrap());
                Change::Create(Create { profile, mpid: mpid(*number), drawn: *drawn })
            }
            Self::Update { key, edit, create_as } => Change::Update(Update {
                key: key.parse(),
                patch: edit.to_patch(),
                etag: None,
                create_as: create_as.map(mpid),
            }),
            Self::Delete { key, allow_missing } => {
                Change::Delete(Delete { key: key.parse(), etag: None, allow_missing: *allow_missing })
            }
            Self::Erase { key, allow_missing, most } => Change::Erase(erase(key, *allow_missing, *most)),
            Self::Identify { ids, edit, on_conflict, create_as } => Change::Identify(Identify {
                identities: ids.iter().map(parsed).collect(),
                patch: edit.to_patch(),
                on_conflict: *on_conflict,
                create_as: mpid(*create_as),
            }),
            Self::Merge { into, from, prefer_newer } => Change::Merge(Merge {
                into: into.parse(),
                from: from.parse(),
                prefer_newer: *prefer_newer,
                into_etag: None,
                from_etag: None,
            }),
            Self::Unmerge { mpid: merged } => Change::Unmerge(Unmerge { merged: mpid(*merged) }),
            Self::Rules(rules) => {
                let settings = Box::new(IdentitySettings::parse("settings", rules.to_proto()).unwrap());
                Change::UpdateIdentitySettings(UpdateIdentitySettings { settings, paths: Vec::new() })
            }
            Self::Trim { most } => Change::Trim(Trim { most: *most, ..trim_by_bytes(0) }),
        }
    }

    /// The values that it plants, without identities.
    pub fn values(&self) -> Vec<String> {
        let empty = Edit::default();
        let (edit, person) = match self {
            Self::Update { edit, .. } | Self::Identify { edit, .. } => (edit, None),
            Self::Create { person, .. } => (&empty, Some(person)),
            _ => (&empty, None),
        };
        let names = person.into_iter().flat_map(|person| person.memberships.iter().map(|joined| &joined.name));
        let rest = person.into_iter().flat_map(|person| person.attributes.values().chain(&person.partners));
        edit.values().chain(names).chain(rest).cloned().collect()
    }
}

pub fn erase(key: &Key, allow_missing: bool, most: Option<usize>) -> Erase {
    Erase { key: key.parse(), etag: None, allow_missing, most: most.unwrap_or(1_000), begun: None }
}

/// Draws commands. Every value of a command is a new one, except identities, which come from a few.
pub struct Draw {
    random: StdRng,
    /// Values begin with this number.
    step: usize,
    values: usize,
    /// The command's time, in seconds.
    now: i64,
}

impl Draw {
    pub fn new(seed: u64, step: usize, now: i64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), step, values: 0, now }
    }

    /// `alone` is false if other commands come before it in the same group.
    pub fn op(&mut self, alone: bool) -> Op {
        match self.random.random_range(0..100) {
            0..14 => Op::Create { mpid: self.mpid(), drawn: self.chance(0.3), person: self.person() },
            14..38 => {
                Op::Update { key: self.key(), edit: self.edit(true), create_as: self.chance(0.3).then(|| self.drawn()) }
            }
            38..42 => Op::Delete { key: self.key(), allow_missing: self.chance(0.5) },
            42..52 => Op::Erase {
                key: self.key(),
                allow_missing: self.chance(0.5),
                most: (alone && self.chance(0.4)).then(|| self.random.random_range(1..4)),
            },
            52..66 => Op::Identify {
                ids: self.ids(1, 4),
                edit: if self.chance(0.5) { Edit::default() } else { self.edit(false) },
                on_conflict: self.pick(&[OnConflict::Keep, OnConflict::Merge, OnConflict::Fail]),
                create_as: self.drawn(),
            },
            66..82 => Op::Merge { into: self.key(), from: self.key(), prefer_newer: alone && self.chance(0.5) },
            82..94 => Op::Unmerge { mpid: self.anyone() },
            94..98 => Op::Rules(self.rules()),
            _ => Op::Trim { most: self.random.random_range(1..6) },
        }
    }

    fn chance(&mut self, of: f64) -> bool {
        self.random.random_bool(of)
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from.choose(&mut self.random).unwrap().clone()
    }

    fn mpid(&mut self) -> i64 {
        self.random.random_range(1..=MPIDS)
    }

    fn drawn(&mut self) -> i64 {
        self.random.random_range(101..=100 + DRAWN)
    }

    fn anyone(&mut self) -> i64 {
        if self.chance(0.7) { self.mpid() } else { self.drawn() }
    }

    fn key(&mut self) -> Key {
        if self.chance(0.75) { Key::Mpid(self.anyone()) } else { Key::Id(self.ids(1, 1).remove(0)) }
    }

    fn value(&mut self) -> String {
        self.values += 1;
        format!("<{}.{}>", self.step, self.values)
    }

    fn ids(&mut self, least: usize, most: usize) -> Vec<Id> {
        let all: Vec<_> =
            KINDS.iter().flat_map(|kind| (0..4).map(move |n| Id::new(kind, format!("[{kind} {n}]")))).collect();
        let count = self.random.random_range(least..=most);
        all.sample(&mut self.random, count).cloned().collect()
    }

    fn membership(&mut self, audience: i64) -> Membership {
        let end = self.chance(0.6).then(|| self.now + self.random.random_range(0..12));
        Membership { audience, name: self.value(), end }
    }

    fn person(&mut self) -> Person {
        let mut person = Person {
            opted_out: self.chance(0.2),
            limits_ads: self.pick(&[None, Some(true), Some(false)]),
            ..Person::default()
        };
        if self.chance(0.6) {
            self.ids(0, 3).iter().for_each(|id| person.link(id));
        }
        let edit = self.edit(false);
        Edit { opted_out: None, limits_ads: None, ..edit }.apply(&mut person);
        person
    }

    fn edit(&mut self, with_ids: bool) -> Edit {
        let mut edit = Edit {
            opted_out: self.chance(0.1).then(|| self.chance(0.5)),
            limits_ads: self.chance(0.1).then(|| self.chance(0.5)),
            ..Edit::default()
        };
        for field in ATTRIBUTES {
            match self.random.random_range(0..8) {
                0..3 => drop(edit.set.insert(field.to_owned(), self.value())),
                3 => edit.remove.push(field.to_owned()),
                _ => {}
            }
        }
        for audience in 1..=AUDIENCES {
            match self.random.random_range(0..8) {
                0..2 => {
                    let joined = self.membership(audience);
                    edit.join.push(joined);
                }
                2 => edit.leave.push(audience),
                _ => {}
            }
        }
        if self.chance(0.2) {
            let partner = self.value();
            edit.partners.push(partner);
        }
        if with_ids && self.chance(0.6) {
            let ids = self.ids(1, 3);
            (edit.add, edit.drop) = ids.into_iter().partition(|_| self.chance(0.7));
            edit.take = self.chance(0.7);
        }
        edit
    }

    fn rules(&mut self) -> Rules {
        if self.chance(0.3) {
            return Rules::default();
        }
        let priority = KINDS.sample(&mut self.random, 2).map(|kind| (*kind).to_owned()).collect();
        let mut rules = Rules { priority, ..Rules::default() };
        for kind in KINDS {
            if self.chance(0.12) {
                rules.unique.insert(kind.to_owned());
            }
            if self.chance(0.12) {
                rules.limits.insert(kind.to_owned(), self.random.random_range(1..4));
            }
            if self.chance(0.12) {
                rules.never.insert(kind.to_owned());
            }
        }
        rules
    }
}
