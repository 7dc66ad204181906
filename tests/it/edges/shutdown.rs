//! Open requests do not hold a shutdown.

use std::time::{Duration, Instant};

use bytes::Bytes;
use cameo::proto::v1::*;
use futures_util::{StreamExt, stream};
use tonic_health::pb::HealthCheckRequest;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

use crate::harness::*;

/// The guarantee: far less than the drain timeout, which is 10 s.
const AT_ONCE: Duration = Duration::from_secs(1);

async fn assert_stops_at_once(server: TestServer) {
    assert_stops_within(server, AT_ONCE).await;
}

async fn assert_stops_within(server: TestServer, time: Duration) {
    let start = Instant::now();
    server.stop().await;
    assert!(start.elapsed() < time, "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_open_reflection_stream_does_not_hold_a_shutdown() {
    let server = TestServer::start().await;
    let question = Some(MessageRequest::ListServices(String::new()));
    let question = ServerReflectionRequest { message_request: question, ..Default::default() };
    let mut client = ServerReflectionClient::new(channel(server.addr).await);
    let open = client.server_reflection_info(stream::iter([question]).chain(stream::pending())).await.unwrap();
    let mut open = open.into_inner();
    within(open.message()).await.unwrap().unwrap();

    assert_stops_at_once(server).await;

    let _ended = within(open.message()).await;
}

#[tokio::test]
async fn half_of_a_head_does_not_hold_a_shutdown() {
    let server = TestServer::start().await;
    let mut connection = RawConnection::open(server.addr).await;
    connection.send("GET / HTTP/1.1\r\nhost: localhost\r\n\r\nGET /half HTTP/1.1\r\nhost:").await;
    assert!(connection.some().await.starts_with(b"HTTP/1.1 404"));
    let mut never_greeted = RawConnection::open(server.addr).await;
    never_greeted.send("GET /half HTTP").await;
    server.client().await.get(ADA).await.unwrap_err(); // It came later, so those before it were accepted.

    assert_stops_at_once(server).await;
}

#[tokio::test]
async fn half_of_a_message_does_not_hold_a_shutdown() {
    let server = TestServer::start().await;
    for path in [GET_PROFILE, "/cameo.v1.ProfileService/ImportProfiles"] {
        let mut unread = Unread::open(server.addr).await;
        let (response, mut body) = unread.begin(path).await;
        let get = GetProfileRequest { key: Some(by_mpid(ADA)), ..get_request() };
        let mut half = Bytes::from(frame(&get));
        half.truncate(half.len() - 1);
        body.send_data(half, false).unwrap();
        drop(unread.call(GET_PROFILE, &get).await); // The server has seen all that came before it on the connection.
        tokio::spawn(async move {
            let _ = (response.await, &body); // It stays open until the server ends it.
        });
    }
    assert_stops_at_once(server).await;
}

/// A response without a window is never asked for more, so it cannot end by itself. Its reader has two seconds, because a
/// slow one may be far away.
#[tokio::test]
async fn responses_that_are_not_read_do_not_hold_a_shutdown() {
    let server = TestServer::start().await;
    server.client().await.create(with_mpid(ADA)).await.unwrap();
    let mut unread = Unread::open(server.addr).await;
    let get = GetProfileRequest { key: Some(by_mpid(ADA)), ..get_request() };
    let _get = unread.call(GET_PROFILE, &get).await;
    let _watch = unread.call("/grpc.health.v1.Health/Watch", &HealthCheckRequest::default()).await;
    let _subscribe = unread.call(SUBSCRIBE, &subscribe_request()).await;
    let mut http = Unread::with_window(server.addr, 10).await;
    let request = hyper::Request::get(format!("http://{}/nothing", server.addr)).body(()).unwrap();
    let _http = within(http.ask(request).await).await.unwrap();
    assert_stops_within(server, Duration::from_secs(5)).await;
}
