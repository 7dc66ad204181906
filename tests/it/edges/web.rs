//! gRPC-Web and CORS.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use cameo::proto::v1::*;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::TcpStream;

use crate::harness::*;

const BINARY: &str = "application/grpc-web+proto";
const TEXT: &str = "application/grpc-web-text+proto";
const IMPORT: &str = "/cameo.v1.ProfileService/ImportProfiles";
const ORIGIN: &str = "https://app.example.com";
/// The bit of a frame's first byte that says that it holds trailers.
const TRAILERS: u8 = 0x80;
const HEADER: usize = 5;

/// The frames of a response: the first byte and the content of each.
fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((header, rest)) = bytes.split_at_checked(HEADER) {
        let length = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize;
        let (content, rest) = rest.split_at(length);
        frames.push((header[0], content.to_vec()));
        bytes = rest;
    }
    frames
}

/// The bytes of a body. A text is padded at the end of each of its parts.
fn decode(content_type: &str, body: &[u8]) -> Vec<u8> {
    if content_type == BINARY {
        return body.to_vec();
    }
    body.chunks(4).flat_map(|four| BASE64_STANDARD.decode(four).unwrap()).collect()
}

fn encode(content_type: &str, body: Vec<u8>) -> Bytes {
    if content_type == BINARY { body.into() } else { BASE64_STANDARD.encode(body).into() }
}

fn request(content_type: &str) -> hyper::http::request::Builder {
    // The response has the type that the client accepts.
    hyper::Request::post(GET_PROFILE).header("content-type", content_type).header("accept", content_type)
}

/// Looks a profile up. Returns the response and its body's frames.
async fn lookup(server: &TestServer, content_type: &str, mpid: i64) -> (HttpResponse, Vec<(u8, Vec<u8>)>) {
    let message = GetProfileRequest { key: Some(by_mpid(mpid)), ..get_request() };
    let request = request(content_type).body(Full::new(encode(content_type, frame(&message)))).unwrap();
    let response = http_request(server.addr, request).await;
    assert_eq!((response.status, response.header("content-type")), (200, content_type));
    let frames = frames(&decode(content_type, &response.body));
    (response, frames)
}

/// The value of a trailer. A refusal has it among the headers, and all else in the last frame.
fn trailer(response: &HttpResponse, frames: &[(u8, Vec<u8>)], name: &str) -> String {
    let in_headers = response.header(name);
    if !in_headers.is_empty() {
        return in_headers.to_owned();
    }
    let (kind, trailers) = frames.last().expect("trailers");
    assert_eq!(*kind, TRAILERS);
    let trailers = String::from_utf8(trailers.clone()).unwrap();
    let value = trailers.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    value.unwrap_or_else(|| panic!("no {name} in {trailers}")).trim().to_owned()
}

#[tokio::test]
async fn lookups_work_in_binary_and_in_text() {
    let server = TestServer::start_with(metrics_on).await;
    server.client().await.create(ada()).await.unwrap();
    for content_type in [BINARY, TEXT] {
        let (response, found) = lookup(&server, content_type, ADA).await;
        let profile = GetProfileResponse::decode(&*found[0].1).unwrap().profile.unwrap();
        assert_eq!((found[0].0, profile.mpid), (0, ADA), "{content_type}");
        assert_eq!(trailer(&response, &found, "grpc-status"), "0", "{content_type}");

        let (response, frames) = lookup(&server, content_type, UNKNOWN_MPID).await;
        assert_eq!(trailer(&response, &frames, "grpc-status"), "5", "{content_type}");
        assert!(!trailer(&response, &frames, "grpc-status-details-bin").is_empty(), "{content_type}");
    }
    let lookups = "cameo_calls_total{method=\"ProfileService/GetProfile\"";
    server.metrics().await.assert(&[
        (&format!("{lookups},code=\"OK\",reason=\"\"}}"), 2.0),
        (&format!("{lookups},code=\"NOT_FOUND\",reason=\"PROFILE_NOT_FOUND\"}}"), 2.0),
    ]);
}

#[tokio::test]
async fn a_response_may_be_compressed() {
    const COMPRESSED: u8 = 1;
    let server = TestServer::start().await;
    server.client().await.create(padded(ADA)).await.unwrap();
    let get = frame(&GetProfileRequest { key: Some(by_mpid(ADA)), ..get_request() });
    let request = request(BINARY).header("grpc-accept-encoding", "zstd");
    let response = http_request(server.addr, request.body(Full::new(Bytes::from(get))).unwrap()).await;
    let frames = frames(&response.body);
    assert_eq!((response.header("grpc-encoding"), frames[0].0), ("zstd", COMPRESSED));
    assert_eq!(trailer(&response, &frames, "grpc-status"), "0");
}

/// What a page costs the server does not depend on how well it compresses.
#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_response_counts_in_the_quota_as_what_it_was() {
    let callers = CallersFile::new();
    let [writer, reader] = [callers.add("writer", &["writer"]).await, callers.add("reader", &["reader"]).await];
    let server = callers.server_with(|config| config.quotas.max_call_rate_per_client = 4).await;
    let writer = Client::connect_with(server.addr, &writer).await;
    writer.create(with_mpid(ADA)).await.unwrap();
    writer.update(ADA, set(["a", "b", "c", "d"].map(|key| (key, text(&"p".repeat(60_000)))))).await.unwrap();
    let get = frame(&GetProfileRequest { key: Some(by_mpid(ADA)), ..get_request() });
    for status in [200, 429] {
        let authorization = format!("Bearer {reader}");
        let request = request(BINARY).header("grpc-accept-encoding", "gzip").header("authorization", authorization);
        let response = http_request(server.addr, request.body(Full::new(Bytes::from(get.clone()))).unwrap()).await;
        assert_eq!(response.status, status);
        assert!(response.body.len() < 10_000, "{}", response.body.len());
    }
}

#[tokio::test]
async fn a_subscription_begins_at_once() {
    let server = TestServer::start().await;
    for content_type in [BINARY, TEXT] {
        let body = encode(content_type, frame(&subscribe_request()));
        let request = hyper::Request::post(SUBSCRIBE)
            .header("content-type", content_type)
            .header("accept", content_type)
            .header("host", "localhost")
            .body(Full::new(body))
            .unwrap();
        let connection = TokioIo::new(TcpStream::connect(server.addr).await.unwrap());
        let (mut client, connection) = within(hyper::client::conn::http1::handshake(connection)).await.unwrap();
        tokio::spawn(connection);
        let mut response = within(client.send_request(request)).await.unwrap();
        let first = within(response.body_mut().frame()).await.unwrap().unwrap().into_data().unwrap();
        let first = SubscribeResponse::decode(&*frames(&decode(content_type, &first))[0].1).unwrap();
        assert!(matches!(first.message, Some(subscribe_response::Message::Opened(_))), "{first:?}");
    }
}

/// It must not look like a call that its caller has given up.
#[tokio::test]
async fn a_text_that_is_not_base64_is_refused() {
    let server = TestServer::start().await;
    let whole = BASE64_STANDARD.encode(frame(&get_request()));
    for path in [GET_PROFILE, IMPORT] {
        for text in ["!!!!", "AAA", &whole[..whole.len() - 1], &format!("{whole}!!!!")] {
            let request = hyper::Request::post(path).header("content-type", TEXT);
            let refused = http_request(server.addr, request.body(text.to_owned()).unwrap()).await;
            let status = tonic::Status::from_header_map(&refused.headers).expect(text);
            assert_refused(Err::<(), _>(status), tonic::Code::InvalidArgument, "FIELD_INVALID", "");
        }
    }
}

#[tokio::test]
async fn a_request_that_breaks_off_counts_as_cancelled() {
    let server = TestServer::start_with(metrics_on).await;
    for content_type in [BINARY, TEXT] {
        let mut connection = RawConnection::open(server.addr).await;
        let head = format!("POST {GET_PROFILE} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}");
        connection.send(format!("{head}\r\ncontent-length: 100\r\n\r\nAAAA")).await;
    }
    let cancelled = "cameo_calls_total{method=\"ProfileService/GetProfile\",code=\"CANCELLED\",reason=\"\"}";
    within(async {
        loop {
            let calls = server.metrics().await;
            let calls = calls.family("cameo_calls_total");
            let ended = calls.iter().filter(|(series, calls)| series.contains("GetProfile") && **calls > 0.0);
            let ended: Vec<_> = ended.map(|(series, calls)| (*series, *calls)).collect();
            assert!(ended.iter().all(|(series, _)| *series == cancelled), "{ended:?}");
            if ended == [(cancelled, 2.0)] {
                return;
            }
        }
    })
    .await;
}

async fn preflight(server: &TestServer, origin: &str) -> HttpResponse {
    let request = hyper::Request::options(GET_PROFILE)
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type,x-grpc-web");
    http_request(server.addr, request.body(String::new()).unwrap()).await
}

#[tokio::test]
async fn only_the_given_origins_may_call() {
    let server = TestServer::start_with(|config| config.server.cors_origins = vec![ORIGIN.parse().unwrap()]).await;
    let allowed = preflight(&server, ORIGIN).await;
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.header("access-control-allow-origin"), ORIGIN);
    assert_eq!(allowed.header("access-control-allow-methods"), "POST");
    assert_eq!(allowed.header("access-control-allow-headers"), "content-type,x-grpc-web");
    let other = preflight(&server, "https://evil.example").await;
    assert_eq!(other.header("access-control-allow-origin"), "");

    let message = GetProfileRequest { key: Some(by_mpid(UNKNOWN_MPID)), ..get_request() };
    let call = request(BINARY).header("origin", ORIGIN);
    let called = http_request(server.addr, call.body(Full::new(Bytes::from(frame(&message)))).unwrap()).await;
    assert_eq!(called.header("access-control-allow-origin"), ORIGIN);
    assert!(called.header("access-control-expose-headers").contains("grpc-status"));
}

/// The page has its own domain point to this server.
#[tokio::test]
async fn no_page_may_call_by_a_host_that_is_not_served() {
    let server = TestServer::start_with(|config| config.server.cors_origins = vec![ORIGIN.parse().unwrap()]).await;
    for method in ["OPTIONS", "POST"] {
        let request = hyper::Request::builder().method(method).uri(GET_PROFILE).header("host", "evil.example");
        let request = request.header("origin", ORIGIN).header("access-control-request-method", "POST");
        let refused = http_request(server.addr, request.body(String::new()).unwrap()).await;
        assert_eq!((refused.status, refused.header("access-control-allow-origin")), (403, ""), "{method}");
    }
}

#[tokio::test]
async fn a_page_can_read_why_its_call_is_refused() {
    let server = TestServer::start_with(|config| {
        config.server.cors_origins = vec![ORIGIN.parse().unwrap()];
        config.server.max_calls = 1;
    })
    .await;
    let _stream = server.client().await.listen().await;
    let allowed = preflight(&server, ORIGIN).await;
    assert_eq!((allowed.status, allowed.header("access-control-allow-origin")), (200, ORIGIN));
    for (origin, readable_by) in [(ORIGIN, ORIGIN), ("https://evil.example", "")] {
        let call = request(BINARY).header("origin", origin).body(Full::new(Bytes::new())).unwrap();
        let refused = http_request(server.addr, call).await;
        assert_eq!((refused.status, refused.header("access-control-allow-origin")), (429, readable_by));
        assert_eq!(refused.json()["reason"], "OVERLOADED");
    }
}

#[tokio::test]
async fn without_origins_there_is_no_cors() {
    let server = TestServer::start().await;
    let refused = preflight(&server, ORIGIN).await;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (405, ""));
}
