//! Renders a refusal as a gRPC status with `google.rpc` details, and explains the statuses that tonic makes.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderName, Response};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::call::Call;
use crate::proto::v1::ErrorReason;
use crate::refusal::{Detail, Refusal};
use crate::telemetry::code::GRPC_CODES;

/// The message for a call whose deadline has passed.
pub(crate) const DEADLINE: &str = "the caller's deadline passed; whether a write was kept is unknown";
/// Made once, so that its name is not parsed for each call.
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const DOMAIN: &str = "cameo";
const PROFILE: &str = "cameo.v1.Profile";
const AUDIENCE: &str = "cameo.v1.Audience";
const SUBSCRIPTION: &str = "cameo.v1.Subscription";

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
        | ErrorReason::CursorMalformed
        | ErrorReason::MergeSelf => Code::InvalidArgument,
        ErrorReason::LimitExceeded if refusal.names_a_field() => Code::InvalidArgument,
        ErrorReason::CursorExpired | ErrorReason::CursorInFuture => Code::OutOfRange,
        ErrorReason::CursorForeign
        | ErrorReason::RequestIdReused
        | ErrorReason::AudienceDeleting
        | ErrorReason::IdentityConflict
        | ErrorReason::MergeCycle
        | ErrorReason::MergeNotReversible => Code::FailedPrecondition,
        ErrorReason::ProfileNotFound
        | ErrorReason::AudienceNotFound
        | ErrorReason::SubscriptionNotFound
        | ErrorReason::MergeNotFound
        | ErrorReason::EventNotFound => Code::NotFound,
        ErrorReason::ProfileExists
        | ErrorReason::AudienceExists
        | ErrorReason::SubscriptionExists
        | ErrorReason::IdentityTaken => Code::AlreadyExists,
        ErrorReason::EtagMismatch | ErrorReason::SubscriptionTakenOver => Code::Aborted,
        ErrorReason::LimitExceeded
        | ErrorReason::SubscriberStalled
        | ErrorReason::Overloaded
        | ErrorReason::StorageFull
        | ErrorReason::RateLimited
        | ErrorReason::QuotaExceeded => Code::ResourceExhausted,
        ErrorReason::ServerDraining
        | ErrorReason::StreamTooOld
        | ErrorReason::StorageFailed
        | ErrorReason::AuthenticationUnavailable => Code::Unavailable,
        ErrorReason::RecordCorrupt => Code::DataLoss,
        ErrorReason::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorReason::MethodUnknown | ErrorReason::EncodingUnsupported => Code::Unimplemented,
        ErrorReason::PermissionDenied => Code::PermissionDenied,
        ErrorReason::Unauthenticated => Code::Unauthenticated,
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
                details.add_precondition_failure_violation(*kind, &**subject, &**problem)
            }
            Detail::Quota { subject, problem } => details.add_quota_failure_violation(*subject, problem),
            Detail::Profile(name) => details.set_resource_info(PROFILE, name, "", &*refusal.message),
            Detail::Subscription(name) => details.set_resource_info(SUBSCRIPTION, name, "", &*refusal.message),
            Detail::Audience(name) => details.set_resource_info(AUDIENCE, name, "", &*refusal.message),
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
        // The message is larger than the limit once it is decompressed.
        Code::ResourceExhausted => {
            let limit = status.message().strip_prefix("Error decompressing: size limit, of ")?;
            Some(Refusal::body_too_large(limit.split(' ').next()?.parse().ok()?))
        }
        // The message, or the frame around it, is cut short or malformed.
        Code::Internal => Some(Refusal::undecodable()),
        Code::DeadlineExceeded => Some(Refusal::deadline_exceeded(DEADLINE)),
        Code::Unimplemented if status.message().contains("compress") => Some(Refusal::compression_unsupported()),
        Code::Unimplemented => Some(Refusal::method_unknown("no such method")),
        _ => None,
    }
}

/// The deadline in `grpc-timeout`: up to eight digits and a unit. A malformed one is ignored.
#[must_use]
pub fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let value = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 60 * 60),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

/// A refusal on its way through tonic, from the body of a request to the service that reads it.
#[derive(Debug, thiserror::Error)]
#[error("the request is refused")]
struct Carried(Mutex<Option<Refusal>>);

/// A status that [`carried`] makes the refusal of again.
#[must_use]
pub fn carry(refusal: Refusal) -> Status {
    let mut status = Status::new(code(&refusal), refusal.message.clone());
    status.set_source(Arc::new(Carried(Mutex::new(Some(refusal)))));
    status
}

/// The refusal that a status carries.
#[must_use]
pub fn carried(status: &Status) -> Option<Refusal> {
    let carried = status.source()?.downcast_ref::<Carried>()?;
    carried.0.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// The name of the code in `grpc-status`, if it is there.
#[must_use]
pub fn code_name(headers: &HeaderMap) -> Option<&'static str> {
    let code = headers.get(Status::GRPC_STATUS)?.to_str().ok()?.parse::<usize>().ok()?;
    GRPC_CODES.get(code).copied()
}

/// Gives a status that tonic made the details that ours have, and notes its reason.
pub fn explain<B>(response: &mut Response<B>, call: &Call) {
    if !response.headers().contains_key(Status::GRPC_STATUS) {
        return; // Most responses have their status in the trailers.
    }
    let refusal = Status::from_header_map(response.headers()).as_ref().and_then(explained);
    if let Some(refusal) = refusal {
        let status = Status::from(call.refuse(refusal));
        let _ = status.add_header(response.headers_mut()); // It cannot fail: our statuses are ASCII.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_digits_and_a_unit() {
        let parse =
            |text: &str| deadline(&HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), text.parse().unwrap())]));
        assert_eq!(parse("2H"), Some(Duration::from_secs(7_200)));
        assert_eq!(parse("99999999M"), Some(Duration::from_secs(99_999_999 * 60)));
        assert_eq!(parse("1S"), Some(Duration::from_secs(1)));
        assert_eq!(parse("15m"), Some(Duration::from_millis(15)));
        assert_eq!(parse("15u"), Some(Duration::from_micros(15)));
        assert_eq!(parse("15n"), Some(Duration::from_nanos(15)));
        for malformed in ["", "S", "1", "1s", "+1S", "123456789S", "1 S"] {
            assert_eq!(parse(malformed), None, "{malformed}");
        }
    }
}
