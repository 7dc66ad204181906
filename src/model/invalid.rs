//! Why a request is refused at the door.

use super::cursor::CursorError;

/// A refusal that depends on the request alone. `grpc::status` maps it.
///
/// Names fields, never their values: a value may be personal data.
#[allow(missing_docs)] // The fields stand in the messages.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Invalid {
    /// A field is missing or malformed.
    #[error("{field}: {problem}")]
    Field { field: String, problem: String },
    /// A mask names what is not there.
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
    /// A cursor that cannot be read from.
    #[error(transparent)]
    Cursor(#[from] CursorError),
}

impl Invalid {
    pub(crate) fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Field { field: field.into(), problem: problem.into() }
    }

    /// Refuses what is over `limit`.
    pub(crate) fn limit(field: &str, subject: &'static str, limit: usize, found: usize) -> Result<(), Self> {
        if found <= limit {
            return Ok(());
        }
        Err(Self::Limit { field: field.to_owned(), subject, limit, found })
    }
}
