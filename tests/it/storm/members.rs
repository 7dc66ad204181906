//! The writes of a storm that are about audiences.

use std::time::Duration;

use cameo::proto::v1::*;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tonic::Status;

use super::audiences::{Change, Changed};
use super::draw::{AUDIENCES, PROFILES, one_in};
use super::run::{Shared, Stage};
use super::writers::{MEMBERSHIP, drawn_email, gone, is_refusal};
use crate::harness::*;

/// The most profiles that one write makes members.
const MOST_KEYS: usize = 4;

/// Makes profiles members of an audience.
pub async fn add(rng: &mut StdRng, client: &Client) -> Result<String, Status> {
    let end = one_in(rng, 2).then(|| from_now(Duration::from_millis(rng.random_range(MEMBERSHIP))));
    let (audience_id, keys) = (rng.random_range(1..=AUDIENCES), keys(rng));
    let request = AddAudienceMembersRequest { audience_id, keys, expire_time: end, ..Default::default() };
    Ok(client.add_members(request).await?.cursor)
}

/// Ends memberships of an audience.
pub async fn remove(rng: &mut StdRng, client: &Client) -> Result<String, Status> {
    let (audience_id, keys) = (rng.random_range(1..=AUDIENCES), keys(rng));
    let request = RemoveAudienceMembersRequest { audience_id, keys, ..Default::default() };
    Ok(client.remove_members(request).await?.cursor)
}

fn keys(rng: &mut StdRng) -> Vec<ProfileKey> {
    let drawn = |rng: &mut StdRng| {
        if one_in(rng, 4) { by_identity(drawn_email(rng)) } else { by_mpid(rng.random_range(1..=PROFILES)) }
    };
    (0..rng.random_range(1..=MOST_KEYS)).map(|_| drawn(rng)).collect()
}

/// Registers an audience or deletes it, over the restarts of the server, and notes between which places. Nobody else
/// writes meanwhile. Returns the connection to the server that is there now.
pub async fn change(rng: &mut StdRng, shared: &Shared, stages: &mut watch::Receiver<Stage>, client: Client) -> Client {
    let id = rng.random_range(1..=AUDIENCES);
    let name = format!("name-{}", rng.random_range(0..100));
    let what = if one_in(rng, 2) { Changed::Registered(name) } else { Changed::Deleted };
    let request_id = format!("audience-{}", rng.random::<u64>());

    let _turn = shared.turn.write().await;
    let (after, mut client) = head(stages, client).await;
    let is_changed = loop {
        match within(ask(&client, id, &what, &request_id)).await {
            Ok(is_changed) => break is_changed,
            Err(status) if is_refusal(&status) => break false,
            Err(status) => client = gone(&status, stages).await,
        }
    };
    let (by, client) = head(stages, client).await;
    if is_changed {
        shared.note_change(Change { id, after, by, what });
    }
    shared.count_write();
    client
}

/// Returns whether the audience was changed by this.
async fn ask(client: &Client, id: i64, what: &Changed, request_id: &str) -> Result<bool, Status> {
    let request_id = request_id.to_owned();
    match what {
        Changed::Registered(name) => {
            let audience = Some(Audience { audience_id: id, name: name.clone(), ..Audience::default() });
            let request = CreateAudienceRequest { audience, request_id, ..CreateAudienceRequest::default() };
            client.register_with(request).await.map(|_| true)
        }
        Changed::Deleted => {
            let request = DeleteAudienceRequest { audience_id: id, request_id, ..DeleteAudienceRequest::default() };
            Ok(client.unregister_with(request).await?.outcome() == WriteOutcome::Deleted)
        }
    }
}

/// The sequence of the last event.
async fn head(stages: &mut watch::Receiver<Stage>, mut client: Client) -> (u64, Client) {
    loop {
        match within(client.status(WORKSPACE)).await {
            Ok(status) => return (status.log.expect("a workspace has a log").head_sequence, client),
            Err(status) => client = gone(&status, stages).await,
        }
    }
}
