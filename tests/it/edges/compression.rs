//! gzip and zstd inside gRPC.

use bytes::Bytes;
use cameo::proto::v1::admin_service_client::AdminServiceClient;
use cameo::proto::v1::event_service_client::EventServiceClient;
use cameo::proto::v1::profile_service_client::ProfileServiceClient;
use cameo::proto::v1::*;
use futures_util::stream;
use http_body_util::Full;
use tonic::codec::CompressionEncoding::{self, Gzip, Zstd};
use tonic::{Code, Response};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

use crate::harness::*;

const ENCODINGS: [(CompressionEncoding, &str); 2] = [(Gzip, "gzip"), (Zstd, "zstd")];

/// The messages of a response, if it says that it is compressed in this way.
#[track_caller]
fn compressed<T>(response: Response<T>, encoding: &str) -> T {
    assert_eq!(response.metadata().get("grpc-encoding").expect("it is compressed"), encoding);
    response.into_inner()
}

#[tokio::test]
async fn every_service_takes_and_sends_compressed_messages() {
    for (encoding, name) in ENCODINGS {
        let server = TestServer::start().await;
        let channel = channel(server.addr).await;

        let mut profiles =
            ProfileServiceClient::new(channel.clone()).send_compressed(encoding).accept_compressed(encoding);
        let create = CreateProfileRequest { profile: Some(padded(ADA)), ..create_request() };
        compressed(profiles.create_profile(create).await.unwrap(), name);
        let imported = profiles.import_profiles(stream::iter([record(by_mpid(GRACE), increment("n"))])).await.unwrap();
        assert_eq!(compressed(imported, name).created, 1);
        let page = compressed(profiles.list_profiles(page_request()).await.unwrap(), name);
        assert_eq!(mpids_of(&page.profiles), [ADA, GRACE]);

        let mut events = EventServiceClient::new(channel.clone()).send_compressed(encoding).accept_compressed(encoding);
        let request = SubscribeRequest { start: earliest(), ..subscribe_request() };
        let mut stream = Stream(compressed(events.subscribe(request).await.unwrap(), name));
        assert_eq!(stream.sequences(2).await, [1, 2]);

        let mut admin = AdminServiceClient::new(channel.clone()).send_compressed(encoding).accept_compressed(encoding);
        let status = GetStatusRequest { workspace: WORKSPACE.into() };
        assert!(!compressed(admin.get_status(status).await.unwrap(), name).version.is_empty());

        let mut health = HealthClient::new(channel.clone()).send_compressed(encoding).accept_compressed(encoding);
        compressed(health.check(HealthCheckRequest::default()).await.unwrap(), name);

        let mut reflection = ServerReflectionClient::new(channel).send_compressed(encoding).accept_compressed(encoding);
        let question = Some(MessageRequest::ListServices(String::new()));
        let question = ServerReflectionRequest { message_request: question, ..Default::default() };
        let response = reflection.server_reflection_info(stream::iter([question])).await.unwrap();
        assert!(within(compressed(response, name).message()).await.unwrap().is_some());
    }
}

/// A client that accepts no compression gets none.
#[tokio::test]
async fn responses_are_plain_unless_the_client_accepts_more() {
    let server = TestServer::start().await;
    let mut profiles = ProfileServiceClient::new(channel(server.addr).await).send_compressed(Gzip);
    let response = profiles.list_profiles(page_request()).await.unwrap();
    assert!(response.metadata().get("grpc-encoding").is_none());
}

/// Many clients ask for compression by default. It costs more than it saves for most lookups.
#[tokio::test]
async fn lookups_are_compressed_from_1024_bytes_on() {
    const HEADER: usize = 5;
    let server = TestServer::start_with(metrics_on).await;
    let client = server.client().await;
    client.create(with_mpid(ADA)).await.unwrap();
    let get = GetProfileRequest { key: Some(by_mpid(ADA)), read_mask: mask(&["user_attributes"]), ..get_request() };
    let found = async |pad: usize| {
        client.update(ADA, set([("pad", text(&"x".repeat(pad)))])).await.unwrap();
        let request = grpc_post(GET_PROFILE).header("grpc-accept-encoding", "gzip");
        let request = request.body(Full::new(Bytes::from(frame(&get)))).unwrap();
        http2_request(server.addr, request).await.body
    };
    let around = found(800).await.len() - HEADER - 800;
    for (size, is_compressed) in [(1_023, 0), (1_024, 1)] {
        assert_eq!(found(size - around).await[0], is_compressed, "{size}");
    }
    let lookups = "cameo_calls_total{method=\"ProfileService/GetProfile\",code=\"OK\",reason=\"\"}";
    server.until_metrics(|metrics| (metrics.value(lookups) - 3.0).abs() < 0.5).await;
}

#[tokio::test]
async fn a_small_message_that_unpacks_to_a_large_one_is_refused() {
    /// Many times the limit of a request, and a few KiB when it is compressed.
    const UNPACKED: usize = 32 << 20;
    let server = TestServer::start().await;
    for (encoding, name) in ENCODINGS {
        let mut profiles = ProfileServiceClient::new(channel(server.addr).await).send_compressed(encoding);
        let patch = Some(set([("bomb", text(&"0".repeat(UNPACKED)))]));
        let refused = profiles.update_profile(UpdateProfileRequest { patch, ..update_request(ADA) }).await;
        assert_refused(refused, Code::ResourceExhausted, "LIMIT_EXCEEDED", "");
        let bomb = || ImportProfilesRequest {
            patch: Some(set([("bomb", text(&"0".repeat(UNPACKED)))])),
            ..record(by_mpid(ADA), ProfilePatch::default())
        };
        let refused = profiles.import_profiles(stream::iter([bomb()])).await;
        assert_eq!(refused.expect_err(name).code(), Code::ResourceExhausted);
    }
}

#[tokio::test]
async fn an_unknown_encoding_is_told_which_are_known() {
    let server = TestServer::start().await;
    let mut body = frame(&get_request());
    body[0] = 1; // The message is compressed.
    let request = grpc_post(GET_PROFILE).header("grpc-encoding", "snappy");
    let body = http_body_util::Full::new(bytes::Bytes::from(body));
    let response = http2_request(server.addr, request.body(body).unwrap()).await;
    let status = tonic::Status::from_header_map(&response.headers).unwrap();
    assert_refused(Err::<(), _>(status), Code::Unimplemented, "ENCODING_UNSUPPORTED", "");
    let known: Vec<_> = response.header("grpc-accept-encoding").split(',').map(str::trim).collect();
    assert!(known.contains(&"gzip") && known.contains(&"zstd"), "{known:?}");
}
