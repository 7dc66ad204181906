//! How many calls and connections there may be.

use cameo::config::Config;
use cameo::proto::v1::GetProfileRequest;
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

/// Lookups wait until memory for responses is free. A health check does not.
#[tokio::test]
async fn a_health_check_is_served_while_responses_are_not_read() {
    let server = TestServer::start_with(|config| config.server.send_bytes = 1 << 10).await;
    let client = server.client().await;
    client.create(large(ADA)).await.unwrap();
    let get = GetProfileRequest { key: Some(by_mpid(ADA)), ..get_request() };
    let mut unread = Unread::open(server.addr).await;
    let _response = unread.call(GET_PROFILE, &get).await;
    tokio::select! {
        biased;
        _ = client.get(ADA) => panic!("there is no room for a response"),
        () = within(health_check(&server)) => {}
    }
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

#[tokio::test]
async fn a_connection_beyond_the_limit_is_served_once_there_is_room() {
    let server = TestServer::start_with(|config| config.server.max_connections = 2).await;
    let (one, other) = (server.client().await, server.client().await);
    let (stream, _other_stream) = (one.listen().await, other.listen().await);
    let third = server.client().await;
    assert_refused(third.get(ADA).await, Code::ResourceExhausted, "OVERLOADED", "");
    drop((stream, one));
    within(async {
        while third.get(ADA).await.unwrap_err().code() != Code::NotFound {} // The server sees the end a moment later.
    })
    .await;
}

/// There is room for a few health checks beyond the limit, and connections that say nothing must not take it.
#[tokio::test]
async fn silent_connections_do_not_take_the_place_of_health_checks() {
    const SILENT: usize = 40;
    let server = TestServer::start_with(|config| config.server.max_connections = 1).await;
    let client = server.client().await;
    let _stream = client.listen().await;
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        silent.push(RawConnection::open(server.addr).await);
    }
    health_check(&server).await;
    for mut connection in silent {
        connection.rest().await; // The server closes them all.
    }
}

#[tokio::test]
async fn watches_of_the_health_may_be_a_quarter_as_many_as_calls() {
    assert_watches_are_two(|config| config.server.max_calls = 8).await;
}

/// Each may be on a connection of its own, which then makes no room for others.
#[tokio::test]
async fn watches_of_the_health_may_be_a_quarter_as_many_as_connections() {
    assert_watches_are_two(|config| config.server.max_connections = 8).await;
}

async fn assert_watches_are_two(change: impl FnOnce(&mut Config)) {
    let server = TestServer::start_with(change).await;
    let mut health = HealthClient::new(channel(server.addr).await);
    let one = health.watch(HealthCheckRequest::default()).await.unwrap();
    let _other = health.watch(HealthCheckRequest::default()).await.unwrap();
    let refused = health.watch(HealthCheckRequest::default()).await;
    assert_refused(refused.map(|_| ()), Code::ResourceExhausted, "OVERLOADED", "");
    for _ in 0..5 {
        health_check(&server).await; // They do not count.
    }
    drop(one);
    within(async { while health.watch(HealthCheckRequest::default()).await.is_err() {} }).await;
}

#[tokio::test]
async fn a_head_may_have_no_more_than_8_kib() {
    let server = TestServer::start().await;
    let message = || http_body_util::Full::new(bytes::Bytes::from(frame(&get_request())));
    let request =
        |headers: usize| (0..headers).fold(grpc_post(GET_PROFILE), |request, n| request.header(format!("x-{n}"), "1"));
    let served = http2_request(server.addr, request(100).body(message()).unwrap()).await;
    assert_eq!(served.header("grpc-status"), "3", "there is no key in the request");
    let refused = http2_request(server.addr, request(300).body(message()).unwrap()).await;
    assert_eq!(refused.status, 431);
}
