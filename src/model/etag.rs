//! The version of a profile.

use super::limits::ETAG_CHARS;
use super::{Invalid, LogId, Sequence};

/// Names one version of a profile. Opaque to callers; it changes with each event of the profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Etag(String);

impl Etag {
    /// Of the version that this event of this log made.
    #[must_use]
    pub fn new(log: LogId, sequence: Sequence) -> Self {
        Self(format!("{:x}-{:08x}", sequence.get(), log.0 >> 32))
    }

    /// Parses the `etag` of a request; `None` if the caller takes any version.
    ///
    /// # Errors
    /// [`Invalid::Limit`] if it is longer than any of ours.
    pub fn parse(text: String) -> Result<Option<Self>, Invalid> {
        Invalid::limit("etag", "etag characters", ETAG_CHARS, text.len())?;
        Ok((!text.is_empty()).then_some(Self(text)))
    }

    /// The memory that it takes beside itself, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.0.capacity()
    }

    /// As it stands in a message.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same, for a message to keep.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}
