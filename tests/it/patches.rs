//! Every field of a patch.

use cameo::proto::v1::*;
use prost_types::value::Kind;
use prost_types::{Struct, Timestamp, Value};

use crate::harness::*;

/// Creates a profile for Ada and applies the patches in turn. Returns her profile and the event of the last patch.
async fn patched(profile: Profile, patches: impl IntoIterator<Item = ProfilePatch>) -> (Profile, Event) {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(Profile { mpid: ADA, ..profile }).await.unwrap();
    for patch in patches {
        let response = client.update(ADA, patch).await.unwrap();
        assert_eq!(response.outcome(), WriteOutcome::Updated);
    }
    let profile = client.get(ADA).await.unwrap();
    let event = client.log().await.pop().unwrap();
    assert_eq!(event.profile.as_ref(), Some(&profile), "the event shows the profile after the change");
    (profile, event)
}

fn paths(event: &Event) -> Vec<&str> {
    event.changed_fields.as_ref().unwrap().paths.iter().map(String::as_str).collect()
}

fn ada_with<const N: usize>(attributes: [(&str, Value); N]) -> Profile {
    with_attributes(ADA, attributes)
}

#[tokio::test]
async fn flags_are_set_and_absent_ones_stay() {
    let patch = ProfilePatch { is_opted_out: Some(true), limit_ad_tracking: Some(false), ..ProfilePatch::default() };
    let (profile, event) = patched(Profile::default(), [patch]).await;
    assert_eq!((profile.is_opted_out, profile.limit_ad_tracking), (true, Some(false)));
    assert_eq!(paths(&event), ["is_opted_out", "limit_ad_tracking"]);
    assert_eq!(event.previous.unwrap().limit_ad_tracking, None);
}

#[tokio::test]
async fn attributes_are_set_and_removed_and_the_event_has_the_old_values() {
    let before = ada_with([("a", text("1")), ("b", text("2")), ("c", text("3"))]);
    let nested = value(Kind::StructValue(map([("deep", value(Kind::NullValue(0)))])));
    let patch = ProfilePatch {
        remove_user_attributes: vec!["b".into(), "absent".into()],
        ..set([("a", text("new")), ("d", nested.clone())])
    };
    let (profile, event) = patched(before, [patch]).await;
    assert_eq!(profile.user_attributes.unwrap(), map([("a", text("new")), ("c", text("3")), ("d", nested)]));
    assert_eq!(event.changed_user_attributes, ["a", "b", "d"]);
    assert_eq!(paths(&event), ["user_attributes"]);
    assert_eq!(event.previous.unwrap().user_attributes.unwrap(), map([("a", text("1")), ("b", text("2"))]));
}

#[tokio::test]
async fn clear_comes_before_the_rest() {
    let patch = ProfilePatch {
        clear_user_attributes: true,
        set_user_attributes: Some(map([("plan", text("pro"))])),
        increment_user_attributes: [("visits".to_owned(), 2.0)].into(),
        ..ProfilePatch::default()
    };
    let (profile, event) = patched(ada_with([("city", text("London")), ("visits", number(40.0))]), [patch]).await;
    assert_eq!(profile.user_attributes.unwrap(), map([("plan", text("pro")), ("visits", number(2.0))]));
    assert_eq!(event.changed_user_attributes, ["city", "plan", "visits"]);
}

#[tokio::test]
async fn increments_add_up_from_nothing_and_appends_are_set_union() {
    let append = |values: &[f64]| ProfilePatch {
        append_user_attributes: [("sizes".to_owned(), list(values.iter().copied().map(number)))].into(),
        ..ProfilePatch::default()
    };
    let patches = [increment("visits"), increment("visits"), append(&[1.0, 2.0]), append(&[2.0, 3.0, 3.0])];
    let (profile, _) = patched(Profile::default(), patches).await;
    let sizes = value(Kind::ListValue(list([number(1.0), number(2.0), number(3.0)])));
    assert_eq!(profile.user_attributes.unwrap(), map([("visits", number(2.0)), ("sizes", sizes)]));
}

#[tokio::test]
async fn account_attributes_are_set_and_removed() {
    let before = Profile { account_user_attributes: Some(map([("tier", text("gold"))])), ..Profile::default() };
    let patch = ProfilePatch {
        set_account_user_attributes: Some(map([("region", text("eu"))])),
        remove_account_user_attributes: vec!["tier".into()],
        ..ProfilePatch::default()
    };
    let (profile, event) = patched(before, [patch]).await;
    assert_eq!(profile.account_user_attributes.unwrap(), map([("region", text("eu"))]));
    assert_eq!(paths(&event), ["account_user_attributes"]);
}

#[tokio::test]
async fn the_last_attribute_leaves_no_empty_map() {
    let patch = ProfilePatch { remove_user_attributes: vec!["plan".into()], ..ProfilePatch::default() };
    let (profile, _) = patched(ada_with([("plan", text("pro"))]), [patch]).await;
    assert_eq!(profile.user_attributes, None::<Struct>);
}

#[tokio::test]
async fn identities_are_added_on_their_side_and_removed() {
    let as_given = identity("email", "Ada@example.com");
    let (device, customer, other) =
        (identity("ios_idfa", "i1"), identity("customer_id", "c1"), identity("other", "o1"));
    let patch = ProfilePatch {
        remove_identities: vec![identity("email", "ada@Example.com"), email("not-hers")],
        ..add([device.clone(), customer.clone(), other.clone()])
    };
    let (profile, event) = patched(owner_of(as_given.clone(), ADA), [patch]).await;
    assert_eq!(profile.device_identities, [device]);
    assert_eq!(profile.user_identities, [customer, other]);
    assert_eq!(event.previous.unwrap().user_identities, [as_given]);
}

#[tokio::test]
async fn an_identity_is_taken_only_if_asked_and_its_owner_is_told() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(ada()).await.unwrap();
    client.create(with_mpid(GRACE)).await.unwrap();

    let refused = client.update(GRACE, add([email("ada")])).await.unwrap_err();
    assert_eq!(reason(&refused), "IDENTITY_TAKEN");
    assert_eq!(metadata(&refused, "owner_mpid"), ADA.to_string());

    client.update(GRACE, take([email("ada")])).await.unwrap();
    assert_eq!(client.get_by(email("ada")).await.unwrap().mpid, GRACE);
    assert!(client.get(ADA).await.unwrap().user_identities.is_empty());
    let log = client.log().await;
    let [.., loser, taker] = &log[..] else { panic!("two events") };
    assert_eq!((loser.mpid, taker.mpid, log.len()), (ADA, GRACE, 4));
    assert_ne!(loser.id, taker.id);
}

#[tokio::test]
async fn audiences_are_joined_replaced_and_left() {
    const NEWS: i64 = 1;
    const SALE: i64 = 2;
    const BETA: i64 = 3;
    let named = |audience_id, name: &str| AudienceMembership {
        audience_name: name.into(),
        ..member(audience_id, (audience_id == SALE).then_some(FAR_FUTURE))
    };
    let join = |memberships| ProfilePatch { join_audiences: memberships, ..ProfilePatch::default() };
    let leave = ProfilePatch { leave_audiences: vec![NEWS, 99], ..join(vec![named(BETA, "beta")]) };
    let patches = [join(vec![named(NEWS, "news"), named(SALE, "sale")]), join(vec![named(NEWS, "newsletter")]), leave];
    let (profile, event) = patched(Profile::default(), patches).await;
    assert_eq!(profile.audience_memberships, [named(SALE, "sale"), named(BETA, "beta")]);
    assert_eq!((event.entered_audience_ids, event.exited_audience_ids), (vec![BETA], vec![NEWS]));
    assert_eq!(event.previous.unwrap().audience_memberships, [named(NEWS, "newsletter"), named(SALE, "sale")]);
}

/// A membership that gets another name or end is still a membership of the same audience.
#[tokio::test]
async fn a_membership_that_is_replaced_is_neither_entered_nor_exited() {
    const AUDIENCE: i64 = 1;
    let later = Timestamp { seconds: FAR_FUTURE.seconds + 1, ..FAR_FUTURE };
    let named = |name: &str, ends| AudienceMembership { audience_name: name.into(), ..member(AUDIENCE, ends) };
    let before = named("news", Some(FAR_FUTURE));
    for replacement in [named("sale", Some(FAR_FUTURE)), named("news", Some(later)), named("sale", None)] {
        let joined = Profile { audience_memberships: vec![before.clone()], ..Profile::default() };
        let patch = ProfilePatch { join_audiences: vec![replacement.clone()], ..ProfilePatch::default() };
        let (profile, event) = patched(joined, [patch]).await;
        assert_eq!(profile.audience_memberships, [replacement]);
        assert_eq!(paths(&event), ["audience_memberships"]);
        assert_eq!(event.previous.unwrap().audience_memberships, std::slice::from_ref(&before));
        assert_eq!((event.entered_audience_ids, event.exited_audience_ids), (vec![], vec![]));
    }
}

#[tokio::test]
async fn attributions_are_added_once() {
    let attribution = |campaign: &str| Attribution {
        partner: "partner".into(),
        campaign: campaign.into(),
        attribute_time: Some(Timestamp { seconds: 1_600_000_000, nanos: 5 }),
    };
    let add = |campaigns: &[&str]| ProfilePatch {
        add_attribution: campaigns.iter().map(|campaign| attribution(campaign)).collect(),
        ..ProfilePatch::default()
    };
    let (profile, _) = patched(Profile::default(), [add(&["spring"]), add(&["spring", "summer"])]).await;
    assert_eq!(profile.attribution, [attribution("spring"), attribution("summer")]);
}

#[tokio::test]
async fn a_patch_that_changes_nothing_is_no_event_and_keeps_the_etag() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let created =
        client.create(Profile { user_attributes: Some(map([("plan", text("pro"))])), ..ada() }).await.unwrap();
    let nothing = [
        ProfilePatch::default(),
        set([("plan", text("pro"))]),
        add([identity("email", "Ada@example.com")]),
        ProfilePatch { is_opted_out: Some(false), leave_audiences: vec![5], ..ProfilePatch::default() },
    ];
    for patch in nothing {
        let response = client.update(ADA, patch).await.unwrap();
        assert_eq!(response.outcome(), WriteOutcome::Unchanged);
        assert_eq!((response.profile, response.cursor), (created.profile.clone(), created.cursor.clone()));
    }
    assert_eq!(client.log().await.len(), 1);
}
