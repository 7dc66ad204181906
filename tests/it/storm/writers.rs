//! What is written in a storm.

use std::ops::RangeInclusive;
use std::time::Duration;

use cameo::proto::v1::*;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tonic::{Code, Status};

use super::draw::{AUDIENCES, KEYS, PROFILES, one_in};
use super::erasers::erase;
use super::gone::is_gone;
use super::members;
use super::run::{Shared, Stage, connect, next_server};
use crate::harness::*;

/// The most writes whose events the reader of the truth has not seen. They are less than half of what a subscription may
/// hold.
const MOST_UNKNOWN: usize = 24;

/// One in so many writes is an erasure.
const ERASURES: u32 = 32;
/// One in so many others registers an audience or deletes it.
const AUDIENCE_CHANGES: u32 = 24;

const ON_CONFLICT: [OnConflict; 4] = [OnConflict::Merge, OnConflict::Merge, OnConflict::Keep, OnConflict::Fail];

/// How long a membership lasts that ends, in milliseconds.
pub const MEMBERSHIP: RangeInclusive<u64> = 50..=2_000;

/// Writes so often, over the restarts of the server. A write that is refused counts too.
pub async fn write(seed: u64, writes: usize, shared: Shared) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut stages = shared.stages.subscribe();
    let mut client = connect(&mut stages);
    for _ in 0..writes {
        wait_for_truth(&shared).await;
        if one_in(&mut rng, ERASURES) {
            client = Box::pin(erase(&mut rng, &shared, &mut stages, client)).await;
        } else if one_in(&mut rng, AUDIENCE_CHANGES) {
            client = Box::pin(members::change(&mut rng, &shared, &mut stages, client)).await;
        } else {
            let _turn = shared.turn.read().await;
            match within(write_one(&mut rng, &client)).await {
                Ok(cursor) => shared.note_written(cursor),
                Err(status) if is_refusal(&status) => {}
                // What was asked for may be written until the server has gone.
                Err(status) => client = gone(&status, &mut stages).await,
            }
            shared.count_write();
        }
    }
}

/// Waits for the server that follows one that has gone.
pub async fn gone(status: &Status, stages: &mut watch::Receiver<Stage>) -> Client {
    assert!(is_gone(status), "{status:?}");
    next_server(stages).await
}

/// Lets the reader of the truth catch up: retention may remove what is far behind, held or not.
async fn wait_for_truth(shared: &Shared) {
    let writes = *shared.writes.borrow();
    within(shared.known.subscribe().wait_for(|known| writes <= known.saturating_add(MOST_UNKNOWN))).await.unwrap();
}

/// What a race of writers may lead to. A membership may have ended before it is written.
pub fn is_refusal(status: &Status) -> bool {
    const REASONS: [&str; 6] = [
        "FIELD_INVALID",
        "AUDIENCE_DELETING",
        "MERGE_SELF",
        "MERGE_CYCLE",
        "MERGE_NOT_REVERSIBLE",
        "IDENTITY_CONFLICT",
    ];
    matches!(status.code(), Code::NotFound | Code::AlreadyExists | Code::Aborted)
        || matches!(status.code(), Code::InvalidArgument | Code::FailedPrecondition)
            && REASONS.contains(&&*reason(status))
}

async fn write_one(rng: &mut StdRng, client: &Client) -> Result<String, Status> {
    let mpid = rng.random_range(1..=PROFILES);
    match rng.random_range(0..24) {
        0 | 1 => Ok(client.create(owner_of(drawn_email(rng), mpid)).await?.cursor),
        2 => Ok(client.delete(mpid).await?.cursor),
        3 => Ok(client.merge_with(merge(rng)).await?.cursor),
        4 => Ok(client.merge(mpid, rng.random_range(1..=PROFILES)).await?.cursor),
        5 | 6 => Ok(client.unmerge(mpid).await?.cursor),
        7 => Ok(client.identify(identification(rng)).await?.cursor),
        8 | 9 => {
            let mut records = Vec::new();
            for mpid in [mpid, rng.random_range(1..=PROFILES)] {
                let silent = !one_in(rng, 3);
                records.push(ImportProfilesRequest { silent, ..record(by_mpid(mpid), patch(rng)) });
            }
            Ok(client.import(records).await?.cursor)
        }
        10 | 11 => members::add(rng, client).await,
        12 => members::remove(rng, client).await,
        _ => Ok(client.update_with(upsert_request(mpid, patch(rng))).await?.cursor),
    }
}

/// Of profiles that are named by their identities: some have an mpid that the server has drawn.
fn merge(rng: &mut StdRng) -> MergeProfilesRequest {
    MergeProfilesRequest {
        workspace: WORKSPACE.into(),
        into: Some(by_identity(drawn_email(rng))),
        from: Some(by_identity(drawn_email(rng))),
        prefer_newer: one_in(rng, 2),
        ..MergeProfilesRequest::default()
    }
}

fn identification(rng: &mut StdRng) -> IdentifyProfileRequest {
    let on_conflict = *ON_CONFLICT.choose(rng).expect("there are some");
    IdentifyProfileRequest {
        workspace: WORKSPACE.into(),
        identities: vec![drawn_email(rng), drawn_email(rng)],
        patch: Some(set([("plan", text("5"))])),
        on_conflict: on_conflict.into(),
        ..IdentifyProfileRequest::default()
    }
}

pub fn drawn_email(rng: &mut StdRng) -> Identity {
    email(&rng.random_range(1..=PROFILES).to_string())
}

fn patch(rng: &mut StdRng) -> ProfilePatch {
    let audience = rng.random_range(1..=AUDIENCES);
    let key = *KEYS.choose(rng).expect("there are some");
    match rng.random_range(0..6) {
        0 => set([(key, text(&rng.random_range(0..9).to_string()))]),
        1 => ProfilePatch { remove_user_attributes: vec![key.into()], ..ProfilePatch::default() },
        2 => take([drawn_email(rng)]),
        3 => ProfilePatch { leave_audiences: vec![audience], ..ProfilePatch::default() },
        4 => ProfilePatch { is_opted_out: Some(one_in(rng, 2)), ..increment("count") },
        _ => {
            let end = one_in(rng, 2).then(|| from_now(Duration::from_millis(rng.random_range(MEMBERSHIP))));
            ProfilePatch { join_audiences: vec![member(audience, end)], ..ProfilePatch::default() }
        }
    }
}
