//! The identities by which a person or a device is known.

use std::borrow::Cow;
use std::fmt::Display;

use prost::{DecodeError, Message};

use super::{Invalid, Limits, wire};
use crate::proto::v1::{Identity, Profile};

const TYPE_CHARS: usize = 64;
const ENCODING_CHARS: usize = 32;
const PLAIN: &str = "none";
/// The most digits that E.164 allows.
const PHONE_DIGITS: usize = 15;

/// Other names of a type in mParticle's Events, Identity and Profile APIs, each with the name that is used for
/// matching.
const ALIASES: [(&str, &str); 21] = [
    ("android_aaid", "google_advertising_id"),
    ("android_advertising_id", "google_advertising_id"),
    ("android_uuid", "android_id"),
    ("apple_idfa", "ios_idfa"),
    ("apple_idfv", "ios_idfv"),
    ("customerid", "customer_id"),
    ("facebookcustomaudienceid", "facebook_custom_audience_id"),
    ("fire_aid", "fire_advertising_id"),
    ("ios_advertising_id", "ios_idfa"),
    ("ios_vendor_id", "ios_idfv"),
    ("microsoft_aid", "microsoft_advertising_id"),
    ("other_id_10", "other10"),
    ("other_id_2", "other2"),
    ("other_id_3", "other3"),
    ("other_id_4", "other4"),
    ("other_id_5", "other5"),
    ("other_id_6", "other6"),
    ("other_id_7", "other7"),
    ("other_id_8", "other8"),
    ("other_id_9", "other9"),
    ("roku_aid", "roku_advertising_id"),
];
/// The types that name a device; every other type names a person.
const DEVICE_TYPES: [&str; 17] = [
    "amp_id",
    "android_id",
    "device_application_stamp",
    "fire_advertising_id",
    "google_advertising_id",
    "ios_idfa",
    "ios_idfv",
    "microsoft_advertising_id",
    "microsoft_publisher_id",
    "mp_deviceid",
    "push_token",
    "roku_advertising_id",
    "roku_publisher_id",
    "samsung_advertising_id",
    "unknown", // A device id whose type mParticle does not know. `other` is the type of such a person's identity.
    "vizio_advertising_id",
    "xbox_device_id",
];
const PHONE_TYPES: [&str; 5] = ["mobile_number", "phone", "phone_number", "phone_number_2", "phone_number_3"];

/// What an identity is matched by: its type, its encoding and its value in normal form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentityKey(Box<[u8]>);

/// An identity of a request, in the form that is stored and in the form that is matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedIdentity {
    /// The form in a profile: the value as given, and an encoding that is never empty.
    pub identity: Identity,
    /// The form in the index.
    pub key: IdentityKey,
}

impl IdentityKey {
    /// The key of a well-formed identity, such as a stored one.
    #[must_use]
    pub fn of(identity: &Identity) -> Self {
        let (kind, encoding) = (identity.kind(), identity.encoding_or_plain());
        Self([kind, encoding, &normal_form(kind, encoding, &identity.value)].join("\0").into_bytes().into())
    }

    /// A key of a store of format 1, and the key that replaces it. `None` if `former` is not a key.
    #[must_use]
    pub fn renamed(former: &[u8]) -> Option<(Self, Self)> {
        let [kind, encoding, value] =
            std::str::from_utf8(former).ok()?.splitn(3, '\0').map(str::to_owned).collect::<Vec<_>>().try_into().ok()?;
        let key = Self::of(&Identity { r#type: kind, encoding, value });
        Some((Self(former.into()), key))
    }

    /// A key from its bytes. `None` if they are not those of a key.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let parts = std::str::from_utf8(bytes).ok()?.splitn(3, '\0').count();
        (parts == 3).then(|| Self(bytes.into()))
    }

    /// The bytes for the index. Equal keys have equal bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The identity's type, by the name that is used for matching. It is not personal data.
    #[must_use]
    pub fn kind(&self) -> &str {
        let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(self.0.len());
        std::str::from_utf8(&self.0[..end]).unwrap_or_default()
    }

    /// A lower bound on the encoded size of the identities that it matches. A profile keeps an identity as it was first
    /// given, which may be shorter than its normal form. So only the characters of the value count: lower case may take
    /// more bytes than the given form, but never has more characters than the given form has bytes.
    pub(super) fn least_bytes(&self) -> usize {
        let value = self.0.splitn(3, |&byte| byte == 0).nth(2).unwrap_or_default();
        std::str::from_utf8(value).map_or(0, |value| value.chars().count())
    }

    /// Whether it matches an encoded `Identity`.
    fn matches(&self, identity: &[u8]) -> Result<bool, DecodeError> {
        use crate::proto::field::identity::{ENCODING, TYPE, VALUE};
        let [mut kind, mut encoding, mut value]: [&[u8]; 3] = [&[]; 3];
        for field in wire::fields(identity) {
            let field = field?;
            match field.tag {
                TYPE => kind = field.value,
                ENCODING => encoding = field.value,
                VALUE => value = field.value,
                _ => {}
            }
        }
        match [kind, encoding, value].map(std::str::from_utf8) {
            [Ok(kind), Ok(encoding), Ok(value)] => Ok(self.is_of(kind, encoding, value)),
            _ => Identity::decode(identity).map(|identity| Self::of(&identity) == *self), // Fails with the reason.
        }
    }

    /// Whether it is the key of an identity with these parts. The value is normalized only if everything else is equal.
    fn is_of(&self, kind: &str, encoding: &str, value: &str) -> bool {
        let (kind, encoding) = (kind_of(kind), or_plain(encoding));
        let rest = strip_part(&self.0, kind).and_then(|rest| strip_part(rest, encoding));
        rest.is_some_and(|normal| normal == normal_form(kind, encoding, value).as_bytes())
    }
}

impl ParsedIdentity {
    /// Parses an identity of a request.
    ///
    /// # Errors
    /// [`Invalid`] if its type, encoding or value is malformed or over its limit.
    pub fn parse(field: impl Display + Copy, identity: Identity, limits: &Limits) -> Result<Self, Invalid> {
        check_kind(format_args!("{field}.type"), &identity.r#type)?;
        if identity.encoding.len() > ENCODING_CHARS || !identity.encoding.bytes().all(|c| is_lower(c) || c == b'-') {
            return Err(Invalid::field(format_args!("{field}.encoding"), "must be at most 32 characters of a-z0-9_-"));
        }
        let value = format_args!("{field}.value");
        Invalid::limit(value, "identity value bytes", limits.identity_value_bytes, identity.value.len())?;
        let (kind, encoding) = (identity.kind(), identity.encoding_or_plain());
        let normal = normal_form(kind, encoding, &identity.value);
        if normal.is_empty() {
            return Err(Invalid::field(value, "must not be empty"));
        }
        if is_plain_phone(kind, encoding) && !is_phone_number(&normal) {
            return Err(Invalid::field(value, "must be a phone number of up to 15 digits"));
        }
        let encoding = encoding.to_owned();
        let identity = Identity { encoding, ..identity };
        Ok(Self { key: IdentityKey::of(&identity), identity })
    }

    /// Parses a list of identities without duplicates.
    ///
    /// # Errors
    /// [`Invalid`] if an identity is malformed or occurs twice.
    pub fn parse_all(field: &str, identities: Vec<Identity>, limits: &Limits) -> Result<Vec<Self>, Invalid> {
        Invalid::limit(field, "identities", limits.identities, identities.len())?;
        let parse = |(index, identity)| Self::parse(format_args!("{field}[{index}]"), identity, limits);
        let parsed = identities.into_iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
        match repeated(parsed.iter().map(|identity| &identity.key)) {
            Some(index) => Err(Invalid::field(format!("{field}[{index}]"), "is the same identity as an earlier one")),
            None => Ok(parsed),
        }
    }
}

impl Identity {
    /// Whether it identifies a device rather than a person.
    #[must_use]
    pub fn is_device(&self) -> bool {
        is_device_kind(self.kind())
    }

    /// The type that it is matched by.
    fn kind(&self) -> &str {
        kind_of(&self.r#type)
    }

    fn encoding_or_plain(&self) -> &str {
        or_plain(&self.encoding)
    }
}

/// The keys of all of a profile's identities, sorted.
#[must_use]
pub fn keys_of(profile: &Profile) -> Vec<IdentityKey> {
    let identities = profile.device_identities.iter().chain(&profile.user_identities);
    let mut keys: Vec<_> = identities.map(IdentityKey::of).collect();
    keys.sort_unstable();
    keys
}

/// Whether an encoded `Profile` holds an identity that this key matches. It decodes nothing, and allocates only if a
/// value of the key's type is not in normal form.
///
/// # Errors
/// If the profile is malformed before the identity.
pub fn owns(profile: &[u8], key: &IdentityKey) -> Result<bool, DecodeError> {
    use crate::proto::field::profile::{DEVICE_IDENTITIES, USER_IDENTITIES};
    for field in wire::fields(profile) {
        let field = field?;
        if matches!(field.tag, DEVICE_IDENTITIES | USER_IDENTITIES) && key.matches(field.value)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The position of the first item that occurred before.
pub(crate) fn repeated<T: Ord>(items: impl Iterator<Item = T>) -> Option<usize> {
    let mut seen = std::collections::BTreeSet::new();
    items.enumerate().find_map(|(index, item)| (!seen.insert(item)).then_some(index))
}

/// The rest of a key after `part` and its separator.
fn strip_part<'a>(key: &'a [u8], part: &str) -> Option<&'a [u8]> {
    key.strip_prefix(part.as_bytes())?.strip_prefix(b"\0")
}

/// Refuses a type that is malformed.
pub(super) fn check_kind(field: impl Display, kind: &str) -> Result<(), Invalid> {
    let is_well_formed = (1..=TYPE_CHARS).contains(&kind.len()) && kind.bytes().all(is_lower);
    if is_well_formed { Ok(()) } else { Err(Invalid::field(field, "must be 1 to 64 characters of a-z0-9_")) }
}

fn is_lower(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_'
}

/// Whether a type, by the name that is used for matching, is that of a device.
pub(super) fn is_device_kind(kind: &str) -> bool {
    DEVICE_TYPES.binary_search(&kind).is_ok()
}

/// The type that an identity of this type is matched by.
pub(super) fn kind_of(given: &str) -> &str {
    ALIASES.binary_search_by_key(&given, |(alias, _)| alias).map_or(given, |found| ALIASES[found].1)
}

fn or_plain(encoding: &str) -> &str {
    if encoding.is_empty() { PLAIN } else { encoding }
}

fn is_plain_phone(kind: &str, encoding: &str) -> bool {
    encoding == PLAIN && PHONE_TYPES.contains(&kind)
}

fn normal_form<'a>(kind: &str, encoding: &str, value: &'a str) -> Cow<'a, str> {
    if is_plain_phone(kind, encoding) {
        return phone_normal_form(value);
    }
    if kind == "email" && encoding == PLAIN {
        return lowercase(value.trim());
    }
    Cow::Borrowed(value)
}

fn lowercase(value: &str) -> Cow<'_, str> {
    let is_lowercase = |c: char| c.to_lowercase().eq([c]);
    if value.chars().all(is_lowercase) { Cow::Borrowed(value) } else { Cow::Owned(value.to_lowercase()) }
}

/// The digits of the international number, without punctuation, `+` or the international prefix `00`.
fn phone_normal_form(value: &str) -> Cow<'_, str> {
    let mark = |c: char| c.is_whitespace() || matches!(c, '-' | '.' | '(' | ')' | '/' | '\u{a0}');
    if !value.contains(mark) {
        return Cow::Borrowed(without_prefix(value));
    }
    let compact: String = value.chars().filter(|&c| !mark(c)).collect();
    Cow::Owned(without_prefix(&compact).to_owned())
}

fn without_prefix(number: &str) -> &str {
    number.strip_prefix('+').or_else(|| number.strip_prefix("00")).unwrap_or(number)
}

fn is_phone_number(normal: &str) -> bool {
    normal.len() <= PHONE_DIGITS && normal.bytes().all(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(kind: &str, encoding: &str, value: &str) -> Identity {
        Identity { r#type: kind.into(), encoding: encoding.into(), value: value.into() }
    }

    fn same(left: &Identity, right: &Identity) -> bool {
        IdentityKey::of(left) == IdentityKey::of(right)
    }

    #[test]
    fn types_are_sorted_for_the_binary_search() {
        assert!(DEVICE_TYPES.is_sorted());
        assert!(ALIASES.is_sorted());
        assert!(identity("ios_idfa", "", "x").is_device());
        assert!(identity("unknown", "", "x").is_device() && !identity("other", "", "x").is_device());
        assert!(!identity("email", "", "x").is_device());
    }

    #[test]
    fn an_email_matches_in_any_case_and_a_customer_id_exactly() {
        assert!(same(&identity("email", "", " Ada@X.com "), &identity("email", "none", "ada@x.com")));
        assert!(!same(&identity("customer_id", "", "Ada"), &identity("customer_id", "", "ada")));
        assert!(!same(&identity("email", "sha256", "AB"), &identity("email", "sha256", "ab")));
    }

    #[test]
    fn a_phone_number_matches_by_its_digits() {
        let plain = identity("mobile_number", "", "15550100199");
        for spelling in ["+1 (555) 010-0199", "001.555.010.0199", " 1-555-010-0199 "] {
            assert!(same(&identity("mobile_number", "none", spelling), &plain), "{spelling}");
        }
        for wrong in ["", "+", "call me", "1234567890123456"] {
            let parsed = ParsedIdentity::parse("identity", identity("phone", "", wrong), &Limits::default());
            assert!(parsed.is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_names_of_one_type_are_one_identity() {
        for names in [
            &["customer_id", "customerid"][..],
            &["google_advertising_id", "android_aaid", "android_advertising_id"],
            &["ios_idfa", "apple_idfa", "ios_advertising_id"],
            &["other10", "other_id_10"],
        ] {
            assert!(
                names.iter().all(|name| same(&identity(name, "", "x"), &identity(names[0], "none", "x"))),
                "{names:?}"
            );
        }
        assert!(identity("android_aaid", "", "x").is_device());
        assert!(ALIASES.iter().all(|(_, name)| ALIASES.binary_search_by_key(name, |(alias, _)| alias).is_err()));
    }

    #[test]
    fn a_profile_owns_what_its_keys_say() {
        let identities = [
            ("email", "", "Ada@X.com"),
            ("email", "none", " ada@x.com "),
            ("email", "", "ÄΣ"),
            ("email", "", "äς"),
            ("email", "sha256", "ada@x.com"),
            ("other", "", "ada@x.com"),
            ("customer_id", "", "Ada"),
            ("customerid", "none", "Ada"),
            ("customer_id", "", "ada"),
            ("customer_id", "", ""),
            ("mobile_number", "", "+1 (555) 010"),
            ("mobile_number", "", "001555010"),
            ("mobile_number", "", "+001555010"),
            ("phone", "", "1555010"),
            ("android_aaid", "", "a"),
            ("google_advertising_id", "", "a"),
        ]
        .map(|(kind, encoding, value)| identity(kind, encoding, value));
        for owned in &identities {
            let before = identity("z", "", "z");
            let user = Profile { mpid: 1, user_identities: vec![before, owned.clone()], ..Profile::default() };
            let device = Profile { device_identities: vec![owned.clone()], etag: "e".into(), ..Profile::default() };
            for asked in &identities {
                let key = IdentityKey::of(asked);
                for profile in [&user, &device] {
                    let owns = owns(&profile.encode_to_vec(), &key).unwrap();
                    assert_eq!(owns, keys_of(profile).contains(&key), "{owned:?} {asked:?}");
                }
            }
        }
    }

    #[test]
    fn whether_a_damaged_profile_owns_is_an_error() {
        let email = identity("email", "", "a@x.com");
        let encoded = Profile { user_identities: vec![email.clone()], ..Profile::default() }.encode_to_vec();
        let key = IdentityKey::of(&email);
        assert!(owns(&encoded[..encoded.len() - 1], &key).is_err());
        let mut no_text = encoded;
        *no_text.last_mut().unwrap() = 0xff;
        assert!(owns(&no_text, &key).is_err());
    }

    #[test]
    fn type_encoding_and_value_do_not_run_into_each_other() {
        assert!(!same(&identity("a", "b", "c"), &identity("ab", "", "c")));
        assert!(!same(&identity("a", "none", "c"), &identity("a", "nonec", "")));
    }
}
