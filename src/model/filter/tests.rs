//! What a filter says of changes.

use prost_types::value::Kind;
use prost_types::{FieldMask, Struct, Value};

use super::*;
use crate::model::change::describe;
use crate::proto::v1::AudienceMembership;

const NOW: Micros = Micros::new(100_000_000);
const VIP: i64 = 7;

/// A profile of this plan, in the audience until then.
fn profile(plan: &str, vip_until: Option<Micros>) -> Profile {
    let value = Value { kind: Some(Kind::StringValue(plan.into())) };
    let member = |until: Micros| {
        let expire_time = Some(until.to_timestamp());
        AudienceMembership { audience_id: VIP, expire_time, ..AudienceMembership::default() }
    };
    Profile {
        mpid: 1,
        update_time: Some(Micros::new(1_000_000).to_timestamp()),
        user_attributes: Some(Struct { fields: [("plan".to_owned(), value)].into() }),
        audience_memberships: vip_until.map(member).into_iter().collect(),
        ..Profile::default()
    }
}

/// The change from one profile to another, as it is read from the log.
fn change(before: Option<&Profile>, after: Option<&Profile>) -> Transition {
    let kind = match (before, after) {
        (None, _) => EventKind::Created,
        (_, None) => EventKind::Deleted,
        _ => EventKind::Updated,
    };
    let event = Event { time: Some(NOW.to_timestamp()), profile: after.cloned(), ..describe(kind, before, after, NOW) };
    let change = Transition::decode(&event.encode_to_vec()).unwrap();
    assert_eq!(change.before.as_ref(), before, "an event tells all of the profile before it");
    change
}

fn judge(filter: EventFilter, before: Option<&Profile>, after: Option<&Profile>) -> Option<FilterMatch> {
    Filter::parse(Some(filter), None).unwrap().judge(&change(before, after))
}

#[test]
fn a_profile_is_tested_before_and_after() {
    use FilterMatch::{Entered, Left, Stayed};
    let (pro, free) = (profile("pro", None), profile("free", None));
    let mut renamed = pro.clone();
    renamed.is_opted_out = true;
    let is_pro = || EventFilter { expression: "profile.user_attributes.plan == 'pro'".into(), ..Default::default() };
    for (before, after, expected) in [
        (None, Some(&pro), Some(Entered)),
        (Some(&free), Some(&pro), Some(Entered)),
        (Some(&pro), Some(&renamed), Some(Stayed)),
        (Some(&pro), Some(&free), Some(Left)),
        (Some(&pro), None, Some(Left)),
        (None, Some(&free), None),
        (Some(&free), None, None),
    ] {
        assert_eq!(judge(is_pro(), before, after), expected);
    }
}

#[test]
fn both_conditions_on_profiles_must_hold() {
    let filter = || EventFilter {
        expression: "profile.user_attributes.plan == 'pro'".into(),
        audience_ids: vec![VIP, 9],
        ..Default::default()
    };
    let later = Some(NOW.plus(std::time::Duration::from_secs(1)));
    let [both, plan, audience] = [profile("pro", later), profile("pro", None), profile("free", later)];
    assert_eq!(judge(filter(), Some(&plan), Some(&both)), Some(FilterMatch::Entered));
    assert_eq!(judge(filter(), Some(&both), Some(&audience)), Some(FilterMatch::Left));
    assert_eq!(judge(filter(), Some(&plan), Some(&audience)), None);
    let parsed = Filter::parse(Some(filter()), None).unwrap();
    let selected = [&both, &plan, &audience].map(|profile| parsed.selects(&profile.encode_to_vec(), NOW).unwrap());
    assert_eq!(selected, [true, false, false]);
}

/// A reader was told of a membership that has ended since, and not yet of its end.
#[test]
fn a_membership_that_has_ended_leaves_with_the_next_change() {
    let filter = || EventFilter { audience_ids: vec![VIP], ..Default::default() };
    let member = profile("pro", Some(NOW)); // It ends at the very time of the event.
    let mut changed = profile("free", None);
    assert_eq!(judge(filter(), Some(&member), Some(&changed)), Some(FilterMatch::Left));
    changed.audience_memberships = member.audience_memberships.clone();
    assert_eq!(judge(filter(), Some(&member), Some(&changed)), Some(FilterMatch::Left), "it has ended");
    let ended_before = profile("pro", Some(Micros::new(1_000_000)));
    assert_eq!(judge(filter(), Some(&ended_before), Some(&changed)), None, "it had ended already");
    let selects = Filter::parse(Some(filter()), None).unwrap().selects(&member.encode_to_vec(), NOW);
    assert!(!selects.unwrap());
}

/// A reader whose snapshot is newer than the end of the membership does not have the profile.
#[test]
fn a_profile_that_joins_again_after_its_membership_ended_enters() {
    let later = Some(NOW.plus(std::time::Duration::from_secs(1)));
    let (ended, again) = (profile("pro", Some(NOW)), profile("pro", later));
    let changed_fields = Some(FieldMask { paths: vec!["is_opted_out".into()] });
    let by_audience = EventFilter { audience_ids: vec![VIP], changed_fields, ..Default::default() };
    let expression = format!("profile.audience_memberships.exists(m, m.audience_id == {VIP})");
    let by_expression = EventFilter { expression, audience_ids: Vec::new(), ..by_audience.clone() };
    for filter in [by_audience, by_expression] {
        let parsed = Filter::parse(Some(filter.clone()), None).unwrap();
        let mut before = ended.clone();
        crate::model::profile::remove_expired(&mut before, NOW); // As a snapshot does.
        assert!(!parsed.selects(&before.encode_to_vec(), NOW).unwrap());
        assert_eq!(judge(filter.clone(), Some(&ended), Some(&again)), Some(FilterMatch::Entered));
        assert_eq!(judge(filter, Some(&again), Some(&again)), None, "it stays, and nothing asked for has changed");
    }
}

/// Only the end of a membership that made it match makes it enter again.
#[test]
fn a_profile_whose_other_membership_ended_stays() {
    let filter = || EventFilter { expression: "profile.user_attributes.plan == 'pro'".into(), ..Default::default() };
    let (ended, opted_out) = (profile("pro", Some(NOW)), Profile { is_opted_out: true, ..profile("pro", None) });
    assert_eq!(judge(filter(), Some(&ended), Some(&opted_out)), Some(FilterMatch::Stayed));
}

#[test]
fn what_changed_matters_only_for_what_stays() {
    let (free, pro) = (profile("free", None), profile("pro", None));
    let mut opted_out = pro.clone();
    opted_out.is_opted_out = true;
    let of = |paths: &[&str], keys: &[&str]| EventFilter {
        changed_fields: Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }),
        changed_user_attributes: keys.iter().map(|key| (*key).to_owned()).collect(),
        ..Default::default()
    };
    let unspecified = Some(FilterMatch::Unspecified);
    assert_eq!(judge(of(&["is_opted_out"], &[]), Some(&pro), Some(&opted_out)), unspecified);
    assert_eq!(judge(of(&["is_opted_out"], &[]), Some(&free), Some(&pro)), None);
    assert_eq!(judge(of(&["is_opted_out"], &["plan"]), Some(&free), Some(&pro)), unspecified);
    assert_eq!(judge(of(&[], &["color"]), Some(&free), Some(&pro)), None);
    assert_eq!(judge(of(&["attribution"], &[]), Some(&pro), None), unspecified, "a delete always arrives");
    let entering =
        EventFilter { expression: "profile.user_attributes.plan == 'pro'".into(), ..of(&["attribution"], &[]) };
    assert_eq!(judge(entering.clone(), Some(&free), Some(&pro)), Some(FilterMatch::Entered));
    assert_eq!(judge(entering.clone(), Some(&pro), Some(&opted_out)), None);
    assert_eq!(judge(entering, Some(&pro), Some(&free)), Some(FilterMatch::Left));
}

#[test]
fn the_header_tests_the_kind_the_profile_the_shard_and_silence() {
    let [one, two] = [1, 2].map(|mpid| Mpid::new(mpid).unwrap());
    let filter = EventFilter {
        types: vec!["profile.created".into()],
        mpids: vec![1],
        omit_silent: true,
        ..EventFilter::default()
    };
    let filter = Filter::parse(Some(filter), None).unwrap();
    assert!(!filter.tests_changes());
    assert!(filter.matches(EventKind::Created, one, None, false));
    assert!(!filter.matches(EventKind::Updated, one, None, false));
    assert!(!filter.matches(EventKind::Created, two, None, false));
    assert!(!filter.matches(EventKind::Created, one, None, true));
    let shards = [0, 1].map(|index| Shard::parse("shard", crate::proto::v1::Shard { index, count: 2 }).unwrap());
    let matching =
        shards.map(|shard| filter.clone().of_shard(Some(shard)).matches(EventKind::Created, one, None, false));
    assert!(matching[0] != matching[1]);
}

/// Every field that an event compares can be restored from it.
#[test]
fn the_profile_before_is_restored_whole() {
    let mut full = profile("pro", Some(NOW));
    full.is_opted_out = true;
    full.limit_ad_tracking = Some(true);
    full.account_user_attributes.clone_from(&full.user_attributes);
    full.attribution.push(crate::proto::v1::Attribution::default());
    full.user_identities.push(crate::proto::v1::Identity { value: "a".into(), ..Default::default() });
    full.device_identities.push(crate::proto::v1::Identity { value: "b".into(), ..Default::default() });
    let empty = Profile { mpid: 1, ..Profile::default() };
    change(Some(&full), Some(&empty));
    change(Some(&empty), Some(&full));
    change(Some(&full), Some(&profile("free", None)));
    change(Some(&full), None);
}

/// A snapshot may lack the profile, as what it was is not told any more. So a reader must get it now.
#[test]
fn what_an_erasure_left_of_an_event_enters_or_leaves_whatever_changed() {
    let (pro, free) = (profile("pro", None), profile("free", None));
    let judge = |filter: EventFilter, after: Option<&Profile>| {
        let event = Event { redacted: true, previous: None, ..change(Some(&free), after).event };
        Filter::parse(Some(filter), None).unwrap().judge(&Transition::decode(&event.encode_to_vec()).unwrap())
    };
    let opted_out = Some(FieldMask { paths: vec!["is_opted_out".into()] });
    let is_pro = "profile.user_attributes.plan == 'pro'";
    for changed_fields in [None, opted_out] {
        let any = EventFilter { changed_fields, ..EventFilter::default() };
        let only_pro = EventFilter { expression: is_pro.into(), ..any.clone() };
        assert_eq!(judge(any, Some(&pro)), Some(FilterMatch::Unspecified));
        assert_eq!(judge(only_pro.clone(), Some(&pro)), Some(FilterMatch::Entered));
        assert_eq!(judge(only_pro.clone(), Some(&free)), Some(FilterMatch::Left));
        assert_eq!(judge(only_pro, None), Some(FilterMatch::Left));
    }
}

#[test]
fn an_absorbed_profile_leaves_only_if_the_filter_selects_it() {
    let (pro, free) = (profile("pro", None), profile("free", None));
    let merged = Event {
        r#type: EventKind::Merged.name().to_owned(),
        merged_mpid: 2,
        merged_profile: Some(Profile { mpid: 2, ..pro }),
        ..change(Some(&free), Some(&free)).event
    };
    let is_pro = "profile.user_attributes.plan == 'pro'";
    for (mpids, expected) in
        [(vec![], Some(FilterMatch::Left)), (vec![1], None), (vec![2], Some(FilterMatch::Left)), (vec![3], None)]
    {
        let filter = EventFilter { mpids, expression: is_pro.into(), ..EventFilter::default() };
        let change = Transition::decode(&merged.encode_to_vec()).unwrap();
        assert_eq!(Filter::parse(Some(filter.clone()), None).unwrap().judge(&change), expected, "{filter:?}");
    }
}
