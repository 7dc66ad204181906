//! The real binary: its flags and its signals.
//!
//! - [`descriptor`]: the API for proxies.
//! - [`greeting`]: what it prints when it has. [`errors`]: what it says when it cannot start. [`healthcheck`]: what the health check says of what it finds.

mod descriptor;
mod errors;
mod forward;
mod greeting;
mod healthcheck;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::Stdio;

use bytes::Bytes;
use cameo::proto::v1::subscribe_response::Message;
use futures_util::stream;
use http_body_util::{Either, Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;
use tempfile::{NamedTempFile, TempDir};
use tokio::net::TcpStream;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::harness::*;

#[tokio::test]
async fn sigterm_drains_and_streams_end_with_their_cursor() {
    let dir = TempDir::new().unwrap();
    let mut process = TestProcess::start(dir.path(), &[]).await;
    let client = process.client().await;
    let mut stream = client.subscribe_from(None).await;
    assert!(matches!(stream.message().await.1, Message::Opened(_)));
    client.create(with_mpid(ADA)).await.unwrap();
    assert_eq!(stream.event().await.1.sequence, 1);

    process.terminate();

    let status = stream.failure().await;
    assert_eq!((status.code(), &*reason(&status)), (Code::Unavailable, "SERVER_DRAINING"));
    assert!(process.ended().await.success());
    let process = TestProcess::start(dir.path(), &[]).await;
    let client = process.client().await;
    client.create(with_mpid(GRACE)).await.unwrap();
    let mut resumed = client.subscribe_from(after(&metadata(&status, "cursor"))).await;
    assert_eq!(resumed.event().await.1.sequence, 2);
}

/// A stream that says when health changes.
async fn watch(process: &TestProcess) -> tonic::Streaming<tonic_health::pb::HealthCheckResponse> {
    let mut health = HealthClient::new(channel(process.addr).await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(within(watch.message()).await.unwrap().unwrap().status(), ServingStatus::Serving);
    watch
}

#[tokio::test]
async fn a_watch_of_health_does_not_hold_up_a_drain() {
    let dir = TempDir::new().unwrap();
    let mut process = TestProcess::start(dir.path(), &["--drain-timeout", "3600"]).await;
    let mut watch = watch(&process).await;

    process.terminate();

    assert_eq!(within(watch.message()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(process.ended().await.success(), "long before the drain timeout");
}

/// The body of a message that is whole, or of one that never comes.
type Body = Either<Full<Bytes>, StreamBody<stream::Pending<Result<Frame<Bytes>, Infallible>>>>;

/// Opens a call whose message never comes. Returns when the server has accepted it. It stays open while what is
/// returned is held.
async fn hold_a_call_open(addr: SocketAddr) -> impl Sized {
    let socket = TokioIo::new(TcpStream::connect(addr).await.unwrap());
    let (mut connection, driver) = http2::handshake::<_, _, Body>(TokioExecutor::new(), socket).await.unwrap();
    tokio::spawn(driver);
    let mut call = |method: &str, body| {
        let request = hyper::Request::post(format!("http://{addr}/{method}"));
        connection.send_request(request.header("content-type", "application/grpc").body(body).unwrap())
    };
    let held = call("cameo.v1.ProfileService/GetProfile", Either::Right(StreamBody::new(stream::pending())));
    // The server accepts the calls of a connection in order.
    let empty_message = Full::from(Bytes::from_static(&[0; 5]));
    let next = call("grpc.health.v1.Health/Check", Either::Left(empty_message));
    assert_eq!(within(next).await.unwrap().status(), 200);
    (held, connection)
}

/// The first signal drains. The second one ends the process at once, although the drain could take another hour.
#[tokio::test]
async fn a_second_signal_ends_a_drain_at_once() {
    for (first, second, status) in
        [(Signal::INT, Signal::INT, 130), (Signal::TERM, Signal::TERM, 143), (Signal::TERM, Signal::INT, 130)]
    {
        let (dir, log) = (TempDir::new().unwrap(), NamedTempFile::new().unwrap());
        let mut command = binary();
        command.stderr(Stdio::from(log.reopen().unwrap()));
        let mut process = TestProcess::start_as(&mut command, dir.path(), &["--drain-timeout", "3600"]).await;
        let mut watch = watch(&process).await;
        let held = hold_a_call_open(process.addr).await;

        process.signal(first);
        assert_eq!(within(watch.message()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
        process.signal(second);

        assert_eq!(process.ended().await.code(), Some(status), "after {first:?} and {second:?}");
        let log = std::fs::read_to_string(log.path()).unwrap();
        assert!(log.contains("a second signal: the process ends without draining"), "{log}");
        drop(held);
    }
}

#[tokio::test]
async fn a_drain_is_bounded_even_if_a_client_takes_nothing() {
    /// So many events of 60 kB do not fit into the windows of the connection.
    const MORE_THAN_ITS_WINDOWS: i64 = 199;
    let dir = TempDir::new().unwrap();
    let mut process = TestProcess::start(dir.path(), &["--drain-timeout", "1"]).await;
    let client = process.client().await;
    let stuck = client.subscribe_from(None).await; // Never read from again.
    for mpid in 1..=MORE_THAN_ITS_WINDOWS {
        client.create(padded(mpid)).await.unwrap();
    }
    process.terminate();
    assert!(process.ended().await.success(), "although a stream is stuck");
    drop(stuck);
}

#[tokio::test]
async fn a_host_may_have_a_name() {
    let dir = TempDir::new().unwrap();
    let process = TestProcess::start(dir.path(), &["--addr", "localhost:0"]).await;
    assert!(process.addr.is_ipv4(), "127.0.0.1 is what people expect of localhost");
    let name = format!("localhost:{}", process.addr.port());
    let check = output(binary().args(["healthcheck", "--addr", &name])).await;
    assert!(check.status.success(), "{check:?}");
}

#[tokio::test]
async fn flags_may_stand_before_the_command() {
    let dir = TempDir::new().unwrap();
    let process = TestProcess::start(dir.path(), &["serve"]).await;
    let check = output(binary().args(["--addr", &process.addr.to_string(), "--timeout", "60s", "healthcheck"])).await;
    assert_eq!((check.status.code(), &*check.stdout), (Some(0), &b"SERVING\n"[..]), "{check:?}");
}

#[tokio::test]
async fn an_address_that_others_can_reach_needs_insecure() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().to_str().unwrap();
    let refused = output(binary().args(["serve", "--addr", "0.0.0.0:0", "--data-dir", data])).await;
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--insecure"));
    TestProcess::start(dir.path(), &["--addr", "0.0.0.0:0", "--insecure"]).await.client().await;
}

#[tokio::test]
async fn settings_come_from_the_environment_and_flags_win() {
    let dir = TempDir::new().unwrap();
    let help = output(binary().args(["serve", "--help"])).await;
    let help = String::from_utf8(help.stdout).unwrap();
    for flag in help
        .lines()
        .filter_map(|line| line.trim().strip_prefix("--"))
        .map(|line| line.split([' ', '[']).next().unwrap())
    {
        let variable = format!("CAMEO_{}", flag.to_uppercase().replace('-', "_"));
        assert!(help.contains(&format!("[env: {variable}=")), "--{flag} has {variable}");
    }
    let refused = output(binary().env("CAMEO_QUEUE_COMMANDS", "0")).await;
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("it must be a whole number, from 1"),
        "the variable takes effect"
    );
    let mut addressed = binary();
    addressed.env("CAMEO_ADDR", "127.0.0.1:0").env("CAMEO_DATA_DIR", dir.path()).args(["--addr", "0.0.0.0:0"]);
    let refused = output(&mut addressed).await;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("0.0.0.0:0 can be reached"));
}
