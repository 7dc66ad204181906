//! How requests arrive: in chunks of any size, and no larger than they may be.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use cameo::proto::v1::*;
use futures_util::future::join_all;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::{Body, Frame};
use prost::Message;

use crate::harness::*;

/// The header of a message.
const HEADER: usize = 5;
const IMPORT: &str = "/cameo.v1.ProfileService/ImportProfiles";
const REFLECTION: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// A body that comes in pieces of this size.
fn in_pieces(bytes: &[u8], size: usize) -> impl Body<Data = Bytes, Error = Infallible> + Send + Unpin + use<> {
    let pieces: Vec<_> = bytes.chunks(size).map(Bytes::copy_from_slice).collect();
    StreamBody::new(stream::iter(pieces.into_iter().map(|piece| Ok(Frame::data(piece)))))
}

#[tokio::test]
async fn a_request_may_come_in_many_pieces() {
    const RECORDS: i64 = 300;
    let server = TestServer::start().await;
    let records: Vec<_> = (1..=RECORDS).flat_map(|mpid| frame(&record(by_mpid(mpid), increment("n")))).collect();
    let import = grpc_post(IMPORT).body(in_pieces(&records, 300)).unwrap();
    let imported = http2_request(server.addr, import).await;
    assert_eq!(ImportProfilesResponse::decode(&imported.body[HEADER..]).unwrap().created, RECORDS);

    let get = frame(&GetProfileRequest { key: Some(by_mpid(RECORDS)), ..get_request() });
    let found = http2_request(server.addr, grpc_post(GET_PROFILE).body(in_pieces(&get, 1)).unwrap()).await;
    assert_eq!(GetProfileResponse::decode(&found.body[HEADER..]).unwrap().profile.unwrap().mpid, RECORDS);

    let question = r#"{"identity":{"type":"email","value":"unknown@example.com"}}"#;
    let question = format!("{}{question}", " ".repeat(20_000));
    let request = hyper::Request::post(format!("/userprofile/v1/resolve/{WORKSPACE}"));
    let request = request.header("content-type", "application/json").body(in_pieces(question.as_bytes(), 1)).unwrap();
    assert_eq!(http_request(server.addr, request).await.json()["reason"], "PROFILE_NOT_FOUND");
}

/// The message of a request that asks reflection for the services, and is this many bytes larger than it need be.
fn padded_question(padding: usize) -> Vec<u8> {
    const LIST_SERVICES: &[u8] = &[7 << 3 | 2, 0];
    let mut message = LIST_SERVICES.to_vec();
    prost::encoding::bytes::encode(15, &vec![0; padding], &mut message);
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0][..], &length, &message].concat()
}

#[tokio::test]
async fn every_service_takes_requests_up_to_the_limit() {
    const MIB: usize = 1 << 20;
    let server = TestServer::start_with(|config| {
        config.limits.request_bytes = 6 * MIB;
        config.server.receive_timeout = Duration::from_secs(3_600); // A health check has a part of it.
    })
    .await;
    let paths = REFLECTION.into_iter().chain(["/grpc.health.v1.Health/Check"]);
    join_all(paths.map(async |path| {
        for (size, is_served) in [(5 * MIB, true), (7 * MIB, false)] {
            let response = grpc_request(server.addr, path, padded_question(size)).await;
            assert_eq!(!response.body.is_empty(), is_served, "{path} {size}: {response:?}");
        }
    }))
    .await;
}

/// A message that is too large ends the stream by its length, and does not leave it open for as long as the client
/// likes.
#[tokio::test]
async fn a_question_for_reflection_that_is_too_large_is_not_waited_for() {
    let server = TestServer::start().await;
    for path in REFLECTION {
        let mut begun = padded_question(2 << 20);
        begun.truncate(60_000);
        let request = grpc_post(path).body(endless(begun)).unwrap();
        assert!(http2_request(server.addr, request).await.body.is_empty(), "{path}");
    }
}
