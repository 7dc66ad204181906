use std::sync::Arc;

use prost::Message;
use prost_types::value::Kind;
use prost_types::{FieldMask, Struct, Value};

use super::*;
use crate::model::{Filter, Mask, ProfileKey};
use crate::proto::v1::{self, AudienceMembership, Event, EventFilter, Identity, Profile, profile_key};

fn grant(fields: &[&str], keys: &[&str]) -> Result<Option<Grant>, Invalid> {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    Grant::parse(&owned(fields), &owned(keys))
}

#[test]
fn nothing_given_is_no_limit() {
    assert_eq!(grant(&[], &[]), Ok(None));
}

#[test]
fn a_grant_of_fields_has_those_and_the_ones_that_everyone_sees() {
    let grant = grant(&["user_attributes", "attribution"], &[]).unwrap().unwrap();
    let visible: Vec<_> = profile::ALL.iter().filter(|(_, n)| grant.has_field(*n)).map(|(name, _)| *name).collect();
    assert_eq!(visible, ["mpid", "create_time", "update_time", "user_attributes", "attribution", "etag"]);
    assert!(grant.has_named("etag") && !grant.has_named("user_identities") && !grant.has_named("nonesuch"));
    assert!(grant.has_user_attribute("any") && !grant.has_audiences() && !grant.has_identities());
}

#[test]
fn a_grant_of_keys_has_all_fields() {
    let grant = grant(&[], &["plan"]).unwrap().unwrap();
    assert!(profile::ALL.iter().all(|(_, number)| grant.has_field(*number)));
    assert!(grant.has_user_attribute("plan") && !grant.has_user_attribute("ltv") && grant.has_identities());
    assert!([16, 99, u32::MAX].iter().all(|unknown| !grant.has_field(*unknown)));
}

#[test]
fn an_unknown_field_is_refused() {
    assert!(grant(&["user_attributes.plan"], &[]).is_err());
    assert!(grant(&[""], &[]).is_err());
}

const SECRET: &str = "s3cret";

fn attributes(keys: &[&str]) -> Struct {
    let value = Value { kind: Some(Kind::StringValue(SECRET.into())) };
    Struct { fields: keys.iter().map(|key| ((*key).to_owned(), value.clone())).collect() }
}

fn email() -> Identity {
    Identity { r#type: "email".into(), encoding: "none".into(), value: SECRET.into() }
}

/// A profile with a value in every field.
fn whole() -> Profile {
    Profile {
        mpid: 1,
        create_time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        update_time: Some(prost_types::Timestamp { seconds: 2, nanos: 0 }),
        is_opted_out: true,
        limit_ad_tracking: Some(true),
        device_identities: vec![Identity { r#type: "android_id".into(), ..email() }],
        user_identities: vec![email()],
        account_user_attributes: Some(attributes(&["plan", "ltv"])),
        user_attributes: Some(attributes(&["plan", "ltv"])),
        audience_memberships: vec![AudienceMembership { audience_id: 7, ..AudienceMembership::default() }],
        attribution: vec![v1::Attribution { partner: SECRET.into(), ..v1::Attribution::default() }],
        etag: "e".into(),
    }
}

fn parsed(fields: &[&str], keys: &[&str]) -> Arc<Grant> {
    Arc::new(grant(fields, keys).unwrap().unwrap())
}

fn mask(grant: &Arc<Grant>) -> Mask {
    Mask::parse(None, Vec::new(), Some(grant)).unwrap()
}

fn seen(grant: &Arc<Grant>, profile: &Profile) -> Profile {
    Profile::decode(&*mask(grant).profile(&profile.encode_to_vec()).unwrap()).unwrap()
}

#[test]
fn a_caller_sees_the_granted_fields_and_no_other() {
    let always = Profile { is_opted_out: false, limit_ad_tracking: None, ..whole() };
    let always = Profile {
        mpid: 1,
        create_time: always.create_time,
        update_time: always.update_time,
        etag: "e".into(),
        ..Profile::default()
    };
    assert_eq!(seen(&parsed(&["mpid"], &[]), &whole()), always);
    let expected = Profile { user_attributes: whole().user_attributes, ..always.clone() };
    assert_eq!(seen(&parsed(&["user_attributes"], &[]), &whole()), expected);
    let expected = Profile { user_attributes: Some(attributes(&["plan"])), ..always };
    assert_eq!(seen(&parsed(&["user_attributes"], &["plan"]), &whole()), expected);
}

#[test]
fn the_keys_of_a_grant_are_those_of_both_maps() {
    let expected = Profile {
        user_attributes: Some(attributes(&["plan"])),
        account_user_attributes: Some(attributes(&["plan"])),
        ..whole()
    };
    assert_eq!(seen(&parsed(&[], &["plan"]), &whole()), expected);
}

#[test]
fn a_mask_narrows_what_is_granted_and_never_widens_it() {
    let grant = parsed(&["user_attributes", "attribution"], &["plan", "city"]);
    let read_mask = |paths: &[&str], keys: &[&str]| {
        let mask = FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() };
        Mask::parse(Some(mask), keys.iter().map(|key| (*key).to_owned()).collect(), Some(&grant))
    };
    let cut = |mask: Mask| Profile::decode(&*mask.profile(&whole().encode_to_vec()).unwrap()).unwrap();
    assert_eq!(cut(read_mask(&["*"], &[]).unwrap()), seen(&grant, &whole()));
    let narrow = cut(read_mask(&["user_attributes"], &["city"]).unwrap());
    assert_eq!(narrow, Profile::default(), "an empty map would tell of others");
    for (paths, keys) in
        [(&["user_identities"][..], &[][..]), (&["mpid", "account_user_attributes"], &[]), (&[], &["ltv"])]
    {
        assert!(matches!(read_mask(paths, keys), Err(Invalid::Hidden { .. })), "{paths:?} {keys:?}");
    }
}

fn event() -> Event {
    Event {
        mpid: 1,
        profile: Some(whole()),
        previous: Some(whole()),
        merged_profile: Some(whole()),
        changed_fields: Some(FieldMask {
            paths: vec!["user_identities".into(), "user_attributes".into(), "audience_memberships".into()],
        }),
        changed_user_attributes: vec!["ltv".into(), "plan".into()],
        entered_audience_ids: vec![7, 8],
        exited_audience_ids: vec![9],
        taken_from_mpids: vec![3],
        taken_by_mpid: 4,
        ..Event::default()
    }
}

fn seen_event(grant: &Arc<Grant>, event: &Event) -> Event {
    Event::decode(&*mask(grant).event(&event.encode_to_vec()).unwrap()).unwrap()
}

#[test]
fn an_event_names_nothing_that_its_reader_may_not_see() {
    let attributes_only = parsed(&["user_attributes"], &["plan"]);
    let paths = |paths: &[&str]| Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() });
    let profile = Some(seen(&attributes_only, &whole()));
    let expected = Event {
        mpid: 1,
        profile: profile.clone(),
        previous: profile.clone(),
        merged_profile: profile,
        changed_fields: paths(&["user_attributes"]),
        changed_user_attributes: vec!["plan".into()],
        ..Event::default()
    };
    assert_eq!(seen_event(&attributes_only, &event()), expected);

    let hidden_change = Event { changed_user_attributes: vec!["ltv".into()], ..event() };
    let seen = seen_event(&attributes_only, &hidden_change);
    assert_eq!((seen.changed_fields, seen.changed_user_attributes), (paths(&[]), vec![]), "only a hidden one changed");

    let audiences_only = parsed(&["audience_memberships"], &[]);
    let seen = seen_event(&audiences_only, &event());
    assert_eq!(seen.changed_fields, paths(&["audience_memberships"]));
    assert_eq!((seen.entered_audience_ids, seen.exited_audience_ids), (vec![7, 8], vec![9]));
    assert_eq!((seen.changed_user_attributes.len(), seen.taken_from_mpids.len(), seen.taken_by_mpid), (0, 0, 0));

    for half in ["user_identities", "device_identities"] {
        assert_eq!(
            seen_event(&parsed(&[half], &[]), &event()).taken_by_mpid,
            0,
            "an identity of either kind was taken"
        );
    }
    let identities = parsed(&["user_identities", "device_identities"], &[]);
    let seen = seen_event(&identities, &event());
    assert_eq!((seen.taken_from_mpids, seen.taken_by_mpid), (vec![3], 4));
}

fn filter(grant: &Arc<Grant>, filter: EventFilter) -> Result<Filter, Invalid> {
    Filter::parse(Some(filter), Some(grant))
}

#[test]
fn a_filter_tests_nothing_that_its_reader_may_not_see() {
    let grant = parsed(&["user_attributes"], &["plan"]);
    let fields = |path: &str| EventFilter {
        changed_fields: Some(FieldMask { paths: vec![path.into()] }),
        ..EventFilter::default()
    };
    let keys = |key: &str| EventFilter { changed_user_attributes: vec![key.into()], ..EventFilter::default() };
    let audiences = EventFilter { audience_ids: vec![7], ..EventFilter::default() };
    let all_keys = parsed(&["user_attributes"], &[]);
    assert!(filter(&all_keys, fields("user_attributes")).is_ok() && filter(&grant, keys("plan")).is_ok());
    for hidden in [fields("user_attributes"), fields("user_identities"), keys("ltv"), audiences.clone()] {
        assert!(matches!(filter(&grant, hidden), Err(Invalid::Hidden { .. })));
    }
    assert!(filter(&parsed(&["audience_memberships"], &[]), audiences).is_ok());
}

#[test]
fn an_expression_reads_nothing_that_its_caller_may_not_see() {
    let grant = parsed(&["user_attributes", "attribution"], &["plan"]);
    let expression = |source: &str| filter(&grant, EventFilter { expression: source.into(), ..EventFilter::default() });
    for visible in [
        "profile.user_attributes.plan == 'pro'",
        "profile.user_attributes['plan'] == previous.user_attributes['plan']",
        "has(profile.user_attributes.plan) && profile.mpid > 0",
        "profile.attribution.exists(a, a.partner == 'x')",
        "event.type == 'profile.updated' && profile.etag != ''",
        "[profile.user_attributes.plan].exists(p, p == 'pro')",
    ] {
        assert!(expression(visible).is_ok(), "{visible}: {:?}", expression(visible));
    }
    for hidden in [
        "profile.user_attributes.ltv > 3",
        "profile.user_attributes['ltv'] > 3",
        "profile.user_attributes[profile.user_attributes.plan] == 'x'",
        "size(profile.user_attributes) > 3",
        "'ltv' in profile.user_attributes",
        "has(profile.user_attributes.ltv)",
        "profile.user_attributes.exists(key, key == 'ltv')",
        "profile.user_attributes == previous.user_attributes",
        "profile.account_user_attributes.plan == 'x'",
        "size(profile.user_identities) > 1",
        "profile.user_identities.exists(i, i.value == 'x')",
        "previous.user_identities.size() > 0",
        "profile.is_opted_out",
        "has(profile.limit_ad_tracking)",
        "profile == previous",
        "profile['user_identities'].size() > 0",
        "'user_identities' in event.changed_fields",
        "'ltv' in event.changed_user_attributes",
        "7 in event.entered_audience_ids",
        "event.taken_by_mpid == 3",
        "profile.user_attributes.plan == 'pro' || profile.user_attributes.ltv > 3",
        "[profile.user_attributes.ltv].exists(p, p == 3)",
        "{'a': profile.user_attributes.ltv}.a == 3",
        "{profile.user_attributes.ltv: 1}.size() == 1",
        "string(profile.user_attributes.ltv).startsWith('4')",
        "true ? profile.user_attributes.ltv == 3 : false",
    ] {
        let refused = expression(hidden);
        let unseen = matches!(&refused, Err(Invalid::Hidden { .. } | Invalid::Filter { .. }));
        assert!(unseen, "{hidden}: {refused:?}");
        let valid = Filter::parse(Some(EventFilter { expression: hidden.into(), ..EventFilter::default() }), None);
        assert_eq!(valid.is_ok(), matches!(refused, Err(Invalid::Hidden { .. })), "{hidden}");
    }
}

#[test]
fn an_identity_finds_nothing_for_a_caller_that_may_not_see_its_kind() {
    let key = |kind: &str| {
        let key = profile_key::Key::Identity(Identity { r#type: kind.into(), ..email() });
        ProfileKey::parse("key", Some(v1::ProfileKey { key: Some(key) }), &crate::model::Limits::default()).unwrap()
    };
    let users = parsed(&["user_identities"], &[]);
    assert_eq!(key("email").check_within("key", Some(&users)), Ok(()));
    assert!(key("android_id").check_within("key", Some(&users)).is_err());
    assert!(key("android_uuid").check_within("key", Some(&users)).is_err(), "another name of it");
    assert!(key("email").check_within("key", Some(&parsed(&["device_identities"], &[]))).is_err());
    assert_eq!(key("email").check_within("key", None), Ok(()));
}
