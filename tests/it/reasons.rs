//! For each `ErrorReason` a request that produces it, with the code that its comment says.

use std::pin::Pin;
use std::process::Stdio;

use bytes::Bytes;
use cameo::proto::DESCRIPTORS;
use cameo::proto::v1::*;
use futures_util::stream;
use http_body_util::StreamBody;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use redb::TableDefinition;
use tempfile::TempDir;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::harness::*;

const HEADS: TableDefinition<u32, &[u8]> = TableDefinition::new("heads_v1");
/// The number of the table of heads, which seeds its checksums.
const HEAD_KIND: u64 = 3;

/// A refusal, as it came.
enum Answer {
    Grpc(Status),
    Http(HttpResponse),
}

impl Answer {
    fn reason(&self) -> String {
        match self {
            Self::Grpc(status) => reason(status),
            Self::Http(answer) => answer.json()["reason"].as_str().unwrap().to_owned(),
        }
    }

    /// The code as `google.rpc.Code` spells it; over HTTP, the one that has the status.
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
                other => panic!("no reason has {other:?}"),
            },
            Self::Http(answer) if answer.status == 429 => "RESOURCE_EXHAUSTED",
            Self::Http(answer) => panic!("no reason has {}", answer.status),
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Grpc(status) => status.message().to_owned(),
            Self::Http(answer) => answer.json()["detail"].as_str().unwrap().to_owned(),
        }
    }

    /// By `google.rpc.RetryInfo`, or by `Retry-After`.
    fn says_when_to_retry(&self) -> bool {
        match self {
            Self::Grpc(status) => status
                .get_details_retry_info()
                .is_some_and(|info| info.retry_delay.is_some_and(|delay| !delay.is_zero())),
            Self::Http(answer) => answer.header("retry-after").parse().is_ok_and(|seconds: u64| seconds > 0),
        }
    }
}

type Producer = Pin<Box<dyn Future<Output = Answer>>>;

fn grpc(refusal: impl Future<Output = Status> + 'static) -> Producer {
    Box::pin(async { Answer::Grpc(refusal.await) })
}

fn over_http(refusal: impl Future<Output = HttpResponse> + 'static) -> Producer {
    Box::pin(async { Answer::Http(refusal.await) })
}

/// No `_` arm: a new reason needs a request here, or must say that it is not sent.
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
            let keys = vec!["key".into(); 1_001];
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
        ErrorReason::Unspecified
        | ErrorReason::Internal
        | ErrorReason::AudienceNotFound
        | ErrorReason::SubscriptionNotFound
        | ErrorReason::SubscriptionTakenOver => return None,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reason_is_produced_by_a_request_with_the_code_that_its_comment_says() {
    let mut seen = 0;
    for (number, comment) in comments().iter().enumerate() {
        let expected = ErrorReason::try_from(i32::try_from(number).unwrap()).unwrap();
        let name = expected.as_str_name().trim_start_matches("ERROR_REASON_");
        let Some(answer) = produce(expected) else {
            assert!(
                ["Not sent by this version", "Never sent", "No request is known to provoke it"]
                    .iter()
                    .any(|excuse| comment.contains(excuse)),
                "{name}: {comment}"
            );
            continue;
        };
        let answer = within(answer).await;
        assert_eq!(answer.reason(), name);
        let code: String = comment.trim().chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
        assert_eq!(answer.code(), code, "{name}: {comment}");
        assert!(!answer.message().is_empty(), "{name}");
        assert_eq!(comment.contains("google.rpc.RetryInfo"), answer.says_when_to_retry(), "{name}");
        seen += 1;
    }
    assert_eq!(seen, 23);
    assert!(ErrorReason::try_from(i32::try_from(comments().len()).unwrap()).is_err(), "numbers have no hole");
}

/// What the API reference says of each reason, by number.
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

fn get_with(change: impl FnOnce(&mut GetProfileRequest)) -> GetProfileRequest {
    let mut request = GetProfileRequest { key: Some(by_mpid(NOBODY)), ..get_request() };
    change(&mut request);
    request
}

async fn on_a_server(request: GetProfileRequest) -> Status {
    let server = TestServer::start().await;
    server.client().await.get_with(request).await.unwrap_err()
}

async fn filter_invalid() -> Status {
    let server = TestServer::start().await;
    let filter = Some(EventFilter { types: vec!["profile.bought".into()], ..EventFilter::default() });
    server.client().await.list(ListEventsRequest { filter, ..list_request() }).await.unwrap_err()
}

/// This version does not trim the log; here its oldest rows are removed by hand.
async fn cursor_expired() -> Status {
    let server = TestServer::start().await;
    let client = server.client().await;
    let beginning = client.subscribe_from(None).await.opened().await.0;
    for mpid in 1..=3 {
        client.create(with_mpid(mpid)).await.unwrap();
    }
    let dir = server.stop().await;
    edit(&dir, |transaction| {
        for sequence in 1..=2 {
            transaction.open_table(EVENTS).unwrap().remove((1, sequence)).unwrap().unwrap();
        }
        transaction.open_table(HEADS).unwrap().insert(1, &*head_row(2, 3)).unwrap();
    });
    let server = TestServer::reopen(dir).await;
    let client = server.client().await;
    client
        .subscribe(SubscribeRequest { start: after(&beginning), ..subscribe_request() })
        .await
        .map(|_| ())
        .unwrap_err()
}

/// The row of the first workspace, whose log holds the events after `floor` and up to `head`: a format, a checksum, the
/// two, and the time of the last.
fn head_row(floor: u64, head: u64) -> Vec<u8> {
    let body = [floor.to_le_bytes(), head.to_le_bytes(), 1_u64.to_le_bytes()].concat();
    let checksum = xxh3_64_with_seed(&body, xxh3_64_with_seed(&1_u32.to_be_bytes(), HEAD_KIND));
    [&[1][..], &checksum.to_le_bytes(), &body].concat()
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

async fn identity_taken() -> Status {
    let server = TestServer::start().await;
    let client = server.client().await;
    let with_email = |mpid| owner_of(identity("email", "a@example.com"), mpid);
    client.create(with_email(1)).await.unwrap();
    client.create(with_email(2)).await.unwrap_err()
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
    client.create_with(request(1)).await.unwrap();
    client.create_with(request(2)).await.unwrap_err()
}

async fn subscriber_stalled() -> Status {
    let (_server, mut stream) = TestServer::with_stalled_subscriber().await;
    stream.failure().await
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
            let creates = (0..64).map(|_| client.create(Profile::default()));
            let answers = futures_util::future::join_all(creates).await;
            if let Some(status) = answers.into_iter().find_map(Result::err) {
                return status;
            }
        }
    })
    .await
}

async fn quota_exceeded() -> Status {
    let server = TestServer::start_with(limits(|limits| limits.workspaces = 1)).await;
    let client = server.client().await;
    client.create(with_mpid(ADA)).await.unwrap();
    let request = CreateProfileRequest { workspace: "acme/main/other".into(), ..create_request() };
    client.create_with(request).await.map(|_| ()).unwrap_err()
}

async fn storage_full() -> Status {
    let server = TestServer::start_with(full_disk).await;
    server.client().await.create(with_mpid(ADA)).await.unwrap_err()
}

async fn record_corrupt() -> Status {
    let server = TestServer::start().await;
    server.client().await.create(with_mpid(NOBODY)).await.unwrap();
    let dir = server.stop().await;
    edit(&dir, |transaction| damage_profile(transaction, 404));
    let server = TestServer::reopen(dir).await;
    let client = server.client().await;
    client.get(NOBODY).await.unwrap_err()
}

/// The system refuses to let the file grow.
async fn storage_failed() -> Status {
    let dir = TempDir::new().unwrap();
    let mut process = TestProcess::start(dir.path(), &[]).await;
    process.kill().await;
    let kib = std::fs::metadata(dir.path().join("cameo.redb")).unwrap().len() / 1024;
    // The limit is in units of 512 or of 1,024 bytes, as the shell likes it.
    let mut shell = tokio::process::Command::new("sh");
    shell.args(["-c", &format!("ulimit -f {}; exec \"$0\" \"$@\"", 2 * kib + 1_024)]);
    let command = shell.arg(env!("CARGO_BIN_EXE_cameo")).stderr(Stdio::null());
    let process = TestProcess::start_as(command, dir.path(), &[]).await;
    let client = process.client().await;
    within(async {
        loop {
            let attributes = Some(map([("pad", text(&"p".repeat(60_000)))]));
            if let Err(status) = client.create(Profile { user_attributes: attributes, ..Profile::default() }).await {
                return status;
            }
        }
    })
    .await
}

/// A client that waits for longer than it said: it never ends its import.
async fn deadline_exceeded() -> Status {
    let server = TestServer::start().await;
    let endless = StreamBody::new(stream::pending::<Result<hyper::body::Frame<Bytes>, std::io::Error>>());
    grpc_by_hand(&server, "ProfileService/ImportProfiles", endless).await
}

async fn method_unknown() -> Status {
    let server = TestServer::start().await;
    grpc_by_hand(&server, "ProfileService/NoSuchMethod", String::new()).await
}

/// The refusal of a call that generated clients do not make.
async fn grpc_by_hand<B>(server: &TestServer, method: &str, body: B) -> Status
where
    B: hyper::body::Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    let request = hyper::Request::post(format!("/cameo.v1.{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "50m")
        .body(body)
        .unwrap();
    let answer = http_request(server.addr, request).await;
    Status::from_header_map(&answer.headers).expect("grpc-status among the headers")
}

/// gRPC has no limit on the rate.
async fn rate_limited() -> HttpResponse {
    let server = TestServer::start_with(http_rate(1)).await;
    server.client().await.create(with_mpid(ADA)).await.unwrap();
    within(async {
        loop {
            let answer = http(server.addr, "GET", &format!("{WORKSPACE}/1"), &[], "").await;
            if answer.status != 200 {
                return answer;
            }
        }
    })
    .await
}
