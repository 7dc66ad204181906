//! Handshakes that are slow, abandoned, or of another protocol: each connection is closed within a bound, and none keeps
//! others out.

use std::time::{Duration, Instant};

use cameo::config::Config;
use hyper::Request;

use super::{failed, secure_server, until_metric};
use crate::harness::*;

/// Short, so that the tests are.
const LIMIT: Duration = Duration::from_millis(300);
/// A record with the first byte of a `ClientHello` of 256 bytes.
const HALF_A_HELLO: &[u8] = &[0x16, 3, 1, 1, 0, 1];
/// More than may shake hands at a time.
const MANY: usize = 1_100;

async fn impatient_server(files: &TlsFiles, change: impl FnOnce(&mut Config)) -> TestServer {
    TestServer::start_with(|config| {
        metrics_on(config);
        config.server.handshake_timeout = LIMIT;
        files.serve(config);
        change(config);
    })
    .await
}

#[tokio::test]
async fn plaintext_to_a_port_with_tls_is_closed_at_once() {
    let files = TlsFiles::new();
    let server = secure_server(&files).await;
    let start = Instant::now();
    for request in ["GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\0\0\0\0\0\0\0\0"]
    {
        let mut connection = RawConnection::open(server.addr).await;
        connection.send(request).await;
        let response = connection.rest().await;
        assert!(response.len() <= 7, "an alert at most: {response:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "the time limit is 10 s");
    until_metric(&server, &files, &failed("not_tls"), 3).await;
}

#[tokio::test]
async fn tls_to_a_port_without_it_is_closed_at_once() {
    let (files, server) = (TlsFiles::new(), TestServer::start_with(metrics_on).await);
    let start = Instant::now();
    files.client().connect(server.addr).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(5), "the time limit is 10 s");
    server.until_metrics(|metrics| metrics.value("cameo_connections_closed_total{reason=\"spoke_tls\"}") > 0.0).await;
    assert!(server.client().await.status("").await.is_ok());
}

#[tokio::test]
async fn a_handshake_that_is_not_finished_in_time_is_closed() {
    let files = TlsFiles::new();
    let server = impatient_server(&files, |_| {}).await;
    for sent in [&b""[..], &HALF_A_HELLO[..1], HALF_A_HELLO] {
        let (start, mut connection) = (Instant::now(), RawConnection::open(server.addr).await);
        connection.send(sent).await;
        assert_eq!(connection.rest().await, b"", "{sent:?}");
        assert!((LIMIT..20 * LIMIT).contains(&start.elapsed()), "{sent:?}: {:?}", start.elapsed());
    }
    until_metric(&server, &files, &failed("timeout"), 3).await;
    until_metric(&server, &files, "cameo_connections_closed_total{reason=\"handshake_timeout\"}", 3).await;
}

/// TLS is not a way around the time that a client has to show what it speaks.
#[tokio::test]
async fn a_client_that_says_nothing_after_its_handshake_is_closed() {
    let files = TlsFiles::new();
    let server = impatient_server(&files, |_| {}).await;
    let mut connection = files.client().connect(server.addr).await.unwrap();
    let mut rest = Vec::new();
    let _ = within(tokio::io::AsyncReadExt::read_to_end(&mut connection, &mut rest)).await; // Without a farewell.
    until_metric(&server, &files, "cameo_connections_closed_total{reason=\"handshake_timeout\"}", 1).await;
}

#[tokio::test]
async fn an_abandoned_handshake_is_counted() {
    let files = TlsFiles::new();
    let server = secure_server(&files).await;
    for sent in [&b""[..], HALF_A_HELLO] {
        RawConnection::open(server.addr).await.send(sent).await;
    }
    until_metric(&server, &files, &failed("closed"), 2).await;
}

/// Each of them may take as long as the time limit, and there are more than may shake hands at a time.
#[tokio::test]
async fn many_slow_handshakes_do_not_keep_others_out() {
    let files = TlsFiles::new();
    let server = impatient_server(&files, |config| config.server.handshake_timeout = Duration::from_secs(3_600)).await;
    let mut slow = Vec::new();
    for _ in 0..MANY {
        let mut connection = RawConnection::open(server.addr).await;
        connection.send(HALF_A_HELLO).await;
        slow.push(connection);
    }
    let start = Instant::now();
    let client = files.client().services(server.addr).await.unwrap();
    client.create(with_mpid(ADA)).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    let made_room = super::metric(&server, &files, &failed("made_room")).await;
    assert!((1..=100).contains(&made_room), "{made_room} made room for the last 76 and the good one");
}

/// They take no place at all.
#[tokio::test]
async fn many_silent_connections_do_not_hold_others_up() {
    let files = TlsFiles::new();
    let server = impatient_server(&files, |config| config.server.handshake_timeout = Duration::from_secs(3_600)).await;
    let mut silent = Vec::new();
    for _ in 0..MANY {
        silent.push(RawConnection::open(server.addr).await);
    }
    let client = files.client().services(server.addr).await.unwrap();
    client.create(with_mpid(ADA)).await.unwrap();
    assert_eq!(super::metric(&server, &files, &failed("made_room")).await, 0);
}

/// The listener of operators has few places. A handshake that its client does not go on with keeps one for 2 seconds at
/// most, and only while nobody else needs it.
#[tokio::test]
async fn slow_handshakes_with_the_listener_of_operators_make_room() {
    const PLACES: u64 = 16;
    let files = TlsFiles::new();
    let server = secure_server(&files).await;
    let mut slow = Vec::new();
    for _ in 0..20 * PLACES {
        let mut connection = RawConnection::open(server.metrics_addr.unwrap()).await;
        connection.send(HALF_A_HELLO).await;
        slow.push(connection);
    }
    let start = Instant::now();
    let connection = files.client().offers(&[]).connect(server.metrics_addr.unwrap()).await.unwrap();
    let response = http_request_on(connection, Request::get("/healthz").body(String::new()).unwrap()).await;
    assert_eq!(response.status, 200);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(super::metric(&server, &files, &failed("made_room")).await >= 19 * PLACES);
}
