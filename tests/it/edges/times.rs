//! How long connections, requests and responses may take.

use std::time::{Duration, Instant};

use cameo::proto::v1::*;
use futures_util::{StreamExt, stream};
use tokio::sync::oneshot;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;

use crate::harness::*;

/// Short, so that the tests are.
const LIMIT: Duration = Duration::from_millis(300);
/// The preface of HTTP/2 and an empty frame of settings.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[tokio::test]
async fn a_request_that_does_not_arrive_in_time_is_refused() {
    let server = TestServer::start_with(|config| config.server.receive_timeout = LIMIT).await;
    let whole = frame(&record(by_mpid(ADA), increment("n")));
    for path in [GET_PROFILE, "/cameo.v1.ProfileService/ImportProfiles"] {
        let half = whole[..whole.len() - 1].to_vec();
        let response = http2_request(server.addr, grpc_post(path).body(endless(half)).unwrap()).await;
        let status = tonic::Status::from_header_map(&response.headers).unwrap();
        assert_refused(Err::<(), _>(status), Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "");
    }
}

/// As long as it takes to arrive, its connection makes no room for others.
#[tokio::test]
async fn a_health_check_has_a_thirtieth_of_the_time_to_arrive() {
    let server = TestServer::start_with(|config| config.server.receive_timeout = 30 * LIMIT).await;
    let start = Instant::now();
    let check = grpc_post("/grpc.health.v1.Health/Check").body(endless(Vec::new())).unwrap();
    let response = http2_request(server.addr, check).await;
    let status = tonic::Status::from_header_map(&response.headers).unwrap();
    assert_refused(Err::<(), _>(status), Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "");
    let time = start.elapsed();
    assert!(LIMIT <= time && time < 30 * LIMIT, "{time:?}");
}

/// A server whose responses must be read within the limit.
async fn impatient_server() -> TestServer {
    TestServer::start_with(|config| {
        config.server.send_timeout = LIMIT;
        metrics_on(config);
    })
    .await
}

#[tokio::test]
async fn a_response_that_is_not_read_is_reset() {
    let server = impatient_server().await;
    server.client().await.create(large(ADA)).await.unwrap();
    let get = GetProfileRequest { key: Some(by_mpid(ADA)), ..get_request() };

    let mut response = Unread::open(server.addr).await.call(GET_PROFILE, &get).await;

    assert!(within(response.data()).await.unwrap().unwrap_err().is_reset());
}

/// An import responds at its end. The other response shows that the time is up.
#[tokio::test]
async fn a_response_that_has_not_begun_has_no_time_limit() {
    let server = impatient_server().await;
    let client = server.client().await;
    client.create(large(ADA)).await.unwrap();
    let (end, is_ended) = oneshot::channel();
    let until_ended = stream::once(is_ended).filter_map(async |_: Result<(), _>| None);
    let records = stream::iter([record(by_mpid(GRACE), increment("n"))]).chain(Box::pin(until_ended));
    let mut profiles = client.profiles.clone();
    let import = tokio::spawn(async move { profiles.import_profiles(records).await });
    let get = GetProfileRequest { key: Some(by_mpid(ADA)), ..get_request() };
    let mut response = Unread::open(server.addr).await.call(GET_PROFILE, &get).await;
    assert!(within(response.data()).await.unwrap().unwrap_err().is_reset());
    end.send(()).unwrap();
    assert_eq!(within(import).await.unwrap().unwrap().into_inner().created, 1);
}

/// Its last piece waits in the transport, with no task of ours. So its connection is closed, also if it has a stream.
#[tokio::test]
async fn a_response_over_http_of_which_the_end_is_not_read_ends_its_connection() {
    let server = impatient_server().await;
    let mut unread = Unread::with_window(server.addr, 10).await;
    let _stream = unread.call("/grpc.health.v1.Health/Watch", &HealthCheckRequest::default()).await;
    let request = hyper::Request::get(format!("http://{}/nothing", server.addr)).body(()).unwrap();
    let mut response = within(unread.ask(request).await).await.unwrap().into_body();
    assert_eq!(within(response.data()).await.unwrap().unwrap().len(), 10);
    let _ = within(unread.connection).await; // It ends.
    server.until_metrics(|metrics| metrics.value("cameo_response_budget_bytes") == 0.0).await;
}

/// A slow subscriber is not an error. The response beside it shows that the time is up.
#[tokio::test]
async fn a_stream_that_is_not_read_stays_open() {
    let server = impatient_server().await;
    server.client().await.create(large(ADA)).await.unwrap();
    let mut unread = Unread::open(server.addr).await;
    let get = GetProfileRequest { key: Some(by_mpid(ADA)), ..get_request() };
    let _stream = unread.call(SUBSCRIBE, &subscribe_request()).await;
    let mut response = unread.call(GET_PROFILE, &get).await;
    assert!(within(response.data()).await.unwrap().unwrap_err().is_reset());
    server.metrics().await.assert(&[("cameo_streams", 1.0)]);
}

/// Its length is enough to refuse it.
#[tokio::test]
async fn a_record_that_is_too_large_is_not_waited_for() {
    let server = TestServer::start().await;
    let mut begun = vec![0];
    begun.extend((2_u32 << 20).to_be_bytes());
    let request = grpc_post("/cameo.v1.ProfileService/ImportProfiles").body(endless(begun)).unwrap();
    let refused = http2_request(server.addr, request).await;
    let status = tonic::Status::from_header_map(&refused.headers).unwrap();
    assert_refused(Err::<(), _>(status), tonic::Code::ResourceExhausted, "LIMIT_EXCEEDED", "");
}

#[tokio::test]
async fn a_connection_without_calls_is_told_to_go_away() {
    const GO_AWAY: u8 = 7;
    let server = TestServer::start_with(|config| config.server.idle_timeout = Duration::from_secs(1)).await;
    let mut connection = RawConnection::open(server.addr).await;
    connection.send(GREETING).await;
    let bytes = connection.rest().await;
    let mut rest = &*bytes;
    let mut reasons = Vec::new();
    while let Some((header, after)) = rest.split_at_checked(9) {
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        if header[3] == GO_AWAY {
            reasons.push(u32::from_be_bytes(after[4..8].try_into().unwrap()));
        }
        rest = &after[length..];
    }
    assert_eq!(reasons.last(), Some(&0), "NO_ERROR, in {bytes:?}");
}

#[tokio::test]
async fn a_connection_must_say_which_protocol_it_speaks() {
    let server = TestServer::start_with(|config| config.server.handshake_timeout = LIMIT).await;
    let client = server.client().await;
    for greeting in
        [&[][..], &GREETING[..12], b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nhost: localhost\r\nuser-agent: x"]
    {
        let mut connection = RawConnection::open(server.addr).await;
        connection.send(greeting).await;
        connection.rest().await; // The server has closed it.
    }
    client.create(with_mpid(ADA)).await.unwrap();
}
