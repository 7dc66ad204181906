//! Memory that clients keep by reading nothing, and who gets it back.

use std::time::Duration;

use bytes::Bytes;
use cameo::proto::v1::*;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use prost::Message;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::*;

/// Longer than any test runs.
const NEVER: Duration = Duration::from_secs(3_600);
const SHORT: Duration = Duration::from_millis(300);
const SUBSCRIBE: &str = "/cameo.v1.EventService/Subscribe";
const CHECK: &str = "/grpc.health.v1.Health/Check";

/// A connection that reads none of its responses.
struct Unread {
    server: std::net::SocketAddr,
    requests: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
    bodies: Vec<RecvStream>,
    unfinished: Vec<SendStream<Bytes>>,
}

impl Unread {
    /// Each stream may receive a little, so that it comes to its first large message.
    async fn open(server: &TestServer) -> Self {
        let (requests, connection) = with_window(server.addr, 1_000).await;
        Self { server: server.addr, requests, connection, bodies: Vec::new(), unfinished: Vec::new() }
    }

    /// Makes a call, and waits until its response has begun.
    async fn call(&mut self, path: &str, message: &impl Message) {
        let (response, mut body) = self.begin(path).await;
        body.send_data(Bytes::from(frame(message)), true).unwrap();
        self.bodies.push(within(response).await.unwrap().into_body());
    }

    /// Begins a call, and sends nothing of its message.
    async fn begin(&mut self, path: &str) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        self.requests = within(self.requests.clone().ready()).await.unwrap();
        let request = grpc_post(&format!("http://{}{path}", self.server)).body(()).unwrap();
        self.requests.send_request(request, false).unwrap()
    }
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
        let mut other = Unread::open(&server).await;
        other.call(GET_PROFILE, &get()).await;
        others.push(other);
    }
    within(client.get(ADA)).await.unwrap();
    assert!(others.iter().any(|other| other.connection.is_finished()), "the server has closed one of them");
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
        let mut other = Unread::open(&server).await;
        for _ in 0..STREAMS {
            other.call(SUBSCRIBE, &subscribe_request()).await;
        }
        others.push(other);
    }
    server.client().await.create(large(ADA)).await.unwrap();
    #[allow(clippy::cast_precision_loss)] // It is small.
    within(async {
        while !others.iter().any(|other| other.connection.is_finished()) {
            let held = server.metrics().await.value("cameo_response_budget_bytes");
            assert!(held < 2.0 * BUDGET as f64, "{held}");
        }
    })
    .await;
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
    let mut other = Unread::open(&server).await;
    let mut responses = Vec::new();
    for _ in 0..UPDATES {
        let (response, mut body) = other.begin("/cameo.v1.ProfileService/UpdateProfile").await;
        let update = UpdateProfileRequest { patch: Some(increment("n")), ..update_request(ADA) };
        body.send_data(Bytes::from(frame(&update)), true).unwrap();
        responses.push(response);
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
    let mut stalled = Unread::open(&server).await;
    stalled.call(SUBSCRIBE, &SubscribeRequest { start, ..subscribe_request() }).await;

    let mut body = stalled.bodies.pop().unwrap();

    within(until_reset(&mut body)).await;
    within(async {
        let subscribers = "cameo_calls_in_flight{method=\"EventService/Subscribe\"}";
        let gauges = [subscribers, "cameo_response_budget_bytes", "cameo_streams"];
        loop {
            let metrics = server.metrics().await;
            if gauges.iter().all(|gauge| metrics.value(gauge) == 0.0) {
                return; // The server counts it a moment later.
            }
        }
    })
    .await;
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
    let start = Some(subscribe_request::Start::Earliest(true));
    let mut stalled = Unread::open(&server).await;
    stalled.call(SUBSCRIBE, &SubscribeRequest { start, ..subscribe_request() }).await;
    let mut body = stalled.bodies.pop().unwrap();
    within(until_reset(&mut body)).await; // Twice the time has passed.
    client.create(with_mpid(ADA)).await.unwrap();
    assert_eq!(quiet.event().await.1.mpid, ADA);
}

/// Checks that send nothing of their message would hold memory that no limit counts.
#[tokio::test]
async fn health_checks_beyond_a_few_hundred_are_calls_like_others() {
    const CHECKS: usize = 256;
    let server = TestServer::start_with(|config| config.server.max_calls = 1).await;
    let _stream = server.client().await.listen().await;
    let mut unread = Unread::open(&server).await;
    for _ in 0..CHECKS {
        let (_, unfinished) = unread.begin(CHECK).await;
        unread.unfinished.push(unfinished);
    }
    let mut health = HealthClient::new(channel(server.addr).await);
    within(async {
        // The server has not seen all of them at once.
        while health.check(HealthCheckRequest::default()).await.is_ok() {}
    })
    .await;
    assert_refused(health.check(HealthCheckRequest::default()).await, Code::ResourceExhausted, "OVERLOADED", "");
    drop(unread);
    within(async { while health.check(HealthCheckRequest::default()).await.is_err() {} }).await;
}
