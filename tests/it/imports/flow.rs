//! How fast records are taken, and what else goes on meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cameo::config::Config;
use futures_util::future::select_all;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tonic::Code;
use tonic_types::StatusExt;

use super::*;

/// How many imports may take records at a time.
const IMPORTS: i64 = 16;

/// A record is on disk while the stream is still open: nothing waits for the end of the import.
#[tokio::test]
async fn an_import_does_not_gather_records() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut stream = client.listen().await;
    let sender = Sender::start(&client);
    for mpid in [ADA, GRACE, ALAN] {
        sender.send(visit(mpid)).await;
        assert_eq!(stream.event().await.1.mpid, mpid);
    }
    assert_eq!(sender.finish().await.created, 3);
}

/// Starts imports that have one record each, and that then wait for their sender.
async fn silent_imports(client: &Client, stream: &mut Stream, mpids: std::ops::Range<i64>) -> Vec<Sender> {
    let senders: Vec<_> = mpids.clone().map(|_| Sender::start(client)).collect();
    for (sender, mpid) in senders.iter().zip(mpids) {
        sender.send(visit(mpid)).await;
    }
    stream.sequences(senders.len()).await; // So all of them have been heard.
    senders
}

/// An import needs a place only while records flow.
#[tokio::test]
async fn silent_imports_keep_no_other_out() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut stream = client.listen().await;
    let senders = silent_imports(&client, &mut stream, 1..2 * IMPORTS).await;
    assert_eq!(within(client.import(vec![visit(UNKNOWN_MPID), visit(UNKNOWN_MPID)])).await.unwrap().updated, 1);
    for (sender, mpid) in senders.into_iter().zip(1..) {
        sender.send(visit(mpid)).await;
        let response = sender.finish().await;
        assert_eq!((response.created, response.updated), (1, 1));
    }
}

/// Each of more imports than may take records at a time gets its turn, although none of them pauses.
#[tokio::test(flavor = "multi_thread")]
async fn more_imports_than_places_all_go_through() {
    const RECORDS: i64 = 300;
    let server = TestServer::start().await;
    let client = server.client().await;
    let imports: Vec<_> = (0..2 * IMPORTS)
        .map(|nth| {
            let client = client.clone();
            let records = (1..=RECORDS).map(move |n| visit(nth * RECORDS + n));
            tokio::spawn(async move { client.import(records.collect()).await })
        })
        .collect();
    for import in imports {
        assert_eq!(within(import).await.unwrap().unwrap().created, RECORDS);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_import_that_is_silent_for_longest_makes_room() {
    const OPEN_IMPORTS: i64 = 1_000;
    const PER_CONNECTION: i64 = 100;
    let server = TestServer::start_with(metrics_on).await;
    let client = server.client().await;
    let mut stream = client.listen().await;
    let mut senders = Vec::new();
    for first in (1..=OPEN_IMPORTS).step_by(100) {
        let connection = server.client().await;
        senders.extend(silent_imports(&connection, &mut stream, first..first + PER_CONNECTION).await);
    }
    assert_eq!(within(client.import(vec![visit(ADA)])).await.unwrap().created, 1);
    let refusals = senders.into_iter().map(|sender| Box::pin(sender.refusal()));
    let (status, _, others) = within(select_all(refusals)).await;
    assert_eq!((reason(&status), metadata(&status, "records")), ("OVERLOADED".into(), "1".into()));
    assert!(status.get_details_retry_info().is_some());
    assert_eq!(others.len(), 999);
    let open = "cameo_calls_in_flight{method=\"ProfileService/ImportProfiles\"}";
    server.metrics().await.assert(&[(open, 999.0)]); // One was enough.
}

#[tokio::test]
async fn an_import_whose_sender_is_silent_is_ended_and_says_how_far_it_came() {
    let timeout = |config: &mut Config| config.server.import_idle_timeout = Duration::from_millis(500);
    let server = TestServer::start_with(timeout).await;
    let client = server.client().await;
    for records in [0, 1, 2] {
        let sender = Sender::start(&client);
        for _ in 0..records {
            sender.send(visit(ADA)).await;
        }
        let status = within(sender.refusal()).await;
        assert_eq!((status.code(), &*reason(&status)), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
        assert!(status.message().contains("--import-idle-timeout"), "{}", status.message());
        assert_eq!(metadata(&status, "records"), records.to_string());
    }
    assert_number(&client.get(ADA).await.unwrap(), "visits", 3.0);
}

/// Imports cannot shut out other calls, which have their own share of the queue.
#[tokio::test(flavor = "multi_thread")]
async fn calls_are_answered_while_imports_fill_the_queue() {
    const AT_ONCE: usize = 4;
    const RECORDS: i64 = 3_000;
    const CALLS: usize = 20;
    let server = TestServer::start_with(queue_of_one).await;
    let client = server.client().await;
    let imports: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.import((1..=RECORDS).map(visit).collect()).await })
        })
        .collect();
    for _ in 0..CALLS {
        client.update_with(upsert_request(1, ProfilePatch::default())).await.unwrap();
    }
    for import in imports {
        let response = import.await.unwrap().unwrap();
        assert_eq!(response.created + response.updated, RECORDS);
    }
    assert_number(&client.get(RECORDS).await.unwrap(), "visits", 4.0);
}

/// A message with the header of gRPC, in an HTTP/2 frame of its own, as Python's client sends it.
fn frame(message: &ImportProfilesRequest) -> Frame<Bytes> {
    let mut frame = vec![0]; // Not compressed.
    frame.extend_from_slice(&u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
    message.encode(&mut frame).unwrap();
    Frame::data(Bytes::from(frame))
}

/// Many small messages may wait for room at once. The server holds them back and the connection stays up, also with as
/// many imports as may run. The process is stopped until it has been sent everything that its windows allow.
#[tokio::test(flavor = "multi_thread")]
async fn imports_of_the_smallest_records_are_held_back_and_not_broken() {
    const RECORDS: i64 = 20_000;
    const GRPC_HEADER: usize = 5;
    let dir = TempDir::new().unwrap();
    let process = TestProcess::start(dir.path(), &[]).await;
    let connection = TokioIo::new(TcpStream::connect(process.addr).await.unwrap());
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), connection).await.unwrap();
    tokio::spawn(connection);
    within(client.ready()).await.unwrap();
    process.signal(Signal::STOP);

    let taken = Arc::new(AtomicI64::new(0));
    let mut responses = Vec::new();
    for stream in 0..IMPORTS {
        let first = record(by_mpid(stream + 1), ProfilePatch::default());
        // Half of the imports send records of 11 bytes. The other half send empty ones, which are refused.
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
        let response = client.send_request(request);
        responses.push(tokio::spawn(async move { response.await?.collect().await }));
    }
    let mut before = -1;
    while taken.load(Ordering::Relaxed) != before {
        before = taken.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await; // Nothing else shows that no more is taken.
    }
    assert!(before < IMPORTS * RECORDS, "they are held back");
    process.signal(Signal::CONT);

    for (stream, response) in responses.into_iter().enumerate() {
        let response = within(response).await.unwrap().expect("the connection holds");
        let message = ImportProfilesResponse::decode(&response.to_bytes()[GRPC_HEADER..]).unwrap();
        let expected = if stream % 2 == 0 { (1, RECORDS - 1, 0) } else { (1, 0, RECORDS - 1) };
        assert_eq!((message.created, message.unchanged, message.refused), expected);
    }
}
