//! Why a request is refused before it reaches the store.

use std::fmt;

use super::Place;

/// Characters of a name in an error. Errors travel in HTTP/2 headers, whose size clients limit.
const QUOTED_CHARS: usize = 64;

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
    Filter { field: String, problem: String },
    /// A part of the request names what the caller may not see.
    #[error("{field}: {problem}")]
    Hidden { field: String, problem: String },
    /// A field holds more than it may.
    #[error("{field}: {}", over_limit(subject, *found, *limit))]
    Limit { field: String, subject: &'static str, limit: usize, found: usize },
    /// The field is a number that is too large.
    #[error("{field} {}", number_over_limit(*found, *limit))]
    TooLarge { field: &'static str, subject: &'static str, limit: usize, found: usize },
    /// The profile as a whole would be too large.
    #[error("{}", over_limit("profile bytes", *found, *limit))]
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
    /// It belongs to what was lost when the log was restored from a backup.
    #[error(
        "{field}: after the place {through}, at which this log was restored from a backup: what followed in the former \
         log is lost. Start again from earliest or with a snapshot, and rebuild what you derived from it"
    )]
    Lost { field: &'static str, through: Place },
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

    pub(crate) fn filter(field: impl fmt::Display, problem: impl Into<String>) -> Self {
        Self::Filter { field: field.to_string(), problem: problem.into() }
    }

    /// Refuses a `found` that is over `limit`. `subject` says what is counted, in the plural: see [`over_limit`].
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

/// The sentence about a quantity that is over its limit, such as "1001 keys are over the limit of 1000". Every such
/// message comes from here. `subject` is a plural: what is over a limit is more than one.
#[must_use]
pub fn over_limit(subject: &str, found: usize, limit: usize) -> String {
    format!("{found} {subject} are over the limit of {limit}")
}

/// What is said of a number that a caller gave and that is over its limit.
#[must_use]
pub fn number_over_limit(found: usize, limit: usize) -> String {
    format!("{found} is over the limit of {limit}")
}

/// The name of an attribute in errors: its field and its key, such as `patch.set_user_attributes["plan"]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttributeIn<'a>(pub &'a str, pub &'a str);

impl fmt::Display for AttributeIn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.0, Quoted(self.1))
    }
}

/// A name that a caller chose, as errors show it: in quotes, with escapes for quotes, control characters and everything
/// else that cannot be printed. Of a long name only the start is shown, followed by `…` outside of the quotes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(QUOTED_CHARS) {
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
        // A right-to-left override could make a terminal show another key.
        assert_eq!(Quoted("a\u{202e}\u{1b}[0mb\u{0}").to_string(), r#""a\u{202e}\u{1b}[0mb\0""#);
        let key = "ä".repeat(QUOTED_CHARS);
        assert_eq!(Quoted(&key).to_string(), format!("\"{key}\""));
        assert_eq!(Quoted(&format!("{key}b")).to_string(), format!("\"{key}\"…"));
    }
}
