//! TLS: what is served, which handshakes fail and how that is told, and certificates that change.
//!
//! - [`clients`]: the certificates of clients.
//! - [`hostile`]: handshakes that are slow, abandoned or of another protocol.
//! - [`reload`]: files that change.
//! - [`binary`]: what the binary says, and its commands as clients.

mod binary;
mod clients;
mod hostile;
mod reload;

use bytes::Bytes;
use cameo::proto::v1::*;
use http_body_util::Full;
use hyper::Request;
use rustls::ProtocolVersion;
use rustls::version::{TLS12, TLS13};

use crate::harness::*;

/// A server with TLS and metrics.
async fn secure_server(files: &TlsFiles) -> TestServer {
    TestServer::start_with(|config| {
        files.serve(config);
        metrics_on(config);
    })
    .await
}

/// What `/metrics` says over TLS.
async fn metric(server: &TestServer, files: &TlsFiles, series: &str) -> u64 {
    let connection = files.client().offers(&[]).connect(server.metrics_addr.unwrap()).await.unwrap();
    let response = http_request_on(connection, Request::get("/metrics").body(String::new()).unwrap()).await;
    let text = String::from_utf8(response.body.to_vec()).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {series} in {text}")).parse().unwrap()
}

/// Scrapes until the counter has this value.
async fn until_metric(server: &TestServer, files: &TlsFiles, series: &str, value: u64) {
    within(Box::pin(async { while metric(server, files, series).await != value {} })).await;
}

/// The series of handshakes that failed for a reason.
fn failed(reason: &str) -> String {
    format!("cameo_tls_handshakes_failed_total{{reason=\"{reason}\"}}")
}

#[tokio::test]
async fn grpc_is_served_over_tls_1_2_and_1_3() {
    let files = TlsFiles::new();
    let server = secure_server(&files).await;
    files.client().services(server.addr).await.unwrap().create(with_mpid(ADA)).await.unwrap();
    for (version, negotiated) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let connection = files.client().speaks(version).connect(server.addr).await.unwrap();
        let tls = connection.get_ref().1;
        assert_eq!((tls.protocol_version(), tls.alpn_protocol()), (Some(negotiated), Some(&b"h2"[..])));
        let get = frame(&GetProfileRequest { key: Some(by_mpid(ADA)), ..get_request() });
        let request = grpc_post(GET_PROFILE).body(Full::<Bytes>::new(get.into())).unwrap();
        let response = Box::pin(http2_request_on(connection, server.addr, request)).await;
        assert_eq!((response.status, response.header("grpc-status")), (200, "0"), "{negotiated:?}");
    }
}

/// Large messages in both directions, many at a time: records and their buffers keep nothing back.
#[tokio::test]
async fn large_messages_pass_through_tls() {
    let files = TlsFiles::new();
    let server = secure_server(&files).await;
    let client = files.client().services(server.addr).await.unwrap();
    let mut stream = client.subscribe_from(None).await;
    stream.opened().await;
    let writes = (1..=20).map(|mpid| {
        let client = client.clone();
        async move { client.create(large(mpid)).await.unwrap() }
    });
    within(futures_util::future::join_all(writes)).await;
    assert_eq!(stream.sequences(20).await, (1..=20).collect::<Vec<_>>());
    let all = client.batch(batch_request((1..=3).map(by_mpid))).await.unwrap();
    assert_eq!(all.len(), 3);
}

#[tokio::test]
async fn the_http_api_is_served_over_tls_with_and_without_a_protocol() {
    let files = TlsFiles::new();
    let server = secure_server(&files).await;
    for (offers, chosen) in [(&["http/1.1"][..], Some(&b"http/1.1"[..])), (&[], None)] {
        let connection = files.client().offers(offers).connect(server.addr).await.unwrap();
        assert_eq!(connection.get_ref().1.alpn_protocol(), chosen);
        let request = Request::get(format!("/userprofile/v1/{WORKSPACE}/1")).body(String::new()).unwrap();
        let response = http_request_on(connection, request).await;
        assert_eq!(response.status, 404, "{offers:?}: {:?}", response.body);
        assert_eq!(response.header("content-type"), "application/problem+json");
    }
}

#[tokio::test]
async fn a_client_that_offers_only_other_protocols_is_refused() {
    let files = TlsFiles::new();
    let server = secure_server(&files).await;
    let refused = files.client().offers(&["spdy/3"]).connect(server.addr).await.unwrap_err();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    until_metric(&server, &files, &failed("incompatible"), 1).await;
}

/// It speaks only HTTP/1.1, so it chooses that even if HTTP/2 is preferred.
#[tokio::test]
async fn operators_are_served_over_tls() {
    let files = TlsFiles::new();
    let server = secure_server(&files).await;
    let addr = server.metrics_addr.unwrap();
    let connection = files.client().offers(&["h2", "http/1.1"]).connect(addr).await.unwrap();
    assert_eq!(connection.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let response = http_request_on(connection, Request::get("/readyz").body(String::new()).unwrap()).await;
    assert_eq!(response.status, 200);
    let expiry = metric(&server, &files, "cameo_tls_certificate_expiry_timestamp_seconds").await;
    assert_eq!(expiry, 67_090_118_400, "4096-01-01, until which the certificates of these tests are good");
    let mut plaintext = RawConnection::open(addr).await;
    plaintext.send("GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(!String::from_utf8_lossy(&plaintext.rest().await).contains("cameo"));
    until_metric(&server, &files, &failed("not_tls"), 1).await;
}

#[tokio::test]
async fn a_shutdown_ends_handshakes_and_connections_at_once() {
    let files = TlsFiles::new();
    let server = secure_server(&files).await;
    let _silent = RawConnection::open(server.addr).await;
    let _idle = files.client().connect(server.addr).await.unwrap();
    let client = files.client().services(server.addr).await.unwrap();
    client.create(with_mpid(ADA)).await.unwrap();
    let start = std::time::Instant::now();
    server.stop().await;
    assert!(start.elapsed() < std::time::Duration::from_secs(5), "{:?}: the handshake has 10 s", start.elapsed());
}
