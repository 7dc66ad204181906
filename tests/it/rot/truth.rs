//! The store before the damage, and what it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cameo::proto::v1::*;
use futures_util::{StreamExt, stream};
use tempfile::TempDir;

use crate::harness::*;

/// Calls in flight.
pub const IN_FLIGHT: usize = 32;

/// The workspaces, with the number of their profiles and how often each profile is changed.
const WORKSPACES: [(&str, i64, u64); 3] = [("acme/main/web", 60, 5), ("acme/main/app", 60, 1), ("acme/main/tv", 60, 0)];

/// In the last round profiles are deleted, and then everything is read.
const LAST_ROUND: u64 = 5;

/// A whole store.
pub struct Truth {
    pub file: Vec<u8>,
    /// The file at earlier times.
    pub older: Vec<Vec<u8>>,
    pub workspaces: Vec<Held>,
}

/// What a workspace holds.
#[derive(Debug, Clone, Default)]
pub struct Held {
    pub name: String,
    pub profiles: BTreeMap<i64, Profile>,
    /// Mpids whose profile was deleted.
    pub gone: Vec<i64>,
    pub log: BTreeMap<u64, Event>,
    /// Requests that had an id, and their responses.
    pub updates: Vec<(UpdateProfileRequest, UpdateProfileResponse)>,
    pub creates: Vec<(CreateProfileRequest, CreateProfileResponse)>,
    /// What was written after the damage: profiles by their new etags.
    pub written: BTreeMap<String, Profile>,
    /// Mpids of the profiles that were deleted after the damage.
    pub deleted: BTreeSet<i64>,
    /// Mpids of the profiles that the server was writing when it aborted: the write may have been kept or not.
    pub unsure: BTreeSet<i64>,
}

impl Held {
    pub fn identities(&self) -> impl Iterator<Item = (&Identity, &Profile)> {
        self.profiles.values().flat_map(|profile| identities(profile).map(move |identity| (identity, profile)))
    }
}

pub fn identities(profile: &Profile) -> impl Iterator<Item = &Identity> {
    profile.user_identities.iter().chain(&profile.device_identities)
}

/// Builds the store in several rounds, with a restart and a copy of the file after each.
pub async fn build(dir: Arc<TempDir>) -> Truth {
    let mut older = Vec::new();
    let mut workspaces: Vec<_> = WORKSPACES.map(|(name, ..)| Held { name: name.into(), ..Held::default() }).into();
    for round in 0..=LAST_ROUND {
        let server = TestServer::reopen_with(Arc::clone(&dir), straight_from_the_file).await;
        let client = server.client().await;
        for (held, (_, profiles, rounds)) in workspaces.iter_mut().zip(WORKSPACES) {
            match round {
                0 => create(&client, held, profiles).await,
                round if round <= rounds => update(&client, held, round).await,
                _ => {}
            }
            if round == LAST_ROUND {
                delete(&client, held).await;
                read(&client, held).await;
            }
        }
        server.stop().await;
        older.push(std::fs::read(store_file(dir.path())).unwrap());
    }
    Truth { file: older.pop().unwrap(), older, workspaces }
}

/// The mpid of the nth profile: far from the next one, on both sides of zero.
fn mpid(n: i64) -> i64 {
    (n - 20) * 7_919 + 1
}

async fn create(client: &Client, held: &mut Held, count: i64) {
    let name = &held.name;
    let requests = (0..count).map(|n| {
        let mut profile = with_mpid(mpid(n));
        profile.user_identities = vec![
            identity("email", &format!("p{n}@example.org")),
            identity("customerid", &format!("{name} customer {n}")),
        ];
        if n % 3 == 0 {
            profile.device_identities = vec![identity("ios_idfa", &format!("device {n}"))];
        }
        profile.user_attributes = Some(map([("name", text(&format!("person {n} of {name}"))), ("n", number(0.0))]));
        CreateProfileRequest {
            workspace: name.clone(),
            profile: Some(profile),
            request_id: if n % 4 == 0 { format!("create-{n}") } else { String::new() },
            ..Default::default()
        }
    });
    let send = |request: CreateProfileRequest| async move {
        let response = client.create_with(request.clone()).await.unwrap();
        (request, response)
    };
    let responses: Vec<_> = stream::iter(requests).map(send).buffered(IN_FLIGHT).collect().await;
    held.creates = responses.into_iter().filter(|(request, _)| !request.request_id.is_empty()).collect();
}

async fn update(client: &Client, held: &mut Held, round: u64) {
    let mpids: Vec<_> = client.list_all(&held.name).await;
    let name = &held.name;
    let requests = mpids.into_iter().enumerate().map(|(n, mpid)| {
        let patch = ProfilePatch {
            set_user_attributes: Some(map([("round", text(&format!("{round} of {}", "x".repeat(50))))])),
            ..increment("n")
        };
        let request_id = if n % 3 == 0 { format!("update-{round}-{n}") } else { String::new() };
        UpdateProfileRequest { workspace: name.clone(), patch: Some(patch), request_id, ..update_request(mpid) }
    });
    let send = |request: UpdateProfileRequest| async move {
        let response = client.update_with(request.clone()).await.unwrap();
        (request, response)
    };
    let responses: Vec<_> = stream::iter(requests).map(send).buffered(IN_FLIGHT).collect().await;
    held.updates.extend(responses.into_iter().filter(|(request, _)| !request.request_id.is_empty()));
}

async fn delete(client: &Client, held: &mut Held) {
    for mpid in client.list_all(&held.name).await.into_iter().step_by(12) {
        client
            .delete_with(DeleteProfileRequest { workspace: held.name.clone(), ..delete_request(mpid) })
            .await
            .unwrap();
        held.gone.push(mpid);
    }
}

async fn read(client: &Client, held: &mut Held) {
    let request = ListProfilesRequest { workspace: held.name.clone(), page_size: LARGEST_PAGE, ..Default::default() };
    let profiles = client.page(request).await.unwrap().profiles;
    held.profiles = profiles.into_iter().map(|profile| (profile.mpid, profile)).collect();
    let request = ListEventsRequest { workspace: held.name.clone(), page_size: LARGEST_PAGE, ..Default::default() };
    let events = client.pages(request).await.concat();
    held.log = events.into_iter().map(|event| (event.sequence, event)).collect();
}

impl Client {
    async fn list_all(&self, workspace: &str) -> Vec<i64> {
        let request =
            ListProfilesRequest { workspace: workspace.into(), page_size: LARGEST_PAGE, ..Default::default() };
        self.page(request).await.unwrap().profiles.iter().map(|profile| profile.mpid).collect()
    }
}
