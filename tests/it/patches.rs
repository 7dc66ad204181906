//! Every field of a patch.

use cameo::proto::v1::*;
use prost_types::value::Kind;
use prost_types::{Struct, Timestamp};

use crate::harness::*;

/// Applies patches in turn to profile 1 and answers it, and the event of the last.
async fn patched(profile: Profile, patches: impl IntoIterator<Item = ProfilePatch>) -> (Profile, Event) {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(Profile { mpid: 1, ..profile }).await.unwrap();
    for patch in patches {
        let answer = client.update(1, patch).await.unwrap();
        assert_eq!(answer.outcome(), WriteOutcome::Updated);
    }
    let profile = client.get(1).await.unwrap();
    let event = client.log().await.pop().unwrap();
    assert_eq!(event.profile.as_ref(), Some(&profile), "the event shows the profile after the change");
    (profile, event)
}

fn paths(event: &Event) -> Vec<&str> {
    event.changed_fields.as_ref().unwrap().paths.iter().map(String::as_str).collect()
}

fn with_attributes<const N: usize>(fields: [(&str, prost_types::Value); N]) -> Profile {
    Profile { user_attributes: Some(map(fields)), ..Profile::default() }
}

#[tokio::test]
async fn flags_are_set_and_absent_ones_stay() {
    let patch = ProfilePatch { is_opted_out: Some(true), limit_ad_tracking: Some(false), ..Default::default() };
    let (profile, event) = patched(Profile::default(), [patch]).await;
    assert_eq!((profile.is_opted_out, profile.limit_ad_tracking), (true, Some(false)));
    assert_eq!(paths(&event), ["is_opted_out", "limit_ad_tracking"]);
    assert_eq!(event.previous.unwrap().limit_ad_tracking, None);
}

#[tokio::test]
async fn attributes_are_set_and_removed_and_the_event_has_the_old_values() {
    let before = with_attributes([("a", text("1")), ("b", text("2")), ("c", text("3"))]);
    let nested = map([("deep", prost_types::Value { kind: Some(Kind::NullValue(0)) })]);
    let nested = prost_types::Value { kind: Some(Kind::StructValue(nested)) };
    let patch = ProfilePatch {
        set_user_attributes: Some(map([("a", text("new")), ("d", nested.clone())])),
        remove_user_attributes: vec!["b".into(), "absent".into()],
        ..Default::default()
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
        set_user_attributes: Some(map([("b", text("new"))])),
        increment_user_attributes: [("n".to_owned(), 2.0)].into(),
        ..Default::default()
    };
    let (profile, event) = patched(with_attributes([("a", text("1")), ("n", number(40.0))]), [patch]).await;
    assert_eq!(profile.user_attributes.unwrap(), map([("b", text("new")), ("n", number(2.0))]));
    assert_eq!(event.changed_user_attributes, ["a", "b", "n"]);
}

#[tokio::test]
async fn increments_add_up_from_nothing_and_appends_are_set_union() {
    let append = |values: &[f64]| ProfilePatch {
        append_user_attributes: [("l".to_owned(), list(values.iter().copied().map(number)))].into(),
        ..Default::default()
    };
    let patches = [increment("n"), increment("n"), append(&[1.0, 2.0]), append(&[2.0, 3.0, 3.0])];
    let (profile, _) = patched(Profile::default(), patches).await;
    let values = [number(1.0), number(2.0), number(3.0)];
    let all = prost_types::Value { kind: Some(Kind::ListValue(list(values))) };
    assert_eq!(profile.user_attributes.unwrap(), map([("n", number(2.0)), ("l", all)]));
}

#[tokio::test]
async fn account_attributes_are_set_and_removed() {
    let before = Profile { account_user_attributes: Some(map([("a", text("1"))])), ..Profile::default() };
    let patch = ProfilePatch {
        set_account_user_attributes: Some(map([("b", text("2"))])),
        remove_account_user_attributes: vec!["a".into()],
        ..Default::default()
    };
    let (profile, event) = patched(before, [patch]).await;
    assert_eq!(profile.account_user_attributes.unwrap(), map([("b", text("2"))]));
    assert_eq!(paths(&event), ["account_user_attributes"]);
}

#[tokio::test]
async fn the_last_attribute_leaves_no_empty_map() {
    let patch = ProfilePatch { remove_user_attributes: vec!["a".into()], ..Default::default() };
    let (profile, _) = patched(with_attributes([("a", text("1"))]), [patch]).await;
    assert_eq!(profile.user_attributes, None::<Struct>);
}

#[tokio::test]
async fn identities_are_added_on_their_side_and_removed() {
    let before = Profile { user_identities: vec![identity("email", "Ada@x.com")], ..Profile::default() };
    let patch = ProfilePatch {
        add_identities: vec![identity("ios_idfa", "i1"), identity("customer_id", "c1"), identity("other", "o1")],
        remove_identities: vec![identity("email", "ada@X.com"), identity("email", "not-hers@x.com")],
        ..Default::default()
    };
    let (profile, event) = patched(before, [patch]).await;
    assert_eq!(profile.device_identities, [identity("ios_idfa", "i1")]);
    assert_eq!(profile.user_identities, [identity("customer_id", "c1"), identity("other", "o1")]);
    assert_eq!(event.previous.unwrap().user_identities, [identity("email", "Ada@x.com")]);
}

#[tokio::test]
async fn an_identity_is_taken_only_if_asked_and_its_owner_is_told() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let email = identity("email", "ada@x.com");
    client.create(Profile { user_identities: vec![email.clone()], ..with_mpid(1) }).await.unwrap();
    client.create(with_mpid(2)).await.unwrap();
    let patch = ProfilePatch { add_identities: vec![email.clone()], ..Default::default() };

    let refused = client.update(2, patch.clone()).await.unwrap_err();
    assert_eq!(reason(&refused), "IDENTITY_TAKEN");
    assert_eq!(metadata(&refused, "owner_mpid"), "1");

    client.update(2, ProfilePatch { take_identities: true, ..patch }).await.unwrap();
    assert_eq!(client.get_by(email).await.unwrap().mpid, 2);
    assert!(client.get(1).await.unwrap().user_identities.is_empty());
    let log = client.log().await;
    let [.., loser, taker] = &log[..] else { panic!("two events") };
    assert_eq!((loser.mpid, taker.mpid, log.len()), (1, 2, 4));
    assert_ne!(loser.id, taker.id);
}

#[tokio::test]
async fn audiences_are_joined_replaced_and_left() {
    let member = |audience_id, name: &str| AudienceMembership {
        audience_id,
        audience_name: name.into(),
        expire_time: (audience_id == 2).then_some(Timestamp { seconds: 4_000_000_000, nanos: 0 }),
    };
    let join = |memberships| ProfilePatch { join_audiences: memberships, ..Default::default() };
    let leave =
        ProfilePatch { leave_audiences: vec![1, 99], join_audiences: vec![member(3, "three")], ..Default::default() };
    let patches = [join(vec![member(1, "one"), member(2, "two")]), join(vec![member(1, "uno")]), leave];
    let (profile, event) = patched(Profile::default(), patches).await;
    assert_eq!(profile.audience_memberships, [member(2, "two"), member(3, "three")]);
    assert_eq!((event.entered_audience_ids, event.exited_audience_ids), (vec![3], vec![1]));
    assert_eq!(event.previous.unwrap().audience_memberships, [member(1, "uno"), member(2, "two")]);
}

/// A membership that is given another name or end is still one of the same audience.
#[tokio::test]
async fn a_membership_that_is_replaced_is_neither_entered_nor_exited() {
    let ends = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let member =
        |name: &str, expire_time| AudienceMembership { audience_id: 1, audience_name: name.into(), expire_time };
    let before = member("one", ends(4_000_000_000));
    for replacement in [member("uno", ends(4_000_000_000)), member("one", ends(4_100_000_000)), member("uno", None)] {
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
        ..Default::default()
    };
    let (profile, _) = patched(Profile::default(), [add(&["a"]), add(&["a", "b"])]).await;
    assert_eq!(profile.attribution, [attribution("a"), attribution("b")]);
}

#[tokio::test]
async fn a_patch_that_changes_nothing_is_no_event_and_keeps_the_etag() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let profile =
        Profile { user_identities: vec![identity("email", "a@x.com")], ..with_attributes([("a", text("1"))]) };
    let created = client.create(Profile { mpid: 1, ..profile }).await.unwrap();
    let nothing = [
        ProfilePatch::default(),
        set([("a", text("1"))]),
        ProfilePatch { add_identities: vec![identity("email", "A@x.com")], ..Default::default() },
        ProfilePatch { is_opted_out: Some(false), leave_audiences: vec![5], ..Default::default() },
    ];
    for patch in nothing {
        let answer = client.update(1, patch).await.unwrap();
        assert_eq!(answer.outcome(), WriteOutcome::Unchanged);
        assert_eq!((answer.profile, answer.cursor), (created.profile.clone(), created.cursor.clone()));
    }
    assert_eq!(client.log().await.len(), 1);
}
