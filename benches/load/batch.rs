//! `BatchGetProfiles`, compared with single `GetProfile` calls and with [`crate::redis`].

use std::sync::Arc;

use bytes::Bytes;
use cameo::model::wire;
use cameo::proto::field::{batch_get_profiles_response, batch_get_profiles_result};
use cameo::proto::v1::profile_key::Key;
use cameo::proto::v1::{BatchGetProfilesRequest, ProfileKey};
use prost::Message;

use crate::child::Child;
use crate::client::Work;
use crate::figures::count;
use crate::fixture::Fixture;
use crate::lookup::{By, Lookup};
use crate::plan::Plan;
use crate::profiles::{Dice, WORKSPACE, mpid};
use crate::redis::{self, Mget};
use crate::report::Report;
use crate::side::{GrpcCalls, Side, take_turns, warm_up};

/// Profiles per call.
const BATCH: u32 = 100;
const IN_FLIGHT: [usize; 2] = [1, 16];
const CONNECTIONS: usize = 4;
/// The warm-up is this many times shorter than for single lookups, because batches touch every page sooner.
const WARM_UP_SHARE: u32 = 3;

/// Batches of uniformly random profiles.
struct Batch {
    profile_bytes: Arc<[u32]>,
}

impl Work for Batch {
    const PATH: &'static str = "/cameo.v1.ProfileService/BatchGetProfiles";
    type Expected = usize;

    fn request(&self, dice: &mut Dice) -> (Bytes, usize) {
        let mut request = BatchGetProfilesRequest { workspace: WORKSPACE.into(), ..Default::default() };
        let mut expected = 0;
        for _ in 0..BATCH {
            let index = dice.below(self.profile_bytes.len() as u64);
            let profile = self.profile_bytes[usize::try_from(index).expect("an index")] as usize;
            let result = wire::delimited_len(batch_get_profiles_result::FOUND, profile);
            expected += wire::delimited_len(batch_get_profiles_response::RESULTS, result);
            request.keys.push(ProfileKey { key: Some(Key::Mpid(mpid(index))) });
        }
        (request.encode_to_vec().into(), expected)
    }

    fn is_right(&self, answer: &[u8], expected: &usize) -> bool {
        answer.len() == *expected
    }
}

pub async fn measure(fixture: &Fixture, plan: Plan, report: &mut Report) -> anyhow::Result<()> {
    let redis = redis::start(fixture).await?;
    let cameo = Child::cameo(&fixture.store).await?;
    let mut rows = Vec::new();
    for in_flight in IN_FLIGHT {
        let mut sides = sides(fixture, &cameo, redis.as_ref(), in_flight).await?;
        take_turns(&mut sides, warm_up(fixture) / WARM_UP_SHARE, plan).await?;
        rows.extend(tell(&sides, in_flight, report));
    }
    let columns = [
        "Call",
        "profiles/s",
        "Cameo's batch relative to this",
        "p50 of a call",
        "p99 of a call",
        "server CPU per profile",
    ];
    report.table(&format!("Batches of {BATCH} profiles, on up to {CONNECTIONS} connections"), &columns, &rows);
    if let Some(redis) = redis {
        redis.stop().await?;
    }
    cameo.stop().await
}

/// Cameo's batches, Cameo's single lookups and, if it is installed, Redis.
async fn sides<'a>(
    fixture: &Fixture,
    cameo: &'a Child,
    redis: Option<&'a Child>,
    in_flight: usize,
) -> anyhow::Result<Vec<Side<'a>>> {
    let connections = CONNECTIONS.min(in_flight);
    let batch = Batch { profile_bytes: Arc::clone(&fixture.profile_bytes) };
    let batch = GrpcCalls::connect(cameo, connections, in_flight, batch).await?;
    let single = GrpcCalls::connect(cameo, connections, in_flight, Lookup::new(By::Mpid, fixture)).await?;
    let mut sides = vec![
        Side::of_batches(BATCH, format!("Cameo, BatchGetProfiles, {}", in_flight_text(in_flight)), cameo, batch),
        Side::new(format!("Cameo, GetProfile, {}", in_flight_text(in_flight)), cameo, single),
    ];
    if let Some(redis) = redis {
        let profile_bytes = Arc::clone(&fixture.profile_bytes);
        let mget = Mget { addr: redis.addr, batch: BATCH, connections, in_flight, profile_bytes };
        sides.push(Side::of_batches(BATCH, format!("Redis, MGET, {}", in_flight_text(in_flight)), redis, mget));
    }
    Ok(sides)
}

fn tell(sides: &[Side<'_>], in_flight: usize, report: &mut Report) -> Vec<Vec<String>> {
    let [batch, single, redis @ ..] = sides else { unreachable!("there are always two") };
    let to_single = batch.ratio_to(single);
    let measured = format!("{to_single:.1} ({} profiles/s)", count(batch.rate()));
    let name = format!("Batches of {BATCH} profiles, {}", in_flight_text(in_flight));
    report.claim(format!("{name}: profiles/s, relative to single lookups on the same server"), measured, "≥ 10");
    let mut rows = vec![batch.row(String::new()), single.row(format!("{to_single:.1}"))];
    let measured = if let [redis] = redis {
        let to_redis = format!("{:.2}", batch.ratio_to(redis));
        rows.push(redis.row(to_redis.clone()));
        to_redis
    } else {
        let mut row = vec![String::new(); 6];
        row[..2].clone_from_slice(&[format!("Redis, MGET, {}", in_flight_text(in_flight)), "not measured".into()]);
        rows.push(row);
        "not measured: no redis-server".into()
    };
    report.claim(format!("{name}: profiles/s, relative to Redis MGET of the same bytes"), measured, "");
    rows
}

fn in_flight_text(calls: usize) -> String {
    if calls == 1 { "1 call in flight".to_owned() } else { format!("{calls} calls in flight") }
}
