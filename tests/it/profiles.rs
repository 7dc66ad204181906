//! Profiles go in and come back.

use std::time::{SystemTime, UNIX_EPOCH};

use cameo::proto::v1::*;
use prost_types::{Struct, Timestamp};
use tonic::Code;

use crate::harness::*;

#[tokio::test]
async fn the_sample_profile_comes_back_whole_also_after_a_restart() {
    let server = TestServer::start().await;
    let created = server.client().await.create(sample()).await.unwrap().profile.unwrap();
    let server = server.restart().await;

    let found = server.client().await.get(9_080_350_317_581_165_000).await.unwrap();

    assert_eq!(found, created);
    let given = Profile { create_time: None, update_time: None, etag: String::new(), ..found.clone() };
    assert_eq!(given, sample());
    assert_eq!(found.limit_ad_tracking, None);
    assert_eq!(found.create_time, found.update_time);
    assert!(!found.etag.is_empty());
}

#[tokio::test]
async fn a_profile_is_found_by_each_of_its_identities_in_normal_form() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let phone = identity("mobile_number", "+1 (555) 010-0199");
    let profile = Profile { user_identities: vec![identity("email", " Ada@X.com"), phone], ..with_mpid(7) };
    client.create(profile).await.unwrap();

    let found = client.get_by(identity("email", "ADA@x.COM ")).await.unwrap();
    assert_eq!(found.user_identities[0].value, " Ada@X.com", "as given");
    assert_eq!(client.get_by(identity("mobile_number", "0015550100199")).await.unwrap().mpid, 7);

    let nobody = client.get_by(identity("customer_id", "ada@x.com")).await.unwrap_err();
    assert_eq!((nobody.code(), &*reason(&nobody)), (Code::NotFound, "PROFILE_NOT_FOUND"));
}

#[tokio::test]
async fn a_reader_gets_exactly_the_fields_it_asked_for() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(sample()).await.unwrap();
    let key = Some(by_mpid(sample().mpid));
    let ask = |paths: &[&str], keys: &[&str]| {
        let user_attribute_keys = keys.iter().map(ToString::to_string).collect();
        client.get_with(GetProfileRequest {
            key: key.clone(),
            read_mask: mask(paths),
            user_attribute_keys,
            ..get_request()
        })
    };
    let ltv = Some(map([("ltv", text("342.1"))]));

    let identities = Profile { user_identities: sample().user_identities, ..Profile::default() };
    assert_eq!(ask(&["user_identities"], &[]).await.unwrap(), identities);
    let narrowed = Profile { user_attributes: ltv.clone(), ..with_mpid(sample().mpid) };
    assert_eq!(ask(&["mpid", "user_attributes"], &["ltv", "no such"]).await.unwrap(), narrowed);
    let nothing = Profile { user_attributes: Some(Struct::default()), ..Profile::default() };
    assert_eq!(ask(&["user_attributes"], &["no such"]).await.unwrap(), nothing);
    assert_eq!(ask(&["mpid"], &["ltv"]).await.unwrap(), with_mpid(sample().mpid), "keys do not widen the mask");

    let all = ask(&[], &[]).await.unwrap();
    assert_eq!(ask(&["*"], &[]).await.unwrap(), all);
    assert_eq!(ask(&[], &["ltv"]).await.unwrap(), Profile { user_attributes: ltv, ..all });
}

#[tokio::test]
async fn each_path_of_a_mask_gives_the_field_that_it_names() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(distinct()).await.unwrap();
    let whole = client.update(distinct().mpid, increment("n")).await.unwrap().profile.unwrap();
    assert_ne!(whole.create_time, whole.update_time);

    for path in profile_fields() {
        let expected = only(&path, &whole);
        assert_ne!(expected, Profile::default(), "{path} has a value");
        let key = Some(by_mpid(whole.mpid));
        let request = GetProfileRequest { key, read_mask: mask(&[&path]), ..get_request() };
        assert_eq!(client.get_with(request).await.unwrap(), expected, "{path}");
    }
}

/// Whatever changes a profile, it was created when its first event says so.
#[tokio::test]
async fn no_change_moves_the_time_of_creation() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let email = identity("email", "ada@x.com");
    client.create(Profile { user_identities: vec![email.clone()], ..with_mpid(1) }).await.unwrap();
    client.update(1, increment("n")).await.unwrap();
    client.import(vec![record(by_mpid(1), increment("n"))]).await.unwrap();
    client.create(with_mpid(2)).await.unwrap();
    let take = ProfilePatch { add_identities: vec![email], take_identities: true, ..ProfilePatch::default() };
    client.update(2, take).await.unwrap();

    let log = client.log().await;
    for mpid in [1, 2] {
        let events: Vec<_> = log.iter().filter(|event| event.mpid == mpid).collect();
        for event in &events {
            let profile = event.profile.as_ref().unwrap();
            assert_eq!(profile.create_time, events[0].time, "event {}", event.sequence);
            assert_eq!(profile.update_time, event.time, "event {}", event.sequence);
        }
        assert_eq!(client.get(mpid).await.unwrap().create_time, events[0].time);
    }

    client.delete(1).await.unwrap();
    let reborn = client.create(with_mpid(1)).await.unwrap().profile.unwrap();
    assert_eq!(reborn.create_time, client.log().await.last().unwrap().time, "it is another profile");
}

#[tokio::test]
async fn a_drawn_mpid_is_positive() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let first = client.create(Profile::default()).await.unwrap().profile.unwrap().mpid;
    let second = client.create(Profile::default()).await.unwrap().profile.unwrap().mpid;
    assert!(first > 0 && second > 0 && first != second);
    client.create(with_mpid(-5)).await.unwrap();
    assert_eq!(client.get(-5).await.unwrap().mpid, -5);
}

#[tokio::test]
async fn an_update_may_create_by_mpid_or_by_identity() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let request = UpdateProfileRequest { allow_missing: true, patch: Some(increment("n")), ..update_request(5) };
    let first = client.update_with(request.clone()).await.unwrap();
    let second = client.update_with(request).await.unwrap();
    assert_eq!((first.outcome(), second.outcome()), (WriteOutcome::Created, WriteOutcome::Updated));
    assert!((number_of(&second.profile.unwrap(), "n") - 2.0).abs() < f64::EPSILON);

    let key = Some(by_identity(identity("customer_id", "c1")));
    let request = UpdateProfileRequest { key, allow_missing: true, ..update_request(1) };
    let drawn = client.update_with(request).await.unwrap().profile.unwrap();
    assert!(drawn.mpid > 0);
    assert_eq!(client.get_by(identity("customer_id", "c1")).await.unwrap(), drawn);
}

#[tokio::test]
async fn a_deleted_profile_frees_its_identities_and_its_mpid() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let ada = Profile { user_identities: vec![identity("email", "ada@x.com")], ..with_mpid(1) };
    client.create(ada.clone()).await.unwrap();

    assert_eq!(client.delete(1).await.unwrap().outcome(), WriteOutcome::Deleted);

    assert_eq!(client.get(1).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(client.get_by(identity("email", "ada@x.com")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(client.delete(1).await.unwrap_err().code(), Code::NotFound);
    let missing = DeleteProfileRequest { allow_missing: true, ..delete_request(1) };
    assert_eq!(client.delete_with(missing).await.unwrap().outcome(), WriteOutcome::Unchanged);

    client.create(Profile { mpid: 2, ..ada.clone() }).await.unwrap();
    client.create(with_mpid(1)).await.unwrap();
    assert_eq!(client.get_by(identity("email", "ada@x.com")).await.unwrap().mpid, 2);
}

#[tokio::test]
async fn validate_only_decides_and_changes_nothing() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let request = CreateProfileRequest { profile: Some(sample()), validate_only: true, ..create_request() };
    let answer = client.create_with(request).await.unwrap();
    assert_eq!(answer.cursor, "");
    let preview = answer.profile.unwrap();
    assert_eq!((preview.mpid, &*preview.etag), (sample().mpid, ""));
    assert!(client.log().await.is_empty());

    client.create(sample()).await.unwrap();
    let request =
        UpdateProfileRequest { patch: Some(increment("n")), validate_only: true, ..update_request(sample().mpid) };
    let answer = client.update_with(request).await.unwrap();
    assert_eq!(answer.outcome(), WriteOutcome::Updated);
    assert!((number_of(&answer.profile.unwrap(), "n") - 1.0).abs() < f64::EPSILON);
    let request = DeleteProfileRequest { validate_only: true, ..delete_request(sample().mpid) };
    assert_eq!(client.delete_with(request).await.unwrap().outcome(), WriteOutcome::Deleted);
    assert_eq!(client.log().await.len(), 1);
    assert_eq!(client.get(sample().mpid).await.unwrap().user_attributes, sample().user_attributes);
}

/// The first of several to end is neither the first of the list nor the last.
#[tokio::test]
async fn a_membership_that_has_expired_is_not_served() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let in_a_moment = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() + 500;
    let expire_time = Timestamp {
        seconds: i64::try_from(in_a_moment / 1_000).unwrap(),
        nanos: i32::try_from(in_a_moment % 1_000).unwrap() * 1_000_000,
    };
    let much_later = Timestamp { seconds: 4_000_000_000, nanos: 0 };
    let member = |audience_id, expire_time| AudienceMembership { audience_id, expire_time, ..Default::default() };
    let memberships = vec![member(1, None), member(2, Some(expire_time)), member(3, Some(much_later))];
    let remaining = [member(1, None), member(3, Some(much_later))];
    client.create(Profile { audience_memberships: memberships.clone(), ..with_mpid(1) }).await.unwrap();

    // It is served until it expires, and from then on it is not. The clock is read on both sides of each call.
    let expired = || {
        let now = Timestamp::from(SystemTime::now());
        (now.seconds, now.nanos) >= (expire_time.seconds, expire_time.nanos)
    };
    let mut served_before = false;
    within(async {
        loop {
            let before = expired();
            let served = client.get(1).await.unwrap().audience_memberships;
            if !expired() {
                assert_eq!(served, memberships);
                served_before = true;
            }
            if before {
                assert_eq!(served, remaining);
                break;
            }
        }
    })
    .await;
    assert!(served_before);

    // The next change says so to those who listen.
    client.update(1, increment("n")).await.unwrap();
    let event = client.log().await.pop().unwrap();
    assert_eq!(event.exited_audience_ids, [2]);
    assert_eq!(event.profile.unwrap().audience_memberships, remaining);
}
