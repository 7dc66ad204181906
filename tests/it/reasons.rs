//! For each `ErrorReason`, a request that is refused with it, and with the code in the comment of that reason.

mod people;

use std::pin::Pin;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use cameo::config::auth::Jwks;
use cameo::proto::DESCRIPTORS;
use cameo::proto::v1::subscribe_request::Start;
use cameo::proto::v1::*;
use futures_util::stream;
use http_body_util::StreamBody;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tempfile::TempDir;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::*;
use people::*;

/// How many reasons this version sends.
const SENT: usize = 40;
/// The most keys in `user_attribute_keys`.
const ATTRIBUTE_KEYS: usize = 1_000;
/// How many writes are sent at once to a queue that holds one.
const MORE_THAN_THE_QUEUE: usize = 64;
/// The mpid of a profile for which the server draws one.
const DRAWN: i64 = 0;

/// A refusal, by the transport that it came over.
enum Refusal {
    Grpc(Status),
    Http(HttpResponse),
}

impl Refusal {
    fn reason(&self) -> String {
        match self {
            Self::Grpc(status) => reason(status),
            Self::Http(response) => response.json()["reason"].as_str().unwrap().to_owned(),
        }
    }

    /// The code as `google.rpc.Code` spells it. Over HTTP, the code that the status stands for.
    fn code(&self) -> &'static str {
        match self {
            Self::Grpc(status) => match status.code() {
                Code::InvalidArgument => "INVALID_ARGUMENT",
                Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
                Code::NotFound => "NOT_FOUND",
                Code::AlreadyExists => "ALREADY_EXISTS",
                Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
                Code::FailedPrecondition => "FAILED_PRECONDITION",
                Code::Aborted => "ABORTED",
                Code::OutOfRange => "OUT_OF_RANGE",
                Code::Unimplemented => "UNIMPLEMENTED",
                Code::Unavailable => "UNAVAILABLE",
                Code::DataLoss => "DATA_LOSS",
                Code::PermissionDenied => "PERMISSION_DENIED",
                Code::Unauthenticated => "UNAUTHENTICATED",
                other => panic!("no reason has {other:?}"),
            },
            Self::Http(response) if response.status == 429 => "RESOURCE_EXHAUSTED",
            Self::Http(response) => panic!("no reason has {}", response.status),
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Grpc(status) => status.message().to_owned(),
            Self::Http(response) => response.json()["detail"].as_str().unwrap().to_owned(),
        }
    }

    /// Whether it carries `google.rpc.RetryInfo`, or `Retry-After`.
    fn says_when_to_retry(&self) -> bool {
        match self {
            Self::Grpc(status) => status
                .get_details_retry_info()
                .is_some_and(|info| info.retry_delay.is_some_and(|delay| !delay.is_zero())),
            Self::Http(response) => response.header("retry-after").parse().is_ok_and(|seconds: u64| seconds > 0),
        }
    }
}

/// Sends a request, and resolves to its refusal.
type Producer = Pin<Box<dyn Future<Output = Refusal>>>;

fn grpc(refusal: impl Future<Output = Status> + 'static) -> Producer {
    Box::pin(async { Refusal::Grpc(refusal.await) })
}

fn over_http(refusal: impl Future<Output = HttpResponse> + 'static) -> Producer {
    Box::pin(async { Refusal::Http(refusal.await) })
}

/// The request for a reason; `None` for a reason that is not sent. There is no `_` arm, so a new reason needs a request
/// here.
fn produce(reason: ErrorReason) -> Option<Producer> {
    Some(match reason {
        ErrorReason::FieldInvalid => grpc(on_a_server(get_with(|get| get.workspace.clear()))),
        ErrorReason::MaskInvalid => grpc(on_a_server(get_with(|get| get.read_mask = mask(&["emial"])))),
        ErrorReason::FilterInvalid => grpc(filter_invalid()),
        ErrorReason::CursorMalformed => grpc(on_a_server(get_with(|get| get.min_cursor = "garbled".into()))),
        ErrorReason::CursorExpired => grpc(cursor_expired()),
        ErrorReason::CursorInFuture => grpc(cursor_in_future()),
        ErrorReason::CursorForeign => grpc(cursor_foreign()),
        ErrorReason::ProfileNotFound => grpc(on_a_server(get_with(|_| ()))),
        ErrorReason::ProfileExists => grpc(profile_exists()),
        ErrorReason::IdentityTaken => grpc(identity_taken()),
        ErrorReason::EtagMismatch => grpc(etag_mismatch()),
        ErrorReason::RequestIdReused => grpc(request_id_reused()),
        ErrorReason::LimitExceeded => {
            let keys = vec!["key".into(); ATTRIBUTE_KEYS + 1];
            grpc(on_a_server(get_with(|get| get.user_attribute_keys = keys)))
        }
        ErrorReason::SubscriberStalled => grpc(subscriber_stalled()),
        ErrorReason::ServerDraining => grpc(server_draining()),
        ErrorReason::Overloaded => grpc(overloaded()),
        ErrorReason::StorageFull => grpc(storage_full()),
        ErrorReason::QuotaExceeded => grpc(quota_exceeded()),
        ErrorReason::RecordCorrupt => grpc(record_corrupt()),
        ErrorReason::StorageFailed => grpc(storage_failed()),
        ErrorReason::DeadlineExceeded => grpc(deadline_exceeded()),
        ErrorReason::MethodUnknown => grpc(method_unknown()),
        ErrorReason::RateLimited => over_http(rate_limited()),
        ErrorReason::PermissionDenied => grpc(permission_denied()),
        ErrorReason::EncodingUnsupported => grpc(encoding_unsupported()),
        ErrorReason::StreamTooOld => grpc(stream_too_old()),
        ErrorReason::EventNotFound => grpc(event_not_found()),
        ErrorReason::SubscriptionNotFound => grpc(subscription_not_found()),
        ErrorReason::SubscriptionExists => grpc(subscription_exists()),
        ErrorReason::SubscriptionTakenOver => grpc(subscription_taken_over()),
        ErrorReason::IdentityConflict => grpc(identity_conflict()),
        ErrorReason::MergeSelf => {
            grpc(after_a_merge(|client| async move { client.merge(ADA, ADA).await.unwrap_err() }))
        }
        ErrorReason::MergeCycle => {
            grpc(after_a_merge(|client| async move { client.merge(GRACE, ADA).await.unwrap_err() }))
        }
        ErrorReason::MergeNotFound => {
            grpc(after_a_merge(|client| async move { client.unmerge(ADA).await.unwrap_err() }))
        }
        ErrorReason::MergeNotReversible => grpc(after_a_merge(merge_not_reversible)),
        ErrorReason::AudienceNotFound => {
            grpc(with_an_audience(|client| async move { client.audience(8).await.unwrap_err() }))
        }
        ErrorReason::AudienceExists => {
            grpc(with_an_audience(|client| async move { client.register(7, "erp").await.unwrap_err() }))
        }
        ErrorReason::AudienceDeleting => grpc(with_an_audience(audience_deleting)),
        ErrorReason::Unauthenticated => grpc(unauthenticated()),
        ErrorReason::AuthenticationUnavailable => grpc(authentication_unavailable()),
        ErrorReason::Unspecified | ErrorReason::Internal => return None,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reason_is_produced_by_a_request_with_the_code_that_its_comment_says() {
    let mut seen = 0;
    for (number, comment) in comments().iter().enumerate() {
        let expected = ErrorReason::try_from(i32::try_from(number).unwrap()).unwrap();
        let name = expected.as_str_name().trim_start_matches("ERROR_REASON_");
        let Some(refusal) = produce(expected) else {
            assert!(
                ["Not sent by this version", "Never sent", "No request is known to provoke it"]
                    .iter()
                    .any(|excuse| comment.contains(excuse)),
                "{name}: {comment}"
            );
            continue;
        };
        let refusal = within(refusal).await;
        assert_eq!(refusal.reason(), name);
        let code: String = comment.trim().chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
        assert_eq!(refusal.code(), code, "{name}: {comment}");
        assert!(!refusal.message().is_empty(), "{name}");
        assert_eq!(comment.contains("google.rpc.RetryInfo"), refusal.says_when_to_retry(), "{name}");
        seen += 1;
    }
    assert_eq!(seen, SENT);
    assert!(ErrorReason::try_from(i32::try_from(comments().len()).unwrap()).is_err(), "the numbers have no holes");
}

/// The comment of each reason in the API reference, in the order of their numbers.
fn comments() -> Vec<String> {
    let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
    let file = files.into_iter().find(|file| file.name().ends_with("error_reason.proto")).unwrap();
    let values = file.enum_type[0].value.len();
    let locations = file.source_code_info.unwrap().location;
    let comment = |value| {
        // The path of a value of the first enum: FileDescriptorProto.enum_type, EnumDescriptorProto.value.
        let path = [5, 0, 2, i32::try_from(value).unwrap()];
        locations.iter().find(|location| location.path == path).unwrap().leading_comments().to_owned()
    };
    (0..values).map(comment).collect()
}

/// A lookup with one thing changed. As it is, it looks for a profile that does not exist.
fn get_with(change: impl FnOnce(&mut GetProfileRequest)) -> GetProfileRequest {
    let mut request = GetProfileRequest { key: Some(by_mpid(UNKNOWN_MPID)), ..get_request() };
    change(&mut request);
    request
}

/// The refusal of a lookup on an empty server.
async fn on_a_server(request: GetProfileRequest) -> Status {
    let server = TestServer::start().await;
    server.client().await.get_with(request).await.unwrap_err()
}

async fn filter_invalid() -> Status {
    let server = TestServer::start().await;
    let filter = Some(EventFilter { types: vec!["profile.bought".into()], ..EventFilter::default() });
    server.client().await.list(ListEventsRequest { filter, ..list_request() }).await.unwrap_err()
}

async fn cursor_expired() -> Status {
    let server = TestServer::start_with(|config| config.store.retention_age = Duration::from_secs(1)).await;
    let client = server.client().await;
    let beginning = client.subscribe_from(None).await.opened().await.0;
    client.create(with_mpid(ADA)).await.unwrap();
    client.until_oldest(2).await;
    client
        .subscribe(SubscribeRequest { start: after(&beginning), ..subscribe_request() })
        .await
        .map(|_| ())
        .unwrap_err()
}

async fn cursor_in_future() -> Status {
    let (server, min_cursor) = TestServer::with_lost_future().await;
    server.client().await.get_with(get_with(|get| get.min_cursor = min_cursor)).await.unwrap_err()
}

async fn cursor_foreign() -> Status {
    let stranger = TestServer::start().await;
    let min_cursor = stranger.client().await.create(with_mpid(ADA)).await.unwrap().cursor;
    on_a_server(get_with(|get| get.min_cursor = min_cursor)).await
}

async fn profile_exists() -> Status {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(with_mpid(ADA)).await.unwrap();
    client.create(with_mpid(ADA)).await.unwrap_err()
}

async fn etag_mismatch() -> Status {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(with_mpid(ADA)).await.unwrap();
    client.update_with(UpdateProfileRequest { etag: "stale".into(), ..update_request(ADA) }).await.unwrap_err()
}

async fn request_id_reused() -> Status {
    let server = TestServer::start().await;
    let client = server.client().await;
    let request =
        |mpid| CreateProfileRequest { request_id: "r1".into(), profile: Some(with_mpid(mpid)), ..create_request() };
    client.create_with(request(ADA)).await.unwrap();
    client.create_with(request(GRACE)).await.unwrap_err()
}

async fn subscriber_stalled() -> Status {
    let (_server, mut stream) = TestServer::with_stalled_subscriber().await;
    stream.failure().await
}

async fn event_not_found() -> Status {
    let server = TestServer::start().await;
    let request = GetEventRequest { workspace: WORKSPACE.into(), sequence: 1, ..Default::default() };
    server.client().await.events.get_event(request).await.unwrap_err()
}

/// Creates the subscription that these tests need.
async fn subscription(client: &Client) -> Result<(), Status> {
    let subscription = Some(Subscription { name: "crm".into(), ..Default::default() });
    let request = CreateSubscriptionRequest { workspace: WORKSPACE.into(), subscription, ..Default::default() };
    client.events.clone().create_subscription(request).await.map(|_| ())
}

/// A stream of that subscription.
async fn stream_of_it(client: &Client) -> Result<Stream, Status> {
    client.subscribe(SubscribeRequest { start: Some(Start::Subscription("crm".into())), ..subscribe_request() }).await
}

async fn subscription_not_found() -> Status {
    let server = TestServer::start().await;
    stream_of_it(&server.client().await).await.map(|_| ()).unwrap_err()
}

async fn subscription_exists() -> Status {
    let server = TestServer::start().await;
    let client = server.client().await;
    subscription(&client).await.unwrap();
    subscription(&client).await.unwrap_err()
}

async fn subscription_taken_over() -> Status {
    let server = TestServer::start().await;
    let client = server.client().await;
    subscription(&client).await.unwrap();
    let mut older = stream_of_it(&client).await.unwrap();
    let _newer = stream_of_it(&client).await.unwrap();
    older.failure().await
}

async fn stream_too_old() -> Status {
    let server =
        TestServer::start_with(|config| config.feed.max_stream_age = std::time::Duration::from_millis(1)).await;
    server.client().await.subscribe_from(None).await.failure().await
}

async fn server_draining() -> Status {
    let server = TestServer::start().await;
    let mut stream = server.client().await.subscribe_from(None).await;
    stream.opened().await;
    let (_, status) = tokio::join!(server.stop(), stream.failure());
    status
}

async fn overloaded() -> Status {
    let server = TestServer::start_with(queue_of_one).await;
    let client = server.client().await;
    within(async {
        loop {
            let creates = (0..MORE_THAN_THE_QUEUE).map(|_| client.create(Profile::default()));
            let responses = futures_util::future::join_all(creates).await;
            if let Some(status) = responses.into_iter().find_map(Result::err) {
                return status;
            }
        }
    })
    .await
}

async fn unauthenticated() -> Status {
    let callers = CallersFile::new();
    callers.add("crm", &["reader"]).await;
    let server = TestServer::start_with(callers.require()).await;
    server.client().await.get(ADA).await.unwrap_err()
}

/// Nothing listens where the keys should be.
async fn authentication_unavailable() -> Status {
    let server = TestServer::start_with(|config| {
        config.auth.jwks = Some(Jwks::Url("http://127.0.0.1:1/keys".parse().unwrap()));
        (config.auth.jwt_issuer, config.auth.jwt_audience) = (Some("https://idp".into()), Some("cameo".into()));
    })
    .await;
    // The head of a JWT that ES256 signed, and two more parts.
    Client::connect_with(server.addr, "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.e30.AA").await.get(ADA).await.unwrap_err()
}

async fn quota_exceeded() -> Status {
    let server = TestServer::start_with(limits(|limits| limits.workspaces = 1)).await;
    let client = server.client().await;
    client.create(with_mpid(ADA)).await.unwrap();
    let request = CreateProfileRequest { workspace: OTHER_WORKSPACE.into(), ..create_request() };
    client.create_with(request).await.map(|_| ()).unwrap_err()
}

async fn storage_full() -> Status {
    let server = TestServer::start_with(full_disk).await;
    server.client().await.create(with_mpid(ADA)).await.unwrap_err()
}

async fn record_corrupt() -> Status {
    let server = TestServer::start().await;
    server.client().await.create(with_mpid(ADA)).await.unwrap();
    let dir = server.stop().await;
    edit(&dir, |transaction| damage_profile(transaction, ADA));
    let server = TestServer::reopen(dir).await;
    let client = server.client().await;
    client.get(ADA).await.unwrap_err()
}

/// The operating system does not let the file grow.
async fn storage_failed() -> Status {
    let dir = TempDir::new().unwrap();
    let mut process = TestProcess::start(dir.path(), &[]).await;
    process.kill().await;
    let kib = std::fs::metadata(dir.path().join(STORE_FILE)).unwrap().len() / 1024;
    // Some shells count in units of 512 bytes, others in units of 1,024.
    let mut shell = tokio::process::Command::new("sh");
    shell.args(["-c", &format!("ulimit -f {}; exec \"$0\" \"$@\"", 2 * kib + 1_024)]);
    let command = shell.arg(env!("CARGO_BIN_EXE_cameo")).stderr(Stdio::null());
    let process = TestProcess::start_as(command, dir.path(), &[]).await;
    let client = process.client().await;
    within(async {
        loop {
            if let Err(status) = client.create(padded(DRAWN)).await {
                return status;
            }
        }
    })
    .await
}

/// The client never ends its import, so the import outlives the deadline that the client gave.
async fn deadline_exceeded() -> Status {
    let server = TestServer::start().await;
    let endless = StreamBody::new(stream::pending::<Result<hyper::body::Frame<Bytes>, std::io::Error>>());
    grpc_by_hand(&server, "ProfileService/ImportProfiles", endless).await
}

async fn method_unknown() -> Status {
    let server = TestServer::start().await;
    grpc_by_hand(&server, "ProfileService/NoSuchMethod", String::new()).await
}

/// The refusal of a call that no generated client makes. Its deadline is short.
async fn grpc_by_hand<B>(server: &TestServer, method: &str, body: B) -> Status
where
    B: hyper::body::Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
{
    let request = hyper::Request::post(format!("/cameo.v1.{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "50m")
        .body(body)
        .unwrap();
    let response = http2_request(server.addr, request).await;
    Status::from_header_map(&response.headers).expect("grpc-status among the headers")
}

/// A web page whose own domain points to this machine.
async fn permission_denied() -> Status {
    let server = TestServer::start().await;
    let request = hyper::Request::post("http://evil.example/cameo.v1.ProfileService/GetProfile")
        .header("content-type", "application/grpc")
        .body(String::new())
        .unwrap();
    let response = http2_request(server.addr, request).await;
    Status::from_header_map(&response.headers).expect("grpc-status among the headers")
}

async fn encoding_unsupported() -> Status {
    let server = TestServer::start().await;
    let mut request = tonic::Request::new(get_request());
    request.metadata_mut().insert("grpc-encoding", "snappy".parse().unwrap());
    server.client().await.profiles.get_profile(request).await.unwrap_err()
}

/// Only HTTP has a limit on the rate.
async fn rate_limited() -> HttpResponse {
    let server = TestServer::start_with(http_rate(1)).await;
    server.client().await.create(with_mpid(ADA)).await.unwrap();
    within(async {
        loop {
            let response = http(server.addr, "GET", &format!("{WORKSPACE}/{ADA}"), &[], "").await;
            if response.status != 200 {
                return response;
            }
        }
    })
    .await
}
