//! The Profile API over HTTP, on the port of the gRPC services.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cameo::proto::v1::*;
use prost::Message;
use prost_types::value::Kind;
use prost_types::{Timestamp, Value};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::*;

/// What the Profile API of mParticle answers for its example customer.
const SAMPLE: &str = include_str!("../data/userprofile-sample.json");
/// As that article asks for it.
const FIELDS: &str = "fields=device_identities,user_identities,user_attributes,audience_memberships,attribution";
const MPID: &str = "9080350317581165000";

async fn get(server: &TestServer, target: &str) -> HttpResponse {
    http(server.addr, "GET", &format!("{WORKSPACE}/{target}"), &[], "").await
}

async fn with_sample() -> TestServer {
    let server = TestServer::start().await;
    server.client().await.create(sample()).await.unwrap();
    server
}

#[track_caller]
fn assert_problem(answer: &HttpResponse, status: u16, reason: &str, field: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(answer.header("cache-control"), "no-store");
    let problem = answer.json();
    assert_eq!((&problem["status"], &problem["reason"]), (&json!(status), &json!(reason)), "{problem}");
    assert_eq!(problem["type"], "about:blank");
    assert!(!problem["title"].as_str().unwrap().is_empty() && !problem["detail"].as_str().unwrap().is_empty());
    let named = problem["errors"][0]["field"].as_str().unwrap_or_default();
    assert_eq!(named, field, "{problem}");
}

/// The places of these keys in the text, which must be there.
fn places(text: &str, keys: &[&str]) -> Vec<usize> {
    keys.iter().map(|key| text.find(&format!("\"{key}\"")).unwrap_or_else(|| panic!("no {key}"))).collect()
}

#[tokio::test]
async fn the_sample_goes_in_by_grpc_and_comes_out_by_http_as_the_profile_api_has_it() {
    let server = with_sample().await.restart().await;
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();

    for method in ["GET", "POST"] {
        let answer = http(server.addr, method, &format!("{WORKSPACE}/{MPID}?{FIELDS}"), &[], "").await;

        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
        let mut found = answer.json();
        let mut expected: serde_json::Value = serde_json::from_str(SAMPLE).unwrap();
        for time in ["created_timestamp_ms", "last_stored_timestamp_ms"] {
            let millis = u128::from(found[time].take().as_u64().unwrap());
            assert!(millis <= before && before - millis < 60_000, "{time} is {millis}");
            expected[time].take();
        }
        assert_eq!(found, expected);

        let text = std::str::from_utf8(&answer.body).unwrap();
        let keys = [
            "mpid",
            "created_timestamp_ms",
            "last_stored_timestamp_ms",
            "is_opted_out",
            "limit_ad_tracking",
            "device_identities",
            "user_identities",
            "account_userattributes",
            "user_attributes",
            "audience_memberships",
            "expiration_timestamp_ms",
        ];
        assert!(places(SAMPLE, &keys).is_sorted(), "the sample's order");
        assert!(places(text, &keys).is_sorted(), "{text}");
        let sorted =
            ["$city", "$country", "$firstname", "$lastname", "$state", "churn_risk_score", "last_purchase_category"];
        assert!(places(text, &sorted).is_sorted(), "{text}");
        assert!(text.contains(&format!("\"mpid\":{MPID},")), "a number with all its digits: {text}");
    }
}

#[tokio::test]
async fn fields_select_what_is_answered() {
    let server = with_sample().await;
    let always = ["created_timestamp_ms", "is_opted_out", "last_stored_timestamp_ms", "limit_ad_tracking", "mpid"];
    let all =
        ["device_identities", "user_identities", "account_userattributes", "user_attributes", "audience_memberships"];
    for (query, selected) in [
        ("", &all[..]),
        ("?fields=", &all),
        ("?unknown=1", &all),
        ("?fields=user_identities", &all[1..2]),
        ("?fields=user_attributes", &all[2..4]),
        ("?fields=device_identities,audience_memberships", &[all[0], all[4]]),
        ("?fields=device_identities&fields=audience_memberships", &[all[0], all[4]]),
        ("?fields=attribution", &[]),
    ] {
        let answer = get(&server, &format!("{MPID}{query}")).await.json();
        let mut expected = [&always, selected].concat();
        expected.sort_unstable();
        let found: Vec<_> = answer.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(found, expected, "{query}");
    }
}

#[tokio::test]
async fn an_mpid_may_be_asked_for_as_a_string() {
    let server = with_sample().await;
    assert_eq!(get(&server, &format!("{MPID}?mpid_as=string")).await.json()["mpid"], json!(MPID));
    assert_eq!(
        get(&server, &format!("{MPID}?mpid_as=number")).await.json()["mpid"],
        json!(9_080_350_317_581_165_000_i64)
    );
}

#[tokio::test]
async fn every_kind_of_value_has_its_json() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let value = |kind| Value { kind: Some(kind) };
    let attributes = [
        ("null", value(Kind::NullValue(0))),
        ("true", value(Kind::BoolValue(true))),
        ("whole", number(-4.0)),
        ("fraction", number(342.1)),
        ("large", number(1e300)),
        ("exact", number(9_007_199_254_740_992.0)),
        ("text", text("\"ü\u{1}")),
        ("list", value(Kind::ListValue(list([number(1.0), text("a"), value(Kind::NullValue(0))])))),
        ("map", value(Kind::StructValue(map([("b", number(2.0)), ("a", number(1.0))])))),
    ];
    let ends = Timestamp { seconds: 253_402_300_799, nanos: 999_999_999 };
    let created = Profile {
        limit_ad_tracking: Some(false),
        is_opted_out: true,
        user_attributes: Some(map(attributes)),
        account_user_attributes: Some(map([("tier", number(1.0))])),
        audience_memberships: vec![AudienceMembership {
            audience_id: -5,
            audience_name: String::new(),
            expire_time: Some(ends),
        }],
        attribution: vec![
            Attribution {
                partner: "p".into(),
                campaign: "c".into(),
                attribute_time: Some(Timestamp { seconds: -1, nanos: 1_999_999 }),
            },
            Attribution { partner: "q".into(), ..Attribution::default() },
        ],
        ..with_mpid(-7)
    };
    client.create(created).await.unwrap();

    let answer = get(&server, "-7").await;

    let text = std::str::from_utf8(&answer.body).unwrap();
    assert!(text.contains(r#""exact":9007199254740992,"fraction":342.1,"large":"#), "{text}");
    assert!(text.contains(r#""map":{"a":1,"b":2},"null":null,"text":"\"ü\u0001","true":true,"whole":-4"#), "{text}");
    assert!(text.contains(r#","list":[1,"a",null],"map""#), "{text}");
    let found = answer.json();
    assert_eq!(found["user_attributes"]["large"], json!(1e300));
    assert_eq!((&found["is_opted_out"], &found["limit_ad_tracking"]), (&json!(true), &json!(false)));
    assert_eq!(found["account_userattributes"], json!({"tier": 1}));
    assert_eq!(found["device_identities"], json!([]));
    let membership =
        json!([{"audience_id": -5, "audience_name": "", "expiration_timestamp_ms": 253_402_300_799_999_i64}]);
    assert_eq!(found["audience_memberships"], membership);
    let attribution = json!([
        {"partner": "p", "campaign": "c", "attribute_timestamp_ms": -999},
        {"partner": "q", "campaign": "", "attribute_timestamp_ms": null},
    ]);
    assert_eq!(found["attribution"], attribution);
    client.create(with_mpid(8)).await.unwrap();
    let bare = get(&server, "8").await.json();
    assert_eq!((&bare["user_attributes"], &bare["account_userattributes"]), (&json!({}), &json!(null)));
}

#[tokio::test]
async fn an_identity_resolves_by_any_of_its_types_names() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let profile = Profile {
        device_identities: vec![identity("google_advertising_id", "g-1"), identity("ios_idfa", "i-1")],
        user_identities: vec![identity("customerid", "c-1"), identity("email", "Ada@example.com")],
        ..with_mpid(7)
    };
    client.create(profile).await.unwrap();
    let spellings = [
        ("customer_id", "c-1"),
        ("customerid", "c-1"),
        ("google_advertising_id", "g-1"),
        ("android_aaid", "g-1"),
        ("android_advertising_id", "g-1"),
        ("ios_idfa", "i-1"),
        ("apple_idfa", "i-1"),
        ("ios_advertising_id", "i-1"),
        ("email", " ADA@EXAMPLE.COM"),
    ];
    for (kind, value) in spellings {
        for environment in [json!("production"), json!("development"), json!(null)] {
            let body = json!({"environment_type": environment, "identity": {"type": kind, "value": value}});
            let target = format!("resolve/{WORKSPACE}?fields=user_identities&mpid_as=string");
            let answer = http(server.addr, "POST", &target, &[], &body.to_string()).await;
            assert_eq!(answer.status, 200, "{kind}");
            assert_eq!(answer.json()["mpid"], "7", "{kind}");
            assert_eq!(answer.json()["user_identities"][0]["type"], "customerid", "as it was given");
        }
        assert_eq!(client.get_by(identity(kind, value)).await.unwrap().mpid, 7, "{kind}");
    }
    let other = owner_of(identity("customer_id", "c-1"), 8);
    assert_eq!(reason(&client.create(other).await.unwrap_err()), "IDENTITY_TAKEN", "it is one identity");
}

#[tokio::test]
async fn a_reader_who_has_the_latest_is_told_so() {
    let server = with_sample().await;
    let client = server.client().await;
    let target = format!("{WORKSPACE}/{MPID}");
    let first = get(&server, MPID).await;
    let etag = first.header("etag").to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"') && etag.len() > 2, "{etag}");
    assert_eq!(first.header("cache-control"), "private, no-cache");

    let asks = |tags: String| async move { http(server.addr, "GET", &target, &[("if-none-match", &tags)], "").await };
    for tags in [etag.clone(), format!("W/{etag}"), format!("\"other\", {etag}"), "*".into()] {
        let answer = asks.clone()(tags.clone()).await;
        assert_eq!((answer.status, answer.body.len()), (304, 0), "{tags}");
        assert_eq!(answer.header("etag"), etag);
        assert_eq!(answer.header("cache-control"), "private, no-cache");
    }
    assert_eq!(asks.clone()("\"other\"".into()).await.status, 200);
    client.update(sample().mpid, set([("ltv", text("350"))])).await.unwrap();
    let changed = asks.clone()(etag.clone()).await;
    assert_eq!(changed.status, 200);
    assert_ne!(changed.header("etag"), etag);
    assert_eq!(changed.json()["user_attributes"]["ltv"], "350");
}

/// That a membership ends is no change of the profile, but it is one of what is answered.
#[tokio::test]
async fn an_etag_changes_when_a_membership_ends() {
    let server = TestServer::start().await;
    let ends = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_millis(500);
    let expire_time =
        Some(Timestamp { seconds: ends.as_secs().cast_signed(), nanos: ends.subsec_nanos().cast_signed() });
    let member = AudienceMembership { audience_id: 5, expire_time, ..Default::default() };
    server.client().await.create(Profile { audience_memberships: vec![member], ..with_mpid(ADA) }).await.unwrap();
    let first = get(&server, "1").await;
    assert_eq!(first.json()["audience_memberships"].as_array().unwrap().len(), 1);

    let etag = first.header("etag");
    let target = format!("{WORKSPACE}/1");
    // The clock is what the test waits for.
    let later = loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!(now < ends + Duration::from_secs(10), "it still has the same etag");
        let answer = http(server.addr, "GET", &target, &[("if-none-match", etag)], "").await;
        if answer.status == 200 {
            break answer;
        }
    };
    assert_eq!(later.json()["audience_memberships"], json!([]));
}

#[tokio::test]
async fn a_condition_may_stand_in_several_lines_and_a_304_says_nothing_of_its_length() {
    let server = with_sample().await;
    let etag = get(&server, MPID).await.header("etag").to_owned();
    let target = format!("{WORKSPACE}/{MPID}");
    let lines = [("if-none-match", "\"other\""), ("if-none-match", &*etag)];
    for method in ["GET", "HEAD"] {
        let answer = http(server.addr, method, &target, &lines, "").await;
        assert_eq!((answer.status, answer.header("content-length")), (304, ""), "{method}");
    }
    let listed = [("if-none-match", "\"other\", *")];
    assert_eq!(http(server.addr, "GET", &target, &listed, "").await.status, 200, "a star stands alone");
}

/// What a server writes to a request that is written by hand, until it closes the connection.
async fn raw(server: &TestServer, request: &str) -> String {
    within(async {
        let mut connection = TcpStream::connect(server.addr).await.unwrap();
        connection.write_all(request.as_bytes()).await.unwrap();
        connection.shutdown().await.unwrap(); // Nothing more comes.
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        answer
    })
    .await
}

fn post(headers: &str, body: &str) -> String {
    format!("POST /userprofile/v1/resolve/{WORKSPACE} HTTP/1.1\r\nhost: a\r\n{headers}\r\n\r\n{body}")
}

#[tokio::test]
async fn a_body_that_breaks_off_is_400_and_one_that_says_it_is_too_large_is_not_waited_for() {
    let server = TestServer::start().await;
    let garbled = raw(&server, &post("transfer-encoding: chunked", "zz\r\n")).await;
    assert!(garbled.starts_with("HTTP/1.1 400 ") && garbled.contains("\"field\":\"body\""), "{garbled}");
    let large = raw(&server, &post("expect: 100-continue\r\ncontent-length: 20000000", "")).await;
    assert!(large.starts_with("HTTP/1.1 413 ") && large.contains("LIMIT_EXCEEDED"), "{large}");
}

#[tokio::test]
async fn a_body_that_does_not_come_ends_with_the_server() {
    let server = TestServer::start().await;
    let mut connection = TcpStream::connect(server.addr).await.unwrap();
    connection.write_all(post("content-length: 100\r\nexpect: 100-continue", "").as_bytes()).await.unwrap();
    let mut invited = [0; 21];
    within(connection.read_exact(&mut invited)).await.unwrap(); // So it waits for the body.
    assert_eq!(&invited, b"HTTP/1.1 100 Continue");

    server.stop().await;

    let mut answer = String::new();
    within(connection.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.contains("HTTP/1.1 503 ") && answer.contains("SERVER_DRAINING"), "{answer}");
    assert!(answer.to_lowercase().contains("retry-after: 1\r\n"), "{answer}");
}

/// A web page may make its reader's browser send such a request without asking us first.
#[tokio::test]
async fn a_grpc_method_takes_nothing_that_is_not_grpc() {
    let server = TestServer::start().await;
    let request = CreateProfileRequest { profile: Some(with_mpid(ADA)), ..create_request() };
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(request.encoded_len()).unwrap().to_be_bytes());
    request.encode(&mut body).unwrap();
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/json", ""] {
        let request = hyper::Request::post("/cameo.v1.ProfileService/CreateProfile")
            .header("content-type", kind)
            .header("origin", "http://elsewhere.example")
            .body(http_body_util::Full::new(bytes::Bytes::from(body.clone())))
            .unwrap();
        assert_eq!(http_request(server.addr, request).await.status, 415, "{kind}");
    }
    let request = hyper::Request::get("/cameo.v1.ProfileService/GetProfile").body(String::new()).unwrap();
    assert_eq!(http_request(server.addr, request).await.status, 415);
    assert!(server.client().await.get(ADA).await.is_err(), "nothing was written");
}

#[tokio::test]
async fn head_answers_the_headers_of_get() {
    let server = with_sample().await;
    let got = get(&server, MPID).await;
    let head = http(server.addr, "HEAD", &format!("{WORKSPACE}/{MPID}"), &[], "").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    for name in ["etag", "cache-control", "content-type", "content-length"] {
        assert_eq!(head.header(name), got.header(name), "{name}");
    }
    assert_eq!(http(server.addr, "HEAD", &format!("{WORKSPACE}/404"), &[], "").await.status, 404);
}

#[tokio::test]
async fn what_is_not_there_is_404() {
    let server = with_sample().await;
    assert_problem(&get(&server, "404").await, 404, "PROFILE_NOT_FOUND", "");
    let elsewhere = http(server.addr, "GET", "acme/main/app/1", &[], "").await;
    assert_problem(&elsewhere, 404, "PROFILE_NOT_FOUND", "");
    let body = r#"{"identity": {"type": "email", "value": "secret-value@example.com"}}"#;
    let answer = http(server.addr, "POST", &format!("resolve/{WORKSPACE}"), &[], body).await;
    assert_problem(&answer, 404, "PROFILE_NOT_FOUND", "");
    assert!(!format!("{answer:?}").contains("secret-value"));
    for target in ["", "acme/main/web", "acme/main/web/1/2"] {
        assert_problem(&http(server.addr, "GET", target, &[], "").await, 404, "METHOD_UNKNOWN", "");
    }
}

#[tokio::test]
async fn a_wrong_method_is_405_and_says_which_are_right() {
    let server = with_sample().await;
    for (method, target, allowed) in [
        ("DELETE", format!("{WORKSPACE}/{MPID}"), "GET,HEAD,POST"),
        ("PUT", format!("{WORKSPACE}/{MPID}"), "GET,HEAD,POST"),
        ("GET", format!("resolve/{WORKSPACE}"), "POST"),
    ] {
        let answer = http(server.addr, method, &target, &[], "").await;
        assert_problem(&answer, 405, "METHOD_UNKNOWN", "");
        assert_eq!(answer.header("allow"), allowed);
    }
}

#[tokio::test]
async fn what_is_malformed_is_400_and_names_the_field() {
    let server = with_sample().await;
    for (target, reason, field) in [
        ("acme/main/w%20b/1", "FIELD_INVALID", "workspace"),
        ("acme/main%2Fweb/x/1", "FIELD_INVALID", "workspace"),
        ("acme/main/%ff/1", "FIELD_INVALID", "path"),
        ("acme/main/web/0", "FIELD_INVALID", "mpid"),
        ("acme/main/web/one", "FIELD_INVALID", "mpid"),
        ("acme/main/web/%2B7", "FIELD_INVALID", "mpid"),
        ("acme/main/web/9223372036854775808", "FIELD_INVALID", "mpid"),
        ("acme/main/web/1?fields=emial", "MASK_INVALID", "fields"),
        ("acme/main/web/1?mpid_as=hex", "FIELD_INVALID", "mpid_as"),
    ] {
        assert_problem(&http(server.addr, "GET", target, &[], "").await, 400, reason, field);
    }
    for (body, field) in [
        ("", "body"),
        ("{}", "body"),
        (r#"{"identity": "secret-value"}"#, "body"),
        (r#"["production", ["email", "", "secret-value"]]"#, "body"),
        (r#"{"identity": {"type": "email", "value": ["secret-value"]}}"#, "body"),
        (r#"{"environment_type": "prod", "identity": {"type": "email", "value": "a"}}"#, "environment_type"),
        (r#"{"identity": {"type": "E-Mail", "value": "secret-value"}}"#, "identity.type"),
        (r#"{"identity": {"type": "email", "value": ""}}"#, "identity.value"),
    ] {
        let answer = http(server.addr, "POST", &format!("resolve/{WORKSPACE}"), &[], body).await;
        assert_problem(&answer, 400, "FIELD_INVALID", field);
        assert!(!format!("{answer:?}").contains("secret-value"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413() {
    let server = TestServer::start_with(limits(|limits| limits.request_bytes = 100)).await;
    server.client().await.create(owner_of(identity("email", "a"), ADA)).await.unwrap();
    let body = r#"{"identity": {"type": "email", "value": "a"}}"#;
    let target = format!("resolve/{WORKSPACE}");
    let answer = http(server.addr, "POST", &target, &[], &format!("{body:100}")).await;
    assert_eq!(answer.status, 200, "at the limit");
    let answer = http(server.addr, "POST", &target, &[], &format!("{body:101}")).await;
    assert_problem(&answer, 413, "LIMIT_EXCEEDED", "");
    assert_eq!(answer.json()["metadata"], json!({"limit": "100", "subject": "request bytes"}));
}

/// The rate is of one workspace; who asks too often is told when to come back.
#[tokio::test]
async fn a_workspace_that_asks_too_often_gets_429_and_when_to_come_back() {
    let server = TestServer::start_with(http_rate(3)).await;
    let client = server.client().await;
    client.create(with_mpid(ADA)).await.unwrap();
    let elsewhere = CreateProfileRequest { workspace: "acme/main/app".into(), ..create_request() };
    client.create_with(elsewhere).await.unwrap();

    let mut answers = Vec::new();
    for _ in 0..60 {
        answers.push(get(&server, "1").await);
    }
    let (refused, answered): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 429);
    assert!(answered.len() >= 3, "the burst is answered");
    assert_eq!(answered.iter().filter(|answer| answer.status != 200).count(), 0);
    let refused = refused.first().expect("sixty requests take less than twenty seconds");
    assert_problem(refused, 429, "RATE_LIMITED", "");
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(http(server.addr, "GET", "acme/main/app/404", &[], "").await.status, 404, "the other workspace");
    assert_eq!(client.get(ADA).await.unwrap().mpid, 1, "gRPC is not limited");
}

#[tokio::test]
async fn a_method_that_grpc_does_not_have_is_still_a_grpc_refusal() {
    let server = TestServer::start().await;
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    let answer = http(server.addr, "POST", "x", &headers, "").await;
    assert_eq!((answer.status, answer.header("grpc-status")), (200, "12"));
}
