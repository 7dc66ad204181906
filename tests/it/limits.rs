//! Each limit: a value at the limit is taken, and one past it is refused, by default and where it is configured.

use cameo::model::Limits;
use cameo::proto::v1::*;
use prost::Message;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tonic::Code;
use tonic_types::StatusExt;

use crate::harness::*;

const INVALID: Code = Code::InvalidArgument;
const EXHAUSTED: Code = Code::ResourceExhausted;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// How deep the value of an attribute may nest.
const DEPTH: usize = 20;
/// How many values a patch may append to one list.
const APPENDED_VALUES: usize = 1_000;
/// The longest name of an audience, a partner or a campaign.
const NAME_BYTES: usize = 256;
/// How many identities a patch may take from other profiles.
const TAKEN_IDENTITIES: usize = 10;
/// The default for keys of a batch and for items of a page.
const DEFAULT_COUNT: usize = 1_000;
/// How many items a page has if the request gives no size.
const DEFAULT_PAGE: usize = 100;
/// How much of a long key an error shows.
const QUOTED_CHARS: usize = 64;
/// A limit in bytes that is lower than the default.
const SMALL: usize = 1_000;
/// More bytes than a profile takes besides its one attribute.
const OTHER_FIELDS: usize = 100;

/// A server with changed limits, and a client of it.
async fn limited(change: impl FnOnce(&mut Limits)) -> (TestServer, Client) {
    let server = TestServer::start_with(limits(change)).await;
    let client = server.client().await;
    (server, client)
}

fn attributes(count: usize) -> ProfilePatch {
    let fields = (0..count).map(|n| (format!("k{n}"), text("v"))).collect();
    ProfilePatch { set_user_attributes: Some(Struct { fields }), ..ProfilePatch::default() }
}

fn account_attributes(count: usize) -> ProfilePatch {
    let ProfilePatch { set_user_attributes, .. } = attributes(count);
    ProfilePatch { set_account_user_attributes: set_user_attributes, ..ProfilePatch::default() }
}

/// A key of [`key_of`] as an error shows it: the start of a long one.
fn quoted(bytes: usize) -> String {
    let cut = if bytes > QUOTED_CHARS { "…" } else { "" };
    format!("\"{}\"{cut}", "k".repeat(bytes.min(QUOTED_CHARS)))
}

fn key_of(bytes: usize) -> ProfilePatch {
    set([(&"k".repeat(bytes), text("v"))])
}

/// A value that takes so many bytes encoded: a string of three bytes of length, and a byte of key.
fn value_of(bytes: usize) -> ProfilePatch {
    let length = (bytes - 2..=bytes).rev().find(|length| text(&"v".repeat(length - 2)).encoded_len() <= bytes).unwrap();
    let value = text(&"v".repeat(length - 2));
    assert_eq!(value.encoded_len(), bytes);
    set([("a", value)])
}

fn identities(count: usize) -> ProfilePatch {
    let add_identities = (0..count).map(|n| identity("customer_id", &n.to_string())).collect();
    ProfilePatch { add_identities, ..ProfilePatch::default() }
}

fn identity_of(bytes: usize) -> ProfilePatch {
    ProfilePatch { add_identities: vec![identity("customer_id", &"x".repeat(bytes))], ..ProfilePatch::default() }
}

fn memberships(count: usize) -> ProfilePatch {
    let member = |n| AudienceMembership { audience_id: i64::try_from(n).unwrap(), ..AudienceMembership::default() };
    ProfilePatch { join_audiences: (1..=count).map(member).collect(), ..ProfilePatch::default() }
}

fn attributions(count: usize) -> ProfilePatch {
    let attribution = |n: usize| Attribution { partner: n.to_string(), ..Attribution::default() };
    ProfilePatch { add_attribution: (0..count).map(attribution).collect(), ..ProfilePatch::default() }
}

fn depth(depth: usize) -> ProfilePatch {
    let wrap = |value, _| Value { kind: Some(Kind::ListValue(list([value]))) };
    set([("a", (1..depth).fold(number(1.0), wrap))])
}

fn append(count: usize) -> ProfilePatch {
    let values = list((0..count).map(|_| number(1.0)));
    ProfilePatch { append_user_attributes: [("l".to_owned(), values)].into(), ..ProfilePatch::default() }
}

/// Asserts that a patch which creates a profile may hold `limit` of something, and no more.
async fn assert_limit(client: &Client, limit: usize, patch: impl Fn(usize) -> ProfilePatch, field: &str) {
    let upsert = |count: usize| UpdateProfileRequest {
        patch: Some(patch(count)),
        allow_missing: true,
        validate_only: true,
        ..update_request(ADA)
    };
    client.update_with(upsert(limit)).await.unwrap_or_else(|status| panic!("{limit} of {field}: {status:?}"));
    let response = client.update_with(upsert(limit + 1)).await;
    let status = response.as_ref().unwrap_err();
    assert_eq!(metadata(status, "limit"), limit.to_string(), "{field}");
    assert_eq!(metadata(status, "found"), (limit + 1).to_string(), "{field}");
    assert_refused(response, INVALID, "LIMIT_EXCEEDED", field);
}

async fn assert_patch_limits(client: &Client, limits: &Limits) {
    let set = "patch.set_user_attributes";
    assert_limit(client, limits.attributes, attributes, set).await;
    assert_limit(client, limits.attributes, account_attributes, "patch.set_account_user_attributes").await;
    let long_key = quoted(limits.attribute_key_bytes + 1);
    assert_limit(client, limits.attribute_key_bytes, key_of, &format!("{set}[{long_key}]")).await;
    assert_limit(client, limits.attribute_value_bytes, value_of, r#"patch.set_user_attributes["a"]"#).await;
    assert_limit(client, limits.identities, identities, "patch.add_identities").await;
    assert_limit(client, limits.identity_value_bytes, identity_of, "patch.add_identities[0].value").await;
    assert_limit(client, limits.audience_memberships, memberships, "patch.join_audiences").await;
    assert_limit(client, limits.attributions, attributions, "patch.add_attribution").await;
}

#[tokio::test]
async fn what_a_patch_may_hold_by_default() {
    let (_server, client) = limited(|_| ()).await;
    assert_patch_limits(&client, &Limits::default()).await;
    assert_limit(&client, DEPTH, depth, r#"patch.set_user_attributes["a"]"#).await;
    assert_limit(&client, APPENDED_VALUES, append, r#"patch.append_user_attributes["l"]"#).await;
}

#[tokio::test]
async fn what_a_patch_may_hold_where_it_is_configured() {
    let limits = Limits {
        attributes: 3,
        attribute_key_bytes: 4,
        attribute_value_bytes: 300,
        identities: 5,
        identity_value_bytes: 6,
        audience_memberships: 7,
        attributions: 8,
        ..Limits::default()
    };
    let (_server, client) = limited(|given| *given = limits).await;
    assert_patch_limits(&client, &limits).await;
}

/// Limits that no setting changes.
#[tokio::test]
async fn what_is_fixed_holds_at_its_limit() {
    let (_server, client) = limited(|_| ()).await;
    let named = |bytes| ProfilePatch {
        join_audiences: vec![AudienceMembership { audience_name: "n".repeat(bytes), ..member(1, None) }],
        ..ProfilePatch::default()
    };
    assert_limit(&client, NAME_BYTES, named, "patch.join_audiences[0].audience_name").await;
    let attributed = |partner: usize, campaign: usize| ProfilePatch {
        add_attribution: vec![Attribution {
            partner: "p".repeat(partner),
            campaign: "c".repeat(campaign),
            ..Attribution::default()
        }],
        ..ProfilePatch::default()
    };
    assert_limit(&client, NAME_BYTES, move |bytes| attributed(bytes, 0), "patch.add_attribution[0].partner").await;
    assert_limit(&client, NAME_BYTES, move |bytes| attributed(1, bytes), "patch.add_attribution[0].campaign").await;

    let names: Vec<_> = (0..=TAKEN_IDENTITIES).map(|n| identity("other", &n.to_string())).collect();
    for (name, mpid) in names.iter().zip(10..) {
        client.create(owner_of(name.clone(), mpid)).await.unwrap();
    }
    let take = move |count: usize| take(names[..count].to_vec());
    assert_limit(&client, TAKEN_IDENTITIES, take, "patch.add_identities").await;
}

/// The identity that names a new profile counts too.
#[tokio::test]
async fn an_identity_that_names_a_new_profile_is_counted() {
    let (_server, client) = limited(|limits| limits.identities = 2).await;
    let upsert = |count| {
        let key = by_identity(email("ada"));
        ImportProfilesRequest { validate_only: true, ..record(key, identities(count)) }
    };
    assert_eq!(client.import(vec![upsert(1)]).await.unwrap().created, 1);
    assert_eq!(client.import(vec![upsert(2)]).await.unwrap().refused, 1);
}

/// The limit on the bytes of a response is exact for a batch. A page ends with the item that reaches it.
#[tokio::test]
async fn an_answer_takes_as_many_bytes_as_it_may() {
    for over in [0, 1] {
        let server = TestServer::start().await;
        let client = server.client().await;
        for mpid in [ADA, GRACE] {
            client.create(with_mpid(mpid)).await.unwrap();
        }
        let batch = || batch_request([by_mpid(ADA), by_mpid(GRACE)]);
        let whole = client.profiles.clone().batch_get_profiles(batch()).await.unwrap().into_inner();
        // The first result and the second's profile are held against the limit.
        let first = BatchGetProfilesResponse { results: whole.results[..1].to_vec() }.encoded_len();
        let bytes = first + client.get(GRACE).await.unwrap().encoded_len();
        let server =
            TestServer::reopen_with(server.stop().await, limits(|limits| limits.response_bytes = bytes - over)).await;
        let results = server.client().await.batch(batch()).await.unwrap();
        let found = results.iter().filter(|result| matches!(result, batch_get_profiles_result::Result::Found(_)));
        assert_eq!(found.count(), 2 - over, "{over} past the limit");
    }
}

/// A limit counts the existing values of the profile too, not only those of the patch.
#[tokio::test]
async fn a_profile_cannot_grow_past_a_limit_step_by_step() {
    let (_server, client) = limited(|limits| {
        (limits.attributes, limits.identities, limits.audience_memberships, limits.attributions) = (2, 2, 2, 2);
    })
    .await;
    client.create(with_mpid(ADA)).await.unwrap();
    for patch in [attributes(2), identities(2), memberships(2), attributions(2)] {
        client.update(ADA, patch).await.unwrap();
    }
    let before = client.get(ADA).await.unwrap();
    let one_more = [
        ("patch.set_user_attributes", set([("more", text("v"))])),
        ("patch.add_identities", ProfilePatch { add_identities: vec![identity("email", "a")], ..Default::default() }),
        (
            "patch.join_audiences",
            ProfilePatch { join_audiences: memberships(3).join_audiences.split_off(2), ..Default::default() },
        ),
        (
            "patch.add_attribution",
            ProfilePatch { add_attribution: attributions(3).add_attribution.split_off(2), ..Default::default() },
        ),
    ];
    for (field, patch) in one_more {
        assert_refused(client.update(ADA, patch).await, INVALID, "LIMIT_EXCEEDED", field);
    }
    assert_eq!(client.get(ADA).await.unwrap(), before);
}

/// A profile that is over a limit can still be changed after an operator has lowered that limit.
#[tokio::test]
async fn a_profile_over_a_lowered_limit_can_be_changed() {
    let (server, client) = limited(|_| ()).await;
    client.create(with_mpid(ADA)).await.unwrap();
    for patch in [attributes(3), identities(3), memberships(3), attributions(3)] {
        client.update(ADA, patch).await.unwrap();
    }
    let server = TestServer::reopen_with(
        server.stop().await,
        limits(|limits| {
            (limits.attributes, limits.identities, limits.audience_memberships, limits.attributions) = (1, 1, 1, 1);
            limits.attribute_key_bytes = 1;
        }),
    )
    .await;
    let client = server.client().await;
    let fewer = ProfilePatch {
        is_opted_out: Some(true),
        remove_user_attributes: vec!["k0".into()],
        remove_identities: vec![identity("customer_id", "0")],
        leave_audiences: vec![1],
        ..ProfilePatch::default()
    };
    client.update(ADA, fewer).await.unwrap();
    let more = client.update(ADA, set([("k", text("v"))])).await;
    assert_refused(more, INVALID, "LIMIT_EXCEEDED", "patch.set_user_attributes");
}

/// A test of the store, whose clock can be stopped, shows that the limit is exact. Here the bytes of the times vary.
#[tokio::test]
async fn a_profile_takes_no_more_bytes_than_it_may() {
    for limit in [None, Some(SMALL)] {
        let (_server, client) = limited(|limits| {
            limits.profile_bytes = limit.unwrap_or(limits.profile_bytes);
            limits.attribute_value_bytes = MIB;
        })
        .await;
        let limit = limit.unwrap_or(256 * KIB);
        let padded = |bytes| set([("pad", text(&"v".repeat(bytes)))]);
        client.create(with_mpid(ADA)).await.unwrap();

        client.update(ADA, padded(limit - OTHER_FIELDS)).await.unwrap();
        // A patch that fits into no profile is refused before the profile is looked up.
        assert_refused(client.update(UNKNOWN_MPID, padded(limit)).await, EXHAUSTED, "LIMIT_EXCEEDED", "");
        assert_refused(
            client.update(UNKNOWN_MPID, padded(limit - OTHER_FIELDS)).await,
            Code::NotFound,
            "PROFILE_NOT_FOUND",
            "",
        );

        let response = client.update(ADA, padded(limit)).await;
        let status = response.as_ref().unwrap_err();
        assert_eq!(
            (metadata(status, "limit"), metadata(status, "subject")),
            (limit.to_string(), "profile bytes".into())
        );
        assert!(metadata(status, "found").parse::<usize>().unwrap() > limit);
        assert!(status.get_details_quota_failure().is_some());
        assert_refused(response, EXHAUSTED, "LIMIT_EXCEEDED", "");
    }
}

#[tokio::test]
async fn a_request_takes_as_many_bytes_as_it_may() {
    for limit in [None, Some(SMALL)] {
        let (_server, client) = limited(|limits| limits.request_bytes = limit.unwrap_or(limits.request_bytes)).await;
        let limit = limit.unwrap_or(MIB);
        let padded = |bytes: usize| {
            // The workspace is malformed, but the server must read the request to see that.
            let mut request = GetProfileRequest { workspace: "w".repeat(bytes), ..GetProfileRequest::default() };
            let over = request.encoded_len() - bytes;
            request.workspace.truncate(bytes - over);
            assert_eq!(request.encoded_len(), bytes);
            request
        };
        assert_refused(client.get_with(padded(limit)).await, INVALID, "FIELD_INVALID", "workspace");
        let response = client.get_with(padded(limit + 1)).await;
        let status = response.as_ref().unwrap_err();
        assert_eq!(
            (metadata(status, "limit"), metadata(status, "subject")),
            (limit.to_string(), "request bytes".into())
        );
        assert_eq!(metadata(status, "found"), (limit + 1).to_string());
        assert!(status.get_details_quota_failure().is_some());
        assert_refused(response, EXHAUSTED, "LIMIT_EXCEEDED", "");
        // The other services have the same limit.
        let workspace = "w".repeat(limit);
        assert_refused(client.status(&workspace).await, EXHAUSTED, "LIMIT_EXCEEDED", "");
        let list = ListEventsRequest { workspace, ..list_request() };
        assert_refused(client.list(list).await, EXHAUSTED, "LIMIT_EXCEEDED", "");
    }
}

#[tokio::test]
async fn a_batch_has_as_many_keys_as_it_may() {
    for limit in [DEFAULT_COUNT, 3] {
        let (_server, client) = limited(|limits| limits.batch_keys = limit).await;
        assert_eq!(Limits::default().batch_keys, DEFAULT_COUNT);
        let batch = |count| client.batch(batch_request(vec![by_mpid(ADA); count]));
        assert_eq!(batch(limit).await.unwrap().len(), limit);
        let response = batch(limit + 1).await;
        let sentence = format!("keys: {} keys are over the limit of {limit}", limit + 1);
        assert_eq!(response.as_ref().unwrap_err().message(), sentence);
        assert_refused(response, INVALID, "LIMIT_EXCEEDED", "keys");
    }
}

#[tokio::test]
async fn a_page_has_as_many_items_as_it_may() {
    for limit in [DEFAULT_COUNT, 3] {
        let (_server, client) = limited(|limits| limits.page_items = limit).await;
        assert_eq!(Limits::default().page_items, DEFAULT_COUNT);
        let count = i64::try_from(limit).unwrap() + 1;
        client.import((1..=count).map(|mpid| record(by_mpid(mpid), ProfilePatch::default())).collect()).await.unwrap();
        let page_size = i32::try_from(limit).unwrap();

        let page = client.page(ListProfilesRequest { page_size, ..page_request() }).await.unwrap();
        assert_eq!((page.profiles.len(), page.next_page_token.is_empty()), (limit, false));
        let page = client.list(ListEventsRequest { page_size, ..list_request() }).await.unwrap();
        assert_eq!((page.events.len(), page.caught_up), (limit, false));
        let page_size = page_size + 1;
        let page = client.page(ListProfilesRequest { page_size, ..page_request() }).await;
        let sentence = format!("page_size {page_size} is over the limit of {limit}");
        assert_eq!(page.as_ref().unwrap_err().message(), sentence);
        assert_refused(page, INVALID, "LIMIT_EXCEEDED", "page_size");
        let page = client.list(ListEventsRequest { page_size, ..list_request() }).await;
        assert_refused(page, INVALID, "LIMIT_EXCEEDED", "page_size");
        let unsaid = client.page(page_request()).await.unwrap();
        assert_eq!(unsaid.profiles.len(), limit.min(DEFAULT_PAGE), "a page of no given size");
    }
}
