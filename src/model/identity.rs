//! The names by which a person or a device is known.

use super::{Invalid, Limits};
use crate::proto::v1::{Identity, Profile};

const TYPE_CHARS: usize = 64;
const ENCODING_CHARS: usize = 32;
const PLAIN: &str = "none";
/// What E.164 allows.
const PHONE_DIGITS: usize = 15;

/// Other names of a type, of the vocabularies of mParticle's Events, Identity and Profile APIs, and the name by which
/// it is matched.
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
const DEVICE_TYPES: [&str; 16] = [
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
    "vizio_advertising_id",
    "xbox_device_id",
];
const PHONE_TYPES: [&str; 5] = ["mobile_number", "phone", "phone_number", "phone_number_2", "phone_number_3"];

/// By which an identity is matched: its type, its encoding and its value in normal form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentityKey(Box<[u8]>);

/// An identity of a request: as it is stored, and as it is matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedIdentity {
    /// What goes into a profile: the value as given, the encoding never empty.
    pub identity: Identity,
    /// What goes into the index.
    pub key: IdentityKey,
}

impl IdentityKey {
    /// Of a well-formed identity, such as a stored one.
    #[must_use]
    pub fn of(identity: &Identity) -> Self {
        let value = normal_form(identity);
        Self([identity.kind(), identity.encoding_or_plain(), &value].join("\0").into_bytes().into())
    }

    /// The names of types by which a store of format 1 keyed, and which are no longer the ones to key by.
    pub fn former_types() -> impl Iterator<Item = &'static str> {
        ALIASES.iter().map(|(alias, _)| *alias)
    }

    /// A key as a store of format 1 has it, and the one that it has become; `None` if it is not a key.
    #[must_use]
    pub fn renamed(former: &[u8]) -> Option<(Self, Self)> {
        let [kind, encoding, value] =
            std::str::from_utf8(former).ok()?.splitn(3, '\0').map(str::to_owned).collect::<Vec<_>>().try_into().ok()?;
        let key = Self::of(&Identity { r#type: kind, encoding, value });
        Some((Self(former.into()), key))
    }

    /// For the index: equal keys have equal bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The identity's type, by the name by which it is matched. It is not personal data.
    #[must_use]
    pub fn kind(&self) -> &str {
        let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(self.0.len());
        std::str::from_utf8(&self.0[..end]).unwrap_or_default()
    }
}

impl ParsedIdentity {
    /// Parses an identity of a request.
    ///
    /// # Errors
    /// [`Invalid`] if its type, encoding or value is malformed or over its limit.
    pub fn parse(field: &str, identity: Identity, limits: &Limits) -> Result<Self, Invalid> {
        let lower = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
        if !(1..=TYPE_CHARS).contains(&identity.r#type.len()) || !identity.r#type.bytes().all(lower) {
            return Err(Invalid::field(format!("{field}.type"), "must be 1 to 64 of a-z0-9_"));
        }
        if identity.encoding.len() > ENCODING_CHARS || !identity.encoding.bytes().all(|c| lower(c) || c == b'-') {
            return Err(Invalid::field(format!("{field}.encoding"), "must be at most 32 of a-z0-9_-"));
        }
        let value = format!("{field}.value");
        Invalid::limit(&value, "identity value bytes", limits.identity_value_bytes, identity.value.len())?;
        let normal = normal_form(&identity);
        if normal.is_empty() {
            return Err(Invalid::field(value, "must not be empty"));
        }
        if identity.is_plain_phone() && !is_phone_number(&normal) {
            return Err(Invalid::field(value, "must be a phone number of up to 15 digits"));
        }
        let encoding = identity.encoding_or_plain().to_owned();
        let identity = Identity { encoding, ..identity };
        Ok(Self { key: IdentityKey::of(&identity), identity })
    }

    /// Parses a list of identities, of which none may occur twice.
    ///
    /// # Errors
    /// [`Invalid`] if one is malformed, or is there twice.
    pub fn parse_all(field: &str, identities: Vec<Identity>, limits: &Limits) -> Result<Vec<Self>, Invalid> {
        Invalid::limit(field, "identities", limits.identities, identities.len())?;
        let parse = |(index, identity)| Self::parse(&format!("{field}[{index}]"), identity, limits);
        let parsed = identities.into_iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
        match repeated(parsed.iter().map(|identity| &identity.key)) {
            Some(index) => Err(Invalid::field(format!("{field}[{index}]"), "the same identity is there twice")),
            None => Ok(parsed),
        }
    }
}

impl Identity {
    /// Whether it names a device, not a person.
    #[must_use]
    pub fn is_device(&self) -> bool {
        DEVICE_TYPES.binary_search(&self.kind()).is_ok()
    }

    /// The type by which it is matched.
    fn kind(&self) -> &str {
        let given = self.r#type.as_str();
        ALIASES.binary_search_by_key(&given, |(alias, _)| alias).map_or(given, |found| ALIASES[found].1)
    }

    fn encoding_or_plain(&self) -> &str {
        if self.encoding.is_empty() { PLAIN } else { &self.encoding }
    }

    fn is_plain_phone(&self) -> bool {
        self.encoding_or_plain() == PLAIN && PHONE_TYPES.contains(&self.kind())
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

/// The position of the first item that occurred before.
pub(crate) fn repeated<T: Ord>(items: impl Iterator<Item = T>) -> Option<usize> {
    let mut seen = std::collections::BTreeSet::new();
    items.enumerate().find_map(|(index, item)| (!seen.insert(item)).then_some(index))
}

fn normal_form(identity: &Identity) -> String {
    let value = identity.value.as_str();
    if identity.is_plain_phone() {
        return phone_normal_form(value);
    }
    if identity.kind() == "email" && identity.encoding_or_plain() == PLAIN {
        return value.trim().to_lowercase();
    }
    value.to_owned()
}

/// The digits of the international number, without the marks of writing, `+` or the international prefix `00`.
fn phone_normal_form(value: &str) -> String {
    let mark = |c: char| c.is_whitespace() || matches!(c, '-' | '.' | '(' | ')' | '/' | '\u{a0}');
    let compact: String = value.chars().filter(|&c| !mark(c)).collect();
    let number = compact.strip_prefix('+').or_else(|| compact.strip_prefix("00")).unwrap_or(&compact);
    number.to_owned()
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
    fn type_encoding_and_value_do_not_run_into_each_other() {
        assert!(!same(&identity("a", "b", "c"), &identity("ab", "", "c")));
        assert!(!same(&identity("a", "none", "c"), &identity("a", "nonec", "")));
    }
}
