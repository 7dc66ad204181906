//! What is written in a storm.

use std::ops::RangeInclusive;
use std::time::Duration;

use cameo::proto::v1::*;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tonic::{Code, Status};

use super::draw::{AUDIENCES, KEYS, PROFILES, one_in};
use super::gone::is_gone;
use super::run::{Shared, connect, next_server};
use crate::harness::*;

/// The most writes whose events the reader of the truth has not seen. They are less than half of what a subscription may
/// hold.
const MOST_UNKNOWN: usize = 64;

/// How long a membership lasts that ends, in milliseconds.
const MEMBERSHIP: RangeInclusive<u64> = 50..=2_000;

/// Writes so often, over the restarts of the server. A write that is refused counts too.
pub async fn write(seed: u64, writes: usize, shared: Shared) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut stages = shared.stages.subscribe();
    let mut client = connect(&mut stages);
    for _ in 0..writes {
        wait_for_truth(&shared).await;
        let written = within(write_one(&mut rng, &client)).await;
        match written {
            Ok(cursor) => shared.note_written(cursor),
            Err(status) if is_refusal(&status) => {}
            Err(status) => {
                assert!(is_gone(&status), "{status:?}");
                client = next_server(&mut stages).await;
            }
        }
        shared.writes.send_modify(|writes| *writes += 1);
    }
}

/// Lets the reader of the truth catch up: retention may remove what is far behind, held or not.
async fn wait_for_truth(shared: &Shared) {
    let writes = *shared.writes.borrow();
    within(shared.known.subscribe().wait_for(|known| writes <= known.saturating_add(MOST_UNKNOWN))).await.unwrap();
}

/// What a race of writers may lead to. A membership may have ended before it is written.
fn is_refusal(status: &Status) -> bool {
    matches!(status.code(), Code::NotFound | Code::AlreadyExists | Code::Aborted)
        || status.code() == Code::InvalidArgument && reason(status) == "FIELD_INVALID"
}

async fn write_one(rng: &mut StdRng, client: &Client) -> Result<String, Status> {
    let mpid = rng.random_range(1..=PROFILES);
    match rng.random_range(0..10) {
        0 => Ok(client.create(owner_of(email(&mpid.to_string()), mpid)).await?.cursor),
        1 => Ok(client.delete(mpid).await?.cursor),
        2 => {
            let mut records = Vec::new();
            for mpid in [mpid, rng.random_range(1..=PROFILES)] {
                let silent = !one_in(rng, 3);
                records.push(ImportProfilesRequest { silent, ..record(by_mpid(mpid), patch(rng)) });
            }
            Ok(client.import(records).await?.cursor)
        }
        _ => Ok(client.update_with(upsert_request(mpid, patch(rng))).await?.cursor),
    }
}

fn patch(rng: &mut StdRng) -> ProfilePatch {
    let audience = rng.random_range(1..=AUDIENCES);
    let key = *KEYS.choose(rng).expect("there are some");
    match rng.random_range(0..6) {
        0 => set([(key, text(&rng.random_range(0..9).to_string()))]),
        1 => ProfilePatch { remove_user_attributes: vec![key.into()], ..ProfilePatch::default() },
        2 => take([email(&rng.random_range(1..=PROFILES).to_string())]),
        3 => ProfilePatch { leave_audiences: vec![audience], ..ProfilePatch::default() },
        4 => ProfilePatch { is_opted_out: Some(one_in(rng, 2)), ..increment("count") },
        _ => {
            let end = one_in(rng, 2).then(|| from_now(Duration::from_millis(rng.random_range(MEMBERSHIP))));
            ProfilePatch { join_audiences: vec![member(audience, end)], ..ProfilePatch::default() }
        }
    }
}
