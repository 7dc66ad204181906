//! What a patch does, and why it is refused.

use super::*;
use crate::proto::v1::{Attribution, AudienceMembership};

fn number(number: f64) -> Value {
    Value { kind: Some(Kind::NumberValue(number)) }
}

fn map<const N: usize>(fields: [(&str, Value); N]) -> Struct {
    Struct { fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() }
}

fn list(values: impl IntoIterator<Item = Value>) -> ListValue {
    ListValue { values: values.into_iter().collect() }
}

fn identity(kind: &str, value: &str) -> Identity {
    Identity { r#type: kind.into(), encoding: String::new(), value: value.into() }
}

fn member(audience_id: i64) -> AudienceMembership {
    AudienceMembership { audience_id, ..AudienceMembership::default() }
}

fn attribution(partner: &str) -> Attribution {
    Attribution { partner: partner.into(), ..Attribution::default() }
}

fn parse(patch: ProfilePatch) -> Patch {
    Patch::parse(patch, &Limits::default()).unwrap()
}

/// A patch with every field set.
fn full() -> ProfilePatch {
    ProfilePatch {
        is_opted_out: Some(false),
        limit_ad_tracking: Some(true),
        set_user_attributes: Some(map([("set", number(1.0))])),
        remove_user_attributes: vec!["removed".into()],
        increment_user_attributes: [("count".to_owned(), 2.0)].into(),
        append_user_attributes: [("list".to_owned(), list([number(1.0), number(1.0)]))].into(),
        clear_user_attributes: true,
        set_account_user_attributes: Some(map([("set", number(1.0))])),
        remove_account_user_attributes: vec!["removed".into()],
        add_identities: vec![identity("email", " Ada@x.com"), identity("apple_idfa", "i")],
        remove_identities: vec![identity("phone", "+1 555")],
        take_identities: true,
        join_audiences: vec![member(1)],
        leave_audiences: vec![2],
        add_attribution: vec![attribution("p")],
    }
}

fn text(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.into())) }
}

fn append(values: impl IntoIterator<Item = Value>) -> ProfilePatch {
    ProfilePatch { append_user_attributes: [("list".to_owned(), list(values))].into(), ..ProfilePatch::default() }
}

fn set(key: &str, value: Value) -> ProfilePatch {
    ProfilePatch { set_user_attributes: Some(map([(key, value)])), ..ProfilePatch::default() }
}

/// A profile with three of everything, and limits that were lowered since it was written.
fn over_every_limit() -> (Profile, Limits) {
    let names = ["k1", "k2", "long key"];
    let attributes = Some(Struct { fields: names.map(|name| (name.to_owned(), text("long value"))).into() });
    let mut user_attributes = attributes.clone().unwrap();
    user_attributes.fields.insert("list".into(), Value { kind: Some(Kind::ListValue(list([text("long value")]))) });
    let profile = Profile {
        device_identities: vec![identity("ios_idfa", "i")],
        user_identities: vec![identity("email", "a@x.com"), identity("email", "b@x.com")],
        account_user_attributes: attributes,
        user_attributes: Some(user_attributes),
        audience_memberships: [1, 2, 3].map(member).into(),
        attribution: ["a", "b", "c"].map(attribution).into(),
        ..Profile::default()
    };
    let limits = Limits {
        attributes: 2,
        attribute_key_bytes: 4,
        attribute_value_bytes: 9,
        identities: 2,
        audience_memberships: 2,
        attributions: 2,
        ..Limits::default()
    };
    (profile, limits)
}

/// Applies a patch to the profile that is over every limit.
fn patched(patch: ProfilePatch) -> Result<Profile, Invalid> {
    let (mut profile, limits) = over_every_limit();
    Patch::parse(patch, &limits)?.apply(&mut profile, &limits)?;
    Ok(profile)
}

#[test]
fn a_profile_over_a_lowered_limit_may_change() {
    let changes = [
        ProfilePatch::default(),
        ProfilePatch { is_opted_out: Some(true), ..ProfilePatch::default() },
        set("k1", text("v")),
        ProfilePatch { clear_user_attributes: true, ..set("k9", text("v")) },
        ProfilePatch { remove_user_attributes: vec!["k1".into()], ..set("k9", text("v")) },
        ProfilePatch { remove_account_user_attributes: vec!["long key".into()], ..ProfilePatch::default() },
        append([]),
        ProfilePatch { remove_identities: vec![identity("email", "a@x.com")], ..ProfilePatch::default() },
        ProfilePatch { add_identities: vec![identity("email", "A@x.com")], ..ProfilePatch::default() },
        ProfilePatch { join_audiences: vec![member(3)], leave_audiences: vec![1], ..ProfilePatch::default() },
        ProfilePatch { join_audiences: vec![member(4)], leave_audiences: vec![1], ..ProfilePatch::default() },
        ProfilePatch { add_attribution: vec![attribution("c")], ..ProfilePatch::default() },
    ];
    for patch in changes {
        patched(patch.clone()).unwrap_or_else(|refusal| panic!("{refusal}: {patch:?}"));
    }
}

#[test]
fn a_profile_over_a_lowered_limit_does_not_grow() {
    let account = Some(map([("k9", text("v"))]));
    let increment =
        ProfilePatch { increment_user_attributes: [("k9".to_owned(), 1.0)].into(), ..ProfilePatch::default() };
    let grown = [
        ("patch.set_user_attributes", 5, set("k9", text("v"))),
        ("patch.increment_user_attributes", 5, increment),
        (
            "patch.append_user_attributes",
            5,
            ProfilePatch { append_user_attributes: [("k9".to_owned(), list([]))].into(), ..ProfilePatch::default() },
        ),
        (
            "patch.set_account_user_attributes",
            4,
            ProfilePatch { set_account_user_attributes: account, ..ProfilePatch::default() },
        ),
        (
            "patch.add_identities",
            4,
            ProfilePatch { add_identities: vec![identity("email", "c@x.com")], ..ProfilePatch::default() },
        ),
        ("patch.join_audiences", 4, ProfilePatch { join_audiences: vec![member(4)], ..ProfilePatch::default() }),
        (
            "patch.add_attribution",
            4,
            ProfilePatch { add_attribution: vec![attribution("d")], ..ProfilePatch::default() },
        ),
    ];
    for (name, count, patch) in grown {
        match patched(patch) {
            Err(Invalid::Limit { field, limit: 2, found, .. }) => assert_eq!((&*field, found), (name, count)),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn an_attribute_that_is_touched_is_held_against_a_lowered_limit() {
    let increment =
        ProfilePatch { increment_user_attributes: [("long key".to_owned(), 1.0)].into(), ..ProfilePatch::default() };
    let touched = [
        ("attribute key bytes", 8, set("long key", text("v"))),
        ("attribute key bytes", 8, increment),
        ("attribute value bytes", 12, set("k1", text("long value"))),
        ("attribute value bytes", 21, append([text("v")])),
    ];
    for (name, size, patch) in touched {
        match patched(patch) {
            Err(Invalid::Limit { subject, found, .. }) => assert_eq!((subject, found), (name, size)),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_refusal_names_the_attribute_but_not_its_value() {
    let secret = || text("secret");
    let increment = |key: &str, by| ProfilePatch {
        increment_user_attributes: [(key.to_owned(), by)].into(),
        ..ProfilePatch::default()
    };
    let lists = Value { kind: Some(Kind::ListValue(list([secret(), number(f64::NAN)]))) };
    let refused = [
        (increment("k1", 1.0), r#"patch.increment_user_attributes["k1"]: is not a number"#),
        (increment("k9", f64::NAN), r#"patch.increment_user_attributes["k9"]: a number must be finite"#),
        (set("k1", number(f64::NAN)), r#"patch.set_user_attributes["k1"]: a number must be finite"#),
        (set("k1", lists), r#"patch.set_user_attributes["k1"]: a number must be finite"#),
        (
            ProfilePatch { remove_user_attributes: vec!["k1".into()], ..set("k1", secret()) },
            r#"patch.remove_user_attributes["k1"]: is also in patch.set_user_attributes"#,
        ),
        (
            ProfilePatch { remove_user_attributes: vec!["k1".into(), "k1".into()], ..ProfilePatch::default() },
            r#"patch.remove_user_attributes["k1"]: is named twice"#,
        ),
        (
            ProfilePatch {
                set_account_user_attributes: Some(map([("k1", secret())])),
                remove_account_user_attributes: vec!["k1".into()],
                ..ProfilePatch::default()
            },
            r#"patch.remove_account_user_attributes["k1"]: is also in patch.set_account_user_attributes"#,
        ),
        (
            ProfilePatch { join_audiences: vec![member(7)], leave_audiences: vec![7], ..ProfilePatch::default() },
            "patch.leave_audiences[0]: is also in patch.join_audiences",
        ),
        (
            ProfilePatch { leave_audiences: vec![7, 7], ..ProfilePatch::default() },
            "patch.leave_audiences[1]: is the same audience as an earlier one",
        ),
        (
            ProfilePatch { join_audiences: vec![member(7), member(7)], ..ProfilePatch::default() },
            "patch.join_audiences[1]: is the same audience as an earlier one",
        ),
        (set("", secret()), r#"patch.set_user_attributes[""]: an attribute's key must not be empty"#),
        (
            set("too long", secret()),
            r#"patch.set_user_attributes["too long"]: 8 attribute key bytes are over the limit of 4"#,
        ),
    ];
    for (patch, message) in refused {
        assert_eq!(patched(patch).unwrap_err().to_string(), message);
    }
}

/// `unknown` was once the type of a user identity. A profile that holds one keeps it there.
#[test]
fn an_identity_that_a_profile_holds_on_the_other_side_is_not_added_again() {
    let profile = Profile { user_identities: vec![identity("unknown", "u")], ..Profile::default() };
    let after = |patch| {
        let mut after = profile.clone();
        parse(patch).apply(&mut after, &Limits::default()).unwrap();
        after
    };
    let unknown = || vec![identity("unknown", "u")];
    assert_eq!(after(ProfilePatch { add_identities: unknown(), ..ProfilePatch::default() }), profile);
    assert_eq!(after(ProfilePatch { remove_identities: unknown(), ..ProfilePatch::default() }), Profile::default());
}

#[test]
fn the_message_of_a_patch_parses_to_the_same_patch() {
    for message in [ProfilePatch::default(), full()] {
        let patch = parse(message);
        assert_eq!(parse(patch.to_message()), patch);
    }
}
