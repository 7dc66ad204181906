//! The Profile API over HTTP, on the port of the gRPC services.

use std::fmt::Display;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cameo::proto::v1::*;
use prost::Message;
use prost_types::Timestamp;
use prost_types::value::Kind;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use crate::harness::*;

mod encodings;
mod rate;

/// What mParticle's Profile API responds for its example customer.
const SAMPLE: &str = include_str!("../data/userprofile-sample.json");
/// The query of that example.
const FIELDS: &str = "fields=device_identities,user_identities,user_attributes,audience_memberships,attribution";
/// [`SAMPLE_MPID`], as it is written in a path and in JSON.
const MPID: &str = "9080350317581165000";

/// Gets a profile of [`WORKSPACE`]; `target` is its mpid and the query.
async fn get(server: &TestServer, target: &(impl Display + ?Sized)) -> HttpResponse {
    http(server.addr, "GET", &format!("{WORKSPACE}/{target}"), &[], "").await
}

/// A server that holds the sample profile.
async fn with_sample() -> TestServer {
    let server = TestServer::start().await;
    server.client().await.create(sample()).await.unwrap();
    server
}

/// Asserts that the response is a problem (RFC 9457) with this status and reason, about `field` unless that is empty.
#[track_caller]
fn assert_problem(response: &HttpResponse, status: u16, reason: &str, field: &str) {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.header("content-type"), "application/problem+json");
    assert_eq!(response.header("cache-control"), "no-store");
    let problem = response.json();
    assert_eq!((&problem["status"], &problem["reason"]), (&json!(status), &json!(reason)), "{problem}");
    assert_eq!(problem["type"], "about:blank");
    assert!(!problem["title"].as_str().unwrap().is_empty() && !problem["detail"].as_str().unwrap().is_empty());
    let named = problem["errors"][0]["field"].as_str().unwrap_or_default();
    assert_eq!(named, field, "{problem}");
}

/// The positions of these keys in the text, which must have them all.
fn places(text: &str, keys: &[&str]) -> Vec<usize> {
    keys.iter().map(|key| text.find(&format!("\"{key}\"")).unwrap_or_else(|| panic!("no {key}"))).collect()
}

#[tokio::test]
async fn the_sample_goes_in_by_grpc_and_comes_out_by_http_as_the_profile_api_has_it() {
    const A_MINUTE: u128 = 60_000;
    let server = with_sample().await.restart().await;
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();

    for method in ["GET", "POST"] {
        let response = http(server.addr, method, &format!("{WORKSPACE}/{MPID}?{FIELDS}"), &[], "").await;

        assert_eq!((response.status, response.header("content-type")), (200, "application/json"));
        let mut found = response.json();
        let mut expected: serde_json::Value = serde_json::from_str(SAMPLE).unwrap();
        for time in ["created_timestamp_ms", "last_stored_timestamp_ms"] {
            let millis = u128::from(found[time].take().as_u64().unwrap());
            assert!(millis <= before && before - millis < A_MINUTE, "{time} is {millis}");
            expected[time].take();
        }
        assert_eq!(found, expected);

        let text = std::str::from_utf8(&response.body).unwrap();
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
        let response = get(&server, &format!("{MPID}{query}")).await.json();
        let mut expected = [&always, selected].concat();
        expected.sort_unstable();
        let found: Vec<_> = response.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(found, expected, "{query}");
    }
}

#[tokio::test]
async fn an_mpid_may_be_asked_for_as_a_string() {
    let server = with_sample().await;
    assert_eq!(get(&server, &format!("{MPID}?mpid_as=string")).await.json()["mpid"], json!(MPID));
    assert_eq!(get(&server, &format!("{MPID}?mpid_as=number")).await.json()["mpid"], json!(SAMPLE_MPID));
}

#[tokio::test]
async fn every_kind_of_value_has_its_json() {
    let server = TestServer::start().await;
    let client = server.client().await;
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
        ..with_mpid(-ADA)
    };
    client.create(created).await.unwrap();

    let response = get(&server, &(-ADA)).await;

    let text = std::str::from_utf8(&response.body).unwrap();
    assert!(text.contains(r#""exact":9007199254740992,"fraction":342.1,"large":"#), "{text}");
    assert!(text.contains(r#""map":{"a":1,"b":2},"null":null,"text":"\"ü\u0001","true":true,"whole":-4"#), "{text}");
    assert!(text.contains(r#","list":[1,"a",null],"map""#), "{text}");
    let found = response.json();
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
    client.create(with_mpid(GRACE)).await.unwrap();
    let bare = get(&server, &GRACE).await.json();
    assert_eq!((&bare["user_attributes"], &bare["account_userattributes"]), (&json!({}), &json!(null)));
}

#[tokio::test]
async fn an_identity_resolves_by_any_of_its_types_names() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let profile = Profile {
        device_identities: vec![identity("google_advertising_id", "g-1"), identity("ios_idfa", "i-1")],
        user_identities: vec![identity("customerid", "c-1"), identity("email", "Ada@example.com")],
        ..with_mpid(ADA)
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
            let response = http(server.addr, "POST", &target, &[], &body.to_string()).await;
            assert_eq!(response.status, 200, "{kind}");
            assert_eq!(response.json()["mpid"], ADA.to_string(), "{kind}");
            assert_eq!(response.json()["user_identities"][0]["type"], "customerid", "as it was given");
        }
        assert_eq!(client.get_by(identity(kind, value)).await.unwrap().mpid, ADA, "{kind}");
    }
    let other = owner_of(identity("customer_id", "c-1"), GRACE);
    assert_eq!(reason(&client.create(other).await.unwrap_err()), "IDENTITY_TAKEN", "it is one identity");
}

/// mParticle lists an id of a device whose type it does not know as `unknown`, among the device identities.
#[tokio::test]
async fn an_unknown_identity_is_a_device_identity() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let (first, second) = (identity("unknown", "0c48aafb"), identity("unknown", "1b4469f3"));
    let device_identities =
        vec![identity("android_id", "8789c459"), first, identity("google_advertising_id", "481c8a31")];
    client.create(Profile { device_identities, ..with_mpid(ADA) }).await.unwrap();
    client.update(ADA, add([second.clone()])).await.unwrap();

    let found = get(&server, &ADA).await.json();
    let kinds: Vec<_> =
        found["device_identities"].as_array().unwrap().iter().map(|identity| &identity["type"]).collect();
    assert_eq!(kinds, ["android_id", "unknown", "google_advertising_id", "unknown"]);
    assert_eq!(found["user_identities"], json!([]));
    for value in ["0c48aafb", "1b4469f3"] {
        let body = json!({"identity": {"type": "unknown", "value": value}}).to_string();
        let resolved = http(server.addr, "POST", &format!("resolve/{WORKSPACE}"), &[], &body).await;
        assert_eq!(resolved.json()["mpid"], ADA, "{value}");
        assert_eq!(client.get_by(identity("unknown", value)).await.unwrap().mpid, ADA, "{value}");
    }

    let upserted = UpdateProfileRequest {
        key: Some(by_identity(identity("unknown", "of no profile"))),
        allow_missing: true,
        ..update_request(ADA)
    };
    let created = client.update_with(upserted).await.unwrap().profile.unwrap();
    assert_eq!(
        created.device_identities,
        [Identity { encoding: "none".into(), ..identity("unknown", "of no profile") }]
    );

    let taken = Profile { device_identities: vec![second], ..with_mpid(GRACE) };
    assert_eq!(reason(&client.create(taken).await.unwrap_err()), "IDENTITY_TAKEN");
    let as_user = owner_of(identity("unknown", "u"), GRACE);
    let refused = client.create(as_user).await;
    assert_refused(refused, Code::InvalidArgument, "FIELD_INVALID", "profile.user_identities[0].type");
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

    let ask = |tags: String| async move { http(server.addr, "GET", &target, &[("if-none-match", &tags)], "").await };
    for tags in [etag.clone(), format!("W/{etag}"), format!("\"other\", {etag}"), "*".into()] {
        let response = ask.clone()(tags.clone()).await;
        assert_eq!((response.status, response.body.len()), (304, 0), "{tags}");
        assert_eq!(response.header("etag"), etag);
        assert_eq!(response.header("cache-control"), "private, no-cache");
    }
    assert_eq!(ask.clone()("\"other\"".into()).await.status, 200);
    client.update(SAMPLE_MPID, set([("ltv", text("350"))])).await.unwrap();
    let changed = ask.clone()(etag.clone()).await;
    assert_eq!(changed.status, 200);
    assert_ne!(changed.header("etag"), etag);
    assert_eq!(changed.json()["user_attributes"]["ltv"], "350");
}

/// When a membership ends, the profile stays the same, but the response does not.
#[tokio::test]
async fn an_etag_changes_when_a_membership_ends() {
    const LASTS: Duration = Duration::from_millis(500);
    const PATIENCE: Duration = Duration::from_secs(10);
    let server = TestServer::start().await;
    let begun = Instant::now();
    let membership = member(5, Some(from_now(LASTS)));
    server.client().await.create(Profile { audience_memberships: vec![membership], ..with_mpid(ADA) }).await.unwrap();
    let first = get(&server, &ADA).await;
    assert_eq!(first.json()["audience_memberships"].as_array().unwrap().len(), 1);

    let etag = first.header("etag");
    let target = format!("{WORKSPACE}/{ADA}");
    // The test waits for the clock.
    let later = loop {
        assert!(begun.elapsed() < LASTS + PATIENCE, "it still has the same etag");
        let response = http(server.addr, "GET", &target, &[("if-none-match", etag)], "").await;
        if response.status == 200 {
            break response;
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
        let response = http(server.addr, method, &target, &lines, "").await;
        assert_eq!((response.status, response.header("content-length")), (304, ""), "{method}");
    }
    let listed = [("if-none-match", "\"other\", *")];
    assert_eq!(http(server.addr, "GET", &target, &listed, "").await.status, 200, "a star must be alone");
}

/// Sends a request that is written by hand. Returns what the server writes until it closes the connection.
async fn raw(server: &TestServer, request: &str) -> String {
    within(async {
        let mut connection = TcpStream::connect(server.addr).await.unwrap();
        connection.write_all(request.as_bytes()).await.unwrap();
        connection.shutdown().await.unwrap(); // The request ends here.
        let mut response = String::new();
        connection.read_to_string(&mut response).await.unwrap();
        response
    })
    .await
}

/// A request that looks an identity up.
fn post(headers: &str, body: &str) -> String {
    format!("POST /userprofile/v1/resolve/{WORKSPACE} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n\r\n{body}")
}

#[tokio::test]
async fn a_body_that_breaks_off_is_400_and_one_that_says_it_is_too_large_is_not_waited_for() {
    const TOO_LARGE: usize = 20_000_000;
    let server = TestServer::start().await;
    let garbled = raw(&server, &post("transfer-encoding: chunked", "zz\r\n")).await;
    assert!(garbled.starts_with("HTTP/1.1 400 ") && garbled.contains("\"field\":\"body\""), "{garbled}");
    let large = raw(&server, &post(&format!("expect: 100-continue\r\ncontent-length: {TOO_LARGE}"), "")).await;
    assert!(large.starts_with("HTTP/1.1 413 ") && large.contains("LIMIT_EXCEEDED"), "{large}");
}

#[tokio::test]
async fn a_body_that_does_not_come_ends_with_the_server() {
    const INVITATION: &[u8; 21] = b"HTTP/1.1 100 Continue";
    let server = TestServer::start().await;
    let mut connection = TcpStream::connect(server.addr).await.unwrap();
    connection.write_all(post("content-length: 100\r\nexpect: 100-continue", "").as_bytes()).await.unwrap();
    let mut invited = [0; INVITATION.len()];
    within(connection.read_exact(&mut invited)).await.unwrap();
    assert_eq!(&invited, INVITATION, "the server waits for the body");

    server.stop().await;

    let mut response = String::new();
    within(connection.read_to_string(&mut response)).await.unwrap();
    assert!(response.contains("HTTP/1.1 503 ") && response.contains("SERVER_DRAINING"), "{response}");
    assert!(response.to_lowercase().contains("retry-after: 1\r\n"), "{response}");
}

/// A web page may make its reader's browser send such a request without asking the server first.
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
    assert_eq!(http_request(server.addr, request).await.status, 405);
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
    assert_eq!(http(server.addr, "HEAD", &format!("{WORKSPACE}/{UNKNOWN_MPID}"), &[], "").await.status, 404);
}

#[tokio::test]
async fn what_is_not_there_is_404() {
    let server = with_sample().await;
    assert_problem(&get(&server, &UNKNOWN_MPID).await, 404, "PROFILE_NOT_FOUND", "");
    let elsewhere = http(server.addr, "GET", &format!("{OTHER_WORKSPACE}/{MPID}"), &[], "").await;
    assert_problem(&elsewhere, 404, "PROFILE_NOT_FOUND", "");
    let body = r#"{"identity": {"type": "email", "value": "secret-value@example.com"}}"#;
    let response = http(server.addr, "POST", &format!("resolve/{WORKSPACE}"), &[], body).await;
    assert_problem(&response, 404, "PROFILE_NOT_FOUND", "");
    assert!(!format!("{response:?}").contains("secret-value"));
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
        let response = http(server.addr, method, &target, &[], "").await;
        assert_problem(&response, 405, "METHOD_UNKNOWN", "");
        assert_eq!(response.header("allow"), allowed);
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
        let response = http(server.addr, "POST", &format!("resolve/{WORKSPACE}"), &[], body).await;
        assert_problem(&response, 400, "FIELD_INVALID", field);
        assert!(!format!("{response:?}").contains("secret-value"), "{response:?}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413() {
    const LIMIT: usize = 100;
    let server = TestServer::start_with(limits(|limits| limits.request_bytes = LIMIT)).await;
    server.client().await.create(owner_of(identity("email", "a"), ADA)).await.unwrap();
    let body = r#"{"identity": {"type": "email", "value": "a"}}"#;
    let target = format!("resolve/{WORKSPACE}");
    let response = http(server.addr, "POST", &target, &[], &format!("{body:LIMIT$}")).await;
    assert_eq!(response.status, 200, "at the limit");
    let response = http(server.addr, "POST", &target, &[], &format!("{body:0$}", LIMIT + 1)).await;
    assert_problem(&response, 413, "LIMIT_EXCEEDED", "");
    assert_eq!(response.json()["metadata"], json!({"limit": "100", "subject": "request bytes"}));
}

#[tokio::test]
async fn a_method_that_grpc_does_not_have_is_still_a_grpc_refusal() {
    let server = TestServer::start().await;
    let request = hyper::Request::post("/userprofile/v1/x").header("content-type", "application/grpc");
    let response = http2_request(server.addr, request.body(String::from("\0\0\0\0\0")).unwrap()).await;
    assert_eq!((response.status, response.header("grpc-status")), (200, "12"));
}
