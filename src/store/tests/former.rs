//! Files as earlier versions wrote them, byte for byte, for the tests of their upgrade.

use redb::{TableDefinition, WriteTransaction};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::store::rows::Head;

pub const META: TableDefinition<&str, u64> = TableDefinition::new("meta_v1");
pub const WORKSPACES: TableDefinition<&str, u32> = TableDefinition::new("workspaces_v1");
const PROFILES: TableDefinition<(u32, i64), &[u8]> = TableDefinition::new("profiles_v1");
pub const IDENTITIES: TableDefinition<(u32, &[u8]), (i64, u64)> = TableDefinition::new("identities_v1");
const EVENTS: TableDefinition<(u32, u64), &[u8]> = TableDefinition::new("events_v1");
const REQUESTS: TableDefinition<(u32, &str), &[u8]> = TableDefinition::new("requests_v1");
const REQUEST_AGES: TableDefinition<(i64, u32, &str), ()> = TableDefinition::new("request_ages_v1");

/// The only workspace.
pub const NAME: &str = "a/b/c";
pub const ID: u32 = 1;
pub const LOG: u64 = 0x0a0b_0c0d_0e0f_1011;
const NEVER: i64 = i64::MAX;
/// The number of the table of heads, which seeds the checksums of its rows.
const HEAD_KIND: u64 = 3;
/// Kinds of events.
pub const CREATED: u8 = 1;
pub const DELETED: u8 = 3;

/// Creates the tables of a new file.
pub fn begin(transaction: &WriteTransaction, layout: u64) {
    let mut meta = transaction.open_table(META).unwrap();
    meta.insert("format", layout).unwrap();
    meta.insert("log_id", LOG).unwrap();
    transaction.open_table(WORKSPACES).unwrap().insert(NAME, ID).unwrap();
    transaction.open_table(PROFILES).unwrap();
    transaction.open_table(IDENTITIES).unwrap();
    transaction.open_table(EVENTS).unwrap();
    transaction.open_table(REQUESTS).unwrap();
    transaction.open_table(REQUEST_AGES).unwrap();
}

/// `profile` is encoded, and empty for a deleted profile.
pub fn put_profile(transaction: &WriteTransaction, mpid: i64, last_event: u64, profile: &[u8]) {
    let body = [&NEVER.to_le_bytes()[..], &last_event.to_le_bytes(), profile].concat();
    let row = row(&body, seed(mpid.cast_unsigned()));
    transaction.open_table(PROFILES).unwrap().insert((ID, mpid), &*row).unwrap();
}

/// `text` is the identity's type, encoding and value, separated by zero bytes.
pub fn put_identity(transaction: &WriteTransaction, text: &str, owner: i64) {
    let checksum = xxh3_64_with_seed(text.as_bytes(), seed(owner.cast_unsigned()));
    transaction.open_table(IDENTITIES).unwrap().insert((ID, text.as_bytes()), (owner, checksum)).unwrap();
}

/// `kind` is [`CREATED`] or [`DELETED`].
pub fn put_event(
    transaction: &WriteTransaction,
    sequence: u64,
    previous: u64,
    mpid: i64,
    time: i64,
    kind: u8,
    event: &[u8],
) {
    let numbers = [previous.to_le_bytes(), mpid.to_le_bytes(), time.to_le_bytes()].concat();
    let row = row(&[&*numbers, &[kind], event].concat(), seed(sequence));
    transaction.open_table(EVENTS).unwrap().insert((ID, sequence), &*row).unwrap();
}

pub fn put_request(
    transaction: &WriteTransaction,
    id: &str,
    fingerprint: u128,
    time: i64,
    mpid: i64,
    sequence: u64,
    outcome: u8,
) {
    let numbers = [time.to_le_bytes(), mpid.to_le_bytes(), sequence.to_le_bytes()].concat();
    let row = row(&[&fingerprint.to_le_bytes()[..], &numbers, &[outcome]].concat(), seed(xxh3_64(id.as_bytes())));
    transaction.open_table(REQUESTS).unwrap().insert((ID, id), &*row).unwrap();
    transaction.open_table(REQUEST_AGES).unwrap().insert((time, ID, id), ()).unwrap();
}

/// The row of the head of a log, in the format that did not have the bytes of the log.
pub fn head_row(id: u32, head: &Head) -> Vec<u8> {
    let numbers = [head.floor.get().to_le_bytes(), head.place.get().to_le_bytes(), head.time.get().to_le_bytes()];
    row(&numbers.concat(), xxh3_64_with_seed(&id.to_be_bytes(), HEAD_KIND))
}

fn row(body: &[u8], seed: u64) -> Vec<u8> {
    [&[1][..], &xxh3_64_with_seed(body, seed).to_le_bytes(), body].concat()
}

fn seed(key: u64) -> u64 {
    u64::from(ID).rotate_left(32) ^ key
}
