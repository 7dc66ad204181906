//! Bad input is refused with a code, a reason and the field, and changes nothing.

use cameo::proto::v1::*;
use prost_types::value::Kind;
use prost_types::{Timestamp, Value};
use tonic::Code;
use tonic_types::StatusExt;

use crate::harness::*;

/// The longest part of a workspace's name.
const WORKSPACE_PART_BYTES: usize = 64;
/// The longest value of an identity.
const IDENTITY_VALUE_BYTES: usize = 1_024;
/// The longest etag.
const ETAG_BYTES: usize = 64;
/// The longest request id.
const REQUEST_ID_BYTES: usize = 64;
/// The most values in a list of a filter.
const FILTER_VALUES: usize = 1_000;
/// The longest time between heartbeats, in seconds.
const LONGEST_HEARTBEAT: i64 = 60;

/// Runs a test on a server that holds two profiles, Ada's and Grace's, and asserts that the test changed nothing.
async fn refusing<F: Future<Output = ()>>(test: impl FnOnce(Client) -> F) {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(Profile { user_attributes: Some(map([("text", text("secret-value"))])), ..ada() }).await.unwrap();
    client.create(with_mpid(GRACE)).await.unwrap();
    let before = (client.get(ADA).await.unwrap(), client.get(GRACE).await.unwrap(), client.log().await);
    test(client.clone()).await;
    let after = (client.get(ADA).await.unwrap(), client.get(GRACE).await.unwrap(), client.log().await);
    assert_eq!(after, before, "a refused request changes nothing");
}

#[tokio::test]
async fn a_malformed_workspace() {
    refusing(|client| async move {
        for workspace in [
            "",
            "acme",
            "acme/main",
            "acme/main/",
            "a/b/c/d",
            "a/b/c d",
            &format!("a/b/{}", "c".repeat(WORKSPACE_PART_BYTES + 1)),
        ] {
            let (invalid, workspace) = (Code::InvalidArgument, workspace.to_owned());
            let request = GetProfileRequest { workspace: workspace.clone(), ..get_request() };
            assert_refused(client.get_with(request).await, invalid, "FIELD_INVALID", "workspace");
            let request = CreateProfileRequest { workspace: workspace.clone(), ..create_request() };
            let response = client.create_with(request).await;
            assert_refused(response, invalid, "FIELD_INVALID", "workspace");
            let request = UpdateProfileRequest { workspace: workspace.clone(), ..update_request(ADA) };
            assert_refused(client.update_with(request).await, invalid, "FIELD_INVALID", "workspace");
            let request = DeleteProfileRequest { workspace: workspace.clone(), ..delete_request(ADA) };
            assert_refused(client.delete_with(request).await, invalid, "FIELD_INVALID", "workspace");
            let request = ListEventsRequest { workspace: workspace.clone(), ..list_request() };
            assert_refused(client.list(request).await, invalid, "FIELD_INVALID", "workspace");
            let request = SubscribeRequest { workspace, ..subscribe_request() };
            let response = client.subscribe(request).await.map(|_| ());
            assert_refused(response, invalid, "FIELD_INVALID", "workspace");
        }
    })
    .await;
}

#[tokio::test]
async fn a_key_that_names_no_profile() {
    refusing(|client| async move {
        let invalid = Code::InvalidArgument;
        assert_refused(client.get(0).await, invalid, "FIELD_INVALID", "key.mpid");
        assert_refused(client.update(0, increment("visits")).await, invalid, "FIELD_INVALID", "key.mpid");
        assert_refused(client.delete(0).await, invalid, "FIELD_INVALID", "key.mpid");
        assert_refused(client.get_with(get_request()).await, invalid, "FIELD_INVALID", "key");
        assert_refused(client.get_by(identity("Email", "x")).await, invalid, "FIELD_INVALID", "key.identity.type");
        assert_refused(client.get_by(identity("email", " ")).await, invalid, "FIELD_INVALID", "key.identity.value");
        let long = identity("customer_id", &"x".repeat(IDENTITY_VALUE_BYTES + 1));
        assert_refused(client.get_by(long).await, invalid, "LIMIT_EXCEEDED", "key.identity.value");
        let encoded = Identity { encoding: "SHA 256".into(), ..identity("email", "x") };
        assert_refused(client.get_by(encoded).await, invalid, "FIELD_INVALID", "key.identity.encoding");
        for absent in [
            client.get(UNKNOWN_MPID).await.err(),
            client.delete(UNKNOWN_MPID).await.err(),
            client.update(UNKNOWN_MPID, increment("visits")).await.err(),
        ] {
            let status = absent.unwrap();
            assert_eq!(status.get_details_resource_info().unwrap().resource_name, format!("profiles/{UNKNOWN_MPID}"));
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
            let key = Some(by_mpid(ADA));
            let request = GetProfileRequest { key, read_mask: mask(&[path]), ..get_request() };
            assert_refused(client.get_with(request).await, invalid, "MASK_INVALID", "read_mask");
            let request = SubscribeRequest { read_mask: mask(&[path]), ..subscribe_request() };
            let response = client.subscribe(request).await.map(|_| ());
            assert_refused(response, invalid, "MASK_INVALID", "read_mask");
        }
        let filters = [
            (
                "filter.types[1]",
                EventFilter { types: vec!["profile.created".into(), "profile.exploded".into()], ..Default::default() },
            ),
            ("filter.mpids[1]", EventFilter { mpids: vec![ADA, 0], ..Default::default() }),
            ("filter.audience_ids[1]", EventFilter { audience_ids: vec![1, 0], ..Default::default() }),
            ("filter.changed_fields", EventFilter { changed_fields: mask(&["mpid"]), ..Default::default() }),
            ("filter.expression", EventFilter { expression: "profile.plan ==".into(), ..Default::default() }),
        ];
        for (field, filter) in filters {
            let request = ListEventsRequest { filter: Some(filter), ..list_request() };
            assert_refused(client.list(request).await, invalid, "FILTER_INVALID", field);
        }
        let many = EventFilter { mpids: vec![ADA; FILTER_VALUES + 1], ..Default::default() };
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
            ("time", Start::Time(Timestamp { seconds: 0, nanos: -1 })),
            ("snapshot", Start::Snapshot(false)),
            ("subscription", Start::Subscription("a b".into())),
            ("earliest", Start::Earliest(false)),
        ];
        for (field, start) in starts {
            let request = SubscribeRequest { start: Some(start), ..subscribe_request() };
            let response = client.subscribe(request).await.map(|_| ());
            assert_refused(response, Code::InvalidArgument, "FIELD_INVALID", field);
        }
        for interval in [-1, 0, LONGEST_HEARTBEAT + 1, i64::MAX] {
            let heartbeat_interval = seconds(interval);
            let request = SubscribeRequest { heartbeat_interval, ..subscribe_request() };
            let response = client.subscribe(request).await.map(|_| ());
            assert_refused(response, Code::InvalidArgument, "FIELD_INVALID", "heartbeat_interval");
        }
    })
    .await;
}

#[tokio::test]
async fn a_page_or_a_batch_that_cannot_be() {
    refusing(|client| async move {
        let invalid = Code::InvalidArgument;
        let other = CreateProfileRequest { workspace: OTHER_WORKSPACE.into(), ..create_request() };
        client.create_with(other.clone()).await.unwrap();
        client.create_with(other).await.unwrap();
        let elsewhere = ListProfilesRequest { workspace: OTHER_WORKSPACE.into(), page_size: 1, ..page_request() };
        let foreign = client.page(elsewhere).await.unwrap().next_page_token;
        let own = client.page(ListProfilesRequest { page_size: 1, ..page_request() }).await.unwrap().next_page_token;
        assert!(!foreign.is_empty() && !own.is_empty());
        for page_token in ["garbled", &foreign, &own[1..], &client.list(list_request()).await.unwrap().cursor] {
            let request = ListProfilesRequest { page_token: page_token.into(), ..page_request() };
            assert_refused(client.page(request).await, invalid, "FIELD_INVALID", "page_token");
        }
        let request = ListProfilesRequest { page_size: -1, ..page_request() };
        assert_refused(client.page(request).await, invalid, "FIELD_INVALID", "page_size");
        let request = ListEventsRequest { page_size: -1, ..list_request() };
        assert_refused(client.list(request).await, invalid, "FIELD_INVALID", "page_size");
        let request = ListProfilesRequest { read_mask: mask(&["emial"]), ..page_request() };
        assert_refused(client.page(request).await, invalid, "MASK_INVALID", "read_mask");
        let request = ListProfilesRequest { workspace: "acme".into(), ..page_request() };
        assert_refused(client.page(request).await, invalid, "FIELD_INVALID", "workspace");

        assert_refused(client.batch(batch_request([])).await, invalid, "FIELD_INVALID", "keys");
        let batch = || batch_request([by_mpid(ADA)]);
        let request = BatchGetProfilesRequest { workspace: "acme".into(), ..batch() };
        assert_refused(client.batch(request).await, invalid, "FIELD_INVALID", "workspace");
        let request = BatchGetProfilesRequest { read_mask: mask(&["emial"]), ..batch() };
        assert_refused(client.batch(request).await, invalid, "MASK_INVALID", "read_mask");
        let request = BatchGetProfilesRequest { min_cursor: "garbled".into(), ..batch() };
        assert_refused(client.batch(request).await, invalid, "CURSOR_MALFORMED", "min_cursor");
    })
    .await;
}

#[tokio::test]
async fn a_patch_that_says_two_things_or_nothing_sensible() {
    refusing(|client| async move {
        let twice = || vec![identity("email", "b@example.com"), identity("email", " B@Example.com")];
        let past = Some(Timestamp { seconds: 1, nanos: 0 });
        let patches = [
            ("patch.add_identities[1]", ProfilePatch { add_identities: twice(), ..Default::default() }),
            (
                "patch.remove_identities[0]",
                ProfilePatch {
                    add_identities: vec![identity("email", "b@example.com")],
                    remove_identities: vec![identity("email", "B@example.com")],
                    ..Default::default()
                },
            ),
            (
                r#"patch.remove_user_attributes["a"]"#,
                ProfilePatch { remove_user_attributes: vec!["a".into()], ..set([("a", text("1"))]) },
            ),
            (
                r#"patch.increment_user_attributes["visits"]"#,
                ProfilePatch { remove_user_attributes: vec!["visits".into()], ..increment("visits") },
            ),
            (r#"patch.increment_user_attributes["text"]"#, increment("text")),
            (
                r#"patch.append_user_attributes["text"]"#,
                ProfilePatch {
                    append_user_attributes: [("text".to_owned(), list([number(1.0)]))].into(),
                    ..Default::default()
                },
            ),
            (r#"patch.set_user_attributes["a"]"#, set([("a", number(f64::NAN))])),
            (r#"patch.set_user_attributes["a"]"#, set([("a", Value { kind: None })])),
            (r#"patch.set_user_attributes[""]"#, set([("", text("v"))])),
            (r#"patch.set_user_attributes["a"]"#, set([("a", value(Kind::ListValue(list([number(f64::INFINITY)]))))])),
            (
                "patch.join_audiences[0].audience_id",
                ProfilePatch { join_audiences: vec![member(0, None)], ..Default::default() },
            ),
            (
                "patch.join_audiences[0].expire_time",
                ProfilePatch { join_audiences: vec![member(1, past)], ..Default::default() },
            ),
            (
                "patch.leave_audiences[0]",
                ProfilePatch { join_audiences: vec![member(1, None)], leave_audiences: vec![1], ..Default::default() },
            ),
            ("patch.leave_audiences[0]", ProfilePatch { leave_audiences: vec![0], ..Default::default() }),
            (
                "patch.add_attribution[0].partner",
                ProfilePatch { add_attribution: vec![Attribution::default()], ..Default::default() },
            ),
        ];
        for (field, patch) in patches {
            let response = client.update(ADA, patch).await;
            assert!(!format!("{response:?}").contains("secret-value"), "no value in an error");
            assert_refused(response, Code::InvalidArgument, "FIELD_INVALID", field);
        }
        let request = UpdateProfileRequest { patch: None, ..update_request(ADA) };
        assert_refused(client.update_with(request).await, Code::InvalidArgument, "FIELD_INVALID", "patch");
    })
    .await;
}

#[tokio::test]
async fn a_profile_that_cannot_be_created() {
    refusing(|client| async move {
        let invalid = Code::InvalidArgument;
        assert_refused(client.create(with_mpid(ADA)).await, Code::AlreadyExists, "PROFILE_EXISTS", "");
        let taken = owner_of(email("ADA"), ALAN);
        let response = client.create(taken).await;
        let status = response.as_ref().unwrap_err();
        assert_eq!(metadata(status, "owner_mpid"), ADA.to_string());
        assert!(!format!("{status:?}").to_lowercase().contains("ada@"), "no identity value in an error");
        assert_refused(response, Code::AlreadyExists, "IDENTITY_TAKEN", "");

        let twice = vec![identity("email", "c@example.com"), identity("email", "C@example.com")];
        let profile = Profile { user_identities: twice, ..with_mpid(ALAN) };
        assert_refused(client.create(profile).await, invalid, "FIELD_INVALID", "profile.user_identities[1]");
        let wrong_side = owner_of(identity("ios_idfa", "i"), ALAN);
        assert_refused(client.create(wrong_side).await, invalid, "FIELD_INVALID", "profile.user_identities[0].type");
        let request = CreateProfileRequest { profile: None, ..create_request() };
        let response = client.create_with(request).await;
        assert_refused(response, invalid, "FIELD_INVALID", "profile");
    })
    .await;
}

#[tokio::test]
async fn a_stale_etag() {
    refusing(|client| async move {
        let stale = "1-00000000";
        let request = UpdateProfileRequest { etag: stale.into(), ..update_request(ADA) };
        assert_refused(client.update_with(request.clone()).await, Code::Aborted, "ETAG_MISMATCH", "");
        let missing = UpdateProfileRequest { allow_missing: true, ..request };
        let missing = UpdateProfileRequest { key: update_request(UNKNOWN_MPID).key, ..missing };
        assert_refused(client.update_with(missing).await, Code::Aborted, "ETAG_MISMATCH", "");
        let request = DeleteProfileRequest { etag: stale.into(), ..delete_request(ADA) };
        assert_refused(client.delete_with(request.clone()).await, Code::Aborted, "ETAG_MISMATCH", "");
        let longest = DeleteProfileRequest { etag: "x".repeat(ETAG_BYTES), ..request.clone() };
        assert_refused(client.delete_with(longest).await, Code::Aborted, "ETAG_MISMATCH", "");
        let too_long = DeleteProfileRequest { etag: "x".repeat(ETAG_BYTES + 1), ..request };
        assert_refused(client.delete_with(too_long).await, Code::InvalidArgument, "LIMIT_EXCEEDED", "etag");
        let too_long = UpdateProfileRequest { etag: "x".repeat(ETAG_BYTES + 1), ..update_request(ADA) };
        assert_refused(client.update_with(too_long).await, Code::InvalidArgument, "LIMIT_EXCEEDED", "etag");
    })
    .await;
}

#[tokio::test]
async fn a_reused_or_malformed_request_id() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(with_mpid(ADA)).await.unwrap();
    let request =
        UpdateProfileRequest { request_id: "r1".into(), patch: Some(increment("visits")), ..update_request(ADA) };
    client.update_with(request.clone()).await.unwrap();
    let log = client.log().await;

    let other = UpdateProfileRequest { patch: Some(increment("m")), ..request.clone() };
    assert_refused(client.update_with(other).await, Code::FailedPrecondition, "REQUEST_ID_REUSED", "");
    let other_method = DeleteProfileRequest { request_id: "r1".into(), ..delete_request(ADA) };
    assert_refused(client.delete_with(other_method).await, Code::FailedPrecondition, "REQUEST_ID_REUSED", "");
    for id in ["with space", "ü", &"x".repeat(REQUEST_ID_BYTES + 1)] {
        let request = UpdateProfileRequest { request_id: id.into(), ..request.clone() };
        assert_refused(client.update_with(request).await, Code::InvalidArgument, "FIELD_INVALID", "request_id");
    }
    assert_eq!(client.log().await, log);
}

#[tokio::test]
async fn a_cursor_that_cannot_be_read_from() {
    refusing(|client| async move {
        let own = client.list(list_request()).await.unwrap().cursor;
        let request = CreateProfileRequest { workspace: OTHER_WORKSPACE.into(), ..create_request() };
        let other_workspace = client.create_with(request).await.unwrap().cursor;
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

#[tokio::test]
async fn a_cursor_past_the_head_of_the_log() {
    let (server, cursor) = TestServer::with_lost_future().await;
    assert_cursor_refused(&server.client().await, &cursor, Code::OutOfRange, "CURSOR_IN_FUTURE").await;
}

async fn assert_cursor_refused(client: &Client, cursor: &str, code: Code, expected: &str) {
    let subscribe = SubscribeRequest { start: after(cursor), ..subscribe_request() };
    assert_refused(client.subscribe(subscribe).await.map(|_| ()), code, expected, "");
    let start = page_after(cursor);
    assert_refused(client.list(ListEventsRequest { start, ..list_request() }).await, code, expected, "");
    let key = Some(by_mpid(ADA));
    let get = GetProfileRequest { key, min_cursor: cursor.into(), ..get_request() };
    assert_refused(client.get_with(get).await, code, expected, "");
}
