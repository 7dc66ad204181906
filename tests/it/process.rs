//! The real binary: its flags and its signals.
//!
//! - [`errors`]: what it says when it cannot start. [`healthcheck`]: what the health check says of what it finds.

mod errors;
mod healthcheck;

use cameo::proto::v1::subscribe_response::Message;
use tempfile::TempDir;
use tonic::Code;

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

#[tokio::test]
async fn a_watch_of_health_does_not_hold_up_a_drain() {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let dir = TempDir::new().unwrap();
    let mut process = TestProcess::start(dir.path(), &["--drain-timeout", "3600"]).await;
    let mut health = HealthClient::new(channel(process.addr).await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(within(watch.message()).await.unwrap().unwrap().status(), ServingStatus::Serving);

    process.terminate();

    assert_eq!(within(watch.message()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(process.ended().await.success(), "long before the drain timeout");
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
