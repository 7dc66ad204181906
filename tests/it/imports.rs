//! Imports: what a stream of records comes to, and what ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cameo::proto::v1::*;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use prost_types::value::Kind;
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::*;

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
    let reading = GetProfileRequest { key: Some(by_mpid(1)), ..reading };
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
        let receiver =
            stream::unfold(
                receiver,
                |mut receiver| async move { receiver.recv().await.map(|record| (record, receiver)) },
            );
        let mut profiles = client.profiles.clone();
        let answer = tokio::spawn(async move { Ok(profiles.import_profiles(receiver).await?.into_inner()) });
        Self { records, answer }
    }

    async fn send(&self, record: ImportProfilesRequest) {
        within(self.records.send(record)).await.unwrap();
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
        sender.send(record(by_mpid(mpid), increment("n"))).await;
        assert_eq!(stream.event().await.1.mpid, mpid);
    }
    drop(sender.records);
    assert_eq!(sender.answer.await.unwrap().unwrap().created, 3);
}

/// A record that makes profile `n`, and of which half would be noticed.
fn nth(n: i32) -> ImportProfilesRequest {
    let set_user_attributes = Some(map([("a", number(n.into())), ("b", number(n.into()))]));
    let add_identities = vec![identity("customer_id", &n.to_string())];
    record(by_mpid(n.into()), ProfilePatch { set_user_attributes, add_identities, ..ProfilePatch::default() })
}

/// Checks that these are the profiles of the first records, each whole, and returns how many there are.
async fn assert_first_records_are_whole(client: &Client, profiles: &[Profile]) -> usize {
    for (profile, n) in profiles.iter().zip(1..) {
        assert_eq!(profile.mpid, i64::from(n), "in order, without a gap");
        assert_eq!((number_of(profile, "a"), number_of(profile, "b")), (n.into(), n.into()));
    }
    for profiles in profiles.chunks(1_000) {
        let names = profiles.iter().map(|profile| by_identity(identity("customer_id", &profile.mpid.to_string())));
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
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut stream = client.subscribe_from(None).await;
    stream.opened().await;
    let sender = Sender::start(&client);
    for n in 1..=500 {
        sender.send(nth(n)).await;
    }
    stream.event().await; // It is under way.
    sender.answer.abort();

    // The queue is empty when a write that came later is answered.
    client.create(with_mpid(1_000)).await.unwrap();
    let mut profiles = client.all_profiles(1_000).await;
    assert_eq!(profiles.pop().unwrap().mpid, 1_000);
    assert_first_records_are_whole(&client, &profiles).await;
}

/// After a SIGKILL in the middle of an import its first records are kept, whole and with an event each: all that a
/// subscriber saw, and perhaps some more.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_import_keeps_what_was_seen_and_whole_records_only() {
    let dir = tempfile::TempDir::new().unwrap();
    let mut process = TestProcess::start(dir.path(), &[]).await;
    let client = process.client().await;
    let mut stream = client.subscribe_from(None).await;
    stream.opened().await;
    let mut profiles = client.profiles.clone();
    let import = tokio::spawn(async move { profiles.import_profiles(stream::iter((1..).map(nth))).await });
    let mut seen = stream.sequences(5_000).await; // Which takes several commits.

    process.kill().await;

    within(import).await.unwrap().unwrap_err();
    while let Ok(Some(message)) = stream.next().await {
        if let Some(subscribe_response::Message::Event(event)) = message.message {
            seen.push(event.sequence);
        }
    }
    let process = TestProcess::start(dir.path(), &[]).await;
    let client = process.client().await;
    let profiles = client.all_profiles(1_000).await;
    let kept = assert_first_records_are_whole(&client, &profiles).await;
    assert!(kept >= seen.len(), "{} were seen and {kept} are kept", seen.len());
    let log = client.log().await;
    assert_eq!(log.len(), kept);
    for ((event, profile), sequence) in log.iter().zip(&profiles).zip(1..) {
        assert_eq!((event.sequence, event.profile.as_ref()), (sequence, Some(profile)));
    }
}

/// An import that was answered is on disk.
#[tokio::test]
async fn an_answered_import_survives_sigkill() {
    let dir = tempfile::TempDir::new().unwrap();
    let mut process = TestProcess::start(dir.path(), &[]).await;
    let answer = process.client().await.import((1..=1_000).map(nth).collect()).await.unwrap();

    process.kill().await;

    assert_eq!(answer.created, 1_000);
    let process = TestProcess::start(dir.path(), &[]).await;
    let client = process.client().await;
    let profiles = client.all_profiles(1_000).await;
    assert_eq!(assert_first_records_are_whole(&client, &profiles).await, 1_000);
    assert_eq!(client.subscribe_from(after(&answer.cursor)).await.opened().await.1.after_sequence, 1_000);
}

/// Its cursor leads past all of its events, whatever its last record came to.
#[tokio::test]
async fn an_imports_cursor_is_that_of_its_latest_event() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(with_mpid(1)).await.unwrap();
    let unchanged = record(by_mpid(1), ProfilePatch::default()); // Since event 1.
    let refused = record(by_mpid(0), ProfilePatch::default());
    let only_checked = ImportProfilesRequest { validate_only: true, ..record(by_mpid(9), increment("n")) };
    for (last, sequence) in [unchanged, refused, only_checked].into_iter().zip(2..) {
        let answer = client.import(vec![record(by_mpid(2), increment("n")), last]).await.unwrap();
        assert_eq!(client.log().await.len() as u64, sequence);
        let resumed = client.subscribe_from(after(&answer.cursor)).await.opened().await.1;
        assert_eq!(resumed.after_sequence, sequence);
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
        sender.send(record(by_mpid(mpid), increment("n"))).await;
    }
    stream.sequences(3).await;
    let dir = server.stop().await;

    let status = sender.answer.await.unwrap().unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::Unavailable, "SERVER_DRAINING"));
    assert_eq!(metadata(&status, "records"), "3");
    assert!(status.get_details_retry_info().is_some());
    let server = TestServer::reopen(dir).await;
    assert_eq!(server.client().await.all_profiles(0).await.len(), 3);
}

/// Also before its first record.
#[tokio::test]
async fn a_shutdown_ends_an_import_that_has_not_begun() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let sender = Sender::start(&client);
    client.create(with_mpid(1)).await.unwrap(); // On the same connection, after it: so it is open.
    let begun = std::time::Instant::now();
    server.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "it was not waited for");
    let status = sender.answer.await.unwrap().unwrap_err();
    assert_eq!((reason(&status), metadata(&status, "records")), ("SERVER_DRAINING".into(), "0".into()));
}

#[tokio::test]
async fn an_import_too_many_is_refused() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut stream = client.subscribe_from(None).await;
    let senders: Vec<_> = (0..16).map(|_| Sender::start(&client)).collect();
    for (sender, mpid) in senders.iter().zip(1..) {
        sender.send(record(by_mpid(mpid), increment("n"))).await;
    }
    stream.sequences(16).await; // So all of them run.
    let status = client.import(vec![record(by_mpid(100), increment("n"))]).await.unwrap_err();
    assert_eq!((reason(&status), metadata(&status, "records")), ("OVERLOADED".into(), "0".into()));
    assert!(status.get_details_retry_info().is_some());
    for sender in senders {
        drop(sender.records);
        assert_eq!(sender.answer.await.unwrap().unwrap().created, 1);
    }
    assert_eq!(client.import(vec![record(by_mpid(100), increment("n"))]).await.unwrap().created, 1);
}

/// A profile that its own patch leaves without the name that it was created by would be created anew each time.
#[tokio::test]
async fn a_record_that_removes_its_own_name_is_refused() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let name = identity("customer_id", "c");
    let remove = ProfilePatch { remove_identities: vec![name.clone()], ..ProfilePatch::default() };
    let answer = client.import(vec![record(by_identity(name), remove)]).await.unwrap();
    assert_eq!(reason_of(answer.refusals[0].error.as_ref().unwrap()), "FIELD_INVALID");
    assert_eq!(client.log().await, []);
}

#[tokio::test]
async fn an_import_ends_where_the_disk_is_full() {
    let server = TestServer::start_with(full_disk).await;
    let status = server.client().await.import(vec![record(by_mpid(1), increment("n"))]).await.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::ResourceExhausted, "STORAGE_FULL"));
    assert_eq!(metadata(&status, "records"), "0");
}

#[tokio::test]
async fn a_record_that_is_too_large_ends_the_import_after_those_before_it() {
    let server = TestServer::start_with(limits(|limits| limits.request_bytes = 10_000)).await;
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
    let server = TestServer::start_with(queue_of_one).await;
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

/// A frame for each message, as Python's client sends them.
fn frame(message: &ImportProfilesRequest) -> Frame<Bytes> {
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
    message.encode(&mut frame).unwrap();
    Frame::data(Bytes::from(frame))
}

/// Small messages that wait for room are many: they are held back, and the connection holds, also with as many imports
/// as may run. The server is stopped until all that its windows allow are under way.
#[tokio::test(flavor = "multi_thread")]
async fn imports_of_the_smallest_records_are_held_back_and_not_broken() {
    const RECORDS: i64 = 20_000;
    let dir = tempfile::TempDir::new().unwrap();
    let process = TestProcess::start(dir.path(), &[]).await;
    let connection = TokioIo::new(TcpStream::connect(process.addr).await.unwrap());
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), connection).await.unwrap();
    tokio::spawn(connection);
    within(client.ready()).await.unwrap();
    process.signal(Signal::STOP);

    let taken = Arc::new(AtomicI64::new(0));
    let mut answers = Vec::new();
    for stream in 0..16 {
        let first = record(by_mpid(stream + 1), ProfilePatch::default());
        // Half of them send records of 11 bytes, half empty ones, which are refused.
        let small = ImportProfilesRequest { workspace: String::new(), ..first.clone() };
        let rest = if stream % 2 == 0 { small } else { ImportProfilesRequest::default() };
        let counter = Arc::clone(&taken);
        let messages = stream::iter((0..RECORDS).map(move |n| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(frame(if n == 0 { &first } else { &rest }))
        }));
        let request = hyper::Request::post(format!("http://{}/cameo.v1.ProfileService/ImportProfiles", process.addr))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(StreamBody::new(messages))
            .unwrap();
        let answer = client.send_request(request);
        answers.push(tokio::spawn(async move { answer.await?.collect().await }));
    }
    let mut before = -1;
    while taken.load(Ordering::Relaxed) != before {
        before = taken.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await; // Until no more is taken: there is no sign of it.
    }
    assert!(before < 16 * RECORDS, "they are held back");
    process.signal(Signal::CONT);

    for (stream, answer) in answers.into_iter().enumerate() {
        let answer = within(answer).await.unwrap().expect("the connection holds");
        let message = ImportProfilesResponse::decode(&answer.to_bytes()[5..]).unwrap();
        let expected = if stream % 2 == 0 { (1, RECORDS - 1, 0) } else { (1, 0, RECORDS - 1) };
        assert_eq!((message.created, message.unchanged, message.refused), expected);
    }
}
