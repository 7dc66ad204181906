//! Reads everything that a workspace holds, changes all of it, and judges each response.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Display};

use cameo::proto::v1::batch_get_profiles_result::Result as Found;
use cameo::proto::v1::subscribe_response::Message;
use cameo::proto::v1::*;
use futures_util::{StreamExt, stream};
use tonic::Status;
use tonic_types::{RpcStatusExt, StatusExt};

use super::truth::{Held, IN_FLIGHT, identities};
use crate::harness::*;

/// More pages or streams than any walk over a store of this test takes.
const STEPS: usize = 2_000;
/// How many rows a page of a list has: so few that the damage is in the middle of a list.
const PAGE_SIZE: i32 = 40;

/// What the test found in the responses.
#[derive(Debug, Default)]
pub struct Findings {
    /// The server ended or did not respond. This is never allowed.
    pub ended: Vec<String>,
    pub wrong: Vec<String>,
    /// Places where the server denied a profile that exists.
    pub hidden: Vec<String>,
    /// How many responses were `RECORD_CORRUPT`.
    pub corrupt: usize,
    /// Calls to which the server did not respond.
    pub unanswered: Vec<String>,
}

/// A connection to a server, and what the server should say of a workspace.
pub struct Probe<'f> {
    pub client: Client,
    pub held: Held,
    pub findings: &'f mut Findings,
}

/// The rows that a walk returned, and the places where it said that it left some out.
#[derive(Debug)]
struct Walk<T> {
    items: Vec<T>,
    /// The places: each is the number of items before it.
    gaps: Vec<usize>,
}

impl<T> Default for Walk<T> {
    fn default() -> Self {
        Self { items: Vec::new(), gaps: Vec::new() }
    }
}

impl<T> Walk<T> {
    fn gap(&mut self) {
        self.gaps.push(self.items.len());
    }

    /// Whether the walk said that it left out the place of this key.
    fn omits<K: Ord>(&self, key: &K, key_of: impl Fn(&T) -> K) -> bool {
        self.gaps.iter().any(|at| {
            let before = at.checked_sub(1).is_none_or(|before| key_of(&self.items[before]) < *key);
            before && self.items.get(*at).is_none_or(|item| key_of(item) > *key)
        })
    }
}

impl Findings {
    /// Everything that is not allowed.
    pub fn all(&self) -> Vec<String> {
        [&self.ended[..], &self.wrong, &self.hidden].concat()
    }

    /// Judges a refusal. `allowed` are the right reasons besides `RECORD_CORRUPT`.
    fn refused(&mut self, what: impl Display, status: &Status, allowed: &[&str]) {
        if !is_answer(status) {
            return self.unanswered.push(format!("{what}: {status}"));
        }
        match &*reason(status) {
            "RECORD_CORRUPT" => self.corrupt += 1,
            reason if allowed.contains(&reason) => {}
            "PROFILE_NOT_FOUND" => self.hidden.push(what.to_string()),
            reason => self.wrong.push(format!("{what}: {reason}, {}", status.message())),
        }
    }

    fn expect<T: PartialEq + Debug>(&mut self, what: impl Display, found: &T, expected: &T) {
        if found != expected {
            self.wrong.push(format!("{what}: {found:?} instead of {expected:?}"));
        }
    }

    fn found(&mut self, what: impl Display, found: Result<Profile, Status>, expected: Option<&Profile>) {
        match (found, expected) {
            (Ok(found), Some(expected)) => self.expect(what, &found, expected),
            (Ok(found), None) => self.wrong.push(format!("{what}: {found:?}, which does not exist")),
            (Err(status), Some(_)) => self.refused(what, &status, &[]),
            (Err(status), None) => self.refused(what, &status, &["PROFILE_NOT_FOUND"]),
        }
    }

    /// Judges a walk over rows against the rows that exist.
    fn walked<T: PartialEq + Debug, K: Ord + Debug + Copy>(
        &mut self,
        what: impl Display,
        walk: &Walk<T>,
        key_of: impl Fn(&T) -> K,
        expected: &BTreeMap<K, &T>,
        unexpected: impl Fn(&T) -> bool,
    ) {
        if !walk.items.is_sorted_by(|a, b| key_of(a) < key_of(b)) {
            self.wrong.push(format!("{what}: out of order"));
        }
        for item in &walk.items {
            match expected.get(&key_of(item)) {
                Some(expected) => self.expect(&what, item, expected),
                None if unexpected(item) => {}
                None => self.wrong.push(format!("{what}: {item:?}, which does not exist")),
            }
        }
        let seen: BTreeSet<K> = walk.items.iter().map(&key_of).collect();
        for key in expected.keys().filter(|key| !seen.contains(*key) && !walk.omits(*key, &key_of)) {
            self.wrong.push(format!("{what}: {key:?} is left out"));
        }
    }
}

impl<'f> Probe<'f> {
    pub fn new(client: Client, held: Held, findings: &'f mut Findings) -> Self {
        Self { client, held, findings }
    }

    pub async fn read(&mut self) {
        self.look_up().await;
        self.histories().await;
        self.subscribe().await;
        self.read_again().await;
    }

    /// Reads everything in as few calls as possible.
    pub async fn read_again(&mut self) {
        self.batch().await;
        self.list().await;
        self.log().await;
    }

    pub async fn write(&mut self) {
        self.repeat().await;
        self.update().await;
        self.create_owned().await;
        self.create_existing().await;
        self.delete().await;
        self.create_new().await;
    }

    async fn look_up(&mut self) {
        let (client, name) = (&self.client, &self.held.name);
        let get = |key: ProfileKey| async move {
            client.get_with(GetProfileRequest { workspace: name.clone(), key: Some(key), ..Default::default() }).await
        };
        let mpids = self.held.profiles.keys().chain(&self.held.gone).copied();
        let responses = mpids.map(|mpid| async move { (mpid, get(by_mpid(mpid)).await) });
        for (mpid, response) in all(responses).await {
            self.findings.found(format_args!("get {mpid}"), response, self.held.profiles.get(&mpid));
        }
        let emails = self.held.profiles.values().map(|profile| (&profile.user_identities[0], profile));
        let responses =
            emails.map(|(identity, owner)| async move { (identity, owner, get(by_identity(identity.clone())).await) });
        for (identity, owner, response) in all(responses).await {
            self.findings.found(format_args!("get {identity:?}"), response, Some(owner));
        }
    }

    /// Looks each profile up by each of its keys, in one batch.
    async fn batch(&mut self) {
        let mut keys: Vec<_> =
            self.held.profiles.iter().map(|(mpid, profile)| (by_mpid(*mpid), Some(profile))).collect();
        keys.extend(self.held.gone.iter().map(|mpid| (by_mpid(*mpid), None)));
        keys.extend(self.held.identities().map(|(identity, owner)| (by_identity(identity.clone()), Some(owner))));
        let workspace = self.held.name.clone();
        let request = batch_request(keys.iter().map(|(key, _)| key.clone()));
        let results = match self.client.batch(BatchGetProfilesRequest { workspace, ..request }).await {
            Ok(results) => results,
            Err(status) => return self.findings.refused("batch", &status, &[]),
        };
        self.findings.expect("results of a batch", &results.len(), &keys.len());
        for ((key, expected), result) in keys.iter().zip(results) {
            let result = match result {
                Found::Found(profile) => Ok(profile),
                Found::Error(error) => Err(status_of(&error)),
            };
            self.findings.found(format_args!("batch with {key:?}"), result, *expected);
        }
    }

    async fn list(&mut self) {
        let mut walk = Walk::default();
        let mut request =
            ListProfilesRequest { workspace: self.held.name.clone(), page_size: PAGE_SIZE, ..Default::default() };
        for _ in 0..STEPS {
            match self.client.page(request.clone()).await {
                Ok(page) => {
                    walk.items.extend(page.profiles);
                    request.page_token = page.next_page_token;
                }
                Err(status) => {
                    self.findings.refused("list", &status, &[]);
                    walk.gap();
                    request.page_token = place(&status, "next_page_token");
                }
            }
            if request.page_token.is_empty() {
                let expected = self.held.profiles.iter().map(|(mpid, profile)| (*mpid, profile)).collect();
                let unsure = |profile: &Profile| self.held.unsure.contains(&profile.mpid);
                return self.findings.walked("list", &walk, |profile: &Profile| profile.mpid, &expected, unsure);
            }
        }
        self.findings.wrong.push("list: it has no end".into());
    }

    async fn log(&mut self) {
        if let Some(walk) = self.list_events("log", EventFilter::default()).await {
            self.judge_log("log", &walk, None);
        }
    }

    /// Reads the histories of every fourth profile: there are many.
    async fn histories(&mut self) {
        let mpids: Vec<_> = self.held.profiles.keys().chain(&self.held.gone).copied().step_by(4).collect();
        for mpid in mpids {
            let what = format!("history of {mpid}");
            if let Some(walk) = self.list_events(&what, EventFilter { mpids: vec![mpid], ..Default::default() }).await {
                self.judge_log(&what, &walk, Some(mpid));
            }
        }
    }

    async fn list_events(&mut self, what: &str, filter: EventFilter) -> Option<Walk<Event>> {
        let mut walk = Walk::default();
        let mut request = ListEventsRequest {
            workspace: self.held.name.clone(),
            filter: Some(filter),
            page_size: PAGE_SIZE,
            ..Default::default()
        };
        for _ in 0..STEPS {
            let cursor = match self.client.list(request.clone()).await {
                Ok(page) => {
                    walk.items.extend(page.events);
                    if page.caught_up {
                        return Some(walk);
                    }
                    page.cursor
                }
                Err(status) => {
                    self.findings.refused(what, &status, &[]);
                    walk.gap();
                    place(&status, "cursor")
                }
            };
            if cursor.is_empty() {
                return Some(walk);
            }
            request.start = page_after(&cursor);
        }
        self.findings.wrong.push(format!("{what}: it has no end"));
        None
    }

    async fn subscribe(&mut self) {
        let mut walk = Walk::default();
        let mut start = earliest();
        for _ in 0..STEPS {
            let request = SubscribeRequest {
                workspace: self.held.name.clone(),
                start: start.take(),
                until_caught_up: true,
                ..Default::default()
            };
            match self.read_stream(request, &mut walk).await {
                Ok(caught_up) => {
                    self.findings.expect("a stream ends when it has caught up", &caught_up, &true);
                    return self.judge_log("stream", &walk, None);
                }
                Err(status) => {
                    self.findings.refused("stream", &status, &[]);
                    walk.gap();
                    let cursor = place(&status, "cursor");
                    if cursor.is_empty() {
                        return self.judge_log("stream", &walk, None);
                    }
                    start = after(&cursor);
                }
            }
        }
        self.findings.wrong.push("stream: it has no end".into());
    }

    async fn read_stream(&self, request: SubscribeRequest, walk: &mut Walk<Event>) -> Result<bool, Status> {
        let mut stream = self.client.subscribe(request).await?;
        let mut caught_up = false;
        while let Some(response) = stream.next().await? {
            match response.message.unwrap() {
                Message::Event(event) => walk.items.push(event),
                Message::CaughtUp(_) => caught_up = true,
                _ => {}
            }
        }
        Ok(caught_up)
    }

    fn judge_log(&mut self, what: &str, walk: &Walk<Event>, mpid: Option<i64>) {
        let events = self.held.log.iter().filter(|(_, event)| mpid.is_none_or(|mpid| event.mpid == mpid));
        let expected = events.map(|(sequence, event)| (*sequence, event)).collect();
        let Held { written, deleted, unsure, .. } = &self.held;
        let by_write = |event: &Event| match &event.profile {
            _ if unsure.contains(&event.mpid) => true,
            Some(profile) => written.get(&profile.etag) == Some(profile),
            None => deleted.contains(&event.mpid),
        };
        self.findings.walked(what, walk, |event| event.sequence, &expected, by_write);
        if walk.gaps.is_empty() && mpid.is_none() {
            let seen: BTreeSet<_> = walk.items.iter().filter_map(|event| Some(&event.profile.as_ref()?.etag)).collect();
            for profile in self.held.written.values().filter(|profile| !seen.contains(&profile.etag)) {
                self.findings.wrong.push(format!("{what}: a write of {} is left out", profile.mpid));
            }
            if !walk.items.iter().map(|event| event.sequence).eq(1..=walk.items.len() as u64) {
                self.findings.wrong.push(format!("{what}: it has holes"));
            }
        }
    }

    async fn repeat(&mut self) {
        let client = &self.client;
        let updates = self.held.updates.iter();
        let responses =
            updates.map(|(request, first)| async move { (first, client.update_with(request.clone()).await) });
        for (first, response) in all(responses).await {
            match response {
                Ok(response) => self.findings.expect("repeated update", &response, first),
                Err(status) => self.findings.refused("repeated update", &status, &[]),
            }
        }
        let creates = self.held.creates.iter();
        let responses =
            creates.map(|(request, first)| async move { (first, client.create_with(request.clone()).await) });
        for (first, response) in all(responses).await {
            match response {
                Ok(response) => self.findings.expect("repeated create", &response, first),
                Err(status) => self.findings.refused("repeated create", &status, &[]),
            }
        }
    }

    async fn update(&mut self) {
        let (client, name) = (&self.client, &self.held.name);
        let responses = self.held.profiles.keys().map(|mpid| async move {
            let patch = Some(set([("rot", text("no"))]));
            let request = UpdateProfileRequest { workspace: name.clone(), patch, ..update_request(*mpid) };
            (*mpid, client.update_with(request).await)
        });
        for (mpid, response) in all(responses).await {
            match response {
                Ok(response) => {
                    let profile = response.profile.unwrap();
                    let mut expected = self.held.profiles[&mpid].clone();
                    expected.user_attributes.as_mut().unwrap().fields.insert("rot".into(), text("no"));
                    expected.etag.clone_from(&profile.etag);
                    expected.update_time = profile.update_time;
                    self.findings.expect(format_args!("update {mpid}"), &profile, &expected);
                    self.wrote(profile);
                }
                Err(status) => self.not_written("update", mpid, &status),
            }
        }
    }

    fn wrote(&mut self, profile: Profile) {
        self.held.written.insert(profile.etag.clone(), profile.clone());
        self.held.profiles.insert(profile.mpid, profile);
    }

    fn not_written(&mut self, what: &str, mpid: i64, status: &Status) {
        self.findings.refused(format_args!("{what} {mpid}"), status, &[]);
        if !is_answer(status) {
            self.held.profiles.remove(&mpid);
            self.held.unsure.insert(mpid);
        }
    }

    async fn create_owned(&mut self) {
        let (client, name) = (&self.client, &self.held.name);
        let responses = self.held.identities().map(|(identity, owner)| async move {
            let mut profile = Profile::default();
            let device = owner.device_identities.contains(identity);
            if device { &mut profile.device_identities } else { &mut profile.user_identities }.push(identity.clone());
            let request =
                CreateProfileRequest { workspace: name.clone(), profile: Some(profile), ..Default::default() };
            (owner.mpid, client.create_with(request).await)
        });
        for (owner, response) in all(responses).await {
            match response {
                Ok(_) => self.findings.wrong.push(format!("an identity of {owner} has a second owner")),
                Err(status) => self.findings.refused("create with an owned identity", &status, &["IDENTITY_TAKEN"]),
            }
        }
    }

    async fn create_existing(&mut self) {
        let (client, name) = (&self.client, &self.held.name);
        let responses = self.held.profiles.keys().map(|mpid| async move {
            let profile = Some(with_mpid(*mpid));
            let request = CreateProfileRequest { workspace: name.clone(), profile, ..Default::default() };
            (*mpid, client.create_with(request).await)
        });
        for (mpid, response) in all(responses).await {
            match response {
                Ok(_) => self.findings.wrong.push(format!("{mpid} has a second profile")),
                Err(status) => self.findings.refused("create with an mpid in use", &status, &["PROFILE_EXISTS"]),
            }
        }
    }

    /// Deletes a few profiles. The others are read again.
    async fn delete(&mut self) {
        let mpids: Vec<_> = self.held.profiles.keys().copied().skip(3).step_by(20).collect();
        for mpid in mpids {
            let request = DeleteProfileRequest { workspace: self.held.name.clone(), ..delete_request(mpid) };
            match self.client.delete_with(request).await {
                Ok(_) => {
                    let profile = self.held.profiles.remove(&mpid);
                    self.held.gone.extend(profile.map(|profile| profile.mpid));
                    self.held.deleted.insert(mpid);
                }
                Err(status) => self.not_written("delete", mpid, &status),
            }
        }
    }

    /// Creates profiles between the existing ones.
    async fn create_new(&mut self) {
        let mpids: Vec<_> = self.held.profiles.keys().step_by(9).map(|mpid| mpid + 2).collect();
        for mpid in mpids {
            let user_identities = vec![identity("email", &format!("new{mpid}@example.org"))];
            let profile = Some(Profile { user_identities, ..with_mpid(mpid) });
            let request = CreateProfileRequest { workspace: self.held.name.clone(), profile, ..Default::default() };
            match self.client.create_with(request).await {
                Ok(created) => {
                    let profile = created.profile.unwrap();
                    self.findings.expect("created", &identities(&profile).count(), &1);
                    self.wrote(profile);
                }
                Err(status) => self.not_written("create", mpid, &status),
            }
        }
    }
}

/// Makes several calls at a time. Returns their responses in order.
async fn all<T>(calls: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    stream::iter(calls).buffered(IN_FLIGHT).collect().await
}

/// Whether the server responded. A transport that failed gives no reason.
fn is_answer(status: &Status) -> bool {
    status.get_details_error_info().is_some()
}

/// Where to continue: the value under a key of the error's metadata; empty if there is none.
fn place(status: &Status, key: &str) -> String {
    if is_answer(status) { metadata(status, key) } else { String::new() }
}

fn status_of(error: &tonic_types::Status) -> Status {
    Status::with_error_details(error.code.into(), error.message.clone(), error.get_error_details())
}
