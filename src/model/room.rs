//! The room that a patch needs in a profile.
//!
//! Only the writer knows what the profile already holds. But a patch that is over the limit by itself is refused before
//! it takes space in the queue.

use prost::Message;
use prost_types::ListValue;

use super::distinct::absent;
use super::identity::ParsedIdentity;
use super::{Invalid, Limits, wire};
use crate::proto::v1::ProfilePatch;

/// A patch adds less than this many times its own encoded size. The worst case is an increment by 0: with a key of one
/// byte, the patch takes 5 bytes and adds 18.
const GROWTH: usize = 4;
/// A number as an attribute's value.
const NUMBER_BYTES: usize = 9;

/// Refuses a patch that fits into no profile. `add` holds its new identities, which `patch` no longer holds.
///
/// # Errors
/// [`Invalid::ProfileTooLarge`].
pub(super) fn check_room(patch: &ProfilePatch, add: &[ParsedIdentity], limits: &Limits) -> Result<(), Invalid> {
    let limit = limits.profile_bytes;
    let identities: usize = add.iter().map(|identity| field_bytes(identity.key.least_bytes())).sum();
    if identities + GROWTH * patch.encoded_len() <= limit {
        return Ok(()); // Most patches end here, without the search for duplicates.
    }
    let found = identities + least_bytes(patch);
    if found <= limit { Ok(()) } else { Err(Invalid::ProfileTooLarge { limit, found }) }
}

/// The encoded size of an empty profile after the patch, which is the smallest that any profile can have. It leaves out
/// identities and flags.
fn least_bytes(patch: &ProfilePatch) -> usize {
    let incremented = patch.increment_user_attributes.keys().map(|key| attribute_bytes(key, NUMBER_BYTES));
    let appended = patch.append_user_attributes.iter().map(|(key, list)| attribute_bytes(key, list_bytes(list)));
    let user = patch.set_user_attributes.as_ref().map_or(0, Message::encoded_len)
        + incremented.sum::<usize>()
        + appended.sum::<usize>();
    let account = patch.set_account_user_attributes.as_ref().map_or(0, Message::encoded_len);
    let maps = [user, account].into_iter().filter(|bytes| *bytes > 0).map(field_bytes);
    let memberships = patch.join_audiences.iter().map(|joined| field_bytes(joined.encoded_len()));
    let attributions = distinct(&patch.add_attribution).map(|added| field_bytes(added.encoded_len()));
    maps.chain(memberships).chain(attributions).sum()
}

/// The bytes of one attribute in its map, given the bytes of its value.
fn attribute_bytes(key: &str, value: usize) -> usize {
    field_bytes(field_bytes(key.len()) + field_bytes(value))
}

/// The bytes of a list as an attribute's value. Duplicates are not appended, so each distinct value counts once.
fn list_bytes(list: &ListValue) -> usize {
    field_bytes(absent(&[], &list.values).into_iter().map(|value| field_bytes(value.encoded_len())).sum())
}

fn distinct<T: PartialEq>(items: &[T]) -> impl Iterator<Item = &T> {
    items.iter().enumerate().filter(|(index, item)| !items[..*index].contains(item)).map(|(_, item)| item)
}

/// The bytes of a field with its key. The key takes one byte, because all field numbers here are below 16.
fn field_bytes(length: usize) -> usize {
    wire::delimited_len(1, length)
}

#[cfg(test)]
mod tests {
    use prost_types::value::Kind;
    use prost_types::{Struct, Timestamp, Value};

    use super::*;
    use crate::model::{NewProfile, Patch};
    use crate::proto::v1::{Attribution, AudienceMembership, Identity, Profile};

    fn value(kind: Kind) -> Value {
        Value { kind: Some(kind) }
    }

    fn list(values: impl IntoIterator<Item = Value>) -> ListValue {
        ListValue { values: values.into_iter().collect() }
    }

    fn map(count: usize) -> Struct {
        let text = |n: usize| value(Kind::StringValue("v".repeat(n)));
        Struct { fields: (0..count).map(|n| (format!("set{n}"), text(n))).collect() }
    }

    fn attribution(partner: usize) -> Attribution {
        let attribute_time = Some(Timestamp { seconds: 1, nanos: 1 });
        Attribution { partner: "p".repeat(partner), attribute_time, ..Attribution::default() }
    }

    fn identity(kind: &str, value: &str) -> Identity {
        Identity { r#type: kind.into(), encoding: "none".into(), value: value.into() }
    }

    fn limits(profile_bytes: usize) -> Limits {
        Limits { profile_bytes, ..Limits::default() }
    }

    /// One patch for each thing that takes room, and one with all of them.
    fn patches() -> Vec<ProfilePatch> {
        let nested = value(Kind::ListValue(list([value(Kind::BoolValue(false)), value(Kind::NullValue(0))])));
        let appended =
            list([1.0, -0.0, 0.0, 1.0].map(|number| value(Kind::NumberValue(number))).into_iter().chain([nested]));
        let set = ProfilePatch { set_user_attributes: Some(map(200)), ..ProfilePatch::default() };
        let account = ProfilePatch { set_account_user_attributes: Some(map(3)), ..ProfilePatch::default() };
        let increments = (0..9).map(|n| (n.to_string(), 0.0)).collect();
        let increments = ProfilePatch { increment_user_attributes: increments, ..ProfilePatch::default() };
        let appended = [("list".to_owned(), appended), ("empty".to_owned(), list([]))].into();
        let appended = ProfilePatch { append_user_attributes: appended, ..ProfilePatch::default() };
        let member = AudienceMembership { audience_id: -1, audience_name: "a".into(), expire_time: None };
        let joined = ProfilePatch { join_audiences: vec![member], ..ProfilePatch::default() };
        let attributed = [1, 200, 1].map(attribution).into();
        let attributed = ProfilePatch { add_attribution: attributed, ..ProfilePatch::default() };
        let all = ProfilePatch {
            set_user_attributes: set.set_user_attributes.clone(),
            set_account_user_attributes: account.set_account_user_attributes.clone(),
            increment_user_attributes: increments.increment_user_attributes.clone(),
            append_user_attributes: appended.append_user_attributes.clone(),
            join_audiences: joined.join_audiences.clone(),
            add_attribution: attributed.add_attribution.clone(),
            ..ProfilePatch::default()
        };
        vec![set, account, increments, appended, joined, attributed, all]
    }

    #[test]
    fn a_patch_is_refused_if_it_does_not_fit_into_an_empty_profile() {
        for patch in patches() {
            let mut least = Profile::default();
            Patch::parse(patch.clone(), &Limits::default()).unwrap().apply(&mut least, &Limits::default()).unwrap();
            let found = least.encoded_len();
            Patch::parse(patch.clone(), &limits(found)).unwrap();
            let limit = found - 1;
            let refusal = Patch::parse(patch.clone(), &limits(limit)).unwrap_err();
            assert_eq!(refusal, Invalid::ProfileTooLarge { limit, found }, "{patch:?}");
        }
    }

    #[test]
    fn the_smallest_patches_that_bring_the_most_are_looked_at() {
        for patch in patches() {
            assert!(least_bytes(&patch) <= GROWTH * patch.encoded_len(), "{patch:?}");
        }
        let least =
            ProfilePatch { increment_user_attributes: [("k".to_owned(), 0.0)].into(), ..ProfilePatch::default() };
        assert_eq!((least.encoded_len(), least_bytes(&least)), (5, 18));
    }

    /// A profile keeps an identity as it was first given, which may be shorter than the form in the patch.
    #[test]
    fn an_identity_counts_as_in_its_shortest_form() {
        let forms = [
            (identity("email", "  ADA@x.com  "), identity("email", "ada@x.com")),
            (identity("email", "i\u{307}@x"), identity("email", "İ@x")),
            (identity("email", "ⱥ@x"), identity("email", "Ⱥ@x")),
            (identity("android_advertising_id", "a"), identity("android_aaid", "a")),
            (identity("phone", "+1 (555) 010"), identity("phone", "1555010")),
            (identity("customer_id", "äöü"), identity("customerid", "äöü")),
        ];
        for (given, owned) in forms {
            let patch = ProfilePatch { add_identities: vec![given], ..ProfilePatch::default() };
            let mut profile = Profile::default();
            let side = if owned.is_device() { &mut profile.device_identities } else { &mut profile.user_identities };
            side.push(owned.clone());
            let before = profile.clone();
            let bytes = profile.encoded_len();
            Patch::parse(patch, &limits(bytes)).unwrap().apply(&mut profile, &limits(bytes)).unwrap();
            assert_eq!(profile, before, "{owned:?} is the same identity");
        }
        let add_identities = (0..10).map(|n| identity("customer_id", &n.to_string().repeat(100))).collect();
        let patch = ProfilePatch { add_identities, ..ProfilePatch::default() };
        assert!(Patch::parse(patch, &limits(1_000)).is_err());
    }

    #[test]
    fn a_new_profile_is_refused_without_regard_to_what_the_server_sets() {
        let given = Profile { user_attributes: Some(map(9)), ..Profile::default() };
        let found = given.encoded_len();
        let given = Profile { mpid: i64::MAX, etag: "e".repeat(99), ..given };
        NewProfile::parse(given.clone(), &limits(found)).unwrap();
        let limit = found - 1;
        assert_eq!(NewProfile::parse(given, &limits(limit)), Err(Invalid::ProfileTooLarge { limit, found }));
    }
}
