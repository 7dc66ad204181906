//! Single profiles: they are created, looked up, changed and deleted.

use std::time::{Duration, SystemTime};

use cameo::proto::v1::*;
use prost_types::{Struct, Timestamp};
use tonic::Code;

use crate::harness::*;

#[tokio::test]
async fn the_sample_profile_comes_back_whole_also_after_a_restart() {
    let server = TestServer::start().await;
    let created = server.client().await.create(sample()).await.unwrap().profile.unwrap();
    let server = server.restart().await;

    let found = server.client().await.get(SAMPLE_MPID).await.unwrap();

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
    let as_given = identity("email", " Ada@Example.com");
    let phone = identity("mobile_number", "+1 (555) 010-0199");
    client.create(Profile { user_identities: vec![as_given.clone(), phone], ..with_mpid(ADA) }).await.unwrap();

    let found = client.get_by(identity("email", "ADA@example.COM ")).await.unwrap();
    assert_eq!(found.user_identities[0].value, as_given.value, "as given");
    assert_eq!(client.get_by(identity("mobile_number", "0015550100199")).await.unwrap().mpid, ADA);

    let other_type = client.get_by(identity("customer_id", ADA_EMAIL)).await.unwrap_err();
    assert_eq!((other_type.code(), &*reason(&other_type)), (Code::NotFound, "PROFILE_NOT_FOUND"));
}

#[tokio::test]
async fn a_reader_gets_exactly_the_fields_it_asked_for() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(sample()).await.unwrap();
    let ask = |paths: &[&str], keys: &[&str]| {
        client.get_with(GetProfileRequest {
            key: Some(by_mpid(SAMPLE_MPID)),
            read_mask: mask(paths),
            user_attribute_keys: keys.iter().map(ToString::to_string).collect(),
            ..get_request()
        })
    };
    let ltv = Some(map([("ltv", text("342.1"))]));

    let identities = Profile { user_identities: sample().user_identities, ..Profile::default() };
    assert_eq!(ask(&["user_identities"], &[]).await.unwrap(), identities);
    let narrowed = Profile { user_attributes: ltv.clone(), ..with_mpid(SAMPLE_MPID) };
    assert_eq!(ask(&["mpid", "user_attributes"], &["ltv", "no such"]).await.unwrap(), narrowed);
    let nothing = Profile { user_attributes: Some(Struct::default()), ..Profile::default() };
    assert_eq!(ask(&["user_attributes"], &["no such"]).await.unwrap(), nothing);
    assert_eq!(ask(&["mpid"], &["ltv"]).await.unwrap(), with_mpid(SAMPLE_MPID), "keys do not widen the mask");

    let all = ask(&[], &[]).await.unwrap();
    assert_eq!(ask(&["*"], &[]).await.unwrap(), all);
    assert_eq!(ask(&[], &["ltv"]).await.unwrap(), Profile { user_attributes: ltv, ..all });
}

#[tokio::test]
async fn each_path_of_a_mask_gives_the_field_that_it_names() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(distinct()).await.unwrap();
    let whole = client.update(SAMPLE_MPID, increment("visits")).await.unwrap().profile.unwrap();
    assert_ne!(whole.create_time, whole.update_time);

    for path in profile_fields() {
        let expected = only(&path, &whole);
        assert_ne!(expected, Profile::default(), "{path} has a value");
        let key = Some(by_mpid(SAMPLE_MPID));
        let request = GetProfileRequest { key, read_mask: mask(&[&path]), ..get_request() };
        assert_eq!(client.get_with(request).await.unwrap(), expected, "{path}");
    }
}

/// A profile keeps the time of its first event as its `create_time`, whatever changes it.
#[tokio::test]
async fn no_change_moves_the_time_of_creation() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(ada()).await.unwrap();
    client.update(ADA, increment("visits")).await.unwrap();
    client.import(vec![record(by_mpid(ADA), increment("visits"))]).await.unwrap();
    client.create(with_mpid(GRACE)).await.unwrap();
    client.update(GRACE, take([email("ada")])).await.unwrap();

    let log = client.log().await;
    for mpid in [ADA, GRACE] {
        let events: Vec<_> = log.iter().filter(|event| event.mpid == mpid).collect();
        for event in &events {
            let profile = event.profile.as_ref().unwrap();
            assert_eq!(profile.create_time, events[0].time, "event {}", event.sequence);
            assert_eq!(profile.update_time, event.time, "event {}", event.sequence);
        }
        assert_eq!(client.get(mpid).await.unwrap().create_time, events[0].time);
    }

    client.delete(ADA).await.unwrap();
    let reborn = client.create(with_mpid(ADA)).await.unwrap().profile.unwrap();
    assert_eq!(reborn.create_time, client.log().await.last().unwrap().time, "it is another profile");
}

#[tokio::test]
async fn a_drawn_mpid_is_positive() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let first = client.create(Profile::default()).await.unwrap().profile.unwrap().mpid;
    let second = client.create(Profile::default()).await.unwrap().profile.unwrap().mpid;
    assert!(first > 0 && second > 0 && first != second);
    client.create(with_mpid(-ADA)).await.unwrap();
    assert_eq!(client.get(-ADA).await.unwrap().mpid, -ADA, "a caller may choose a negative one");
}

#[tokio::test]
async fn an_update_may_create_by_mpid_or_by_identity() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let first = client.update_with(upsert_request(ADA, increment("visits"))).await.unwrap();
    let second = client.update_with(upsert_request(ADA, increment("visits"))).await.unwrap();
    assert_eq!((first.outcome(), second.outcome()), (WriteOutcome::Created, WriteOutcome::Updated));
    assert_number(&second.profile.unwrap(), "visits", 2.0);

    let key = Some(by_identity(email("grace")));
    let request = UpdateProfileRequest { key, ..upsert_request(GRACE, ProfilePatch::default()) };
    let grace = client.update_with(request).await.unwrap().profile.unwrap();
    assert!(grace.mpid > 0);
    assert_eq!(client.get_by(email("grace")).await.unwrap(), grace);
}

#[tokio::test]
async fn a_deleted_profile_frees_its_identities_and_its_mpid() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(ada()).await.unwrap();

    assert_eq!(client.delete(ADA).await.unwrap().outcome(), WriteOutcome::Deleted);

    assert_eq!(client.get(ADA).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(client.get_by(email("ada")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(client.delete(ADA).await.unwrap_err().code(), Code::NotFound);
    let missing = DeleteProfileRequest { allow_missing: true, ..delete_request(ADA) };
    assert_eq!(client.delete_with(missing).await.unwrap().outcome(), WriteOutcome::Unchanged);

    client.create(Profile { mpid: GRACE, ..ada() }).await.unwrap();
    client.create(with_mpid(ADA)).await.unwrap();
    assert_eq!(client.get_by(email("ada")).await.unwrap().mpid, GRACE);
}

#[tokio::test]
async fn validate_only_decides_and_changes_nothing() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let request = CreateProfileRequest { profile: Some(sample()), validate_only: true, ..create_request() };
    let response = client.create_with(request).await.unwrap();
    assert_eq!(response.cursor, "");
    let preview = response.profile.unwrap();
    assert_eq!((preview.mpid, &*preview.etag), (SAMPLE_MPID, ""));
    assert!(client.log().await.is_empty());

    client.create(sample()).await.unwrap();
    let patch = Some(increment("visits"));
    let request = UpdateProfileRequest { patch, validate_only: true, ..update_request(SAMPLE_MPID) };
    let response = client.update_with(request).await.unwrap();
    assert_eq!(response.outcome(), WriteOutcome::Updated);
    assert_number(&response.profile.unwrap(), "visits", 1.0);
    let request = DeleteProfileRequest { validate_only: true, ..delete_request(SAMPLE_MPID) };
    assert_eq!(client.delete_with(request).await.unwrap().outcome(), WriteOutcome::Deleted);
    assert_eq!(client.log().await.len(), 1);
    assert_eq!(client.get(SAMPLE_MPID).await.unwrap().user_attributes, sample().user_attributes);
}

/// Ada is in three audiences. The membership that ends first is neither the first of the list nor the last.
#[tokio::test]
async fn a_membership_that_has_expired_is_not_served() {
    const ENDS: i64 = 2;
    let server = TestServer::start().await;
    let client = server.client().await;
    let expire_time = from_now(Duration::from_millis(500));
    let memberships = vec![member(1, None), member(ENDS, Some(expire_time)), member(3, Some(FAR_FUTURE))];
    let remaining = [member(1, None), member(3, Some(FAR_FUTURE))];
    client.create(Profile { audience_memberships: memberships.clone(), ..with_mpid(ADA) }).await.unwrap();

    // It is served until it expires and not from then on. The clock is read before and after each call.
    let expired = || {
        let now = Timestamp::from(SystemTime::now());
        (now.seconds, now.nanos) >= (expire_time.seconds, expire_time.nanos)
    };
    let mut served_before = false;
    within(async {
        loop {
            let before = expired();
            let served = client.get(ADA).await.unwrap().audience_memberships;
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

    // The next change tells subscribers that it ended.
    client.update(ADA, increment("visits")).await.unwrap();
    let event = client.log().await.pop().unwrap();
    assert_eq!(event.exited_audience_ids, [ENDS]);
    assert_eq!(event.profile.unwrap().audience_memberships, remaining);
}
