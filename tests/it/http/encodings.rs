//! Compressed responses and requests.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use super::*;

/// The first bytes of a zstd frame (RFC 8878).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

/// Resolves Ada's email, with a body in this encoding.
async fn resolve(server: &TestServer, encoding: &str, body: Vec<u8>) -> HttpResponse {
    let request =
        hyper::Request::post(format!("/userprofile/v1/resolve/{WORKSPACE}")).header("content-encoding", encoding);
    http_request(server.addr, request.body(http_body_util::Full::new(bytes::Bytes::from(body))).unwrap()).await
}

fn question() -> Vec<u8> {
    json!({"identity": {"type": "email", "value": ADA_EMAIL}}).to_string().into_bytes()
}

/// A server that holds Ada's profile, with an attribute of 8 KiB.
async fn with_a_long_profile() -> TestServer {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(ada()).await.unwrap();
    client.update(ADA, set([("pad", text(&"x".repeat(8 << 10)))])).await.unwrap();
    server
}

#[tokio::test]
async fn a_response_is_compressed_as_its_reader_asks() {
    let server = with_a_long_profile().await;
    let target = format!("{WORKSPACE}/{ADA}");
    let plain = http(server.addr, "GET", &target, &[], "").await;
    assert_eq!((plain.status, plain.header("content-encoding")), (200, ""));

    let zipped = http(server.addr, "GET", &target, &[("accept-encoding", "gzip")], "").await;
    assert_eq!((zipped.status, zipped.header("content-encoding")), (200, "gzip"));
    assert_eq!(gunzip(&zipped.body), plain.body);
    assert_eq!(zipped.header("vary"), "accept-encoding");

    let zstd = http(server.addr, "GET", &target, &[("accept-encoding", "zstd")], "").await;
    assert_eq!((zstd.header("content-encoding"), &zstd.body[..4]), ("zstd", &ZSTD_MAGIC[..]));

    let other = http(server.addr, "GET", &target, &[("accept-encoding", "br")], "").await;
    assert_eq!((other.header("content-encoding"), &other.body), ("", &plain.body));
}

/// The etag is of the plain bytes, so it is weak for others. It still spares a reader the profile that it has.
#[tokio::test]
async fn a_compressed_response_has_a_weak_etag_which_is_a_condition_too() {
    let server = with_a_long_profile().await;
    let target = format!("{WORKSPACE}/{ADA}");
    let plain = http(server.addr, "GET", &target, &[], "").await;
    let zipped = http(server.addr, "GET", &target, &[("accept-encoding", "gzip")], "").await;
    assert_eq!(zipped.header("etag"), format!("W/{}", plain.header("etag")));
    let headers = [("accept-encoding", "gzip"), ("if-none-match", zipped.header("etag"))];
    let again = http(server.addr, "GET", &target, &headers, "").await;
    assert_eq!((again.status, again.body.len()), (304, 0));
}

#[tokio::test]
async fn a_small_response_stays_plain() {
    let server = TestServer::start().await;
    server.client().await.create(with_mpid(ADA)).await.unwrap();
    let found = http(server.addr, "GET", &format!("{WORKSPACE}/{ADA}"), &[("accept-encoding", "gzip")], "").await;
    assert_eq!((found.status, found.header("content-encoding")), (200, ""));
}

#[tokio::test]
async fn a_body_may_be_compressed() {
    let server = with_a_long_profile().await;
    for (encoding, body) in [("gzip", gzip(&question())), ("GZIP", gzip(&question())), ("identity", question())] {
        let found = resolve(&server, encoding, body).await;
        assert_eq!((found.status, &found.json()["mpid"]), (200, &json!(ADA)), "{encoding}");
    }
}

#[tokio::test]
async fn an_encoding_that_is_not_known_is_415() {
    let server = with_a_long_profile().await;
    for encoding in ["br", "gzip, br", "compress", "x"] {
        assert_problem(&resolve(&server, encoding, question()).await, 415, "ENCODING_UNSUPPORTED", "");
    }
    let twice = hyper::Request::post(format!("/userprofile/v1/resolve/{WORKSPACE}"))
        .header("content-encoding", "identity")
        .header("content-encoding", "identity")
        .body(http_body_util::Full::new(bytes::Bytes::from(question())))
        .unwrap();
    assert_problem(&http_request(server.addr, twice).await, 415, "ENCODING_UNSUPPORTED", "");
}

/// A bomb: a few kilobytes that become more than a request may be.
#[tokio::test]
async fn the_decompressed_size_of_a_body_is_bounded() {
    let server = with_a_long_profile().await;
    let bomb = resolve(&server, "gzip", gzip(&vec![b' '; 2 << 20])).await;
    assert_problem(&bomb, 413, "LIMIT_EXCEEDED", "");
    let broken = resolve(&server, "gzip", b"not gzip".to_vec()).await;
    assert_problem(&broken, 400, "FIELD_INVALID", "body");
}
