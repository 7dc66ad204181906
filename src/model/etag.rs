//! The version of a profile.

use super::limits::ETAG_CHARS;
use super::{Invalid, LogId, Sequence};

/// Identifies one version of a profile. Opaque to callers. It changes with each event of the profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Etag(String);

impl Etag {
    /// The etag of the version that an event of a log created.
    #[must_use]
    pub fn new(log: LogId, sequence: Sequence) -> Self {
        Self(format!("{:x}-{:08x}", sequence.get(), log.0 >> 32))
    }

    /// The etag of a version of settings, whose command has this id. Half of the id is enough to tell versions apart.
    #[must_use]
    pub fn of_settings(command: u128) -> Self {
        Self(format!("{:016x}", command & u128::from(u64::MAX)))
    }

    /// Parses the `etag` of a request. `None` means that the caller accepts any version.
    ///
    /// # Errors
    /// [`Invalid::Limit`] if it is too long.
    pub fn parse(text: String) -> Result<Option<Self>, Invalid> {
        Self::parse_field("etag", text)
    }

    /// Parses an etag in `field` of a request.
    ///
    /// # Errors
    /// [`Invalid::Limit`] if it is too long.
    pub fn parse_field(field: &str, text: String) -> Result<Option<Self>, Invalid> {
        Invalid::limit(field, "etag characters", ETAG_CHARS, text.len())?;
        Ok((!text.is_empty()).then_some(Self(text)))
    }

    /// The bytes of memory that it owns beyond its own size.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.0.capacity()
    }

    /// The text, as in a message.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, for a message to own.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}
