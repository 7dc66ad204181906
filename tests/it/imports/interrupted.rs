//! Imports that break off, and what remains of them.

use std::time::{Duration, Instant};

use cameo::proto::v1::*;
use futures_util::stream;
use tempfile::TempDir;
use tonic::Code;
use tonic_types::StatusExt;

use super::*;

/// A record that creates profile `n`. If only half of it were applied, [`assert_first_records_are_whole`] would notice.
fn nth(n: i32) -> ImportProfilesRequest {
    let patch = ProfilePatch {
        add_identities: vec![customer(n.into())],
        ..set([("a", number(n.into())), ("b", number(n.into()))])
    };
    record(by_mpid(n.into()), patch)
}

fn customer(mpid: i64) -> Identity {
    identity("customer_id", &mpid.to_string())
}

/// Asserts that these are the profiles of the first records, each whole, and returns how many there are.
async fn assert_first_records_are_whole(client: &Client, profiles: &[Profile]) -> usize {
    const KEYS_PER_BATCH: usize = 1_000;
    for (profile, n) in profiles.iter().zip(1..) {
        assert_eq!(profile.mpid, i64::from(n), "in order, without a gap");
        assert_eq!((number_of(profile, "a"), number_of(profile, "b")), (n.into(), n.into()));
    }
    for profiles in profiles.chunks(KEYS_PER_BATCH) {
        let names = profiles.iter().map(|profile| by_identity(customer(profile.mpid)));
        let found = client.batch(batch_request(names)).await.unwrap();
        for (found, profile) in found.iter().zip(profiles) {
            assert_eq!(found, &batch_get_profiles_result::Result::Found(profile.clone()));
        }
    }
    profiles.len()
}

/// A stream that breaks leaves whole records: those that were sent, in order, up to some point.
#[tokio::test]
async fn a_broken_import_leaves_whole_records_only() {
    const SENT: i32 = 500;
    const LATER: i64 = 1_000;
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut stream = client.listen().await;
    let sender = Sender::start(&client);
    for n in 1..=SENT {
        sender.send(nth(n)).await;
    }
    stream.event().await; // It is under way.
    sender.response.abort();

    // Once the server has responded to a later write, nothing of the import is waiting.
    client.create(with_mpid(LATER)).await.unwrap();
    let mut profiles = client.all_profiles(LARGEST_PAGE).await;
    assert_eq!(profiles.pop().unwrap().mpid, LATER);
    assert_first_records_are_whole(&client, &profiles).await;
}

/// After a SIGKILL in the middle of an import, its first records are kept, whole and with an event each: all that a
/// subscriber saw, and perhaps some more.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_import_keeps_what_was_seen_and_whole_records_only() {
    const SEVERAL_COMMITS: usize = 5_000;
    let dir = TempDir::new().unwrap();
    let mut process = TestProcess::start(dir.path(), &[]).await;
    let client = process.client().await;
    let mut stream = client.listen().await;
    let mut profiles = client.profiles.clone();
    let import = tokio::spawn(async move { profiles.import_profiles(stream::iter((1..).map(nth))).await });
    let mut seen = stream.sequences(SEVERAL_COMMITS).await;

    process.kill().await;

    within(import).await.unwrap().unwrap_err();
    while let Ok(Some(message)) = stream.next().await {
        if let Some(subscribe_response::Message::Event(event)) = message.message {
            seen.push(event.sequence);
        }
    }
    let process = TestProcess::start(dir.path(), &[]).await;
    let client = process.client().await;
    let profiles = client.all_profiles(LARGEST_PAGE).await;
    let kept = assert_first_records_are_whole(&client, &profiles).await;
    assert!(kept >= seen.len(), "{} were seen and {kept} are kept", seen.len());
    let log = client.log().await;
    assert_eq!(log.len(), kept);
    for ((event, profile), sequence) in log.iter().zip(&profiles).zip(1..) {
        assert_eq!((event.sequence, event.profile.as_ref()), (sequence, Some(profile)));
    }
}

/// Durable before visible: when the response arrives, the import is on disk.
#[tokio::test]
async fn an_answered_import_survives_sigkill() {
    const RECORDS: i32 = 1_000;
    let dir = TempDir::new().unwrap();
    let mut process = TestProcess::start(dir.path(), &[]).await;
    let response = process.client().await.import((1..=RECORDS).map(nth).collect()).await.unwrap();

    process.kill().await;

    assert_eq!(response.created, i64::from(RECORDS));
    let process = TestProcess::start(dir.path(), &[]).await;
    let client = process.client().await;
    let profiles = client.all_profiles(LARGEST_PAGE).await;
    assert_eq!(assert_first_records_are_whole(&client, &profiles).await, RECORDS.unsigned_abs() as usize);
    assert_eq!(
        client.subscribe_from(after(&response.cursor)).await.opened().await.1.after_sequence,
        u64::from(RECORDS.unsigned_abs())
    );
}

#[tokio::test]
async fn a_shutdown_ends_an_import_and_says_how_far_it_came() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut stream = client.listen().await;
    let sender = Sender::start(&client);
    for mpid in [ADA, GRACE, ALAN] {
        sender.send(visit(mpid)).await;
    }
    stream.sequences(3).await;
    let dir = server.stop().await;

    let status = sender.refusal().await;
    assert_eq!((status.code(), &*reason(&status)), (Code::Unavailable, "SERVER_DRAINING"));
    assert_eq!(metadata(&status, "records"), "3");
    assert!(status.get_details_retry_info().is_some());
    let server = TestServer::reopen(dir).await;
    assert_eq!(server.client().await.all_profiles(0).await.len(), 3);
}

/// The import has not sent its first record.
#[tokio::test]
async fn a_shutdown_ends_an_import_that_has_not_begun() {
    /// Half of the drain timeout.
    const SOON: Duration = Duration::from_secs(5);
    let server = TestServer::start().await;
    let client = server.client().await;
    let sender = Sender::start(&client);
    client.create(with_mpid(ADA)).await.unwrap(); // A later call on the same connection: so the import is open.
    let begun = Instant::now();
    server.stop().await;
    assert!(begun.elapsed() < SOON, "the server did not wait for it");
    let status = sender.refusal().await;
    assert_eq!((reason(&status), metadata(&status, "records")), ("SERVER_DRAINING".into(), "0".into()));
}

#[tokio::test]
async fn an_import_ends_where_the_disk_is_full() {
    let server = TestServer::start_with(full_disk).await;
    let status = server.client().await.import(vec![visit(ADA)]).await.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::ResourceExhausted, "STORAGE_FULL"));
    assert_eq!(metadata(&status, "records"), "0");
}

#[tokio::test]
async fn a_record_that_is_too_large_ends_the_import_after_those_before_it() {
    const LIMIT: usize = 10_000;
    let server = TestServer::start_with(limits(|limits| limits.request_bytes = LIMIT)).await;
    let client = server.client().await;
    let too_large = record(by_mpid(GRACE), set([("essay", text(&"v".repeat(LIMIT)))]));
    let status = client.import(vec![visit(ADA), too_large, visit(ALAN)]).await.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::ResourceExhausted, "LIMIT_EXCEEDED"));
    assert_eq!((metadata(&status, "records"), metadata(&status, "limit")), ("1".into(), LIMIT.to_string()));
    assert_eq!(mpids_of(&client.all_profiles(0).await), [ADA]);
}
