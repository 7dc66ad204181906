//! Every limit on what a caller may send, in one place.

/// The limits; the defaults are those of the README.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Encoded bytes of a profile.
    pub profile_bytes: usize,
    /// Attributes in each of a profile's two maps.
    pub attributes: usize,
    /// Bytes of an attribute's key.
    pub attribute_key_bytes: usize,
    /// Encoded bytes of an attribute's value.
    pub attribute_value_bytes: usize,
    /// Identities of a profile, of both kinds together.
    pub identities: usize,
    /// Bytes of an identity's value.
    pub identity_value_bytes: usize,
    /// Audience memberships of a profile.
    pub audience_memberships: usize,
    /// Attributions of a profile.
    pub attributions: usize,
    /// Bytes of one request message on the wire.
    pub request_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            profile_bytes: 256 << 10,
            attributes: 1_000,
            attribute_key_bytes: 256,
            attribute_value_bytes: 64 << 10,
            identities: 100,
            identity_value_bytes: 1_024,
            audience_memberships: 1_000,
            attributions: 1_000,
            request_bytes: 1 << 20,
        }
    }
}

// The rest are part of the contract, and not for a deployment to change.

/// How deep lists and maps may be nested in an attribute's value, which itself is at depth 1. Each takes three levels of
/// messages, and what decoders take by default is 100.
pub const VALUE_DEPTH: usize = 20;
/// Values that one patch may append to one list: the writer compares each with each.
pub const APPENDED_VALUES: usize = 1_000;
/// Bytes of an audience's name, a partner's or a campaign's.
pub const NAME_BYTES: usize = 256;
/// Characters of a `request_id`.
pub const REQUEST_ID_CHARS: usize = 64;
/// Profiles that one patch may take identities from: each is written with it.
pub const TAKEN_PROFILES: usize = 10;
/// Entries of `mpids` in a filter, and of `user_attribute_keys`.
pub const READER_KEYS: usize = 1_000;
/// Entries of `types` in a filter.
pub const FILTER_TYPES: usize = 100;
/// Events of one page of `ListEvents`.
pub const PAGE_EVENTS: usize = 1_000;
