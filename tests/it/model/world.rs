//! A server and a model of what it should hold. Each step goes to both, and they must agree.

use std::collections::{BTreeMap, BTreeSet};

use cameo::proto::v1::batch_get_profiles_result::Result as Found;
use cameo::proto::v1::*;
use tonic_types::RpcStatusExt;

use super::steps::{Attribute, Edit, Key, Name, Patch, Step};
use crate::harness::*;

/// What the test knows of a profile.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Model {
    opted_out: bool,
    attributes: BTreeMap<String, Attribute>,
    /// Its emails, and the customer id under which it was created.
    identities: BTreeSet<Name>,
}

/// A server, and what it should hold.
pub struct World {
    server: TestServer,
    client: Client,
    profiles: BTreeMap<i64, Model>,
    /// How many events the log should hold.
    events: usize,
    /// Stands for the mpid of the next profile that is created under a name, until the server has said which one it
    /// drew. Always negative.
    placeholder: i64,
}

impl World {
    pub async fn begin() -> Self {
        let server = TestServer::start().await;
        let client = server.client().await;
        Self { server, client, profiles: BTreeMap::new(), events: 0, placeholder: -1 }
    }

    pub async fn take(&mut self, step: Step) {
        match step {
            Step::Create { mpid, emails } => self.create(mpid, &emails).await,
            Step::Update { key, patch, allow_missing } => self.update(&key, &patch, allow_missing).await,
            Step::Delete(key) => self.delete(&key).await,
            Step::Batch(keys) => self.batch(&keys).await,
            Step::List { page_size } => assert_eq!(self.listed(page_size).await, self.profiles),
            Step::Import(records) => self.import(&records).await,
            Step::Restart => {
                let next = TestServer::start().await; // `restart` takes the server, so another must stand in for it.
                self.server = std::mem::replace(&mut self.server, next).restart().await;
                self.client = self.server.client().await;
            }
        }
        assert_eq!(self.listed(LARGEST_PAGE).await, self.profiles);
    }

    async fn create(&mut self, mpid: i64, emails: &BTreeSet<u8>) {
        let names: BTreeSet<_> = emails.iter().map(|n| Name::Email(*n)).collect();
        let user_identities = names.iter().map(Name::identity).collect();
        let response = self.client.create(Profile { user_identities, ..with_mpid(mpid) }).await;
        let mut refusals = Vec::new();
        refusals.extend(self.profiles.contains_key(&mpid).then_some("PROFILE_EXISTS"));
        refusals.extend(names.iter().any(|name| self.owner(name).is_some()).then_some("IDENTITY_TAKEN"));
        match response {
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
        let response = self.client.update_with(request).await;
        match (response, self.apply(key, patch, allow_missing)) {
            (Ok(response), Ok((mpid, outcome))) => {
                assert_eq!(response.outcome(), outcome);
                let profile = response.profile.unwrap();
                if mpid < 0 {
                    self.named(mpid, profile.mpid);
                }
                assert_eq!(Model::of(&profile), self.profiles[&profile.mpid]);
                let etag = before.map(|before| before.etag);
                assert_eq!(etag.as_ref() == Some(&profile.etag), outcome == WriteOutcome::Unchanged);
            }
            (Err(status), Err(refusals)) => assert!(refusals.contains(&&*reason(&status)), "{status:?}, {refusals:?}"),
            (response, expected) => panic!("{response:?} instead of {expected:?}"),
        }
    }

    async fn delete(&mut self, key: &Key) {
        let request = DeleteProfileRequest { key: Some(key.to_key()), ..delete_request(1) };
        let response = self.client.delete_with(request).await;
        match self.find(key) {
            Some(mpid) => {
                assert_eq!(response.unwrap().outcome(), WriteOutcome::Deleted);
                self.profiles.remove(&mpid);
                self.events += 1;
            }
            None => assert_eq!(reason(&response.unwrap_err()), "PROFILE_NOT_FOUND"),
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
        let response = self.client.import(messages).await.unwrap();
        let mut refusals = response.refusals.iter();
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
        assert_eq!((response.created, response.updated, response.unchanged), (created, updated, unchanged));
        let placeholders: Vec<_> = self.profiles.range(..0).map(|(mpid, _)| *mpid).collect();
        for placeholder in placeholders {
            let model = &self.profiles[&placeholder];
            let name = model.identities.iter().find(|name| matches!(name, Name::Customer(_))).unwrap();
            let drawn = self.client.get_by(name.identity()).await.unwrap().mpid;
            self.named(placeholder, drawn);
        }
    }

    /// The server drew this mpid for the profile that the placeholder stands for.
    fn named(&mut self, placeholder: i64, mpid: i64) {
        let model = self.profiles.remove(&placeholder).unwrap();
        assert_eq!(self.profiles.insert(mpid, model), None, "a drawn mpid is new");
    }

    async fn listed(&self, page_size: i32) -> BTreeMap<i64, Model> {
        let profiles = self.client.all_profiles(page_size).await;
        assert!(profiles.is_sorted_by_key(|profile| profile.mpid));
        profiles.iter().map(|profile| (profile.mpid, Model::of(profile))).collect()
    }

    /// Asserts that the log has an event for each change, and that its events add up to the profiles.
    pub async fn check_log(&self) {
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

    /// Applies a patch to the model. Returns what the server should do, or the reasons for which it may refuse.
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

    /// Applies a patch. Returns whether it can be applied.
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
