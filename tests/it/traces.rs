//! Traces, as a collector gets them.

use std::time::{Duration, Instant};

use cameo::proto::v1::*;
use futures_util::future::join_all;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, span};
use prost::Message;
use tokio::net::TcpListener;
use tonic::{Code, Request};

use crate::harness::*;

const CREATE: &str = "cameo.v1.ProfileService/CreateProfile";
const GET: &str = "cameo.v1.ProfileService/GetProfile";
const IMPORT: &str = "cameo.v1.ProfileService/ImportProfiles";
const COMMIT: &str = "commit";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

/// A request that comes with the trace of its caller.
fn traced<T>(message: T, traceparent: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    request
}

fn creation(mpid: i64) -> CreateProfileRequest {
    CreateProfileRequest { profile: Some(with_mpid(mpid)), ..create_request() }
}

async fn create_traced(server: &TestServer, mpid: i64, traceparent: &str) {
    let mut profiles = server.client().await.profiles;
    profiles.create_profile(traced(creation(mpid), traceparent)).await.unwrap();
}

fn hex(id: &[u8]) -> String {
    id.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

fn is_a_link(links: &[span::Link], to: &Span) -> bool {
    links.iter().any(|link| link.span_id == to.span_id && link.trace_id == to.trace_id)
}

fn events(span: &Span) -> Vec<&str> {
    span.events.iter().map(|event| &*event.name).collect()
}

fn tags<const N: usize>(span: &Span, keys: [&str; N]) -> [Option<String>; N] {
    keys.map(|key| tag(&span.attributes, key))
}

fn some(values: &[&str]) -> Vec<Option<String>> {
    values.iter().map(|value| Some((*value).to_owned())).collect()
}

#[tokio::test]
async fn a_call_is_a_child_of_the_span_that_its_caller_names() {
    let collector = Collector::start();
    let server = TestServer::start_with(traces_to(collector.addr)).await;
    let mut profiles = server.client().await.profiles;
    let mut request = traced(creation(ADA), &traceparent("01"));
    request.metadata_mut().insert("tracestate", "vendor=opaque".parse().unwrap());
    profiles.create_profile(request).await.unwrap();
    server.stop().await;

    let span = collector.one(CREATE);
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
    assert_ne!(hex(&span.span_id), PARENT);
    assert_eq!((span.kind(), &*span.trace_state), (SpanKind::Server, "vendor=opaque"));
    assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
    let keys = ["rpc.system", "rpc.service", "rpc.method", "rpc.grpc.status_code", "cameo.workspace", "enduser.id"];
    let mut expected = some(&["grpc", "cameo.v1.ProfileService", "CreateProfile", "0", WORKSPACE]);
    expected.push(None); // There is no authentication.
    assert_eq!(tags(&span, keys), *expected);
    let resource = collector.requests()[0].resource_spans[0].resource.clone().unwrap();
    assert_eq!(tag(&resource.attributes, "service.name").as_deref(), Some("cameo"));
    assert_eq!(tag(&resource.attributes, "service.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn a_commit_and_the_call_whose_write_it_holds_link_to_each_other() {
    let collector = Collector::start();
    let server = TestServer::start_with(traces_to(collector.addr)).await;
    let mut request = traced(creation(ADA), &traceparent("01"));
    request.metadata_mut().insert("tracestate", "vendor=opaque".parse().unwrap());
    server.client().await.profiles.create_profile(request).await.unwrap();
    server.stop().await;

    let (call, commit) = (collector.one(CREATE), collector.one(COMMIT));
    assert_eq!(events(&call), ["queued", "committed"]);
    assert!(commit.parent_span_id.is_empty() && commit.trace_id != call.trace_id, "it is a trace of its own");
    assert!(is_a_link(&commit.links, &call) && is_a_link(&call.links, &commit));
    assert_eq!((commit.links.len(), call.links.len()), (1, 1));
    assert_eq!((&*call.trace_state, &*commit.links[0].trace_state), ("vendor=opaque", ""));
    let keys = ["cameo.commit.commands", "cameo.commit.events"];
    assert_eq!(tags(&commit, keys), *some(&["1", "1"]));
    let number = |key| tag(&commit.attributes, key).unwrap().parse::<f64>().unwrap();
    assert!(number("cameo.commit.bytes") >= 4_096.0, "a page at least");
    #[allow(clippy::cast_precision_loss)] // Some milliseconds.
    let seconds = (commit.end_time_unix_nano - commit.start_time_unix_nano) as f64 / 1e9;
    assert!(
        (0.0..=seconds).contains(&number("cameo.commit.sync_seconds")) && number("cameo.commit.sync_seconds") > 0.0
    );
    assert!(call.start_time_unix_nano <= commit.start_time_unix_nano);
    assert!(call.events[1].time_unix_nano <= call.end_time_unix_nano);
}

#[tokio::test]
async fn a_call_that_writes_nothing_is_in_no_commit() {
    let collector = Collector::start();
    let server = TestServer::start_with(traces_to(collector.addr)).await;
    let client = server.client().await;
    client.create(with_mpid(ADA)).await.unwrap();
    client.create(with_mpid(ADA)).await.unwrap_err();
    let only = CreateProfileRequest { validate_only: true, ..creation(GRACE) };
    client.create_with(only).await.unwrap();
    client.get(ADA).await.unwrap();
    server.stop().await;

    let calls = collector.named(CREATE);
    let all: Vec<_> = calls.iter().map(events).collect();
    assert_eq!(all, [&["queued", "committed"][..], &["queued"], &["queued"]]);
    assert!(events(&collector.one(GET)).is_empty());
    let reasons: Vec<_> = calls.iter().map(|call| tags(call, ["rpc.grpc.status_code", "cameo.reason"])).collect();
    let refused = ["6", "PROFILE_EXISTS"].map(|value| Some(value.to_owned()));
    let ok = [Some("0".to_owned()), None];
    assert_eq!(reasons, [ok.clone(), refused, ok]);
    assert!(calls.iter().all(|call| call.status.clone().unwrap_or_default().code() == StatusCode::Unset));
    assert!(is_a_link(&collector.one(COMMIT).links, &calls[0]));
}

/// An import is one call and many commits.
#[tokio::test]
async fn an_import_links_to_each_commit_of_its_records_once() {
    let collector = Collector::start();
    let server = TestServer::start_with(traces_to(collector.addr)).await;
    let records = (1..=200).map(|mpid| record(by_mpid(mpid), increment("visits")));
    server.client().await.import(records.collect()).await.unwrap();
    server.stop().await;

    let (import, commits) = (collector.one(IMPORT), collector.named(COMMIT));
    assert_eq!(events(&import), [&["queued"], vec!["committed"; commits.len()].as_slice()].concat());
    assert_eq!(import.links.len(), commits.len());
    for commit in &commits {
        assert!(is_a_link(&import.links, commit) && is_a_link(&commit.links, &import) && commit.links.len() == 1);
    }
    let events = commits.iter().map(|commit| tag(&commit.attributes, "cameo.commit.events").unwrap());
    assert_eq!(events.map(|events| events.parse::<u32>().unwrap()).sum::<u32>(), 200);
}

#[tokio::test]
async fn a_call_is_recorded_if_its_caller_records_the_trace() {
    let collector = Collector::start();
    let nothing_by_itself = |config: &mut cameo::config::Config| {
        traces_to(collector.addr)(config);
        config.traces.trace_sample = 0.0;
    };
    let server = TestServer::start_with(nothing_by_itself).await;
    create_traced(&server, 1, &traceparent("00")).await;
    create_traced(&server, 2, "malformed").await;
    server.client().await.create(with_mpid(3)).await.unwrap();
    create_traced(&server, 4, &traceparent("01")).await;
    server.stop().await;
    let names: Vec<_> = collector.spans().into_iter().map(|span| span.name).collect();
    assert!(names.len() == 2 && names.contains(&CREATE.to_owned()) && names.contains(&COMMIT.to_owned()), "{names:?}");
    assert!(is_a_link(&collector.one(COMMIT).links, &collector.one(CREATE)));
}

#[tokio::test]
async fn a_call_that_its_caller_does_not_record_is_not_recorded() {
    let collector = Collector::start();
    let server = TestServer::start_with(traces_to(collector.addr)).await;
    create_traced(&server, 1, &traceparent("00")).await;
    create_traced(&server, 2, "malformed").await;
    server.stop().await;
    let span = collector.one(CREATE);
    assert!(span.parent_span_id.is_empty() && hex(&span.trace_id) != TRACE, "a malformed parent is none");
}

#[tokio::test]
async fn a_lookup_over_http_is_a_span_too() {
    let collector = Collector::start();
    let server = TestServer::start_with(traces_to(collector.addr)).await;
    let parent = traceparent("01");
    let headers = [("traceparent", &*parent)];
    assert_eq!(http(server.addr, "GET", &format!("{WORKSPACE}/404"), &headers, "").await.status, 404);
    let made_up = hyper::Request::builder().method("FETCH").uri("/made/up").body(String::new()).unwrap();
    assert_eq!(http_request(server.addr, made_up).await.status, 404);
    server.stop().await;

    let route = "/userprofile/v1/{org}/{account}/{workspace}/{mpid}";
    let span = collector.one(&format!("GET {route}"));
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
    let keys = ["http.request.method", "http.route", "http.response.status_code", "cameo.workspace"];
    assert_eq!(tags(&span, keys), *some(&["GET", route, "404", WORKSPACE]));
    let other = collector.one("_OTHER");
    assert_eq!(tags(&other, ["http.request.method", "http.route"]), [Some("_OTHER".into()), None]);
}

/// As OpenTelemetry has it: what the caller did wrong is no error of the server.
#[tokio::test]
async fn a_call_is_an_error_if_the_server_has_failed() {
    let collector = Collector::start();
    let server = TestServer::start_with(|config| {
        full_disk(config);
        traces_to(collector.addr)(config);
    })
    .await;
    let refused = server.client().await.create(with_mpid(ADA)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    grpc_request(server.addr, "/cameo.v1.ProfileService/Nothing", Vec::new()).await;
    server.stop().await;

    let keys = ["rpc.grpc.status_code", "cameo.reason"];
    let (full, unknown) = (collector.one(CREATE), collector.one("POST"));
    assert_eq!(tags(&full, keys), *some(&["8", "STORAGE_FULL"]));
    assert_eq!(tags(&unknown, keys), *some(&["12", "METHOD_UNKNOWN"]));
    let status = |span: Span| span.status.unwrap_or_default().code();
    assert_eq!((status(full), status(unknown)), (StatusCode::Unset, StatusCode::Error));
    assert!(collector.named(COMMIT).is_empty(), "nothing was written");
}

#[tokio::test]
async fn the_span_of_a_call_names_its_caller() {
    let (collector, callers) = (Collector::start(), CallersFile::new());
    let token = callers.add("crm", &["writer"]).await;
    let server = callers.server_with(traces_to(collector.addr)).await;
    Client::connect_with(server.addr, &token).await.create(with_mpid(ADA)).await.unwrap();
    Client::connect_with(server.addr, "no-token").await.create(with_mpid(GRACE)).await.unwrap_err();
    server.stop().await;
    let spans = collector.named(CREATE);
    let named: Vec<_> = spans.iter().map(|span| tags(span, ["enduser.id", "rpc.grpc.status_code"])).collect();
    assert_eq!(named, [[Some("crm".into()), Some("0".into())], [None, Some("16".into())]]);
    assert!(!format!("{spans:?}").contains("no-token") && !format!("{spans:?}").contains(&token));
}

/// They ask for their spans, and so could make the collector record a flood.
#[tokio::test]
async fn most_spans_of_refused_strangers_are_discarded() {
    const CALLS: usize = 300;
    let (collector, callers) = (Collector::start(), CallersFile::new());
    let token = callers.add("crm", &["writer"]).await;
    let server = callers
        .server_with(|config| {
            traces_to(collector.addr)(config);
            config.traces.trace_sample = 0.0;
        })
        .await;
    let (begun, stranger) = (Instant::now(), Client::connect_with(server.addr, "no-token").await.profiles);
    let calls = (0..CALLS).map(|_| {
        let mut stranger = stranger.clone();
        async move { stranger.create_profile(traced(creation(ADA), &traceparent("01"))).await }
    });
    for refused in join_all(calls).await {
        assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    }
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap() + 1;
    let mut known = Client::connect_with(server.addr, &token).await.profiles;
    for mpid in 1..=50 {
        known.create_profile(traced(creation(mpid), &traceparent("01"))).await.unwrap();
    }
    server.stop().await;
    let spans = collector.named(CREATE);
    let of_known = spans.iter().filter(|span| tag(&span.attributes, "enduser.id").is_some()).count();
    let of_strangers = spans.len() - of_known;
    assert_eq!(of_known, 50, "every call of a caller that is known");
    assert!((10..=10 + 10 * seconds).contains(&of_strangers), "{of_strangers} in {seconds} s");
    assert!(of_strangers < CALLS && collector.spans().iter().all(|span| !span.name.is_empty()));
}

/// Values of profiles go through every part of the server, and none of them to the collector.
#[tokio::test]
async fn no_value_of_a_profile_is_exported() {
    const CANARY: &str = "canary";
    let collector = Collector::start();
    let server = TestServer::start_with(traces_to(collector.addr)).await;
    let client = server.client().await;
    let owner = Profile { user_attributes: Some(map([("plan", text(CANARY))])), ..owner_of(email(CANARY), ADA) };
    client.create(owner).await.unwrap();
    client.create(owner_of(email(CANARY), GRACE)).await.unwrap_err();
    client.get_by(email(CANARY)).await.unwrap();
    client.update(ADA, set([("second", text(CANARY))])).await.unwrap();
    client.import(vec![record(by_identity(email(CANARY)), set([("third", text(CANARY))]))]).await.unwrap();
    let target = format!("resolve/{WORKSPACE}?email={CANARY}@example.com");
    http(server.addr, "GET", &target, &[("x-value", CANARY)], "").await;
    client.erase(ADA).await.unwrap();
    server.stop().await;

    let commits = collector.named(COMMIT).len();
    assert_eq!((commits, collector.spans().len() - commits), (4, 7), "the writes, and the calls");
    for request in collector.requests() {
        let bytes = request.encode_to_vec();
        assert!(!bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()), "{request:?}");
    }
}

fn spans_that(outcome: &str) -> String {
    format!("cameo_spans_total{{outcome=\"{outcome}\"}}")
}

#[tokio::test]
async fn without_its_collector_a_server_serves_and_counts_what_it_drops() {
    let nowhere = ([127, 0, 0, 1], 1).into(); // Nothing listens on port 1.
    let server = TestServer::start_with(|config| {
        metrics_on(config);
        traces_to(nowhere)(config);
    })
    .await;
    server.client().await.create(with_mpid(ADA)).await.unwrap();
    let failed = spans_that("failed");
    let metrics = server.until_metrics(|metrics| metrics.value(&failed) >= 2.0).await;
    metrics.assert(&[(&*failed, 2.0), (&*spans_that("exported"), 0.0), (&*spans_that("overflow"), 0.0)]);
    server.stop().await;
}

#[tokio::test]
async fn spans_are_counted_by_what_the_collector_made_of_them() {
    let collector = Collector::that_rejects(1);
    let server = TestServer::start_with(|config| {
        metrics_on(config);
        traces_to(collector.addr)(config);
    })
    .await;
    server.client().await.create(with_mpid(ADA)).await.unwrap();
    let exported = spans_that("exported");
    let metrics =
        server.until_metrics(|metrics| metrics.value(&exported) + metrics.value(&spans_that("rejected")) >= 2.0);
    let metrics = metrics.await;
    let requests = collector.requests().len();
    #[allow(clippy::cast_precision_loss)] // One or two.
    metrics.assert(&[(&*spans_that("rejected"), requests as f64), (&*exported, 2.0 - requests as f64)]);
}

/// A collector that accepts a connection and is silent must not keep the server from stopping.
#[tokio::test]
async fn a_collector_that_hangs_delays_the_shutdown_for_two_seconds() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = silent.local_addr().unwrap();
    let server = TestServer::start_with(|config| {
        config.server.drain_timeout = Duration::from_secs(60);
        traces_to(addr)(config);
    })
    .await;
    server.client().await.create(with_mpid(ADA)).await.unwrap();
    let begun = Instant::now();
    server.stop().await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(2), "it waited for the collector: {took:?}");
    assert!(took < Duration::from_secs(5), "the collector may take 10 s for a batch: {took:?}");
}

/// The span of a call that its caller gives up has the code that metrics count.
#[tokio::test]
async fn a_call_that_is_given_up_is_cancelled() {
    let collector = Collector::start();
    let server = TestServer::start_with(traces_to(collector.addr)).await;
    let client = server.client().await;
    let stream = client.subscribe(subscribe_request()).await.unwrap();
    drop((stream, client));
    server.stop().await;
    let span = collector.one("cameo.v1.EventService/Subscribe");
    let [code] = tags(&span, ["rpc.grpc.status_code"]);
    assert!(matches!(code.as_deref(), Some("1" | "14")), "{code:?}: cancelled, or drained before that was seen");
}
