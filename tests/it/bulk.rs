//! Many profiles in one call: batches, lists, imports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use cameo::proto::v1::batch_get_profiles_result::Result as Found;
use cameo::proto::v1::*;
use futures_util::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use prost_types::Timestamp;
use prost_types::value::Kind;
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::*;
use crate::profiles::sample;

fn code_and_reason(result: &Found) -> (Code, String) {
    match result {
        Found::Found(profile) => panic!("found {profile:?}"),
        Found::Error(error) => (Code::from(error.code), reason_of(error)),
    }
}

/// The reason in an error that came inside a response.
fn reason_of(error: &tonic_types::pb::Status) -> String {
    let info = tonic_types::RpcStatusExt::get_details_error_info(error).expect("ErrorInfo");
    assert_eq!(info.domain, "cameo");
    info.reason
}

fn found(result: &Found) -> &Profile {
    match result {
        Found::Found(profile) => profile,
        Found::Error(error) => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn a_batch_answers_each_key_in_order_with_the_profile_or_its_own_error() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let sample = client.create(sample()).await.unwrap().profile.unwrap();
    let ada = client.update(-7, set([("plan", text("pro"))])).await;
    assert!(ada.is_err(), "not there yet");
    let ada = client.create(with_mpid(-7)).await.unwrap().profile.unwrap();

    let keys = [
        by_mpid(-7),
        by_identity(identity("email", " example-customer-mxr15@EXAMPLE.com")),
        by_mpid(404),
        by_identity(identity("email", "nobody@x.com")),
        by_mpid(0),
        ProfileKey { key: None },
        by_identity(identity("Email", "x")),
        by_mpid(sample.mpid),
        by_mpid(-7),
    ];
    let results = client.batch(batch_request(keys)).await.unwrap();

    assert_eq!(results.len(), 9);
    assert_eq!([found(&results[0]), found(&results[8])], [&ada, &ada]);
    assert_eq!([found(&results[1]), found(&results[7])], [&sample, &sample]);
    let not_found = (Code::NotFound, "PROFILE_NOT_FOUND".to_owned());
    let invalid = (Code::InvalidArgument, "FIELD_INVALID".to_owned());
    assert_eq!([&results[2], &results[3]].map(code_and_reason), [not_found.clone(), not_found]);
    assert_eq!([&results[4], &results[5], &results[6]].map(code_and_reason), [(); 3].map(|()| invalid.clone()));
    let Found::Error(error) = &results[6] else { panic!("{results:?}") };
    let fields = tonic_types::RpcStatusExt::get_details_bad_request(error).unwrap().field_violations;
    assert_eq!(fields[0].field, "keys[6].identity.type");
}

#[tokio::test]
async fn a_batch_is_masked_as_a_lookup_is() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(sample()).await.unwrap();
    let request = BatchGetProfilesRequest {
        read_mask: mask(&["mpid", "user_attributes"]),
        user_attribute_keys: vec!["ltv".into()],
        ..batch_request([by_mpid(sample().mpid)])
    };

    let results = client.batch(request).await.unwrap();

    let expected = Profile { user_attributes: Some(map([("ltv", text("342.1"))])), ..with_mpid(sample().mpid) };
    assert_eq!(found(&results[0]), &expected);
}

/// All of a batch is of one committed state. A writer gives an identity to and fro between two profiles, in one write
/// each, so that in every state exactly one of them has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_sees_one_state_of_the_store() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(with_mpid(1)).await.unwrap();
    client.create(with_mpid(2)).await.unwrap();
    let token = || vec![identity("other", "token")];
    let take = move || ProfilePatch { add_identities: token(), take_identities: true, ..ProfilePatch::default() };
    client.update(1, take()).await.unwrap();
    let writer = client.clone();
    let writing = tokio::spawn(async move {
        for round in 0..300 {
            writer.update(1 + (round + 1) % 2, take()).await.unwrap();
        }
    });
    let mut states = BTreeSet::new();
    while !writing.is_finished() {
        let keys = [by_mpid(1), by_mpid(2), by_identity(identity("other", "token"))];
        let results = client.batch(batch_request(keys)).await.unwrap();
        let has = |index: usize| !found(&results[index]).user_identities.is_empty();
        assert!(has(0) != has(1), "exactly one has it: {results:?}");
        assert_eq!(found(&results[2]).mpid, if has(0) { 1 } else { 2 });
        states.insert(has(0));
    }
    writing.await.unwrap();
    assert_eq!(states.len(), 2, "both states were seen");
}

/// What would pass the limit of an answer has its own error, and is there when it is asked for again.
#[tokio::test]
async fn a_batch_is_bounded_in_bytes() {
    let server = TestServer::start_with(|config| config.limits.answer_bytes = 10_000).await;
    let client = server.client().await;
    for mpid in 1..=4 {
        let profile = Profile { user_attributes: Some(map([("a", text(&"v".repeat(4_000)))])), ..with_mpid(mpid) };
        client.create(profile).await.unwrap();
    }

    let results = client.batch(batch_request((1..=4).map(by_mpid))).await.unwrap();

    assert_eq!([&results[0], &results[1]].map(|result| found(result).mpid), [1, 2]);
    let full = (Code::ResourceExhausted, "LIMIT_EXCEEDED".to_owned());
    assert_eq!([&results[2], &results[3]].map(code_and_reason), [full.clone(), full]);
    let rest = client.batch(batch_request([by_mpid(3), by_mpid(4)])).await.unwrap();
    assert_eq!([&rest[0], &rest[1]].map(|result| found(result).mpid), [3, 4]);
    let page = client.page(page_request()).await.unwrap();
    assert_eq!(page.profiles.len(), 3, "a page ends with the profile that passes the limit");
    assert_eq!(client.all_profiles(0).await.len(), 4);
}

#[tokio::test]
async fn a_list_is_in_the_order_of_mpids_and_passes_over_the_deleted() {
    let server = TestServer::start().await;
    let client = server.client().await;
    assert_eq!(client.page(page_request()).await.unwrap(), ListProfilesResponse::default(), "no workspace yet");
    for mpid in [3, i64::MAX, -1, i64::MIN, 1, 2] {
        client.create(with_mpid(mpid)).await.unwrap();
    }
    client.delete(2).await.unwrap();

    for page_size in [1, 2, 4, 5, 6, 1_000, 0] {
        let mpids: Vec<_> = client.all_profiles(page_size).await.iter().map(|profile| profile.mpid).collect();
        assert_eq!(mpids, [i64::MIN, -1, 1, 3, i64::MAX], "page size {page_size}");
    }
    let page = client.page(ListProfilesRequest { page_size: 2, read_mask: mask(&["mpid"]), ..page_request() }).await;
    assert_eq!(page.unwrap().profiles, [with_mpid(i64::MIN), with_mpid(-1)]);
    let whole = client.page(ListProfilesRequest { page_size: 5, ..page_request() }).await.unwrap();
    assert_eq!(whole.profiles[0], client.get(i64::MIN).await.unwrap());
    assert_eq!(whole.next_page_token, "", "no token to an empty page");
}

/// What exists throughout is listed exactly once, whatever is written between the pages, and across a restart.
#[tokio::test]
async fn a_list_misses_nothing_that_stays_and_repeats_nothing() {
    let mut server = TestServer::start().await;
    let stays: BTreeSet<i64> = (0..60).map(|n| n * 10 - 295).collect();
    let client = server.client().await;
    for mpid in &stays {
        client.create(with_mpid(*mpid)).await.unwrap();
    }
    let mut request = ListProfilesRequest { page_size: 7, ..page_request() };
    let mut listed = BTreeMap::new();
    loop {
        let client = server.client().await;
        let page = client.page(request.clone()).await.unwrap();
        for profile in page.profiles {
            *listed.entry(profile.mpid).or_insert(0) += 1;
        }
        if page.next_page_token.is_empty() {
            break;
        }
        // Before, at and after the place of the list: others come and go, and those that stay change.
        let round = i64::try_from(listed.len()).unwrap();
        for mpid in [-1_000 - round, round * 10 - 298, round * 10 - 292, 1_000 - round] {
            client.create(with_mpid(mpid)).await.unwrap();
        }
        client.update(-295, set([("round", text(&round.to_string()))])).await.unwrap();
        let last_listed = *listed.keys().next_back().unwrap();
        if !stays.contains(&last_listed) {
            client.delete(last_listed).await.unwrap();
        }
        request.page_token = page.next_page_token;
        server = server.restart().await;
    }
    assert!(stays.iter().all(|mpid| listed.get(mpid) == Some(&1)), "{listed:?}");
    assert!(listed.values().all(|times| *times == 1), "{listed:?}");
}

/// The server reads at most 10,000 rows for a page: a page of deleted profiles may be empty and still not the last.
#[tokio::test]
async fn a_list_goes_on_past_very_many_deleted_profiles() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let create = (1..=10_001).map(|mpid| record(by_mpid(mpid), ProfilePatch::default())).collect();
    assert_eq!(client.import(create).await.unwrap().created, 10_001);
    let deletes = (1..=10_000).map(|mpid| client.delete(mpid));
    let deleted = futures_util::stream::iter(deletes).buffer_unordered(256);
    deleted.for_each(|answer| async move { assert!(answer.is_ok()) }).await;

    let first = client.page(page_request()).await.unwrap();
    assert_eq!(first.profiles, []);
    assert_ne!(first.next_page_token, "");
    let mpids: Vec<_> = client.all_profiles(0).await.iter().map(|profile| profile.mpid).collect();
    assert_eq!(mpids, [10_001]);
}

#[tokio::test]
async fn an_expired_membership_is_in_no_batch_and_no_list() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let ends = now + Duration::from_millis(300);
    let expire_time =
        Some(Timestamp { seconds: ends.as_secs().cast_signed(), nanos: ends.subsec_nanos().cast_signed() });
    let member = AudienceMembership { audience_id: 5, expire_time, ..Default::default() };
    client.create(Profile { audience_memberships: vec![member], ..with_mpid(1) }).await.unwrap();

    // Until it has ended: the clock is what the test waits for.
    while !client.get(1).await.unwrap().audience_memberships.is_empty() {
        tokio::task::yield_now().await;
    }

    assert_eq!(found(&client.batch(batch_request([by_mpid(1)])).await.unwrap()[0]).audience_memberships, []);
    assert_eq!(client.all_profiles(0).await[0].audience_memberships, []);
}

#[tokio::test]
async fn an_import_creates_updates_and_leaves_alone_and_says_how_many() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(Profile { user_attributes: Some(map([("a", number(1.0))])), ..with_mpid(1) }).await.unwrap();
    let email = |name: &str| identity("email", &format!("{name}@x.com"));
    let records = || {
        vec![
            record(by_mpid(1), set([("a", number(2.0))])),
            ImportProfilesRequest { workspace: String::new(), ..record(by_mpid(2), set([("a", number(2.0))])) },
            record(by_identity(email("ada")), set([("a", number(2.0))])),
            record(by_identity(email("ADA")), set([("b", number(3.0))])), // In order: it is there by now.
        ]
    };

    let first = client.import(records()).await.unwrap();
    assert_eq!((first.created, first.updated, first.unchanged, first.refused), (2, 2, 0, 0));
    let log = client.log().await;
    assert_eq!(log.len(), 5);
    let again = client.import(records()).await.unwrap();
    assert_eq!((again.created, again.updated, again.unchanged, again.refused), (0, 0, 4, 0));
    assert_eq!(client.log().await, log, "what is there already makes no event");

    let ada = client.get_by(email("ada")).await.unwrap();
    assert_eq!((number_of(&ada, "a"), number_of(&ada, "b")), (2.0, 3.0));
    let reading = GetProfileRequest { min_cursor: again.cursor.clone(), ..get_request() };
    let reading = GetProfileRequest { key: Some(get_profile_request::Key::Mpid(1)), ..reading };
    assert_eq!(attribute(&client.get_with(reading).await.unwrap(), "a"), Some(&Kind::NumberValue(2.0)));
    let after_all = client.subscribe_from(after(&first.cursor)).await.opened().await.1;
    assert_eq!(after_all.after_sequence, 5, "the cursor is that of the last event");
}

#[tokio::test]
async fn an_import_tells_which_records_it_refused_and_applies_the_others() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let email = identity("email", "secret-value@x.com");
    client.create(Profile { user_identities: vec![email.clone()], ..with_mpid(1) }).await.unwrap();
    let steal = ProfilePatch { add_identities: vec![email], ..ProfilePatch::default() };
    let other_workspace = ImportProfilesRequest { workspace: "a/b/c".into(), ..record(by_mpid(5), increment("n")) };
    let records = vec![
        record(by_mpid(2), increment("n")),
        record(by_mpid(3), steal),
        record(by_mpid(0), increment("n")),
        ImportProfilesRequest { key: None, ..record(by_mpid(4), increment("n")) },
        ImportProfilesRequest { patch: None, ..record(by_mpid(4), increment("n")) },
        other_workspace,
        record(by_mpid(4), set([("", number(1.0))])),
        record(by_mpid(4), increment("n")),
    ];

    let answer = client.import(records).await.unwrap();

    assert_eq!((answer.created, answer.updated, answer.unchanged, answer.refused), (2, 0, 0, 6));
    let told: Vec<_> =
        answer.refusals.iter().map(|refusal| (refusal.position, refusal.error.as_ref().unwrap())).collect();
    let told: Vec<_> = told.iter().map(|(position, error)| (*position, reason_of(error))).collect();
    let expected = [
        (1, "IDENTITY_TAKEN"),
        (2, "FIELD_INVALID"),
        (3, "FIELD_INVALID"),
        (4, "FIELD_INVALID"),
        (5, "FIELD_INVALID"),
        (6, "FIELD_INVALID"),
    ];
    assert_eq!(told, expected.map(|(position, reason)| (position, reason.to_owned())));
    assert!(!format!("{answer:?}").contains("secret-value"), "no value in an error");
    let mpids: Vec<_> = client.all_profiles(0).await.iter().map(|profile| profile.mpid).collect();
    assert_eq!(mpids, [1, 2, 4]);
}

#[tokio::test]
async fn an_import_counts_every_refusal_and_tells_the_first_thousand() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let refused = |_| record(by_mpid(0), ProfilePatch::default());
    let mut records: Vec<_> = (0..1_000).map(refused).collect();
    let at_the_limit = client.import(records.clone()).await.unwrap();
    assert_eq!((at_the_limit.refused, at_the_limit.refusals.len()), (1_000, 1_000));
    assert_eq!(at_the_limit.cursor, "");

    records.insert(0, record(by_mpid(1), ProfilePatch::default()));
    records.push(refused(0));
    let answer = client.import(records).await.unwrap();

    assert_eq!((answer.created, answer.refused, answer.refusals.len()), (1, 1_001, 1_000));
    let positions: Vec<_> = answer.refusals.iter().map(|refusal| refusal.position).collect();
    assert_eq!(positions, (1..=1_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn silent_records_make_events_that_a_subscriber_may_pass_over() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let omit_silent = EventFilter { omit_silent: true, ..EventFilter::default() };
    let request = SubscribeRequest { filter: Some(omit_silent.clone()), ..subscribe_request() };
    let mut passing_over = client.subscribe(request.clone()).await.unwrap();
    let mut live = client.subscribe_from(None).await;
    passing_over.opened().await;
    live.opened().await;

    let silent = ImportProfilesRequest { silent: true, ..record(by_mpid(1), increment("n")) };
    client.import(vec![silent.clone(), record(by_mpid(2), increment("n"))]).await.unwrap();
    client.import(vec![record(by_mpid(3), increment("n")), silent]).await.unwrap();
    client.import(vec![record(by_mpid(4), increment("n"))]).await.unwrap();

    assert_eq!(live.sequences(5).await, [1, 2, 3, 4, 5]);
    assert_eq!(passing_over.sequences(2).await, [3, 5]);
    let silent: Vec<_> = client.log().await.iter().map(|event| event.silent).collect();
    assert_eq!(silent, [true, true, false, true, false], "all after a first that is, and each that is");

    let server = server.restart().await;
    let client = server.client().await;
    let mut from_disk = client.subscribe(SubscribeRequest { start: earliest(), ..request }).await.unwrap();
    assert_eq!(from_disk.sequences(2).await, [3, 5]);
    let listed = client.list(ListEventsRequest { filter: Some(omit_silent.clone()), ..list_request() }).await.unwrap();
    assert_eq!(listed.events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [3, 5]);
    let history = Some(EventFilter { mpids: vec![1], ..omit_silent });
    let history = client.list(ListEventsRequest { filter: history, ..list_request() }).await.unwrap();
    assert_eq!((history.events, history.caught_up), (vec![], true));
}

#[tokio::test]
async fn an_import_that_is_only_checked_changes_nothing() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(with_mpid(1)).await.unwrap();
    let records = vec![
        ImportProfilesRequest { validate_only: true, ..record(by_mpid(1), increment("n")) },
        record(by_mpid(2), increment("n")),
        record(by_mpid(1), ProfilePatch::default()),
        record(by_mpid(0), increment("n")),
    ];

    let answer = client.import(records).await.unwrap();

    assert_eq!((answer.created, answer.updated, answer.unchanged, answer.refused), (1, 1, 1, 1));
    assert_eq!(answer.cursor, "");
    assert_eq!(client.log().await.len(), 1);
}

#[tokio::test]
async fn a_record_with_a_request_id_is_applied_once() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let once = ImportProfilesRequest { request_id: "r1".into(), ..record(by_mpid(1), increment("n")) };
    assert_eq!(client.import(vec![once.clone()]).await.unwrap().created, 1);

    let later =
        vec![record(by_mpid(2), ProfilePatch::default()), ImportProfilesRequest { workspace: String::new(), ..once }];
    let answer = client.import(later).await.unwrap();

    assert_eq!((answer.created, answer.updated), (2, 0), "it counts as the first did");
    assert_eq!(attribute(&client.get(1).await.unwrap(), "n"), Some(&Kind::NumberValue(1.0)));
}

#[tokio::test]
async fn an_empty_import_and_one_without_a_workspace() {
    let server = TestServer::start().await;
    let client = server.client().await;
    assert_eq!(client.import(vec![]).await.unwrap(), ImportProfilesResponse::default());
    let nowhere = ImportProfilesRequest { workspace: String::new(), ..record(by_mpid(1), ProfilePatch::default()) };
    let status = client.import(vec![nowhere]).await.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::InvalidArgument, "FIELD_INVALID"));
    assert_eq!(metadata(&status, "records"), "0");
}

/// What the first message says of all belongs to each record, so a resumed import may begin with any of them.
#[tokio::test]
async fn a_record_is_the_same_wherever_it_stands() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let with_id =
        |mpid: i64| ImportProfilesRequest { request_id: mpid.to_string(), ..record(by_mpid(mpid), increment("n")) };
    let silent = |record| ImportProfilesRequest { silent: true, ..record };
    client.import(vec![silent(with_id(1)), with_id(2)]).await.unwrap();

    let resumed = client.import(vec![silent(with_id(2)), with_id(1)]).await.unwrap();
    assert_eq!((resumed.created, resumed.refused), (2, 0));
    let other = client.import(vec![with_id(2)]).await.unwrap();
    assert_eq!(reason_of(other.refusals[0].error.as_ref().unwrap()), "REQUEST_ID_REUSED", "no longer silent");
}

/// An import whose sender decides when the next record comes.
struct Sender {
    records: mpsc::Sender<ImportProfilesRequest>,
    answer: tokio::task::JoinHandle<Result<ImportProfilesResponse, Status>>,
}

impl Sender {
    fn start(client: &Client) -> Self {
        let (records, receiver) = mpsc::channel(1);
        let receiver = futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|record| (record, receiver))
        });
        let mut profiles = client.profiles.clone();
        let answer = tokio::spawn(async move { Ok(profiles.import_profiles(receiver).await?.into_inner()) });
        Self { records, answer }
    }
}

/// A record is on disk while the stream is still open: nothing waits for its end.
#[tokio::test]
async fn an_import_does_not_gather_records() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut stream = client.subscribe_from(None).await;
    stream.opened().await;
    let sender = Sender::start(&client);
    for mpid in 1..=3 {
        sender.records.send(record(by_mpid(mpid), increment("n"))).await.unwrap();
        assert_eq!(stream.event().await.1.mpid, mpid);
    }
    drop(sender.records);
    assert_eq!(sender.answer.await.unwrap().unwrap().created, 3);
}

/// A stream that breaks leaves whole records: those that were sent, in order, up to some point.
#[tokio::test]
async fn a_broken_import_leaves_whole_records_only() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut stream = client.subscribe_from(None).await;
    stream.opened().await;
    let sender = Sender::start(&client);
    let whole = |n: i32| {
        let set_user_attributes = Some(map([("a", number(n.into())), ("b", number(n.into()))]));
        let add_identities = vec![identity("customer_id", &n.to_string())];
        ProfilePatch { set_user_attributes, add_identities, ..ProfilePatch::default() }
    };
    for n in 1..=500 {
        sender.records.send(record(by_mpid(n.into()), whole(n))).await.unwrap();
    }
    stream.event().await; // It is under way.
    sender.answer.abort();

    // The queue is empty when a write that came later is answered.
    client.create(with_mpid(1_000)).await.unwrap();
    let profiles = client.all_profiles(1_000).await;
    let count = i32::try_from(profiles.len()).unwrap() - 1;
    for (profile, n) in profiles.iter().zip(1..=count) {
        assert_eq!(profile.mpid, i64::from(n), "in order, without a gap");
        assert_eq!((number_of(profile, "a"), number_of(profile, "b")), (n.into(), n.into()));
        assert_eq!(client.get_by(identity("customer_id", &n.to_string())).await.unwrap().mpid, i64::from(n));
    }
}

#[tokio::test]
async fn a_shutdown_ends_an_import_and_says_how_far_it_came() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut stream = client.subscribe_from(None).await;
    stream.opened().await;
    let sender = Sender::start(&client);
    for mpid in 1..=3 {
        sender.records.send(record(by_mpid(mpid), increment("n"))).await.unwrap();
    }
    stream.sequences(3).await;
    let dir = server.stop().await;

    let status = sender.answer.await.unwrap().unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::Unavailable, "SERVER_DRAINING"));
    assert_eq!(metadata(&status, "records"), "3");
    assert!(status.get_details_retry_info().is_some());
    let server = TestServer::start_on(dir, |_| {}).await;
    assert_eq!(server.client().await.all_profiles(0).await.len(), 3);
}

#[tokio::test]
async fn an_import_ends_where_the_disk_is_full() {
    let server = TestServer::start_with(|config| config.store.min_free_bytes = u64::MAX).await;
    let status = server.client().await.import(vec![record(by_mpid(1), increment("n"))]).await.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::ResourceExhausted, "STORAGE_FULL"));
    assert_eq!(metadata(&status, "records"), "0");
}

#[tokio::test]
async fn a_record_that_is_too_large_ends_the_import_after_those_before_it() {
    let server = TestServer::start_with(|config| config.limits.request_bytes = 10_000).await;
    let client = server.client().await;
    let large = set([("a", text(&"v".repeat(10_000)))]);
    let records =
        vec![record(by_mpid(1), increment("n")), record(by_mpid(2), large), record(by_mpid(3), increment("n"))];
    let status = client.import(records).await.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::ResourceExhausted, "LIMIT_EXCEEDED"));
    assert_eq!((metadata(&status, "records"), metadata(&status, "limit")), ("1".into(), "10000".into()));
    let mpids: Vec<_> = client.all_profiles(0).await.iter().map(|profile| profile.mpid).collect();
    assert_eq!(mpids, [1]);
}

/// An import cannot shut others out: calls have their own share of the queue.
#[tokio::test(flavor = "multi_thread")]
async fn calls_are_answered_while_imports_fill_the_queue() {
    let server = TestServer::start_with(|config| config.store.queue_commands = 1).await;
    let client = server.client().await;
    let imports: Vec<_> = (0..4)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                client.import((1..=3_000).map(|mpid| record(by_mpid(mpid), increment("n"))).collect()).await
            })
        })
        .collect();
    for _ in 0..20 {
        client.update_with(UpdateProfileRequest { allow_missing: true, ..update_request(1) }).await.unwrap();
    }
    for import in imports {
        let answer = import.await.unwrap().unwrap();
        assert_eq!(answer.created + answer.updated, 3_000);
    }
    assert_eq!(attribute(&client.get(3_000).await.unwrap(), "n"), Some(&Kind::NumberValue(4.0)));
}

/// Small messages that wait for room are many: they are held back, and the connection holds. Each is a frame of its own, as
/// Python's client sends it; the server is stopped until all that its window allows are under way.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_of_the_smallest_records_is_held_back_and_not_broken() {
    const RECORDS: i64 = 50_000;
    let dir = tempfile::TempDir::new().unwrap();
    let process = TestProcess::start(dir.path(), &[]).await;
    let connection = TokioIo::new(TcpStream::connect(process.addr).await.unwrap());
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), connection).await.unwrap();
    tokio::spawn(connection);
    let taken = Arc::new(AtomicI64::new(0));
    let frame = |mpid: i64| {
        let workspace = if mpid == 1 { WORKSPACE } else { "" }.to_owned();
        let message = ImportProfilesRequest { workspace, ..record(by_mpid(mpid % 100 + 1), ProfilePatch::default()) };
        let mut frame = vec![0];
        frame.extend_from_slice(&u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
        message.encode(&mut frame).unwrap();
        Frame::data(Bytes::from(frame))
    };
    let counter = Arc::clone(&taken);
    let frames = futures_util::stream::iter((1..=RECORDS).map(frame).collect::<Vec<_>>())
        .inspect(move |_| _ = counter.fetch_add(1, Ordering::Relaxed))
        .map(Ok::<_, std::io::Error>);
    let request = hyper::Request::post(format!("http://{}/cameo.v1.ProfileService/ImportProfiles", process.addr))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(StreamBody::new(frames))
        .unwrap();

    process.signal(Signal::STOP);
    let answer = tokio::spawn(async move { client.send_request(request).await.unwrap().collect().await });
    let mut before = -1;
    while taken.load(Ordering::Relaxed) != before {
        before = taken.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await; // Until no more is taken: there is no sign of it.
    }
    process.signal(Signal::CONT);

    let answer = answer.await.unwrap().expect("the connection holds");
    let trailers = answer.trailers().expect("an answer, not only a status").clone();
    assert_eq!(trailers.get("grpc-status").unwrap(), "0");
    let message = ImportProfilesResponse::decode(&answer.to_bytes()[5..]).unwrap();
    assert_eq!((message.created, message.unchanged), (100, RECORDS - 100));
    assert!(before < RECORDS, "it was held back");
}
