//! How many calls and connections there may be.

use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::*;

#[tokio::test]
async fn many_streams_and_calls_share_a_channel() {
    const STREAMS: usize = 300;
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(with_mpid(ADA)).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(client.listen().await);
        assert_eq!(client.get(ADA).await.unwrap().mpid, ADA);
    }
    client.update(ADA, increment("n")).await.unwrap();
    for stream in &mut streams {
        assert_eq!(stream.event().await.1.sequence, 2);
    }
}

/// A health check, on a connection of its own.
async fn health_check(server: &TestServer) {
    HealthClient::new(channel(server.addr).await).check(HealthCheckRequest::default()).await.unwrap();
}

#[tokio::test]
async fn one_call_too_many_is_refused_and_a_health_check_is_served() {
    let server = TestServer::start_with(|config| config.server.max_calls = 2).await;
    let client = server.client().await;
    let (first, _second) = (client.listen().await, client.listen().await);
    assert_refused(client.get(ADA).await, Code::ResourceExhausted, "OVERLOADED", "");
    health_check(&server).await;

    drop(first);

    within(async {
        while client.get(ADA).await.unwrap_err().code() != Code::NotFound {} // The server sees the end a moment later.
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_makes_room_for_a_new_one() {
    let server = TestServer::start_with(|config| config.server.max_connections = 2).await;
    let busy = server.client().await;
    let mut stream = busy.listen().await;
    let mut idle = RawConnection::open(server.addr).await;
    idle.send("GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(idle.some().await.starts_with(b"HTTP/1.1 404"));

    let new = server.client().await;
    new.create(with_mpid(ADA)).await.unwrap();

    idle.rest().await; // The server has closed it.
    assert_eq!(stream.event().await.1.sequence, 1, "the busy one is still open");
}

#[tokio::test]
async fn a_connection_beyond_the_limit_is_told_why() {
    let server = TestServer::start_with(|config| config.server.max_connections = 2).await;
    let (one, other) = (server.client().await, server.client().await);
    let _streams = (one.listen().await, other.listen().await);

    let refused = server.client().await.get(ADA).await;

    assert!(refused.as_ref().unwrap_err().message().contains("2 connections"), "{refused:?}");
    assert_refused(refused, Code::ResourceExhausted, "OVERLOADED", "");
    health_check(&server).await;
    let response = http(server.addr, "GET", "acme/main/web/1", &[], "").await;
    assert_eq!(response.json()["reason"], "OVERLOADED");
}
