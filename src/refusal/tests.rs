//! What a refusal says of the request.

use std::cell::RefCell;
use std::collections::BTreeSet;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Timestamp, Value};

use super::*;
use crate::model::cursor::CursorSpace;
use crate::model::identity::ParsedIdentity;
use crate::model::{Limits, LogId, Mpid, NewProfile, Patch, Workspace};
use crate::proto::v1::{Attribution, AudienceMembership, Identity, Profile, ProfilePatch};

/// Every text in a value holds it.
const SECRET: &str = "s3cr3t";
/// Every number in a value.
const SECRET_NUMBER: f64 = 918_273_645.0;
/// How often values are drawn.
const CASES: u32 = 3_000;
/// Fewer would mean that the values are hardly ever wrong.
const DIFFERENT_PROBLEMS: usize = 25;

/// Limits that random values often exceed.
fn limits() -> Limits {
    Limits {
        attributes: 3,
        attribute_key_bytes: 60,
        attribute_value_bytes: 60,
        identities: 3,
        identity_value_bytes: 30,
        audience_memberships: 3,
        attributions: 3,
        profile_bytes: 700,
        ..Limits::default()
    }
}

fn secret() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => (0..4_u8).prop_map(|n| format!("{SECRET}{n}")),
        1 => Just(SECRET.repeat(9)),
        1 => Just(SECRET.repeat(50)),
        1 => Just(String::new()),
    ]
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        12 => (0..4_u8).prop_map(|n| format!("k{n}")),
        1 => Just("k".repeat(70)),
        1 => Just("\"\n\u{202e}".to_owned()),
        1 => Just(String::new()),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        6 => secret().prop_map(|text| Some(Kind::StringValue(text))),
        3 => Just(Some(Kind::NumberValue(SECRET_NUMBER))),
        1 => Just(Some(Kind::NumberValue(f64::NAN))),
        1 => Just(None),
    ]
    .prop_map(|kind| Value { kind });
    leaf.prop_recursive(25, 30, 2, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(|values| Value { kind: Some(Kind::ListValue(ListValue { values })) }),
            btree_map(secret(), inner, 0..3)
                .prop_map(|fields| Value { kind: Some(Kind::StructValue(Struct { fields })) }),
        ]
    })
}

fn attributes() -> impl Strategy<Value = Option<Struct>> {
    option::of(btree_map(key(), value(), 0..5).prop_map(|fields| Struct { fields }))
}

fn keys() -> impl Strategy<Value = Vec<String>> {
    vec(key(), 0..3)
}

fn identities() -> impl Strategy<Value = Vec<Identity>> {
    const KINDS: &[&str] = &["email", "customer_id", "ios_idfa", "unknown", "phone", "No Type"];
    const ENCODINGS: &[&str] = &["", "", "sha256", "No Encoding"];
    let identity = (proptest::sample::select(KINDS), proptest::sample::select(ENCODINGS), secret());
    let identity =
        identity.prop_map(|(kind, encoding, value)| Identity { r#type: kind.into(), encoding: encoding.into(), value });
    prop_oneof![3 => Just(Vec::new()), 1 => vec(identity, 1..5)]
}

/// A time that is past, still to come, or none.
fn time() -> impl Strategy<Value = Option<Timestamp>> {
    let time = |seconds, nanos| Some(Timestamp { seconds, nanos });
    proptest::sample::select(vec![None, time(1, 0), time(9_999_999_999, 0), time(0, -1)])
}

fn memberships() -> impl Strategy<Value = Vec<AudienceMembership>> {
    let membership = (0..5_i64, secret(), time()).prop_map(|(audience_id, audience_name, expire_time)| {
        AudienceMembership { audience_id, audience_name, expire_time }
    });
    prop_oneof![3 => Just(Vec::new()), 1 => vec(membership, 1..5)]
}

fn attributions() -> impl Strategy<Value = Vec<Attribution>> {
    let attribution = (secret(), secret(), time()).prop_map(|(partner, campaign, attribute_time)| Attribution {
        partner,
        campaign,
        attribute_time,
    });
    prop_oneof![3 => Just(Vec::new()), 1 => vec(attribution, 1..5)]
}

fn profile() -> impl Strategy<Value = Profile> {
    (identities(), identities(), attributes(), attributes(), memberships(), attributions()).prop_map(
        |(
            device_identities,
            user_identities,
            account_user_attributes,
            user_attributes,
            audience_memberships,
            attribution,
        )| {
            Profile {
                device_identities,
                user_identities,
                account_user_attributes,
                user_attributes,
                audience_memberships,
                attribution,
                ..Profile::default()
            }
        },
    )
}

fn patch() -> impl Strategy<Value = ProfilePatch> {
    let rarely = |keys| prop_oneof![2 => Just(Vec::new()), 1 => keys];
    let increments = btree_map(key(), proptest::sample::select(vec![SECRET_NUMBER, f64::MAX]), 0..3);
    let list = vec(value(), 0..3).prop_map(|values| ListValue { values });
    let user = (attributes(), rarely(keys().boxed()), increments, btree_map(key(), list, 0..3));
    let account = (attributes(), rarely(keys().boxed()));
    let rest = (identities(), identities(), memberships(), vec(0..5_i64, 0..2), attributions());
    (user, account, rest).prop_map(|(user, account, rest)| ProfilePatch {
        set_user_attributes: user.0,
        remove_user_attributes: user.1,
        increment_user_attributes: user.2,
        append_user_attributes: user.3,
        set_account_user_attributes: account.0,
        remove_account_user_attributes: account.1,
        add_identities: rest.0,
        remove_identities: rest.1,
        join_audiences: rest.2,
        leave_audiences: rest.3,
        add_attribution: rest.4,
        ..ProfilePatch::default()
    })
}

/// Everything that is wrong with these values, and what the store says of their identities.
fn refusals(mut stored: Profile, given: Profile, patch: ProfilePatch) -> Vec<StoreError> {
    let (limits, now) = (limits(), Micros::new(2_000_000));
    let taken = |identity: &Identity| {
        let parsed = ParsedIdentity::parse("identity", identity.clone(), &limits)?;
        Ok(StoreError::IdentityTaken { kind: parsed.key.kind().to_owned(), owner: Mpid::new(1).unwrap() })
    };
    let owned = given.user_identities.iter().map(|identity| taken(identity).unwrap_or_else(StoreError::Invalid));
    let mut refusals: Vec<_> = owned.collect();
    let new = NewProfile::parse(given, &limits).and_then(|new| new.check_as_of(now));
    let patched = Patch::parse(patch, &limits).and_then(|patch| {
        patch.check_as_of(now)?;
        patch.apply(&mut stored, &limits)
    });
    refusals.extend([new, patched].into_iter().filter_map(Result::err).map(StoreError::Invalid));
    refusals
}

/// The problem without its numbers, so that equal problems have equal texts.
fn kind_of_problem(refusal: &Refusal) -> String {
    refusal.message.rsplit(": ").next().unwrap_or_default().chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[test]
fn a_refusal_holds_no_value_of_the_request_or_of_the_profile() {
    let problems = RefCell::new(BTreeSet::new());
    let config = ProptestConfig { cases: CASES, ..ProptestConfig::default() };
    let checked = TestRunner::new(config).run(&(profile(), profile(), patch()), |(stored, given, patch)| {
        for error in refusals(stored, given, patch) {
            let said = format!("{error} {error:?}");
            let refusal = Refusal::from(error);
            let said = format!("{said} {} {refusal:?}", refusal.message).to_lowercase();
            prop_assert!(!said.contains(SECRET) && !said.contains("918273645"), "{}", said);
            problems.borrow_mut().insert(kind_of_problem(&refusal));
        }
        Ok(())
    });
    checked.unwrap();
    let problems = problems.into_inner();
    assert!(problems.len() >= DIFFERENT_PROBLEMS, "only {problems:#?}");
}

#[test]
fn a_limit_reads_as_a_sentence_everywhere() {
    let said = |refusal: Refusal| {
        let detail = refusal.details.into_iter().find_map(|detail| match detail {
            Detail::Field { problem, .. } | Detail::Quota { problem, .. } => Some(problem),
            _ => None,
        });
        (refusal.message.into_owned(), detail.unwrap())
    };
    let keys = Invalid::limit("keys", "keys", 1_000, 1_001).unwrap_err();
    let refused = [
        (keys.into(), "keys: 1001 keys are over the limit of 1000", "1001 keys are over the limit of 1000"),
        (
            Limits::default().page_size(5_000).unwrap_err().into(),
            "page_size 5000 is over the limit of 1000",
            "5000 is over the limit of 1000",
        ),
        (
            Invalid::ProfileTooLarge { limit: 9, found: 10 }.into(),
            "10 profile bytes are over the limit of 9",
            "10 profile bytes are over the limit of 9",
        ),
        (
            Refusal::request_too_large(9, 10),
            "10 request bytes are over the limit of 9",
            "10 request bytes are over the limit of 9",
        ),
        (
            Refusal::response_full(9, 10),
            "with this profile, 10 response bytes are over the limit of 9",
            "10 response bytes are over the limit of 9",
        ),
    ];
    for (refusal, message, detail) in refused {
        assert_eq!(said(refusal), (message.to_owned(), detail.to_owned()));
    }
}

/// A client is written from the table: what is not in it looks like a mistake.
#[test]
fn the_documents_name_every_reason_that_ends_a_stream() {
    let cursor = || CursorSpace::new(LogId(1), &Workspace::parse("a/b/c").unwrap()).at(Place::START);
    let name = SubscriptionName::parse("name", "crm").unwrap();
    let (floor, head) = (Place::START, Place::START);
    let ends = [
        FeedError::Store(StoreError::Expired { floor, head, oldest_time: None }),
        FeedError::Store(StoreError::Closed),
        FeedError::Damaged { past: cursor() },
        FeedError::Stalled { cursor: cursor() },
        FeedError::Draining { cursor: cursor() },
        FeedError::TooOld { cursor: cursor() },
        FeedError::Unauthenticated { cursor: cursor() },
        FeedError::TakenOver { cursor: cursor() },
        FeedError::Deleted { name },
        FeedError::TooManyStreams { limit: 1 },
    ];
    let refusals = [ErrorReason::PermissionDenied, ErrorReason::RateLimited, ErrorReason::Overloaded];
    let reasons = ends.into_iter().map(|end| Refusal::from(end).reason).chain(refusals);

    let (_, table) = include_str!("../../docs/subscriptions.md").split_once("## When a stream ends").unwrap();
    let service = include_str!("../../proto/cameo/v1/event_service.proto");
    let (before, _) = service.split_once("rpc Subscribe(").unwrap();
    let (_, errors) = before.rsplit_once("// Errors:").unwrap();
    for reason in reasons.map(reason_name) {
        assert!(table.contains(&format!("`{reason}`")), "the table has no {reason}");
        assert!(errors.contains(reason), "the errors of Subscribe have no {reason}");
    }
}
