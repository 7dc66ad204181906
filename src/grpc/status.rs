//! Renders a refusal as a gRPC status with `google.rpc` details, and explains the statuses that tonic makes.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::proto::v1::ErrorReason;
use crate::refusal::{Detail, Refusal};

/// The message for a call whose deadline has passed.
pub(super) const DEADLINE: &str = "the caller's deadline passed; whether a write was kept is unknown";
const DOMAIN: &str = "cameo";
const PROFILE: &str = "cameo.v1.Profile";

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let (code, details) = (code(&refusal), details(&refusal));
        Self::with_error_details(code, refusal.message, details)
    }
}

fn code(refusal: &Refusal) -> Code {
    match refusal.reason {
        ErrorReason::FieldInvalid
        | ErrorReason::MaskInvalid
        | ErrorReason::FilterInvalid
        | ErrorReason::CursorMalformed => Code::InvalidArgument,
        ErrorReason::LimitExceeded if refusal.names_a_field() => Code::InvalidArgument,
        ErrorReason::CursorExpired | ErrorReason::CursorInFuture => Code::OutOfRange,
        ErrorReason::CursorForeign | ErrorReason::RequestIdReused => Code::FailedPrecondition,
        ErrorReason::ProfileNotFound | ErrorReason::AudienceNotFound | ErrorReason::SubscriptionNotFound => {
            Code::NotFound
        }
        ErrorReason::ProfileExists | ErrorReason::IdentityTaken => Code::AlreadyExists,
        ErrorReason::EtagMismatch | ErrorReason::SubscriptionTakenOver => Code::Aborted,
        ErrorReason::LimitExceeded
        | ErrorReason::SubscriberStalled
        | ErrorReason::Overloaded
        | ErrorReason::StorageFull
        | ErrorReason::RateLimited
        | ErrorReason::QuotaExceeded => Code::ResourceExhausted,
        ErrorReason::ServerDraining | ErrorReason::StorageFailed => Code::Unavailable,
        ErrorReason::RecordCorrupt => Code::DataLoss,
        ErrorReason::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorReason::MethodUnknown => Code::Unimplemented,
        ErrorReason::Internal | ErrorReason::Unspecified => Code::Internal,
    }
}

fn details(refusal: &Refusal) -> ErrorDetails {
    let metadata = refusal.metadata.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    let mut details = ErrorDetails::with_error_info(refusal.reason_name(), DOMAIN, metadata.collect::<HashMap<_, _>>());
    for detail in &refusal.details {
        match detail {
            Detail::Field { path, problem } => details.add_bad_request_violation(path, problem),
            Detail::Precondition { kind, subject, problem } => {
                details.add_precondition_failure_violation(*kind, *subject, &**problem)
            }
            Detail::Quota { subject, problem } => details.add_quota_failure_violation(*subject, problem),
            Detail::Profile(name) => details.set_resource_info(PROFILE, name, "", &*refusal.message),
            Detail::RetryAfter(wait) => details.set_retry_info(Some(*wait)),
        };
    }
    details
}

/// The refusal to send instead of a status that tonic made, which has no details. `None` for a status that has details,
/// or that needs none.
pub(super) fn explained(status: &Status) -> Option<Refusal> {
    if !status.details().is_empty() {
        return None;
    }
    match status.code() {
        Code::OutOfRange => {
            let numbers = |part: &str| part.chars().filter(char::is_ascii_digit).collect::<String>().parse().ok();
            let sizes = status.message().strip_prefix("Error, decoded message length too large:")?;
            let (found, limit) = sizes.split_once(',')?;
            Some(Refusal::request_too_large(numbers(limit)?, numbers(found)?))
        }
        // The message, or the frame around it, is cut short or malformed.
        Code::Internal => Some(Refusal::undecodable()),
        Code::Cancelled | Code::DeadlineExceeded => Some(Refusal::deadline_exceeded(DEADLINE)),
        Code::Unimplemented => Some(Refusal::method_unknown("no such method, or no such encoding")),
        _ => None,
    }
}
