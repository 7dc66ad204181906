//! Why a request is refused before it reaches the store.

use std::fmt;

use super::Place;

/// Characters of an attribute's key in an error. Errors travel in HTTP/2 headers, whose size clients limit.
const NAMED_KEY_CHARS: usize = 64;

/// A refusal that depends on the request alone. `refusal` turns it into one.
///
/// It names fields and the keys of attributes, never their values: a value may be personal data.
#[allow(missing_docs)] // The messages explain the fields.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Invalid {
    /// A field is missing or malformed.
    #[error("{field}: {problem}")]
    Field { field: String, problem: String },
    /// A mask names a field that does not exist.
    #[error("{field}: {problem}")]
    Mask { field: &'static str, problem: String },
    /// A filter is malformed.
    #[error("{field}: {problem}")]
    Filter { field: &'static str, problem: String },
    /// A field is over its limit.
    #[error("{field}: {subject} {found} over the limit of {limit}")]
    Limit { field: String, subject: &'static str, limit: usize, found: usize },
    /// The profile as a whole would be too large.
    #[error("the profile would take {found} bytes, over the limit of {limit}")]
    ProfileTooLarge { limit: usize, found: usize },
    /// A cursor cannot be used.
    #[error(transparent)]
    Cursor(#[from] CursorError),
}

/// Why a cursor cannot be used.
#[allow(missing_docs)] // The messages explain the fields.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum CursorError {
    /// This service did not make it.
    #[error("{field}: not a cursor of this service")]
    Malformed { field: &'static str },
    /// It belongs to another log.
    #[error("{field}: a cursor of another log")]
    ForeignLog { field: &'static str },
    /// It belongs to another workspace.
    #[error("{field}: a cursor of another workspace")]
    ForeignWorkspace { field: &'static str },
    /// It is past the head of the log.
    #[error("{field}: past the head of the log, {head}")]
    InFuture { field: &'static str, head: Place },
}

impl Invalid {
    pub(crate) fn field(field: impl fmt::Display, problem: impl Into<String>) -> Self {
        Self::Field { field: field.to_string(), problem: problem.into() }
    }

    /// Refuses a `found` that is over `limit`.
    pub(crate) fn limit(
        field: impl fmt::Display,
        subject: &'static str,
        limit: usize,
        found: usize,
    ) -> Result<(), Self> {
        if found <= limit {
            return Ok(());
        }
        Err(Self::Limit { field: field.to_string(), subject, limit, found })
    }
}

/// The name of an attribute in errors: its field and its key, such as `patch.set_user_attributes["plan"]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttributeIn<'a>(pub &'a str, pub &'a str);

impl fmt::Display for AttributeIn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.0, QuotedKey(self.1))
    }
}

/// The key of an attribute, quoted and truncated so that the error stays short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct QuotedKey<'a>(pub &'a str);

impl fmt::Display for QuotedKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(NAMED_KEY_CHARS) {
            Some((end, _)) => write!(f, "{:?}…", &self.0[..end]),
            None => write!(f, "{:?}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_an_attribute_by_its_quoted_key() {
        assert_eq!(AttributeIn("patch.map", "a \"b\"\n").to_string(), r#"patch.map["a \"b\"\n"]"#);
        let key = "ä".repeat(NAMED_KEY_CHARS);
        assert_eq!(QuotedKey(&key).to_string(), format!("\"{key}\""));
        assert_eq!(QuotedKey(&format!("{key}b")).to_string(), format!("\"{key}\"…"));
    }
}
