//! `cameo healthcheck`: whatever listens at the address, it says in a line what is wrong.

use std::net::SocketAddr;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;

use crate::harness::*;

#[tokio::test]
async fn it_tells_a_serving_server_from_none() {
    let dir = TempDir::new().unwrap();
    let mut process = TestProcess::start(dir.path(), &[]).await;
    for service in ["", "cameo.v1.ProfileService", "cameo.v1.EventService", "cameo.v1.AdminService"] {
        let addr = process.addr.to_string();
        let check = output(binary().args(["healthcheck", "--addr", &addr, "--service", service])).await;
        assert_eq!((check.status.code(), &*check.stdout), (Some(0), &b"SERVING\n"[..]), "{check:?}");
    }
    assert_unhealthy(process.addr, "no.such.Service", "has no service \"no.such.Service\"").await;
    process.kill().await;
    assert_unhealthy(process.addr, "", "cannot connect").await;
}

/// Asserts that the check fails, and says why in a line that names the address and nothing of how the client works.
async fn assert_unhealthy(addr: SocketAddr, service: &str, said: &str) {
    let mut command = binary();
    command.args(["healthcheck", "--addr", &addr.to_string(), "--service", service, "--timeout", "20s"]);
    let check = output(command.env("RUST_BACKTRACE", "1")).await;
    assert_line(&check, addr, said);
}

fn assert_line(check: &std::process::Output, addr: SocketAddr, said: &str) {
    let told = String::from_utf8_lossy(&check.stderr);
    assert_eq!((check.status.code(), &*check.stdout), (Some(1), &b""[..]), "{told}");
    assert_eq!((told.lines().count(), told.matches(&addr.to_string()).count()), (1, 1), "{told}");
    assert!(told.contains(said), "{said}: {told}");
    for internal in ["h2", "http2", "hyper", "transport", "Status", "status:", "frame"] {
        assert!(!told.contains(internal), "{internal}: {told}");
    }
}

/// A server that sends these bytes as soon as a client has sent some. Then it closes the connection, or waits.
async fn raw_server(response: &'static [u8], closes: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let _ = socket.read(&mut [0; 1024]).await; // Errors are ignored: the client may be gone.
                let _ = socket.write_all(response).await;
                if !closes {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    addr
}

#[tokio::test]
async fn something_that_is_not_grpc_is_called_so() {
    const BAD_REQUEST: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    const PAGE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 5\r\n\r\nhello";
    for (response, closes) in [
        (BAD_REQUEST, true),
        (PAGE, false),
        (&[0xff; 64], false),
        (&[0xff; 64], true),
        (b"SSH-2.0-x\r\n", true),
        (b"", true),
    ] {
        let addr = raw_server(response, closes).await;
        assert_unhealthy(addr, "", "is not a gRPC server: check the port in --addr").await;
    }
    let addr = raw_server(b"", false).await;
    let check = output(binary().args(["healthcheck", "--timeout", "300ms", "--addr", &addr.to_string()])).await;
    assert_line(&check, addr, "accepts connections, but did not respond within 300ms");
}

/// A gRPC server of another making.
async fn grpc_server(routes: Routes) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_routes(routes);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    addr
}

#[tokio::test]
async fn a_server_that_does_not_serve_is_told_from_one_without_health() {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(cameo::proto::DESCRIPTORS)
        .build_v1()
        .unwrap();
    let addr = grpc_server(Routes::new(reflection)).await;
    assert_unhealthy(addr, "", "is a gRPC server without a health service").await;

    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("", ServingStatus::NotServing).await;
    let addr = grpc_server(Routes::new(health)).await;
    assert_unhealthy(addr, "", "is not ready: NOT_SERVING").await;

    for respond in [(axum::http::StatusCode::OK, "hello"), (axum::http::StatusCode::NOT_FOUND, "")] {
        let pages = axum::Router::new().fallback(move || async move { respond });
        let addr = grpc_server(Routes::from(pages)).await;
        assert_unhealthy(addr, "", "is not a gRPC server: check the port in --addr").await;
    }
}
