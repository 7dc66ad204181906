//! Why streams end.

use bytes::Bytes;

use crate::model::{Cursor, Invalid, SubscriptionName};
use crate::store::StoreError;
use crate::telemetry::metrics::StreamEnd;

/// Why a stream ends.
#[allow(missing_docs)] // The fields are cursors.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The start is not a place in the log.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The log could not be read, or no longer holds the next event.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The next event is damaged. The cursor skips it, and any damaged events right after it.
    #[error("a stored event is corrupt")]
    Damaged { past: Cursor },
    /// The subscriber read nothing for too long.
    #[error("the subscriber read nothing for too long")]
    Stalled { cursor: Cursor },
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Draining { cursor: Cursor },
    /// The stream has been open for as long as streams may be.
    #[error("the stream has been open for as long as the server allows; open a new one")]
    TooOld { cursor: Cursor },
    /// The credential that the stream was opened with has expired, or was withdrawn.
    #[error("the credential of the stream has expired or was withdrawn; open a new stream with another")]
    Unauthenticated { cursor: Cursor },
    /// A newer stream took over the subscription, or the subscription has changed.
    #[error("a newer stream took over the subscription, or its place or settings have changed")]
    TakenOver { cursor: Cursor },
    /// The subscription was deleted.
    #[error("the subscription was deleted")]
    Deleted { name: SubscriptionName },
    /// The client has as many streams open as it may have.
    #[error("this client has {limit} streams open, which is the limit")]
    TooManyStreams { limit: usize },
}

/// Why a stream ends, whose last message this is.
pub(super) fn end_of(last: Option<&Result<Bytes, FeedError>>) -> StreamEnd {
    match last {
        None | Some(Ok(_)) => StreamEnd::CaughtUp,
        Some(Err(FeedError::Stalled { .. })) => StreamEnd::Stalled,
        Some(Err(FeedError::Draining { .. })) => StreamEnd::Drained,
        Some(Err(FeedError::TooOld { .. })) => StreamEnd::TooOld,
        Some(Err(FeedError::Unauthenticated { .. })) => StreamEnd::Unauthenticated,
        Some(Err(FeedError::TakenOver { .. } | FeedError::Deleted { .. })) => StreamEnd::TakenOver,
        Some(Err(FeedError::Damaged { .. } | FeedError::Store(StoreError::Corrupt { .. }))) => StreamEnd::Corrupt,
        Some(Err(FeedError::Store(StoreError::Expired { .. }))) => StreamEnd::Expired,
        Some(Err(FeedError::Store(_) | FeedError::Invalid(_) | FeedError::TooManyStreams { .. })) => StreamEnd::Failed,
    }
}
