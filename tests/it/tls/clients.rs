//! The certificates of clients: each bad one gets a closed connection, and the reason is counted.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use cameo::config::Config;
use rustls::version::{TLS12, TLS13};
use tokio::io::AsyncReadExt;

use super::{failed, until_metric};
use crate::harness::*;

async fn server(files: &TlsFiles, change: impl FnOnce(&mut Config)) -> TestServer {
    TestServer::start_with(|config| {
        files.verify_clients(config);
        metrics_on(config);
        change(config);
    })
    .await
}

/// With TLS 1.3 a client learns only from the first read that its certificate was refused.
async fn is_closed(client: &TlsClient, addr: SocketAddr) -> bool {
    let Ok(mut connection) = client.connect(addr).await else { return true };
    within(connection.read(&mut [0])).await.is_ok_and(|read| read == 0) || connection.read(&mut [0]).await.is_err()
}

async fn is_served(client: &TlsClient, addr: SocketAddr) -> bool {
    let Ok(services) = client.services(addr).await else { return false };
    services.status("").await.is_ok()
}

#[tokio::test]
async fn a_good_certificate_is_served_and_none_is_too() {
    let files = TlsFiles::new();
    let server = server(&files, |_| {}).await;
    assert!(is_served(&files.client(), server.addr).await);
    assert!(is_served(&files.client().presents(files.client_ca.issue()), server.addr).await);
}

#[tokio::test]
async fn a_bad_certificate_is_refused_in_both_versions_and_counted_by_what_is_wrong_with_it() {
    let files = TlsFiles::new();
    let server = server(&files, |_| {}).await;
    let bad = [
        (files.client_ca.issue_with(expired), "expired_certificate"),
        (Ca::new().issue(), "untrusted_certificate"), // A CA of the same name, but another key.
        (files.ca.issue(), "untrusted_certificate"),
        (self_signed(), "untrusted_certificate"),
    ];
    let mut counts = BTreeMap::<_, u64>::new();
    for (pair, reason) in bad {
        for version in [&TLS12, &TLS13] {
            let client = files.client().presents(pair.clone()).speaks(version);
            assert!(is_closed(&client, server.addr).await, "{reason}");
            *counts.entry(reason).or_default() += 1;
        }
        until_metric(&server, &files, &failed(reason), counts[reason]).await;
        assert!(!is_served(&files.client().presents(pair), server.addr).await, "{reason}");
        *counts.get_mut(reason).unwrap() += 1;
    }
    until_metric(&server, &files, "cameo_connections_closed_total{reason=\"tls_failed\"}", 12).await;
    assert!(is_served(&files.client(), server.addr).await, "the server goes on");
}

#[tokio::test]
async fn a_certificate_can_be_required() {
    let files = TlsFiles::new();
    let server = server(&files, |config| {
        config.tls.tls_require_client_cert = true;
        config.telemetry.metrics_addr = None; // The test would need a certificate to scrape it.
    })
    .await;
    assert!(is_closed(&files.client(), server.addr).await);
    assert!(!is_served(&files.client(), server.addr).await);
    assert!(is_served(&files.client().presents(files.client_ca.issue()), server.addr).await);
}

/// What the client thinks of the server's certificate is told too.
#[tokio::test]
async fn a_client_that_does_not_trust_the_server_is_counted() {
    let files = TlsFiles::new();
    let server = server(&files, |_| {}).await;
    let refused = TlsFiles::new().client().connect(server.addr).await.unwrap_err();
    assert!(refused.to_string().contains("invalid peer certificate"), "{refused}");
    until_metric(&server, &files, &failed("refused_by_client"), 1).await;
}
