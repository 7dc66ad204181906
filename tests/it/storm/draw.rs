//! What a subscriber asks for, at random.

use std::time::{Duration, SystemTime};

use cameo::proto::v1::subscribe_request::Start;
use cameo::proto::v1::*;
use prost_types::FieldMask;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};

use super::conditions::CONDITIONS;
use super::view::View;

/// The mpids of the storm are 1 to this one.
pub const PROFILES: i64 = 24;
/// The audiences are 1 to this one. Each is registered at times, and deleted at times.
pub const AUDIENCES: i64 = 4;
/// The attributes that writers set.
pub const KEYS: [&str; 3] = ["plan", "city", "visits"];
const TYPES: [&str; 6] =
    ["profile.created", "profile.updated", "profile.deleted", "profile.merged", "profile.unmerged", "profile.erased"];
/// The numbers of shards that subscribers ask for.
pub const SHARD_COUNTS: [u32; 2] = [2, 3];

/// Where a new stream starts. Some times lie in the past of the log.
pub fn start(rng: &mut StdRng) -> Option<Start> {
    match rng.random_range(0..6) {
        0 => None,
        1 => Some(Start::Time((SystemTime::now() - Duration::from_millis(rng.random_range(0..3_000))).into())),
        2 => Some(Start::Cursor(String::new())),
        3 => Some(Start::Earliest(true)),
        _ => Some(Start::Snapshot(true)),
    }
}

/// Some want everything: they miss whatever is missing.
pub fn view(rng: &mut StdRng) -> View {
    if one_in(rng, 4) {
        return View::default();
    }
    let fields = ["user_attributes", "audience_memberships", "etag", "user_identities", "mpid"];
    let mut mask = if one_in(rng, 3) { some(rng, &fields.map(str::to_owned), 2) } else { Vec::new() };
    let keys = if one_in(rng, 4) { some(rng, &KEYS.map(str::to_owned), 1) } else { Vec::new() };
    let shard = one_in(rng, 4).then(|| {
        let count = *SHARD_COUNTS.choose(rng).expect("there are some");
        Shard { index: rng.random_range(0..count), count }
    });
    let view = View { filter: filter(rng), mask: Vec::new(), keys, shard };
    if !mask.is_empty() && !mask.iter().any(|field| field == "mpid") {
        mask.push("mpid".into()); // Or it could not be told which profiles of a snapshot are there: see `snapshot`.
    }
    View { mask, ..view }
}

fn filter(rng: &mut StdRng) -> EventFilter {
    let mut filter = EventFilter { omit_silent: one_in(rng, 4), ..EventFilter::default() };
    if one_in(rng, 4) {
        filter.types = some(rng, &TYPES.map(str::to_owned), 3);
    }
    if one_in(rng, 4) {
        filter.mpids = some(rng, &(1..=PROFILES).collect::<Vec<_>>(), 8);
    }
    if one_in(rng, 2) {
        filter.audience_ids = some(rng, &(1..=AUDIENCES).collect::<Vec<_>>(), 2);
    }
    if one_in(rng, 3) {
        filter.expression = CONDITIONS.choose(rng).expect("there are some").expression.into();
    }
    if one_in(rng, 4) {
        let fields = ["user_attributes", "user_identities", "audience_memberships"];
        filter.changed_fields = Some(FieldMask { paths: some(rng, &fields.map(str::to_owned), 1) });
    }
    if one_in(rng, 4) {
        filter.changed_user_attributes = some(rng, &KEYS.map(str::to_owned), 1);
    }
    filter
}

pub fn one_in(rng: &mut impl Rng, times: u32) -> bool {
    rng.random_ratio(1, times)
}

fn some<T: Clone>(rng: &mut StdRng, from: &[T], count: usize) -> Vec<T> {
    from.sample(rng, count).cloned().collect()
}
