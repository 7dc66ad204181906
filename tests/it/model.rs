//! Random patches, batches, lists, imports and restarts, against a model in a `BTreeMap`: they agree.

use std::collections::{BTreeMap, BTreeSet};

use cameo::proto::v1::batch_get_profiles_result::Result as Found;
use cameo::proto::v1::*;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tonic_types::RpcStatusExt;

use crate::harness::*;

/// What is known of a profile, as plain as can be.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    opted_out: bool,
    attributes: BTreeMap<String, Attribute>,
    /// Emails, and the names by which profiles are created.
    identities: BTreeSet<Name>,
}

#[derive(Debug, Clone, PartialEq)]
enum Attribute {
    Number(i32),
    Text(String),
    List(Vec<i32>),
}

/// An email moves between profiles. A customer id stays with the profile that was created by it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Email(u8),
    Customer(u8),
}

#[derive(Debug, Clone)]
enum Key {
    Mpid(i64),
    Name(Name),
}

/// What a patch does to one attribute: one thing at most.
#[derive(Debug, Clone)]
enum Edit {
    Set(Attribute),
    Remove,
    Increment(i32),
    Append(Vec<i32>),
}

#[derive(Debug, Clone)]
struct Patch {
    opted_out: Option<bool>,
    clear: bool,
    edits: BTreeMap<String, Edit>,
    /// Whether to add it; else it is removed.
    emails: BTreeMap<u8, bool>,
    take: bool,
}

#[derive(Debug, Clone)]
enum Step {
    Create { mpid: i64, emails: BTreeSet<u8> },
    Update { key: Key, patch: Patch, allow_missing: bool },
    Delete(Key),
    Batch(Vec<Key>),
    List { page_size: i32 },
    Import(Vec<(Key, Patch)>),
    Restart,
}

fn attribute() -> impl Strategy<Value = Attribute> {
    prop_oneof![
        (0..3).prop_map(Attribute::Number),
        "[xy]".prop_map(Attribute::Text),
        vec(0..3, 0..3).prop_map(Attribute::List),
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        3 => attribute().prop_map(Edit::Set),
        1 => Just(Edit::Remove),
        2 => (-1..3).prop_map(Edit::Increment),
        1 => vec(0..4, 0..3).prop_map(Edit::Append),
    ]
}

fn key() -> impl Strategy<Value = Key> {
    prop_oneof![
        3 => (1..5_i64).prop_map(Key::Mpid),
        2 => (0..3_u8).prop_map(|n| Key::Name(Name::Customer(n))),
        1 => (0..3_u8).prop_map(|n| Key::Name(Name::Email(n))),
    ]
}

/// A key by which a profile may be created: whose it is then is known.
fn creating_key() -> impl Strategy<Value = Key> {
    prop_oneof![(1..5_i64).prop_map(Key::Mpid), (0..3_u8).prop_map(|n| Key::Name(Name::Customer(n)))]
}

prop_compose! {
    fn patch()(
        opted_out in proptest::option::weighted(0.2, any::<bool>()),
        clear in proptest::bool::weighted(0.1),
        edits in btree_map("[abc]", edit(), 0..3),
        emails in btree_map(0..3_u8, proptest::bool::weighted(0.7), 0..2),
        take in any::<bool>(),
    ) -> Patch {
        Patch { opted_out, clear, edits, emails, take }
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (1..5_i64, proptest::collection::btree_set(0..3_u8, 0..2)).prop_map(|(mpid, emails)| Step::Create { mpid, emails }),
        6 => (key(), patch()).prop_map(|(key, patch)| Step::Update { key, patch, allow_missing: false }),
        3 => (creating_key(), patch()).prop_map(|(key, patch)| Step::Update { key, patch, allow_missing: true }),
        2 => key().prop_map(Step::Delete),
        2 => vec(key(), 1..6).prop_map(Step::Batch),
        2 => (1..4).prop_map(|page_size| Step::List { page_size }),
        3 => vec((creating_key(), patch()), 0..8).prop_map(Step::Import),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn the_service_agrees_with_a_model(steps in vec(step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::begin().await;
            for step in steps {
                world.take(step).await;
            }
            world.check_log().await;
        });
    }
}

/// A server, and what it should hold.
struct World {
    server: TestServer,
    client: Client,
    profiles: BTreeMap<i64, Model>,
    /// How many there should be.
    events: usize,
    /// Of a profile that is created by a name, until the server has said which it drew.
    placeholder: i64,
}

impl World {
    async fn begin() -> Self {
        let server = TestServer::start().await;
        let client = server.client().await;
        Self { server, client, profiles: BTreeMap::new(), events: 0, placeholder: -1 }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Create { mpid, emails } => self.create(mpid, &emails).await,
            Step::Update { key, patch, allow_missing } => self.update(&key, &patch, allow_missing).await,
            Step::Delete(key) => self.delete(&key).await,
            Step::Batch(keys) => self.batch(&keys).await,
            Step::List { page_size } => assert_eq!(self.listed(page_size).await, self.profiles),
            Step::Import(records) => self.import(&records).await,
            Step::Restart => {
                let next = TestServer::start().await; // To have something to put in its place.
                self.server = std::mem::replace(&mut self.server, next).restart().await;
                self.client = self.server.client().await;
            }
        }
        assert_eq!(self.listed(1_000).await, self.profiles);
    }

    async fn create(&mut self, mpid: i64, emails: &BTreeSet<u8>) {
        let names: BTreeSet<_> = emails.iter().map(|n| Name::Email(*n)).collect();
        let user_identities = names.iter().map(Name::identity).collect();
        let answer = self.client.create(Profile { user_identities, ..with_mpid(mpid) }).await;
        let mut refusals = Vec::new();
        refusals.extend(self.profiles.contains_key(&mpid).then_some("PROFILE_EXISTS"));
        refusals.extend(names.iter().any(|name| self.owner(name).is_some()).then_some("IDENTITY_TAKEN"));
        match answer {
            Ok(created) => {
                assert_eq!(refusals, [""; 0]);
                self.profiles.insert(mpid, Model { identities: names, ..Model::default() });
                self.events += 1;
                assert_eq!(Model::of(&created.profile.unwrap()), self.profiles[&mpid]);
            }
            Err(status) => assert!(refusals.contains(&&*reason(&status)), "{status:?} instead of {refusals:?}"),
        }
    }

    async fn update(&mut self, key: &Key, patch: &Patch, allow_missing: bool) {
        let before = match self.find(key) {
            Some(mpid) => Some(self.client.get(mpid).await.unwrap()),
            None => None,
        };
        let request = UpdateProfileRequest {
            key: Some(key.to_key()),
            patch: Some(patch.to_patch()),
            allow_missing,
            ..update_request(1)
        };
        let answer = self.client.update_with(request).await;
        match (answer, self.apply(key, patch, allow_missing)) {
            (Ok(answer), Ok((mpid, outcome))) => {
                assert_eq!(answer.outcome(), outcome);
                let profile = answer.profile.unwrap();
                if mpid < 0 {
                    self.named(mpid, profile.mpid);
                }
                assert_eq!(Model::of(&profile), self.profiles[&profile.mpid]);
                let etag = before.map(|before| before.etag);
                assert_eq!(etag.as_ref() == Some(&profile.etag), outcome == WriteOutcome::Unchanged);
            }
            (Err(status), Err(refusals)) => assert!(refusals.contains(&&*reason(&status)), "{status:?}, {refusals:?}"),
            (answer, expected) => panic!("{answer:?} instead of {expected:?}"),
        }
    }

    async fn delete(&mut self, key: &Key) {
        let request = DeleteProfileRequest { key: Some(key.to_key()), ..delete_request(1) };
        let answer = self.client.delete_with(request).await;
        match self.find(key) {
            Some(mpid) => {
                assert_eq!(answer.unwrap().outcome(), WriteOutcome::Deleted);
                self.profiles.remove(&mpid);
                self.events += 1;
            }
            None => assert_eq!(reason(&answer.unwrap_err()), "PROFILE_NOT_FOUND"),
        }
    }

    async fn batch(&self, keys: &[Key]) {
        let results = self.client.batch(batch_request(keys.iter().map(Key::to_key))).await.unwrap();
        assert_eq!(results.len(), keys.len());
        for (key, result) in keys.iter().zip(results) {
            match (result, self.find(key)) {
                (Found::Found(profile), Some(mpid)) => {
                    assert_eq!((profile.mpid, Model::of(&profile)), (mpid, self.profiles[&mpid].clone()));
                }
                (Found::Error(error), None) => {
                    assert_eq!(error.get_details_error_info().unwrap().reason, "PROFILE_NOT_FOUND");
                }
                (result, expected) => panic!("{result:?} instead of {expected:?}"),
            }
        }
    }

    async fn import(&mut self, records: &[(Key, Patch)]) {
        let messages = records.iter().map(|(key, patch)| record(key.to_key(), patch.to_patch())).collect();
        let answer = self.client.import(messages).await.unwrap();
        let mut refusals = answer.refusals.iter();
        let (mut created, mut updated, mut unchanged) = (0, 0, 0);
        for (position, (key, patch)) in records.iter().enumerate() {
            match self.apply(key, patch, true) {
                Ok((_, WriteOutcome::Created)) => created += 1,
                Ok((_, WriteOutcome::Updated)) => updated += 1,
                Ok(_) => unchanged += 1,
                Err(expected) => {
                    let refusal = refusals.next().expect("a refusal");
                    assert_eq!(refusal.position, i64::try_from(position).unwrap());
                    let reason = refusal.error.as_ref().unwrap().get_details_error_info().unwrap().reason;
                    assert!(expected.contains(&&*reason), "{reason} instead of {expected:?}");
                }
            }
        }
        assert_eq!(refusals.next(), None);
        assert_eq!((answer.created, answer.updated, answer.unchanged), (created, updated, unchanged));
        let placeholders: Vec<_> = self.profiles.range(..0).map(|(mpid, _)| *mpid).collect();
        for placeholder in placeholders {
            let model = &self.profiles[&placeholder];
            let name = model.identities.iter().find(|name| matches!(name, Name::Customer(_))).unwrap();
            let drawn = self.client.get_by(name.identity()).await.unwrap().mpid;
            self.named(placeholder, drawn);
        }
    }

    /// The profile that was created under a name has this mpid.
    fn named(&mut self, placeholder: i64, mpid: i64) {
        let model = self.profiles.remove(&placeholder).unwrap();
        assert_eq!(self.profiles.insert(mpid, model), None, "a drawn mpid is new");
    }

    async fn listed(&self, page_size: i32) -> BTreeMap<i64, Model> {
        let profiles = self.client.all_profiles(page_size).await;
        assert!(profiles.is_sorted_by_key(|profile| profile.mpid));
        profiles.iter().map(|profile| (profile.mpid, Model::of(profile))).collect()
    }

    /// The log has an event for each change, and its last of each profile is what the profile is.
    async fn check_log(&self) {
        let log = self.client.log().await;
        assert_eq!(log.len(), self.events);
        let mut replayed = BTreeMap::new();
        for event in log {
            match event.profile {
                Some(profile) => replayed.insert(event.mpid, Model::of(&profile)),
                None => replayed.remove(&event.mpid),
            };
        }
        assert_eq!(replayed, self.profiles);
    }

    fn owner(&self, name: &Name) -> Option<i64> {
        self.profiles.iter().find(|(_, model)| model.identities.contains(name)).map(|(mpid, _)| *mpid)
    }

    fn find(&self, key: &Key) -> Option<i64> {
        match key {
            Key::Mpid(mpid) => self.profiles.contains_key(mpid).then_some(*mpid),
            Key::Name(name) => self.owner(name),
        }
    }

    /// What a patch should do; or the reasons for which it may be refused.
    fn apply(&mut self, key: &Key, patch: &Patch, upsert: bool) -> Result<(i64, WriteOutcome), Vec<&'static str>> {
        let found = self.find(key);
        if found.is_none() && !upsert {
            return Err(vec!["PROFILE_NOT_FOUND"]);
        }
        let mpid = match key {
            _ if found.is_some() => found.unwrap(),
            Key::Mpid(mpid) => *mpid,
            Key::Name(_) => self.placeholder,
        };
        let mut after = found.map(|mpid| self.profiles[&mpid].clone()).unwrap_or_default();
        if let (None, Key::Name(name)) = (found, key) {
            after.identities.insert(name.clone());
        }
        let mut refusals = Vec::new();
        let added: Vec<_> = patch.emails.iter().filter(|(_, add)| **add).map(|(n, _)| Name::Email(*n)).collect();
        let losers: BTreeSet<_> =
            added.iter().filter_map(|name| self.owner(name)).filter(|owner| *owner != mpid).collect();
        if !losers.is_empty() && !patch.take {
            refusals.push("IDENTITY_TAKEN");
        }
        if !after.patch(patch) {
            refusals.push("FIELD_INVALID");
        }
        if !refusals.is_empty() {
            return Err(refusals);
        }
        if found.is_some_and(|mpid| self.profiles[&mpid] == after) {
            return Ok((mpid, WriteOutcome::Unchanged));
        }
        for loser in &losers {
            self.profiles.get_mut(loser).unwrap().identities.retain(|name| !added.contains(name));
        }
        self.events += losers.len() + 1;
        if mpid == self.placeholder {
            self.placeholder -= 1;
        }
        self.profiles.insert(mpid, after);
        Ok((mpid, if found.is_some() { WriteOutcome::Updated } else { WriteOutcome::Created }))
    }
}

impl Model {
    fn of(profile: &Profile) -> Self {
        let fields = profile.user_attributes.clone().unwrap_or_default().fields;
        assert_eq!(profile.device_identities, []);
        Self {
            opted_out: profile.is_opted_out,
            attributes: fields.into_iter().map(|(key, value)| (key, Attribute::of(&value))).collect(),
            identities: profile.user_identities.iter().map(Name::of).collect(),
        }
    }

    /// Whether it can be applied.
    fn patch(&mut self, patch: &Patch) -> bool {
        self.opted_out = patch.opted_out.unwrap_or(self.opted_out);
        for (n, add) in &patch.emails {
            let name = Name::Email(*n);
            if *add {
                self.identities.insert(name)
            } else {
                self.identities.remove(&name)
            };
        }
        if patch.clear {
            self.attributes.clear();
        }
        patch.edits.iter().all(|(key, edit)| self.edit(key, edit))
    }

    fn edit(&mut self, key: &str, edit: &Edit) -> bool {
        let old = self.attributes.get(key);
        let new = match (edit, old) {
            (Edit::Set(value), _) => Some(value.clone()),
            (Edit::Remove, _) => None,
            (Edit::Increment(by), None) => Some(Attribute::Number(*by)),
            (Edit::Increment(by), Some(Attribute::Number(number))) => Some(Attribute::Number(number + by)),
            (Edit::Append(values), None | Some(Attribute::List(_))) => {
                let mut list = match old {
                    Some(Attribute::List(list)) => list.clone(),
                    _ => Vec::new(),
                };
                for value in values {
                    if !list.contains(value) {
                        list.push(*value);
                    }
                }
                Some(Attribute::List(list))
            }
            (Edit::Increment(_) | Edit::Append(_), Some(_)) => return false,
        };
        match new {
            Some(new) => self.attributes.insert(key.to_owned(), new),
            None => self.attributes.remove(key),
        };
        true
    }
}

impl Attribute {
    #[allow(clippy::cast_possible_truncation)] // Whole and small.
    fn of(value: &Value) -> Self {
        let whole = |number: f64| {
            assert!(number.fract() == 0.0);
            number as i32
        };
        match value.kind.as_ref().unwrap() {
            Kind::NumberValue(number) => Self::Number(whole(*number)),
            Kind::StringValue(text) => Self::Text(text.clone()),
            Kind::ListValue(list) => Self::List(
                list.values
                    .iter()
                    .map(|value| match Self::of(value) {
                        Self::Number(number) => number,
                        other => panic!("{other:?} in a list"),
                    })
                    .collect(),
            ),
            other => panic!("{other:?}"),
        }
    }

    fn to_value(&self) -> Value {
        match self {
            Self::Number(value) => number((*value).into()),
            Self::Text(value) => text(value),
            Self::List(values) => Value { kind: Some(Kind::ListValue(numbers(values))) },
        }
    }
}

fn numbers(values: &[i32]) -> prost_types::ListValue {
    list(values.iter().map(|value| number((*value).into())))
}

impl Name {
    fn identity(&self) -> Identity {
        match self {
            Self::Email(n) => identity("email", &format!("e{n}@x.com")),
            Self::Customer(n) => identity("customer_id", &format!("c{n}")),
        }
    }

    fn of(identity: &Identity) -> Self {
        let all = (0..3).flat_map(|n| [Self::Email(n), Self::Customer(n)]);
        all.into_iter().find(|name| name.identity() == *identity).unwrap()
    }
}

impl Key {
    fn to_key(&self) -> ProfileKey {
        match self {
            Self::Mpid(mpid) => by_mpid(*mpid),
            Self::Name(name) => by_identity(name.identity()),
        }
    }
}

impl Patch {
    fn to_patch(&self) -> ProfilePatch {
        let mut patch = ProfilePatch {
            is_opted_out: self.opted_out,
            clear_user_attributes: self.clear,
            take_identities: self.take,
            ..ProfilePatch::default()
        };
        let mut set = BTreeMap::new();
        for (key, edit) in self.edits.clone() {
            match edit {
                Edit::Set(value) => drop(set.insert(key, value.to_value())),
                Edit::Remove => patch.remove_user_attributes.push(key),
                Edit::Increment(by) => drop(patch.increment_user_attributes.insert(key, by.into())),
                Edit::Append(values) => drop(patch.append_user_attributes.insert(key, numbers(&values))),
            }
        }
        patch.set_user_attributes = Some(Struct { fields: set });
        for (n, add) in &self.emails {
            let side = if *add { &mut patch.add_identities } else { &mut patch.remove_identities };
            side.push(Name::Email(*n).identity());
        }
        patch
    }
}
