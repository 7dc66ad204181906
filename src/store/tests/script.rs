//! Random commands for a busy run. The same seed gives the same commands.

use prost_types::value::Kind;
use prost_types::{Struct, Value};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::harness::*;
use crate::command::{
    Begin, Change, ChangeMembers, Command, Create, CreateAudience, CreateSubscription, Delete, DeleteAudience,
    DeleteSubscription, Expire, Identify, MemberChange, Merge, SeekSubscription, Trim, Unmerge, Update, WorkOnAudience,
};
use crate::model::audience::NewAudience;
use crate::model::identity::ParsedIdentity;
use crate::model::{
    AudienceId, Limits, Micros, Mpid, NewProfile, Patch, ProfileKey, Settings, SubscriptionName, Workspace,
};
use crate::proto::v1::{Identity, OnConflict, Profile, ProfilePatch, Subscription};

pub const WORKSPACES: [&str; 3] = ["a/b/1", "a/b/2", "a/b/3"];
/// An mpid that no command of a script uses.
pub const UNUSED_MPID: i64 = 1_000;
/// Few mpids, so that commands collide: they create existing profiles, and take identities of other profiles.
const MPIDS: i64 = 10;
/// The most commands in a round.
const COMMANDS_PER_ROUND: usize = 6;
/// The most bytes of a note: a little less than a page of redb, so that the file grows.
const NOTE_BYTES: usize = 4_000;

/// Draws commands of every kind.
pub struct Script {
    random: StdRng,
    /// Each round advances the time by a second.
    time: i64,
    /// Commands with a request id. Some are sent again.
    with_id: Vec<Command>,
}

impl Script {
    pub fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), time: 0, with_id: Vec::new() }
    }

    /// Draws the commands of a round, to queue at once.
    pub fn round(&mut self) -> Vec<Command> {
        self.time += SECOND;
        let commands = self.random.random_range(1..=COMMANDS_PER_ROUND);
        (0..commands).map(|_| self.command()).collect()
    }

    fn command(&mut self) -> Command {
        if !self.with_id.is_empty() && self.random.random_bool(0.05) {
            return self.with_id.choose(&mut self.random).unwrap().clone();
        }
        let change = match self.random.random_range(0..30) {
            0..6 => self.create(),
            6..17 => self.update(),
            17..19 => self.delete(),
            19..21 => self.subscription(),
            21..25 => self.who_is_who(),
            25..29 => self.audience(),
            _ => self.trim(),
        };
        let workspace = Workspace::parse(WORKSPACES.choose(&mut self.random).unwrap()).unwrap();
        let (silent, validate_only) = (self.random.random_bool(0.2), self.random.random_bool(0.1));
        let command = Command { workspace, silent, validate_only, ..command(self.time, change) };
        let is_of_a_profile = matches!(command.change, Change::Create(_) | Change::Update(_) | Change::Delete(_));
        if !is_of_a_profile || validate_only || self.random.random_bool(0.5) {
            return command;
        }
        let command = with_id(command, &format!("request {}", self.with_id.len()));
        self.with_id.push(command.clone());
        command
    }

    fn create(&mut self) -> Change {
        let user_identities = self.identities(2).into_iter().filter(|identity| !identity.is_device()).collect();
        let profile = Profile { user_identities, user_attributes: Some(self.note()), ..Profile::default() };
        let profile = Box::new(NewProfile::parse(profile, &Limits::default()).unwrap());
        Change::Create(Create { profile, mpid: self.mpid(), drawn: self.random.random_bool(0.3) })
    }

    fn update(&mut self) -> Change {
        let mut patch = ProfilePatch::default();
        patch.increment_user_attributes.insert("n".to_owned(), 1.0);
        patch.set_user_attributes = self.random.random_bool(0.5).then(|| self.note());
        match self.random.random_range(0..4) {
            0 => patch.remove_identities = self.identities(2),
            1 => patch.add_identities = self.identities(1),
            2 => (patch.add_identities, patch.take_identities) = (self.identities(3), true),
            _ => {}
        }
        let patch = Box::new(Patch::parse(patch, &Limits::default()).unwrap());
        let create_as = self.random.random_bool(0.3).then(|| self.mpid());
        Change::Update(Update { key: self.key(), patch, etag: None, create_as })
    }

    fn delete(&mut self) -> Change {
        Change::Delete(Delete { key: self.key(), etag: None, allow_missing: self.random.random_bool(0.5) })
    }

    /// Deliberately absent: an erasure, which changes events that were published before.
    fn who_is_who(&mut self) -> Change {
        match self.random.random_range(0..4) {
            0 => Change::Unmerge(Unmerge { merged: self.mpid() }),
            1 => {
                let parse = |identity| ParsedIdentity::parse("identity", identity, &Limits::default()).unwrap();
                let mut identities: Vec<_> = self.identities(3).into_iter().map(parse).collect();
                if identities.is_empty() {
                    identities.push(parse(self::identities().remove(0)));
                }
                let patch = Box::new(Patch::parse(ProfilePatch::default(), &Limits::default()).unwrap());
                let on_conflict = if self.random.random_bool(0.7) { OnConflict::Merge } else { OnConflict::Keep };
                Change::Identify(Identify { identities, patch, on_conflict, create_as: self.mpid() })
            }
            _ => {
                let (into, from) = (self.key(), self.key());
                Change::Merge(Merge { into, from, prefer_newer: true, into_etag: None, from_etag: None })
            }
        }
    }

    /// Most logs keep most of their events, so that later crashes find some.
    fn trim(&mut self) -> Change {
        let most = self.random.random_range(1..=8);
        let limit = if self.random.random_bool(0.5) {
            trim_by_bytes(self.random.random_range(10_000..200_000))
        } else {
            trim_by_age(self.random.random_range(10..100) * SECOND.unsigned_abs())
        };
        Change::Trim(Trim { most, ..limit })
    }

    fn subscription(&mut self) -> Change {
        let name = SubscriptionName::parse("name", ["a", "b"].choose(&mut self.random).unwrap()).unwrap();
        match self.random.random_range(0..4) {
            0 => {
                let settings = Subscription { name: name.to_string(), ..Subscription::default() };
                let settings = Box::new(Settings::parse("subscription", settings, None).unwrap());
                Change::CreateSubscription(CreateSubscription { settings, start: Begin::Now })
            }
            1 => Change::OpenStream(name),
            2 => Change::SeekSubscription(SeekSubscription { name, to: Begin::Now }),
            _ => Change::DeleteSubscription(DeleteSubscription { name, allow_missing: true }),
        }
    }

    fn audience(&mut self) -> Change {
        let id = AudienceId::new(self.random.random_range(1..=3)).unwrap();
        let most = self.random.random_range(1..=4);
        match self.random.random_range(0..8) {
            0..2 => {
                let audience = Box::new(NewAudience { id, name: "crm".into(), description: String::new() });
                Change::CreateAudience(CreateAudience { audience, drawn: false })
            }
            2 => Change::DeleteAudience(DeleteAudience { id, allow_missing: false }),
            3 => Change::WorkOnAudience(WorkOnAudience { id, most }),
            4 => Change::Expire(Expire { most }),
            _ => {
                let keys = (0..most).map(|_| ProfileKey::Mpid(self.mpid())).collect();
                let end = self.time + self.random.random_range(1..20) * SECOND;
                let joins = self.random.random_bool(0.8);
                let change = if joins { MemberChange::Join(Some(Micros::new(end))) } else { MemberChange::Leave };
                Change::ChangeMembers(ChangeMembers { id, keys, change })
            }
        }
    }

    fn key(&mut self) -> ProfileKey {
        match self.identities(1).pop() {
            Some(identity) => {
                ProfileKey::Identity(ParsedIdentity::parse("identity", identity, &Limits::default()).unwrap())
            }
            None => ProfileKey::Mpid(self.mpid()),
        }
    }

    fn mpid(&mut self) -> Mpid {
        Mpid::new(self.random.random_range(1..=MPIDS)).unwrap()
    }

    fn identities(&mut self, most: usize) -> Vec<Identity> {
        let some = self.random.random_range(0..=most);
        identities()[..].sample(&mut self.random, some).cloned().collect()
    }

    fn note(&mut self) -> Struct {
        let note = "x".repeat(self.random.random_range(0..NOTE_BYTES));
        Struct { fields: [("note".to_owned(), Value { kind: Some(Kind::StringValue(note)) })].into() }
    }
}

/// All identities that a script uses.
pub fn identities() -> Vec<Identity> {
    let named = |kind: &str, number| Identity {
        r#type: kind.into(),
        encoding: "none".into(),
        value: format!("{number}@example.com"),
    };
    let emails = (0..5).map(|number| named("email", number));
    emails.chain((0..3).map(|number| named("ios_idfa", number))).collect()
}

/// The index of a workspace in [`WORKSPACES`].
pub fn place(workspace: &Workspace) -> usize {
    WORKSPACES.iter().position(|name| *name == workspace.as_str()).unwrap()
}
