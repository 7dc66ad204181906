//! The one map from refusals to gRPC statuses, exhaustive.
//!
//! The message and the details are for the caller; the cause of a failure of ours goes to the log. Neither holds an
//! identity value or an attribute value.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::feed::FeedError;
use crate::model::Invalid;
use crate::model::cursor::CursorError;
use crate::model::{Cursor, Place};
use crate::proto::v1::ErrorReason;
use crate::store::StoreError;

/// What to say where the caller's deadline has passed.
pub(super) const DEADLINE: &str = "the caller's deadline passed; whether a write was kept is unknown";
const DOMAIN: &str = "cameo";
const PROFILE: &str = "cameo.v1.Profile";
/// When to try again: soon, for the queue empties fast; and after a restart.
const QUEUE_RETRY: Duration = Duration::from_millis(100);
const RESTART_RETRY: Duration = Duration::from_secs(1);

impl From<Invalid> for Status {
    fn from(error: Invalid) -> Self {
        let message = error.to_string();
        match error {
            Invalid::Field { field, problem } => invalid(ErrorReason::FieldInvalid, message, field, problem),
            Invalid::Mask { field, problem } => invalid(ErrorReason::MaskInvalid, message, field, problem),
            Invalid::Filter { field, problem } => invalid(ErrorReason::FilterInvalid, message, field, problem),
            Invalid::Limit { field, subject, limit, found } => {
                let mut details = limit_info(subject, limit, found);
                details.add_bad_request_violation(field, format!("{subject}: {found}, over the limit of {limit}"));
                Self::with_error_details(Code::InvalidArgument, message, details)
            }
            Invalid::ProfileTooLarge { limit, found } => over_quota(message, "profile bytes", limit, found),
            Invalid::Cursor(error) => error.into(),
        }
    }
}

impl From<CursorError> for Status {
    fn from(error: CursorError) -> Self {
        let message = error.to_string();
        let foreign = |subject, description| {
            let mut details = info(ErrorReason::CursorForeign, []);
            details.add_precondition_failure_violation("CURSOR", subject, description);
            Self::with_error_details(Code::FailedPrecondition, message.clone(), details)
        };
        match error {
            CursorError::Malformed { field } => {
                invalid(ErrorReason::CursorMalformed, message, field, "not a cursor of this service")
            }
            CursorError::ForeignLog { .. } => foreign("log", "the cursor belongs to another log"),
            CursorError::ForeignWorkspace { .. } => foreign("workspace", "the cursor belongs to another workspace"),
            CursorError::InFuture { head, .. } => {
                let details = info(ErrorReason::CursorInFuture, [("head_sequence", head.to_string())]);
                Self::with_error_details(Code::OutOfRange, message, details)
            }
        }
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::Invalid(invalid) => invalid.into(),
            StoreError::ProfileNotFound { mpid } => {
                let name = mpid.map(|mpid| format!("profiles/{mpid}")).unwrap_or_default();
                let mut details = info(ErrorReason::ProfileNotFound, []);
                details.set_resource_info(PROFILE, name, "", &*message);
                Self::with_error_details(Code::NotFound, message, details)
            }
            StoreError::ProfileExists { mpid } => {
                let mut details = info(ErrorReason::ProfileExists, []);
                details.set_resource_info(PROFILE, format!("profiles/{mpid}"), "", &*message);
                Self::with_error_details(Code::AlreadyExists, message, details)
            }
            StoreError::IdentityTaken { kind, owner } => {
                let metadata = [("owner_mpid", owner.to_string()), ("identity_type", kind)];
                let mut details = info(ErrorReason::IdentityTaken, metadata);
                details.set_resource_info(PROFILE, format!("profiles/{owner}"), "", &*message);
                Self::with_error_details(Code::AlreadyExists, message, details)
            }
            StoreError::EtagMismatch => {
                Self::with_error_details(Code::Aborted, message, info(ErrorReason::EtagMismatch, []))
            }
            StoreError::RequestIdReused => {
                let mut details = info(ErrorReason::RequestIdReused, []);
                details.add_precondition_failure_violation("REQUEST_ID", "request_id", &*message);
                Self::with_error_details(Code::FailedPrecondition, message, details)
            }
            StoreError::Expired { floor, head, oldest_time } => {
                let oldest = floor.checked_next().map_or(floor, Place::from);
                let time = oldest_time.map(|time| ("oldest_time", time.to_timestamp().to_string()));
                let ends = [("oldest_sequence", oldest.to_string()), ("head_sequence", head.to_string())];
                let details = info(ErrorReason::CursorExpired, ends.into_iter().chain(time));
                Self::with_error_details(Code::OutOfRange, message, details)
            }
            StoreError::TooManyWorkspaces { limit } => {
                let metadata = [("subject", "workspaces".to_owned()), ("limit", limit.to_string())];
                let mut details = info(ErrorReason::QuotaExceeded, metadata);
                details.add_quota_failure_violation("workspaces", format!("{limit}, which is the limit"));
                Self::with_error_details(Code::ResourceExhausted, message, details)
            }
            StoreError::Overloaded => {
                let mut details = info(ErrorReason::Overloaded, []);
                details.set_retry_info(Some(QUEUE_RETRY));
                Self::with_error_details(Code::ResourceExhausted, message, details)
            }
            StoreError::DiskFull { free, required } => {
                let metadata = [("free_bytes", free.to_string()), ("required_free_bytes", required.to_string())];
                let details = info(ErrorReason::StorageFull, metadata);
                Self::with_error_details(Code::ResourceExhausted, message, details)
            }
            StoreError::Corrupt { table, .. } => record_corrupt(table, None),
            StoreError::Panicked => {
                tracing::error!("a call panicked");
                Self::with_error_details(Code::Internal, message, info(ErrorReason::Internal, []))
            }
            StoreError::Closed => draining(None),
            StoreError::Failed => storage_failed("the store has failed; whether the write was kept is unknown"),
            StoreError::Storage(cause) => {
                tracing::error!(error = &*cause as &dyn std::error::Error, "the store cannot be read");
                storage_failed("the store cannot be read")
            }
        }
    }
}

impl From<FeedError> for Status {
    fn from(error: FeedError) -> Self {
        let message = error.to_string();
        match error {
            FeedError::Invalid(error) => error.into(),
            FeedError::Store(error) => error.into(),
            FeedError::Damaged { past } => log_damaged(past),
            FeedError::Draining { cursor } => draining(Some(cursor.to_string())),
            FeedError::Stalled { cursor } => {
                let details = info(ErrorReason::SubscriberStalled, [("cursor", cursor.to_string())]);
                Self::with_error_details(Code::ResourceExhausted, message, details)
            }
        }
    }
}

/// For a log whose next event is damaged; `past` leads over the damage.
pub(super) fn log_damaged(past: Cursor) -> Status {
    record_corrupt("event", Some(("cursor", past.to_string())))
}

/// For a list whose next row is damaged; the token leads over the damage.
pub(super) fn list_damaged(table: &'static str, next_page_token: String) -> Status {
    record_corrupt(table, Some(("next_page_token", next_page_token)))
}

fn record_corrupt(table: &'static str, past: Option<(&'static str, String)>) -> Status {
    tracing::error!(table, "a stored record is corrupt");
    let message = "a stored record is corrupt and is not served";
    Status::with_error_details(Code::DataLoss, message, info(ErrorReason::RecordCorrupt, past))
}

/// For bytes that are not the request's message.
pub(super) fn undecodable() -> Status {
    let problem = "is not an encoded message of the request's type";
    invalid(ErrorReason::FieldInvalid, format!("the request {problem}"), "", problem)
}

/// For a request that is too large to be read.
fn request_too_large(limit: usize, found: usize) -> Status {
    let message = format!("the request takes {found} bytes, over the limit of {limit}");
    over_quota(message, "request bytes", limit, found)
}

/// For the body of a request over HTTP that is too large to be read. Its size is not known.
pub(crate) fn body_too_large(limit: usize) -> Status {
    let subject = "request bytes";
    let mut details = info(ErrorReason::LimitExceeded, [("subject", subject.to_owned()), ("limit", limit.to_string())]);
    details.add_quota_failure_violation(subject, format!("over the limit of {limit}"));
    Status::with_error_details(
        Code::ResourceExhausted,
        format!("the request takes more than the limit of {limit} bytes"),
        details,
    )
}

/// For a method or a resource that is not there.
pub(crate) fn method_unknown(message: &str) -> Status {
    Status::with_error_details(Code::Unimplemented, message, info(ErrorReason::MethodUnknown, []))
}

/// For a caller whose time is up.
pub(crate) fn deadline_exceeded(message: &str) -> Status {
    Status::with_error_details(Code::DeadlineExceeded, message, info(ErrorReason::DeadlineExceeded, []))
}

/// For a workspace that asks too often.
pub(crate) fn rate_limited(wait: Duration) -> Status {
    let mut details = info(ErrorReason::RateLimited, []);
    details.set_retry_info(Some(wait));
    Status::with_error_details(Code::ResourceExhausted, "too many requests of this workspace", details)
}

/// What to say instead of a refusal that tonic made, before or around our code, and that has no details.
pub(super) fn explained(refusal: &Status) -> Option<Status> {
    match refusal.code() {
        Code::OutOfRange => {
            let numbers = |part: &str| part.chars().filter(char::is_ascii_digit).collect::<String>().parse().ok();
            let sizes = refusal.message().strip_prefix("Error, decoded message length too large:")?;
            let (found, limit) = sizes.split_once(',')?;
            Some(request_too_large(numbers(limit)?, numbers(found)?))
        }
        // The frame around the message is cut short, or says what we do not support.
        Code::Internal => Some(undecodable()),
        Code::Cancelled | Code::DeadlineExceeded => Some(deadline_exceeded(DEADLINE)), // As an import's stream may end.
        Code::Unimplemented => Some(method_unknown("no such method, or no such encoding")),
        _ => None,
    }
}

/// For a profile that no longer fits into an answer with several.
pub(super) fn answer_full(limit: usize, found: usize) -> Status {
    let message = format!("the answer would take {found} bytes with this profile, over the limit of {limit}");
    over_quota(message, "response bytes", limit, found)
}

/// For an import: `refusal`, with details if tonic made it, and how many records were dealt with.
pub(super) fn after_records(refusal: Status, records: i64) -> Status {
    let refusal = if refusal.details().is_empty() { explained(&refusal).unwrap_or(refusal) } else { refusal };
    let mut details = refusal.get_error_details();
    if let Some(mut info) = details.error_info().cloned() {
        info.metadata.insert("records".into(), records.to_string());
        details.set_error_info(info.reason, info.domain, info.metadata);
    }
    Status::with_error_details(refusal.code(), refusal.message(), details)
}

/// For an import beyond those that may run.
pub(super) fn too_many_imports(limit: usize) -> Status {
    let mut details = info(ErrorReason::Overloaded, []);
    details.set_retry_info(Some(RESTART_RETRY));
    Status::with_error_details(Code::ResourceExhausted, format!("{limit} imports run already"), details)
}

pub(super) fn draining(cursor: Option<String>) -> Status {
    let mut details = info(ErrorReason::ServerDraining, cursor.map(|cursor| ("cursor", cursor)));
    details.set_retry_info(Some(RESTART_RETRY));
    Status::with_error_details(Code::Unavailable, "the server is shutting down", details)
}

fn storage_failed(message: &str) -> Status {
    let mut details = info(ErrorReason::StorageFailed, []);
    details.set_retry_info(Some(RESTART_RETRY));
    Status::with_error_details(Code::Unavailable, message, details)
}

fn over_quota(message: String, subject: &'static str, limit: usize, found: usize) -> Status {
    let mut details = limit_info(subject, limit, found);
    details.add_quota_failure_violation(subject, format!("{found}, over the limit of {limit}"));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

fn limit_info(subject: &'static str, limit: usize, found: usize) -> ErrorDetails {
    let metadata = [("subject", subject.to_owned()), ("limit", limit.to_string()), ("found", found.to_string())];
    info(ErrorReason::LimitExceeded, metadata)
}

fn invalid(reason: ErrorReason, message: String, field: impl Into<String>, problem: impl Into<String>) -> Status {
    let mut details = info(reason, []);
    details.add_bad_request_violation(field, problem);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

fn info(reason: ErrorReason, metadata: impl IntoIterator<Item = (&'static str, String)>) -> ErrorDetails {
    let name = reason.as_str_name().trim_start_matches("ERROR_REASON_");
    let metadata: HashMap<_, _> = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    ErrorDetails::with_error_info(name, DOMAIN, metadata)
}
