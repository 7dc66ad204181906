//! Memory that clients keep by reading nothing, and who gets it back.

use std::time::Duration;

use cameo::proto::v1::*;
use futures_util::future::select_all;
use h2::RecvStream;
use prost::Message;
use tonic::Code;
use tonic::metadata::MetadataKey;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::*;

/// Longer than any test runs.
const NEVER: Duration = Duration::from_secs(3_600);
const SHORT: Duration = Duration::from_millis(300);

/// A connection whose streams may receive a little, so that they come to their first large message.
async fn open(server: &TestServer) -> Unread {
    Unread::with_window(server.addr, 1_000).await
}

/// Takes what has arrived, and lets the server send no more.
async fn until_reset(body: &mut RecvStream) {
    loop {
        match body.data().await.expect("the stream does not end") {
            Ok(_) => {}
            Err(error) => return assert!(error.is_reset(), "{error}"),
        }
    }
}

fn get() -> GetProfileRequest {
    GetProfileRequest { key: Some(by_mpid(ADA)), ..get_request() }
}

/// The first connections that read nothing may take all of the memory, each only a little.
#[tokio::test]
async fn many_connections_that_read_nothing_make_room_for_one_that_does() {
    let server = TestServer::start_with(|config| {
        config.server.send_bytes = 1 << 20;
        config.server.send_timeout = NEVER;
    })
    .await;
    let client = server.client().await;
    client.create(large(ADA)).await.unwrap();
    let size = client.get(ADA).await.unwrap().encoded_len();
    let mut others = Vec::new();
    for _ in 0..=(1 << 20) / size {
        let mut other = open(&server).await;
        let response = other.call(GET_PROFILE, &get()).await;
        others.push((other, response));
    }
    within(client.get(ADA)).await.unwrap();
    assert!(others.iter().any(|(other, _)| other.connection.is_finished()), "the server has closed one of them");
}

/// It holds as much as it may come to, until its size is known.
#[tokio::test]
async fn a_page_that_is_not_read_holds_what_it_takes() {
    const SMALL: f64 = 10_000.0;
    let server = TestServer::start_with(metrics_on).await;
    server.client().await.create(with_mpid(ADA)).await.unwrap();
    let mut unread = Unread::open(server.addr).await;
    let list = ListProfilesRequest { workspace: WORKSPACE.to_owned(), ..ListProfilesRequest::default() };
    let _page = unread.call("/cameo.v1.ProfileService/ListProfiles", &list).await;
    let held = |metrics: &Exposition| metrics.value("cameo_response_budget_bytes");
    server.until_metrics(|metrics| held(metrics) > 0.0 && held(metrics) < SMALL).await;
}

/// A stream that waits for memory has the streams closed that keep it.
#[tokio::test]
async fn streams_that_are_not_read_stay_within_the_budget() {
    const BUDGET: usize = 1 << 20;
    const CONNECTIONS: usize = 16;
    const STREAMS: usize = 4;
    let server = TestServer::start_with(|config| {
        config.server.send_bytes = BUDGET;
        config.server.send_timeout = NEVER;
        metrics_on(config);
    })
    .await;
    let mut others = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut other = open(&server).await;
        let mut streams = Vec::new();
        for _ in 0..STREAMS {
            streams.push(other.call(SUBSCRIBE, &subscribe_request()).await);
        }
        others.push((other, streams));
    }
    server.client().await.create(large(ADA)).await.unwrap();
    #[allow(clippy::cast_precision_loss)] // It is small.
    within(async {
        while !others.iter().any(|(other, _)| other.connection.is_finished()) {
            let held = server.metrics().await.value("cameo_response_budget_bytes");
            assert!(held < 2.0 * BUDGET as f64, "{held}");
        }
    })
    .await;
}

/// A stream keeps the head of its request as long as it is open.
#[tokio::test]
async fn large_heads_count_in_the_budget_of_requests() {
    const HEADERS: usize = 40;
    const MOST_STREAMS: usize = 200;
    let server = TestServer::start_with(|config| config.server.receive_bytes = 1 << 20).await;
    let client = server.client().await;
    let request = || {
        let mut request = tonic::Request::new(subscribe_request());
        for number in 0..HEADERS {
            let name = MetadataKey::from_bytes(format!("x-{number}").as_bytes()).unwrap();
            request.metadata_mut().insert(name, "a".repeat(50).parse().unwrap());
        }
        request
    };
    let mut streams = Vec::new();
    let refused = loop {
        match within(client.events.clone().subscribe(request())).await {
            Ok(stream) => streams.push(stream),
            Err(refused) => break refused,
        }
        assert!(streams.len() < MOST_STREAMS, "nothing is refused");
    };
    assert_refused(Err::<(), _>(refused), Code::ResourceExhausted, "OVERLOADED", "");
    let usual = client.listen().await;
    drop(streams);
    within(async { while client.events.clone().subscribe(request()).await.is_err() {} }).await;
    drop(usual);
}

/// Lookups over HTTP have no message that would be refused.
#[tokio::test]
async fn heads_of_lookups_over_http_count_too() {
    const MOST_LOOKUPS: usize = 200;
    const BUDGET: usize = 1 << 20;
    const SHARE: f64 = 131_072.0; // An eighth.
    let server = TestServer::start_with(|config| {
        config.server.receive_bytes = 4 * BUDGET;
        config.server.send_bytes = BUDGET;
        config.server.send_timeout = NEVER;
        metrics_on(config);
    })
    .await;
    server.client().await.create(large(ADA)).await.unwrap();
    let mut unread = open(&server).await;
    let _response = unread.call(GET_PROFILE, &get()).await;
    server.until_metrics(|metrics| metrics.value("cameo_response_budget_bytes") >= SHARE).await; // Others wait.
    let lookup = hyper::Request::get(format!("http://{}/userprofile/v1/{WORKSPACE}/{ADA}", server.addr));
    let lookup = (0..40).fold(lookup, |lookup, number| lookup.header(format!("x-{number}"), "a".repeat(50)));
    let lookup = lookup.body(()).unwrap();
    let mut waiting = Vec::new();
    for _ in 0..MOST_LOOKUPS {
        waiting.push(unread.ask(lookup.clone()).await);
    }
    let (first, _, _) = within(select_all(waiting)).await;
    assert_eq!(first.unwrap().status(), 429);
}

/// Responses to writes are never refused, so a client that goes on writing must be stopped in another way.
#[tokio::test]
async fn a_connection_that_writes_and_reads_nothing_is_closed() {
    /// They begin before the first of them is committed. Two responses are more than the share.
    const UPDATES: usize = 32;
    let server = TestServer::start_with(|config| {
        config.server.send_bytes = 1 << 20;
        config.server.send_timeout = NEVER;
    })
    .await;
    server.client().await.create(large(ADA)).await.unwrap();
    let mut other = open(&server).await;
    let mut responses = Vec::new();
    for _ in 0..UPDATES {
        let update = UpdateProfileRequest { patch: Some(increment("n")), ..update_request(ADA) };
        responses.push(other.send("/cameo.v1.ProfileService/UpdateProfile", &update).await);
    }
    let _ = within(other.connection).await; // It ends.
}

/// Its client does nothing at all, so the server itself must end the stream, and give back what it holds.
#[tokio::test]
async fn a_stalled_subscriber_keeps_neither_memory_nor_a_place() {
    let server = TestServer::start_with(|config| {
        config.feed.stall_timeout = SHORT;
        config.server.send_timeout = SHORT;
        metrics_on(config);
    })
    .await;
    server.client().await.create(large(ADA)).await.unwrap();
    let start = Some(subscribe_request::Start::Earliest(true));

    let mut stalled = open(&server).await.call(SUBSCRIBE, &SubscribeRequest { start, ..subscribe_request() }).await;

    within(until_reset(&mut stalled)).await;
    let calls = "cameo_calls_in_flight{method=\"EventService/Subscribe\"}";
    let gauges = [calls, "cameo_response_budget_bytes", "cameo_streams", "cameo_reads_in_flight"];
    // The server counts it a moment later.
    let metrics = server.until_metrics(|metrics| gauges.iter().all(|gauge| metrics.value(gauge) == 0.0)).await;
    assert!(metrics.family("cameo_subscribers").is_empty());
}

/// A client that waits for events reads all there is.
#[tokio::test]
async fn a_quiet_stream_has_no_time_limit() {
    let server = TestServer::start_with(|config| {
        config.feed.stall_timeout = SHORT;
        config.server.send_timeout = SHORT;
    })
    .await;
    let client = server.client().await;
    let mut quiet = client.listen().await;
    client.create(large(GRACE)).await.unwrap();
    assert_eq!(quiet.event().await.1.mpid, GRACE);
    for _ in 0..2 {
        let start = Some(subscribe_request::Start::Earliest(true));
        let mut stalled = open(&server).await.call(SUBSCRIBE, &SubscribeRequest { start, ..subscribe_request() }).await;
        within(until_reset(&mut stalled)).await; // The time has passed.
    }
    client.create(with_mpid(ADA)).await.unwrap();
    assert_eq!(quiet.event().await.1.mpid, ADA);
}

/// Checks that send nothing of their message would hold memory that no limit counts. Strangers can make them, so they take
/// no place of calls.
#[tokio::test]
async fn health_checks_beyond_a_few_hundred_have_a_few_places_of_their_own() {
    const CHECKS: usize = 256;
    let server = TestServer::start_with(|config| {
        config.server.max_calls = 1;
        config.server.receive_timeout = NEVER;
    })
    .await;
    let mut unread = open(&server).await;
    let mut unfinished = Vec::new();
    for _ in 0..=CHECKS {
        unfinished.push(unread.begin("/grpc.health.v1.Health/Check").await);
    }
    let mut health = HealthClient::new(channel(server.addr).await);
    within(async {
        // The server has not seen all of them at once.
        while health.check(HealthCheckRequest::default()).await.is_ok() {}
    })
    .await;
    assert_refused(health.check(HealthCheckRequest::default()).await, Code::ResourceExhausted, "OVERLOADED", "");
    let _stream = server.client().await.listen().await; // It is the one call that there may be.
    drop(unfinished);
    within(async { while health.check(HealthCheckRequest::default()).await.is_err() {} }).await;
}
