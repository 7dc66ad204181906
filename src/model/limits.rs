//! The limits that are part of the API. A deployment cannot change them. `config::limits` has those that it can.

use super::Invalid;
use crate::config::Limits;

impl Limits {
    /// Parses the `page_size` of a request.
    ///
    /// # Errors
    /// [`Invalid`] if it is negative or over the limit.
    pub fn page_size(&self, asked: i32) -> Result<usize, Invalid> {
        let asked = usize::try_from(asked).map_err(|_| Invalid::field("page_size", "must not be negative"))?;
        if asked > self.page_items {
            let (field, subject) = ("page_size", "items of a page");
            return Err(Invalid::TooLarge { field, subject, limit: self.page_items, found: asked });
        }
        Ok(if asked == 0 { DEFAULT_PAGE_ITEMS.min(self.page_items) } else { asked })
    }
}

/// The depth to which lists and maps may be nested in an attribute's value. The value itself is at depth 1. Each level
/// of nesting takes three levels of messages, and decoders accept 100 levels by default.
pub const VALUE_DEPTH: usize = 20;
/// Values that one patch may append to one list.
pub const APPENDED_VALUES: usize = 1_000;
/// Bytes of the name of an audience, a partner or a campaign.
pub const NAME_BYTES: usize = 256;
/// Bytes of the description of an audience.
pub const DESCRIPTION_BYTES: usize = 1_024;
/// Profiles that one write adds to an audience, or removes from it.
pub const MEMBERS: usize = 1_000;
/// Bytes of the events of one write to an audience. All of them are in one commit.
pub const MEMBERS_BYTES: usize = 32 << 20;
/// Types in each of the identity settings.
pub const SETTINGS_TYPES: usize = 100;
/// Profiles that one profile may absorb, with those that they had absorbed. All of them are written in one commit.
pub const ABSORBED_PROFILES: usize = 1_000;
/// Bytes of the records of these merges. An erasure of the survivor reads all of them, and an unmerge may.
pub const MERGE_BYTES: usize = 32 << 20;
/// Events that one command of an erasure rewrites.
pub const ERASED_EVENTS: usize = 1_000;
/// Events of a profile in which a merge looks for the last change of an attribute, and their bytes.
pub const NEWER_EVENTS: usize = 1_000;
/// See [`NEWER_EVENTS`].
pub const NEWER_BYTES: usize = 4 << 20;
/// Characters of an etag. Those that the service makes have at most 25.
pub const ETAG_CHARS: usize = 64;
/// Characters of a `request_id`.
pub const REQUEST_ID_CHARS: usize = 64;
/// Profiles that one patch may take identities from. All of them are written in one commit.
pub const TAKEN_PROFILES: usize = 10;
/// Entries of `mpids`, `audience_ids` and `changed_user_attributes` in a filter, and of `user_attribute_keys`.
pub const READER_KEYS: usize = 1_000;
/// Entries of `types` in a filter.
pub const FILTER_TYPES: usize = 100;
/// Entries of `changed_fields` in a filter.
pub const FILTER_FIELDS: usize = 100;
/// Bytes of the settings of a subscription, encoded.
pub const SETTINGS_BYTES: usize = 64 << 10;
/// Skipped events that one acknowledgement names.
pub const SKIPS: usize = 100;
/// Bytes of the reason why an event was skipped.
pub const SKIP_REASON_BYTES: usize = 1_024;
/// Skipped events that a subscription keeps.
pub const SKIPPED_EVENTS: u64 = 10_000;
/// Bytes of the `expression` of a filter.
pub const EXPRESSION_BYTES: usize = 4_096;
/// Symbols of an expression: names, literals, operators and brackets. Its syntax tree has no more nodes.
pub const EXPRESSION_SYMBOLS: usize = 500;
/// Depth of the syntax tree of an expression. Its parser and its evaluation recurse.
pub const EXPRESSION_DEPTH: usize = 32;
/// Places of an expression that copy values: see `model::expression`.
pub const EXPRESSION_COPIES: usize = 8;
/// Items of a page if the request does not give a `page_size`.
pub const DEFAULT_PAGE_ITEMS: usize = 100;
/// Imports that may take records at the same time. Each may have a flow-control window full of small messages waiting.
pub const IMPORTS: usize = 16;
/// Refusals that the response of an import lists.
pub const IMPORT_REFUSALS: usize = 1_000;
