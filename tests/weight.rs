//! The weight of a parsed request, compared with the bytes that it really allocates. This is a binary of its own with
//! one test: its allocator counts the bytes of all threads.

use std::alloc::System;
use std::ops::RangeInclusive;

use cameo::model::identity::ParsedIdentity;
use cameo::model::{Limits, NewProfile, Patch, ProfileKey};
use cameo::proto::v1::{Attribution, AudienceMembership, Identity, Profile, ProfilePatch};
use prost::Message;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What the weight of a value may be, in percent of the bytes that it really takes.
const PERCENT: RangeInclusive<usize> = 70..=150;
/// Limits that no value here reaches.
const LIMITS: Limits = Limits {
    workspaces: usize::MAX,
    subscriptions: usize::MAX,
    profile_bytes: usize::MAX,
    attributes: usize::MAX,
    attribute_key_bytes: usize::MAX,
    attribute_value_bytes: usize::MAX,
    identities: usize::MAX,
    identity_value_bytes: usize::MAX,
    audience_memberships: usize::MAX,
    attributions: usize::MAX,
    request_bytes: usize::MAX,
    batch_keys: usize::MAX,
    page_items: usize::MAX,
    response_bytes: usize::MAX,
};

/// Bytes that are allocated now.
fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// Parses an encoded request, and asserts that its weight is close to the bytes that parsing allocated.
#[track_caller]
fn assert_weight<T>(name: &str, encoded: &[u8], parse: impl Fn(&[u8]) -> T, weight: impl Fn(&T) -> usize) {
    let before = allocated();
    let parsed = Box::new(parse(encoded)); // In a box, because the size of the value itself counts too.
    let (real, weight) = (allocated() - before, weight(&parsed));
    let percent = weight * 100 / real;
    println!("{name}: {} bytes encoded, {real} allocated, weight {weight}: {percent} %", encoded.len());
    assert!(PERCENT.contains(&percent), "{name}: weight {weight} of {real}");
}

#[track_caller]
fn assert_encoded_patch(name: &str, patch: &[u8]) {
    let parse = |encoded: &[u8]| Patch::parse(ProfilePatch::decode(encoded).unwrap(), &LIMITS).unwrap();
    assert_weight(name, patch, parse, Patch::weight);
}

#[track_caller]
fn assert_patch(name: &str, patch: &ProfilePatch) {
    assert_encoded_patch(name, &patch.encode_to_vec());
}

#[track_caller]
fn assert_profile(name: &str, profile: &Profile) {
    let parse = |encoded: &[u8]| NewProfile::parse(Profile::decode(encoded).unwrap(), &LIMITS).unwrap();
    assert_weight(name, &profile.encode_to_vec(), parse, NewProfile::weight);
}

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

fn text(length: usize) -> Value {
    value(Kind::StringValue("v".repeat(length)))
}

fn list(values: impl IntoIterator<Item = Value>) -> ListValue {
    ListValue { values: values.into_iter().collect() }
}

/// As many attributes as `count`, all with this value.
fn map(count: usize, value: &Value) -> Struct {
    Struct { fields: (0..count).map(|n| (format!("k{n}"), value.clone())).collect() }
}

fn set(count: usize, value: &Value) -> ProfilePatch {
    ProfilePatch { set_user_attributes: Some(map(count, value)), ..ProfilePatch::default() }
}

/// An encoded patch that sets attributes in this order. A map keeps no order, so each is encoded as a patch of its own;
/// together they decode as one.
fn set_in_order(keys: impl Iterator<Item = usize>) -> Vec<u8> {
    let one = |n| Struct { fields: [(format!("k{n:05}"), text(2))].into() };
    let set = |n| ProfilePatch { set_user_attributes: Some(one(n)), ..ProfilePatch::default() };
    keys.flat_map(|n| set(n).encode_to_vec()).collect()
}

/// As many levels as `levels`, of lists and maps in turn.
fn nest(levels: usize) -> Value {
    (0..levels).fold(text(1), |inner, level| match level % 2 {
        0 => value(Kind::StructValue(map(1, &inner))),
        _ => value(Kind::ListValue(list([inner]))),
    })
}

fn identities(count: usize) -> Vec<Identity> {
    let email =
        |n| Identity { r#type: "email".into(), encoding: String::new(), value: format!("Someone.{n}@example.com") };
    (0..count).map(email).collect()
}

fn memberships(count: i64) -> Vec<AudienceMembership> {
    let member = |audience_id| AudienceMembership { audience_id, audience_name: "name".into(), expire_time: None };
    (1..=count).map(member).collect()
}

fn attributions(count: usize) -> Vec<Attribution> {
    let attribution = |n: usize| Attribution { partner: "p".into(), campaign: n.to_string(), attribute_time: None };
    (0..count).map(attribution).collect()
}

fn assert_attributes() {
    let number = value(Kind::NumberValue(1.0));
    let one_key = value(Kind::StructValue(map(1, &value(Kind::BoolValue(true)))));
    assert_patch("a list of maps of one entry", &set(1, &value(Kind::ListValue(list(vec![one_key; 60_000])))));
    assert_patch("deep nests", &set(500, &nest(19)));
    assert_patch("long texts", &set(10, &text(60_000)));
    for count in [1, 11, 12, 18, 19, 50, 1_000, 30_000] {
        assert_patch(&format!("{count} small attributes"), &set(count, &text(2)));
    }
    assert_encoded_patch("in descending order", &set_in_order((0..10_000).rev()));
    assert_encoded_patch("in no order", &set_in_order((0..10_000).map(|n| n * 7_919 % 10_000)));
    assert_patch("maps of 20", &set(100, &value(Kind::StructValue(map(20, &number)))));
    assert_patch("a list of numbers", &set(1, &value(Kind::ListValue(list(vec![number.clone(); 70_000])))));
}

fn assert_other_fields() {
    let keys = || (0..1_000).map(|n| format!("key {n}"));
    let increments = keys().map(|key| (key, 1.0)).collect();
    assert_patch("increments", &ProfilePatch { increment_user_attributes: increments, ..ProfilePatch::default() });
    let appended = keys().map(|key| (key, list([text(3)]))).collect();
    assert_patch("appended values", &ProfilePatch { append_user_attributes: appended, ..ProfilePatch::default() });
    let removed = keys().collect();
    assert_patch("removed attributes", &ProfilePatch { remove_user_attributes: removed, ..ProfilePatch::default() });
    let joined = memberships(1_000);
    assert_patch("memberships", &ProfilePatch { join_audiences: joined, ..ProfilePatch::default() });
    let left = (1..1_000).collect();
    assert_patch("audiences to leave", &ProfilePatch { leave_audiences: left, ..ProfilePatch::default() });
    let attributed = attributions(1_000);
    assert_patch("attributions", &ProfilePatch { add_attribution: attributed, ..ProfilePatch::default() });
    assert_patch("identities to add", &ProfilePatch { add_identities: identities(100), ..ProfilePatch::default() });
    assert_patch("identities to remove", &ProfilePatch { remove_identities: identities(9), ..ProfilePatch::default() });
    assert_patch("nothing", &ProfilePatch::default());
}

#[test]
fn a_parsed_request_weighs_what_it_allocates() {
    assert_attributes();
    assert_other_fields();
    let profile = Profile {
        user_identities: identities(50),
        account_user_attributes: Some(map(30, &text(10))),
        user_attributes: Some(map(300, &nest(2))),
        audience_memberships: memberships(70),
        attribution: attributions(70),
        ..Profile::default()
    };
    assert_profile("a new profile", &profile);
    assert_profile("an empty profile", &Profile::default());
    let key = |encoded: &[u8]| {
        ProfileKey::Identity(ParsedIdentity::parse("identity", Identity::decode(encoded).unwrap(), &LIMITS).unwrap())
    };
    assert_weight("an identity", &identities(1)[0].encode_to_vec(), key, ProfileKey::weight);
}
