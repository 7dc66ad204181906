//! What bad input gets: the code, the reason, the field; and it changes nothing.

use std::future::Future;

use cameo::proto::v1::*;
use prost_types::value::Kind;
use prost_types::{Timestamp, Value};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::*;

/// Asserts the code and the reason, and that the details name `field` where that is not empty.
#[track_caller]
fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, expected: &str, field: &str) {
    let status = answer.expect_err("it should be refused");
    assert_eq!((status.code(), &*reason(&status)), (code, expected), "{status:?}");
    let violations = status.get_details_bad_request().map(|details| details.field_violations).unwrap_or_default();
    let named: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert!(field.is_empty() || named == [field], "{named:?} instead of {field}: {status:?}");
}

/// Runs a test on a server whose log holds two events, profile 1 with an email and profile 2, and asserts that
/// nothing changed.
async fn refusing<F: Future<Output = ()>>(test: impl FnOnce(Client) -> F) {
    let server = TestServer::start().await;
    let client = server.client().await;
    let ada = Profile {
        user_identities: vec![identity("email", "ada@x.com")],
        user_attributes: Some(map([("text", text("secret-value"))])),
        ..with_mpid(1)
    };
    client.create(ada).await.unwrap();
    client.create(with_mpid(2)).await.unwrap();
    let before = (client.get(1).await.unwrap(), client.get(2).await.unwrap(), client.log().await);
    test(client.clone()).await;
    let after = (client.get(1).await.unwrap(), client.get(2).await.unwrap(), client.log().await);
    assert_eq!(after, before, "a refused request changes nothing");
}

#[tokio::test]
async fn a_malformed_workspace() {
    refusing(|client| async move {
        for workspace in
            ["", "acme", "acme/main", "acme/main/", "a/b/c/d", "a/b/c d", &format!("a/b/{}", "c".repeat(65))]
        {
            let (invalid, workspace) = (Code::InvalidArgument, workspace.to_owned());
            let request = GetProfileRequest { workspace: workspace.clone(), ..get_request() };
            assert_refused(client.get_with(request).await, invalid, "FIELD_INVALID", "workspace");
            let request = CreateProfileRequest { workspace: workspace.clone(), ..create_request() };
            let answer = client.profiles.clone().create_profile(request).await;
            assert_refused(answer, invalid, "FIELD_INVALID", "workspace");
            let request = UpdateProfileRequest { workspace: workspace.clone(), ..update_request(1) };
            assert_refused(client.update_with(request).await, invalid, "FIELD_INVALID", "workspace");
            let request = DeleteProfileRequest { workspace: workspace.clone(), ..delete_request(1) };
            assert_refused(client.delete_with(request).await, invalid, "FIELD_INVALID", "workspace");
            let request = ListEventsRequest { workspace: workspace.clone(), ..list_request() };
            assert_refused(client.list(request).await, invalid, "FIELD_INVALID", "workspace");
            let request = SubscribeRequest { workspace, ..subscribe_request() };
            let answer = client.subscribe(request).await.map(|_| ());
            assert_refused(answer, invalid, "FIELD_INVALID", "workspace");
        }
    })
    .await;
}

#[tokio::test]
async fn a_key_that_names_no_profile() {
    refusing(|client| async move {
        let invalid = Code::InvalidArgument;
        assert_refused(client.get(0).await, invalid, "FIELD_INVALID", "mpid");
        assert_refused(client.update(0, increment("n")).await, invalid, "FIELD_INVALID", "mpid");
        assert_refused(client.delete(0).await, invalid, "FIELD_INVALID", "mpid");
        assert_refused(client.get_with(get_request()).await, invalid, "FIELD_INVALID", "key");
        assert_refused(client.get_by(identity("Email", "x")).await, invalid, "FIELD_INVALID", "identity.type");
        assert_refused(client.get_by(identity("email", " ")).await, invalid, "FIELD_INVALID", "identity.value");
        let long = identity("customer_id", &"x".repeat(1_025));
        assert_refused(client.get_by(long).await, invalid, "LIMIT_EXCEEDED", "identity.value");
        let encoded = Identity { encoding: "SHA 256".into(), ..identity("email", "x") };
        assert_refused(client.get_by(encoded).await, invalid, "FIELD_INVALID", "identity.encoding");
        for absent in
            [client.get(9).await.err(), client.delete(9).await.err(), client.update(9, increment("n")).await.err()]
        {
            let status = absent.unwrap();
            assert_eq!(status.get_details_resource_info().unwrap().resource_name, "profiles/9");
            assert_refused(Err::<(), _>(status), Code::NotFound, "PROFILE_NOT_FOUND", "");
        }
    })
    .await;
}

#[tokio::test]
async fn an_unknown_mask_path_or_filter() {
    refusing(|client| async move {
        let invalid = Code::InvalidArgument;
        for path in ["emial", "user_attributes.fields", "userAttributes", ""] {
            let key = Some(get_profile_request::Key::Mpid(1));
            let request = GetProfileRequest { key, read_mask: mask(&[path]), ..get_request() };
            assert_refused(client.get_with(request).await, invalid, "MASK_INVALID", "read_mask");
            let request = SubscribeRequest { read_mask: mask(&[path]), ..subscribe_request() };
            let answer = client.subscribe(request).await.map(|_| ());
            assert_refused(answer, invalid, "MASK_INVALID", "read_mask");
        }
        let filters = [
            ("filter.types", EventFilter { types: vec!["profile.exploded".into()], ..Default::default() }),
            ("filter.mpids", EventFilter { mpids: vec![0], ..Default::default() }),
            ("filter.audience_ids", EventFilter { audience_ids: vec![1], ..Default::default() }),
            ("filter.changed_fields", EventFilter { changed_fields: mask(&["mpid"]), ..Default::default() }),
            ("filter.expression", EventFilter { expression: "true".into(), ..Default::default() }),
        ];
        for (field, filter) in filters {
            let request = ListEventsRequest { filter: Some(filter), ..list_request() };
            assert_refused(client.list(request).await, invalid, "FILTER_INVALID", field);
        }
        let many = EventFilter { mpids: vec![1; 1_001], ..Default::default() };
        let request = ListEventsRequest { filter: Some(many), ..list_request() };
        assert_refused(client.list(request).await, invalid, "LIMIT_EXCEEDED", "filter.mpids");
    })
    .await;
}

#[tokio::test]
async fn what_is_not_offered_is_refused_and_not_ignored() {
    use subscribe_request::Start;
    refusing(|client| async move {
        let starts = [
            ("time", Start::Time(Timestamp::default())),
            ("snapshot", Start::Snapshot(true)),
            ("subscription", Start::Subscription("s".into())),
            ("earliest", Start::Earliest(false)),
        ];
        for (field, start) in starts {
            let request = SubscribeRequest { start: Some(start), ..subscribe_request() };
            let answer = client.subscribe(request).await.map(|_| ());
            assert_refused(answer, Code::InvalidArgument, "FIELD_INVALID", field);
        }
        for seconds in [-1, 0, 61, i64::MAX] {
            let heartbeat_interval = Some(prost_types::Duration { seconds, nanos: 0 });
            let request = SubscribeRequest { heartbeat_interval, ..subscribe_request() };
            let answer = client.subscribe(request).await.map(|_| ());
            assert_refused(answer, Code::InvalidArgument, "FIELD_INVALID", "heartbeat_interval");
        }
        for (page_size, expected) in [(-1, "FIELD_INVALID"), (1_001, "LIMIT_EXCEEDED")] {
            let request = ListEventsRequest { page_size, ..list_request() };
            assert_refused(client.list(request).await, Code::InvalidArgument, expected, "page_size");
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_over_a_limit() {
    refusing(|client| async move {
        let (invalid, exhausted) = (Code::InvalidArgument, Code::ResourceExhausted);
        let field = "patch.set_user_attributes";

        assert!(client.update_with(preview(set([(&"k".repeat(256), text("v"))]))).await.is_ok(), "at the limit");
        let key = set([(&"k".repeat(257), text("v"))]);
        assert_refused(client.update(1, key).await, invalid, "LIMIT_EXCEEDED", field);
        let value = set([("a", text(&"v".repeat(65 << 10)))]);
        assert_refused(client.update(1, value).await, invalid, "LIMIT_EXCEEDED", field);

        let attributes = |count: usize| {
            let fields = (0..count).map(|n| (format!("k{n}"), text("v"))).collect();
            let set_user_attributes = Some(prost_types::Struct { fields });
            ProfilePatch { set_user_attributes, ..Default::default() }
        };
        assert!(client.update_with(preview(attributes(999))).await.is_ok(), "with the one that is there, 1,000");
        assert_refused(client.update(1, attributes(1_000)).await, invalid, "LIMIT_EXCEEDED", field);
        assert_refused(client.update(1, attributes(1_001)).await, invalid, "LIMIT_EXCEEDED", field);

        let identities = |count: usize| ProfilePatch {
            add_identities: (0..count).map(|n| identity("customer_id", &n.to_string())).collect(),
            ..Default::default()
        };
        assert!(client.update_with(preview(identities(99))).await.is_ok(), "with the one that is there, 100");
        let field = "patch.add_identities";
        assert_refused(client.update(1, identities(100)).await, invalid, "LIMIT_EXCEEDED", field);

        let member = |audience_id| AudienceMembership { audience_id, ..Default::default() };
        let join =
            |count: i64| ProfilePatch { join_audiences: (1..=count).map(member).collect(), ..Default::default() };
        assert!(client.update_with(preview(join(1_000))).await.is_ok(), "at the limit");
        assert_refused(client.update(1, join(1_001)).await, invalid, "LIMIT_EXCEEDED", "patch.join_audiences");
        let attribution = |n: usize| Attribution { partner: n.to_string(), ..Default::default() };
        let add = |count| ProfilePatch { add_attribution: (0..count).map(attribution).collect(), ..Default::default() };
        assert!(client.update_with(preview(add(1_000))).await.is_ok(), "at the limit");
        assert_refused(client.update(1, add(1_001)).await, invalid, "LIMIT_EXCEEDED", "patch.add_attribution");

        let nested = |depth: usize| {
            let wrap = |value, _| Value { kind: Some(Kind::ListValue(list([value]))) };
            set([("a", (1..depth).fold(number(1.0), wrap))])
        };
        assert!(client.update_with(preview(nested(20))).await.is_ok(), "at the limit");
        assert_refused(client.update(1, nested(21)).await, invalid, "LIMIT_EXCEEDED", "patch.set_user_attributes");
        let append = |count: usize| ProfilePatch {
            append_user_attributes: [("l".to_owned(), list((0..count).map(|_| number(1.0))))].into(),
            ..Default::default()
        };
        assert!(client.update_with(preview(append(1_000))).await.is_ok(), "at the limit");
        assert_refused(
            client.update(1, append(1_001)).await,
            invalid,
            "LIMIT_EXCEEDED",
            "patch.append_user_attributes",
        );

        let blocks = |count: usize| {
            let fields = (0..count).map(|n| (format!("k{n}"), text(&"v".repeat(60 << 10)))).collect();
            let set_user_attributes = Some(prost_types::Struct { fields });
            ProfilePatch { set_user_attributes, ..Default::default() }
        };
        assert!(client.update_with(preview(blocks(4))).await.is_ok(), "240 KiB");
        let profile = client.update(1, blocks(5)).await;
        let status = profile.as_ref().unwrap_err();
        assert_eq!((metadata(status, "limit"), metadata(status, "subject")), ("262144".into(), "profile bytes".into()));
        assert_refused(profile, exhausted, "LIMIT_EXCEEDED", "");

        let request = client.update(1, blocks(18)).await;
        let status = request.as_ref().unwrap_err();
        assert_eq!(
            (metadata(status, "limit"), metadata(status, "subject")),
            ("1048576".into(), "request bytes".into())
        );
        assert!(metadata(status, "found").parse::<usize>().unwrap() > 1 << 20);
        assert!(status.get_details_quota_failure().is_some());
        assert_refused(request, exhausted, "LIMIT_EXCEEDED", "");
    })
    .await;
}

#[tokio::test]
async fn a_patch_that_says_two_things_or_nothing_sensible() {
    refusing(|client| async move {
        let twice = || vec![identity("email", "b@x.com"), identity("email", " B@X.com")];
        let number = |value: f64| number(value);
        let past = Some(Timestamp { seconds: 1, nanos: 0 });
        let member = |audience_id| AudienceMembership { audience_id, ..Default::default() };
        let patches = [
            ("patch.add_identities[1]", ProfilePatch { add_identities: twice(), ..Default::default() }),
            (
                "patch.remove_identities[0]",
                ProfilePatch {
                    add_identities: vec![identity("email", "b@x.com")],
                    remove_identities: vec![identity("email", "B@x.com")],
                    ..Default::default()
                },
            ),
            ("patch", ProfilePatch { remove_user_attributes: vec!["a".into()], ..set([("a", text("1"))]) }),
            ("patch", ProfilePatch { remove_user_attributes: vec!["n".into()], ..increment("n") }),
            ("patch.increment_user_attributes", increment("text")),
            (
                "patch.append_user_attributes",
                ProfilePatch {
                    append_user_attributes: [("text".to_owned(), list([number(1.0)]))].into(),
                    ..Default::default()
                },
            ),
            ("patch.set_user_attributes", set([("a", number(f64::NAN))])),
            ("patch.set_user_attributes", set([("a", Value { kind: None })])),
            ("patch.set_user_attributes", set([("", text("v"))])),
            (
                "patch.set_user_attributes",
                set([("a", Value { kind: Some(Kind::ListValue(list([number(f64::INFINITY)]))) })]),
            ),
            (
                "patch.join_audiences[0].audience_id",
                ProfilePatch { join_audiences: vec![member(0)], ..Default::default() },
            ),
            (
                "patch.join_audiences[0].expire_time",
                ProfilePatch {
                    join_audiences: vec![AudienceMembership { expire_time: past, ..member(1) }],
                    ..Default::default()
                },
            ),
            ("patch", ProfilePatch { join_audiences: vec![member(1)], leave_audiences: vec![1], ..Default::default() }),
            ("patch.leave_audiences[0]", ProfilePatch { leave_audiences: vec![0], ..Default::default() }),
            (
                "patch.add_attribution[0].partner",
                ProfilePatch { add_attribution: vec![Attribution::default()], ..Default::default() },
            ),
        ];
        for (field, patch) in patches {
            let answer = client.update(1, patch).await;
            assert!(!format!("{answer:?}").contains("secret-value"), "no value in an error");
            assert_refused(answer, Code::InvalidArgument, "FIELD_INVALID", field);
        }
        let request = UpdateProfileRequest { patch: None, ..update_request(1) };
        assert_refused(client.update_with(request).await, Code::InvalidArgument, "FIELD_INVALID", "patch");
    })
    .await;
}

#[tokio::test]
async fn a_profile_that_cannot_be_created() {
    refusing(|client| async move {
        let invalid = Code::InvalidArgument;
        assert_refused(client.create(with_mpid(1)).await, Code::AlreadyExists, "PROFILE_EXISTS", "");
        let taken = Profile { user_identities: vec![identity("email", "ADA@x.com")], ..with_mpid(3) };
        let answer = client.create(taken).await;
        let status = answer.as_ref().unwrap_err();
        assert_eq!(metadata(status, "owner_mpid"), "1");
        assert!(!format!("{status:?}").to_lowercase().contains("ada@"), "no identity value in an error");
        assert_refused(answer, Code::AlreadyExists, "IDENTITY_TAKEN", "");

        let twice = vec![identity("email", "c@x.com"), identity("email", "C@x.com")];
        let profile = Profile { user_identities: twice, ..with_mpid(3) };
        assert_refused(client.create(profile).await, invalid, "FIELD_INVALID", "profile.user_identities[1]");
        let wrong_side = Profile { user_identities: vec![identity("ios_idfa", "i")], ..with_mpid(3) };
        assert_refused(client.create(wrong_side).await, invalid, "FIELD_INVALID", "profile.user_identities[0].type");
        let request = CreateProfileRequest { profile: None, ..create_request() };
        let answer = client.profiles.clone().create_profile(request).await;
        assert_refused(answer, invalid, "FIELD_INVALID", "profile");
    })
    .await;
}

#[tokio::test]
async fn a_stale_etag() {
    refusing(|client| async move {
        let stale = "1-00000000";
        let request = UpdateProfileRequest { etag: stale.into(), ..update_request(1) };
        assert_refused(client.update_with(request.clone()).await, Code::Aborted, "ETAG_MISMATCH", "");
        let missing = UpdateProfileRequest { allow_missing: true, ..request };
        let missing = UpdateProfileRequest { key: update_request(9).key, ..missing };
        assert_refused(client.update_with(missing).await, Code::Aborted, "ETAG_MISMATCH", "");
        let request = DeleteProfileRequest { etag: stale.into(), ..delete_request(1) };
        assert_refused(client.delete_with(request).await, Code::Aborted, "ETAG_MISMATCH", "");
    })
    .await;
}

#[tokio::test]
async fn a_reused_or_malformed_request_id() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(with_mpid(1)).await.unwrap();
    let request = UpdateProfileRequest { request_id: "r1".into(), patch: Some(increment("n")), ..update_request(1) };
    client.update_with(request.clone()).await.unwrap();
    let log = client.log().await;

    let other = UpdateProfileRequest { patch: Some(increment("m")), ..request.clone() };
    assert_refused(client.update_with(other).await, Code::FailedPrecondition, "REQUEST_ID_REUSED", "");
    let other_method = DeleteProfileRequest { request_id: "r1".into(), ..delete_request(1) };
    assert_refused(client.delete_with(other_method).await, Code::FailedPrecondition, "REQUEST_ID_REUSED", "");
    for id in ["with space", "ü", &"x".repeat(65)] {
        let request = UpdateProfileRequest { request_id: id.into(), ..request.clone() };
        assert_refused(client.update_with(request).await, Code::InvalidArgument, "FIELD_INVALID", "request_id");
    }
    assert_eq!(client.log().await, log);
}

#[tokio::test]
async fn a_cursor_that_cannot_be_read_from() {
    refusing(|client| async move {
        let own = client.list(list_request()).await.unwrap().cursor;
        let request = CreateProfileRequest { workspace: "other/work/space".into(), ..create_request() };
        let other_workspace = client.profiles.clone().create_profile(request).await.unwrap().into_inner().cursor;
        let stranger = TestServer::start().await;
        let other_log = stranger.client().await.create(Profile::default()).await.unwrap().cursor;

        let cursors = [
            (String::from("garbled"), Code::InvalidArgument, "CURSOR_MALFORMED"),
            (own[..own.len() - 1].to_owned(), Code::InvalidArgument, "CURSOR_MALFORMED"),
            (own.to_lowercase(), Code::InvalidArgument, "CURSOR_MALFORMED"),
            (other_workspace, Code::FailedPrecondition, "CURSOR_FOREIGN"),
            (other_log, Code::FailedPrecondition, "CURSOR_FOREIGN"),
        ];
        for (cursor, code, expected) in cursors {
            assert_cursor_refused(&client, &cursor, code, expected).await;
        }
    })
    .await;
}

/// A cursor can lie past the head only where the log lost its end: here, an older copy of the store was put back.
#[tokio::test]
async fn a_cursor_past_the_head_of_the_log() {
    let server = TestServer::start().await;
    server.client().await.create(with_mpid(1)).await.unwrap();
    let dir = server.stop().await;
    let file = dir.path().join("data/cameo.redb");
    let copy = std::fs::read(&file).unwrap();
    let server = TestServer::start_on(dir, |_| {}).await;
    let cursor = server.client().await.create(with_mpid(2)).await.unwrap().cursor;
    let dir = server.stop().await;
    std::fs::write(&file, copy).unwrap();

    let server = TestServer::start_on(dir, |_| {}).await;
    assert_cursor_refused(&server.client().await, &cursor, Code::OutOfRange, "CURSOR_IN_FUTURE").await;
}

async fn assert_cursor_refused(client: &Client, cursor: &str, code: Code, expected: &str) {
    let subscribe = SubscribeRequest { start: after(cursor), ..subscribe_request() };
    assert_refused(client.subscribe(subscribe).await.map(|_| ()), code, expected, "");
    let start = Some(list_events_request::Start::Cursor(cursor.into()));
    assert_refused(client.list(ListEventsRequest { start, ..list_request() }).await, code, expected, "");
    let key = Some(get_profile_request::Key::Mpid(1));
    let get = GetProfileRequest { key, min_cursor: cursor.into(), ..get_request() };
    assert_refused(client.get_with(get).await, code, expected, "");
}

/// An update of profile 1 that is only checked.
fn preview(patch: ProfilePatch) -> UpdateProfileRequest {
    UpdateProfileRequest { patch: Some(patch), validate_only: true, ..update_request(1) }
}
