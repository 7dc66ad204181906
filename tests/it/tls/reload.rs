//! Files that change: new connections have what they hold, open ones are left alone, and bad files change nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::{metric, secure_server};
use crate::harness::*;

fn der(pair: &Pair) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap()
}

/// Connects until the server presents the certificate.
async fn until_presented(server: &TestServer, files: &TlsFiles, pair: &Pair) {
    within(async { while files.client().presented_by(server.addr).await != der(pair) {} }).await;
}

#[tokio::test]
async fn a_new_certificate_serves_new_connections_and_leaves_open_streams_alone() {
    let files = TlsFiles::new();
    let server = secure_server(&files).await;
    let client = files.client().services(server.addr).await.unwrap();
    let mut stream = client.subscribe_from(None).await;
    stream.opened().await;
    let new = files.ca.issue();
    assert_ne!(files.client().presented_by(server.addr).await, der(&new));

    files.write(&new);

    until_presented(&server, &files, &new).await;
    client.create(with_mpid(ADA)).await.unwrap();
    assert_eq!(stream.event().await.1.sequence, 1, "on the connection that began with the old certificate");
    let of_operators = files.client().offers(&[]).presented_by(server.metrics_addr.unwrap()).await;
    assert_eq!(of_operators, der(&new), "it has the same certificate");
}

/// The server says what is wrong, and goes on with what it has. Then the files are good again.
#[tokio::test]
async fn bad_files_change_nothing() {
    let files = TlsFiles::new();
    let old = files.client_ca.issue();
    let server = secure_server(&files).await;
    let first = files.client().presented_by(server.addr).await;
    let (half, mismatched) = (files.ca.issue(), files.ca.issue());
    let bad = [
        Pair { cert: half.cert[..half.cert.len() / 2].to_owned(), ..half.clone() },
        Pair { key: old.key, ..mismatched },
        Pair { cert: String::new(), key: String::new() },
    ];
    let reload_failed = "cameo_reload_failed{what=\"tls\"}";
    assert_eq!(metric(&server, &files, reload_failed).await, 0);
    for pair in bad {
        files.write(&pair);
        let watched_for = std::time::Instant::now();
        while watched_for.elapsed() < 3 * RELOAD {
            assert_eq!(files.client().presented_by(server.addr).await, first);
        }
        assert_eq!(metric(&server, &files, reload_failed).await, 1);
    }
    let good = files.ca.issue();
    files.write(&good);
    until_presented(&server, &files, &good).await;
    assert_eq!(metric(&server, &files, reload_failed).await, 0);
}

/// A little more than half of the time between two looks at the files, so that three of them include one.
const RELOAD: std::time::Duration = std::time::Duration::from_millis(1_100);

#[tokio::test]
async fn a_ca_that_is_replaced_no_longer_vouches_for_new_connections() {
    let files = TlsFiles::new();
    let server = TestServer::start_with(|config| files.verify_clients(config)).await;
    let (old, new_ca) = (files.client().presents(files.client_ca.issue()), Ca::new());
    let new = files.client().presents(new_ca.issue());
    let is_served = async |client: &TlsClient| match client.services(server.addr).await {
        Ok(services) => services.status("").await.is_ok(),
        Err(_) => false,
    };
    assert!(is_served(&old).await && !is_served(&new).await);
    std::fs::write(files.path("client-ca.pem"), new_ca.pem()).unwrap();
    within(async { while !is_served(&new).await {} }).await;
    assert!(!is_served(&old).await);
}

/// Calls on connections that stay, and calls each on a new connection, while the certificate is replaced three times.
#[tokio::test]
async fn a_reload_under_load_loses_no_call() {
    let files = Arc::new(TlsFiles::new());
    let server = Arc::new(secure_server(&files).await);
    let (done, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut callers = Vec::new();
    for reconnects in [true, true, false, false] {
        let (files, done, calls, addr) = (Arc::clone(&files), Arc::clone(&done), Arc::clone(&calls), server.addr);
        callers.push(tokio::spawn(async move {
            let mut client = files.client().services(addr).await.unwrap();
            while !done.load(Ordering::Relaxed) {
                if reconnects {
                    client = files.client().services(addr).await.expect("a connection");
                }
                client.status("").await.expect("a call");
                calls.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for _ in 0..3 {
        let new = files.ca.issue();
        files.write(&new);
        until_presented(&server, &files, &new).await;
    }
    done.store(true, Ordering::Relaxed);
    for caller in callers {
        within(caller).await.unwrap();
    }
    assert!(calls.load(Ordering::Relaxed) > 100);
}
