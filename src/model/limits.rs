//! The limits that are part of the contract, and not a setting. `config::limits` has those that are.

use super::Invalid;
use crate::config::Limits;

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
