//! Every limit on what a caller may send, in one place.

use super::Invalid;

/// The limits; the defaults are those of the README.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Workspaces of the store.
    pub workspaces: usize,
    /// Bytes of one request message on the wire.
    pub request_bytes: usize,
    /// Keys of one batch.
    pub batch_keys: usize,
    /// Profiles or events of one page.
    pub page_items: usize,
    /// Bytes of the profiles or events in one answer. A page may pass it by its last item.
    pub response_bytes: usize,
}

impl Limits {
    /// Parses the `page_size` of a request.
    ///
    /// # Errors
    /// [`Invalid`] if it is negative or over the limit.
    pub fn page_size(&self, asked: i32) -> Result<usize, Invalid> {
        let asked = usize::try_from(asked).map_err(|_| Invalid::field("page_size", "must not be negative"))?;
        Invalid::limit("page_size", "items of a page", self.page_items, asked)?;
        Ok(if asked == 0 { DEFAULT_PAGE_ITEMS.min(self.page_items) } else { asked })
    }
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
            workspaces: 100_000,
            request_bytes: 1 << 20,
            batch_keys: 1_000,
            page_items: 1_000,
            response_bytes: 3 << 20, // With one profile of the largest size more below the 4 MiB that clients take.
        }
    }
}

// The rest are part of the contract, and not for a deployment to change.

/// How deep lists and maps may be nested in an attribute's value, which itself is at depth 1. Each takes three levels
/// of messages, and what decoders take by default is 100.
pub const VALUE_DEPTH: usize = 20;
/// Values that one patch may append to one list: the writer compares each with each.
pub const APPENDED_VALUES: usize = 1_000;
/// Characters of an attribute's key that an error names: errors travel in HTTP/2 headers, which clients bound.
pub const NAMED_KEY_CHARS: usize = 64;
/// Bytes of an audience's name, a partner's or a campaign's.
pub const NAME_BYTES: usize = 256;
/// Characters of an etag; ours have at most 25.
pub const ETAG_CHARS: usize = 64;
/// Characters of a `request_id`.
pub const REQUEST_ID_CHARS: usize = 64;
/// Profiles that one patch may take identities from: each is written with it.
pub const TAKEN_PROFILES: usize = 10;
/// Entries of `mpids` in a filter, and of `user_attribute_keys`.
pub const READER_KEYS: usize = 1_000;
/// Entries of `types` in a filter.
pub const FILTER_TYPES: usize = 100;
/// Items of a page that does not say how many.
pub const DEFAULT_PAGE_ITEMS: usize = 100;
/// Imports at a time: each may have a window full of small messages waiting.
pub const IMPORTS: usize = 16;
/// Refusals that an import tells of.
pub const IMPORT_REFUSALS: usize = 1_000;
