//! The host that a request names.

use std::net::SocketAddr;

use bytes::Bytes;
use cameo::proto::v1::*;
use http_body_util::Full;
use tonic::Status;

use crate::harness::*;

const TARGET: &str = "/userprofile/v1/acme/main/web/1815";

async fn server(allowed_hosts: &[&str]) -> TestServer {
    let allowed = allowed_hosts.iter().map(ToString::to_string).collect();
    let server = TestServer::start_with(|config| config.server.allowed_hosts = allowed).await;
    server.client().await.create(ada()).await.unwrap();
    server
}

/// Looks Ada's profile up over HTTP/1.1 with these lines in place of the Host.
async fn lookup(server: &TestServer, target: &str, hosts: &str) -> (u16, String) {
    http1_bytes(server.addr, &format!("GET {target} HTTP/1.1\r\n{hosts}connection: close\r\n\r\n")).await
}

/// Looks Ada's profile up over gRPC. Returns the status and the reason, which is empty with OK.
async fn call(server: &TestServer, authority: &str, hosts: &[&str]) -> (String, String) {
    let mut request = grpc_post(&format!("http://{authority}{GET_PROFILE}"));
    for host in hosts {
        request = request.header("host", *host);
    }
    let body = frame(&GetProfileRequest { key: Some(by_mpid(ADA)), ..get_request() });
    let response = http2_request(server.addr, request.body(Full::new(Bytes::from(body))).unwrap()).await;
    let code = response.header("grpc-status").to_owned();
    let status = Status::from_header_map(&response.headers).filter(|status| status.code() != tonic::Code::Ok);
    (code, status.map_or_else(String::new, |status| reason(&status)))
}

#[tokio::test]
async fn loopback_hosts_are_served_and_others_are_not() {
    let served = [
        "localhost",
        "LocalHost",
        "localhost:50051",
        "localhost.",
        "app.localhost",
        "127.0.0.1",
        "127.0.0.1:50051",
        "127.1.2.3",
        "[::1]",
        "[::1]:50051",
        "[::ffff:127.0.0.1]",
    ];
    let refused = [
        "evil.example",
        "evil.example:50051",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "notlocalhost",
        "localhost@evil.example",
        "evil.example@localhost",
        "10.0.0.1",
        "0.0.0.0",
        "[::2]",
    ];
    let server = server(&[]).await;
    for host in served {
        assert_eq!(lookup(&server, TARGET, &format!("host: {host}\r\n")).await.0, 200, "{host}");
        assert_eq!(call(&server, host, &[]).await, ("0".into(), String::new()), "{host}");
    }
    for host in refused {
        let (status, body) = lookup(&server, TARGET, &format!("host: {host}\r\n")).await;
        assert!(status == 403 && body.contains("PERMISSION_DENIED"), "{host}: {body}");
        if !host.contains('@') {
            assert_eq!(call(&server, host, &[]).await, ("7".into(), "PERMISSION_DENIED".into()), "{host}");
        }
    }
}

/// A browser's page cannot choose its Host. Another program can name two hosts, and both must be served.
#[tokio::test]
async fn every_host_that_a_request_names_must_be_served() {
    let server = server(&[]).await;
    let absolute = |host: &str| format!("http://{host}{TARGET}");
    let rows = [
        (absolute("localhost"), "host: localhost\r\n", 200),
        (absolute("evil.example"), "host: localhost\r\n", 403),
        (absolute("localhost"), "host: evil.example\r\n", 403),
        (TARGET.to_owned(), "", 400),
        (TARGET.to_owned(), "host: localhost\r\nhost: localhost\r\n", 400),
        (TARGET.to_owned(), "host:\r\n", 403),
    ];
    for (target, hosts, expected) in rows {
        assert_eq!(lookup(&server, &target, hosts).await.0, expected, "{target} {hosts:?}");
    }
    let foreign = ("7".to_owned(), "PERMISSION_DENIED".to_owned());
    assert_eq!(call(&server, "localhost", &["localhost"]).await.0, "0");
    assert_eq!(call(&server, "localhost", &["evil.example"]).await, foreign);
    assert_eq!(call(&server, "evil.example", &["localhost"]).await, foreign);
    let twice = ("3".to_owned(), "FIELD_INVALID".to_owned());
    assert_eq!(call(&server, "localhost", &["localhost", "localhost"]).await, twice);
}

/// An IPv4 address in the form of IPv6 can be reached under its IPv4 form.
#[tokio::test]
async fn a_mapped_loopback_address_is_a_loopback_address() {
    let addr: SocketAddr = "[::ffff:127.0.0.1]:0".parse().unwrap();
    let server = TestServer::start_with(|config| {
        config.server.addr = addr.into();
        config.telemetry.metrics_addr = Some(addr.into());
    })
    .await;
    assert_eq!(lookup(&server, TARGET, "host: evil.example\r\n").await.0, 403);
    let metrics = server.metrics_addr.unwrap();
    assert_eq!(
        http1_bytes(metrics, "GET /healthz HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n").await.0,
        403
    );
}

#[tokio::test]
async fn allowed_hosts_are_served_beside_loopback_ones() {
    let server = server(&["profiles.example"]).await;
    for (host, expected) in
        [("profiles.example", 200), ("Profiles.Example:443", 200), ("localhost", 200), ("a.profiles.example", 403)]
    {
        assert_eq!(lookup(&server, TARGET, &format!("host: {host}\r\n")).await.0, expected, "{host}");
    }
    assert_eq!(call(&server, "profiles.example", &[]).await.0, "0");
}
