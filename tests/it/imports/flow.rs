//! How fast records are taken, and what else goes on meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tonic_types::StatusExt;

use super::*;

/// How many imports may run at a time.
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

#[tokio::test]
async fn an_import_too_many_is_refused() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut stream = client.subscribe_from(None).await;
    let senders: Vec<_> = (0..IMPORTS).map(|_| Sender::start(&client)).collect();
    for (sender, mpid) in senders.iter().zip(1..) {
        sender.send(visit(mpid)).await;
    }
    stream.sequences(senders.len()).await; // So all of them are running.
    let status = client.import(vec![visit(ADA)]).await.unwrap_err();
    assert_eq!((reason(&status), metadata(&status, "records")), ("OVERLOADED".into(), "0".into()));
    assert!(status.get_details_retry_info().is_some());
    for sender in senders {
        assert_eq!(sender.finish().await.created, 1);
    }
    assert_eq!(client.import(vec![visit(ADA)]).await.unwrap().created, 1);
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
