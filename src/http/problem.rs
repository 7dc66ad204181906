//! Renders a refusal as a problem document (RFC 9457).

use std::collections::BTreeMap;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use http_body_util::LengthLimitError;
use serde::Serialize;

use crate::model::Invalid;
use crate::proto::v1::ErrorReason;
use crate::refusal::{Detail, Refusal};

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
/// How to authenticate (RFC 6750).
const BEARER: HeaderValue = HeaderValue::from_static("Bearer");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Why a request is refused.
pub(super) struct Problem {
    status: StatusCode,
    refusal: Refusal,
}

/// The error of a body for which there is no memory.
#[derive(Debug, thiserror::Error)]
#[error("there is no room for the body")]
pub struct NoRoomForBody;

/// The fields of the document. `reason`, `metadata` and `errors` are extensions: the `ErrorInfo` and `BadRequest` of
/// gRPC.
#[derive(Serialize)]
struct Document<'a> {
    /// The kinds of problems have no pages of their own: `reason` names them.
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError<'a>>,
}

#[derive(Serialize)]
struct FieldError<'a> {
    field: &'a str,
    description: &'a str,
}

impl Problem {
    pub fn no_such_resource() -> Self {
        Self { status: StatusCode::NOT_FOUND, refusal: Refusal::method_unknown("no such resource") }
    }

    pub fn method_not_allowed() -> Self {
        let refusal = Refusal::method_unknown("the resource has no such method");
        Self { status: StatusCode::METHOD_NOT_ALLOWED, refusal }
    }

    pub fn body_too_slow() -> Self {
        let refusal = Refusal::deadline_exceeded("the body did not arrive in time");
        Self { status: StatusCode::REQUEST_TIMEOUT, refusal }
    }

    /// The body went on past the limit, or ended before its end.
    pub fn body_refused(error: &axum::Error, limit: usize) -> Self {
        let causes = || std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
        if causes().any(<dyn std::error::Error>::is::<LengthLimitError>) {
            Refusal::body_too_large(limit).into()
        } else if causes().any(<dyn std::error::Error>::is::<NoRoomForBody>) {
            Refusal::too_much_received().into()
        } else {
            Self::body_malformed()
        }
    }

    pub fn body_malformed() -> Self {
        Invalid::field("body", "is malformed or cut short").into()
    }
}

impl Problem {
    /// A refusal with another status than its reason has.
    pub fn with_status(refusal: Refusal, status: Option<StatusCode>) -> Self {
        let problem = Self::from(refusal);
        Self { status: status.unwrap_or(problem.status), ..problem }
    }
}

impl<E: Into<Refusal>> From<E> for Problem {
    fn from(error: E) -> Self {
        let refusal = error.into();
        Self { status: status(&refusal), refusal }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let refusal = &self.refusal;
        let document = Document {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            detail: &refusal.message,
            reason: refusal.reason_name(),
            metadata: refusal.metadata.iter().map(|(name, value)| (*name, value.as_str())).collect(),
            errors: refusal.details.iter().filter_map(field_error).collect(),
        };
        let body = serde_json::to_vec(&document).expect("keys are strings, and a Vec takes any length");
        let headers = [(header::CONTENT_TYPE, PROBLEM_JSON), (header::CACHE_CONTROL, NO_STORE)];
        let mut response = (self.status, headers, body).into_response();
        response.extensions_mut().insert(refusal.reason); // For the access log.
        if refusal.reason == ErrorReason::Unauthenticated {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, BEARER);
        }
        if let Some(seconds) = refusal.details.iter().find_map(retry_after) {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

fn field_error(detail: &Detail) -> Option<FieldError<'_>> {
    match detail {
        Detail::Field { path, problem } => Some(FieldError { field: path, description: problem }),
        _ => None,
    }
}

/// Whole seconds, at least one.
fn retry_after(detail: &Detail) -> Option<u64> {
    match detail {
        Detail::RetryAfter(delay) => Some((delay.as_secs() + u64::from(delay.subsec_nanos() > 0)).max(1)),
        _ => None,
    }
}

/// The status of a refusal. It is the one that google.rpc.Code gives for the code that gRPC has for the reason, except
/// that a request which is too large is 413.
fn status(refusal: &Refusal) -> StatusCode {
    match refusal.reason {
        ErrorReason::FieldInvalid
        | ErrorReason::MaskInvalid
        | ErrorReason::FilterInvalid
        | ErrorReason::CursorMalformed
        | ErrorReason::CursorExpired
        | ErrorReason::CursorInFuture
        | ErrorReason::CursorForeign
        | ErrorReason::RequestIdReused
        | ErrorReason::AudienceDeleting
        | ErrorReason::IdentityConflict
        | ErrorReason::MergeSelf
        | ErrorReason::MergeCycle
        | ErrorReason::MergeNotReversible => StatusCode::BAD_REQUEST,
        ErrorReason::LimitExceeded if refusal.names_a_field() => StatusCode::BAD_REQUEST,
        ErrorReason::LimitExceeded => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorReason::ProfileNotFound
        | ErrorReason::AudienceNotFound
        | ErrorReason::SubscriptionNotFound
        | ErrorReason::MergeNotFound
        | ErrorReason::EventNotFound => StatusCode::NOT_FOUND,
        ErrorReason::ProfileExists
        | ErrorReason::AudienceExists
        | ErrorReason::SubscriptionExists
        | ErrorReason::IdentityTaken
        | ErrorReason::EtagMismatch
        | ErrorReason::SubscriptionTakenOver => StatusCode::CONFLICT,
        ErrorReason::SubscriberStalled
        | ErrorReason::Overloaded
        | ErrorReason::StorageFull
        | ErrorReason::RateLimited
        | ErrorReason::QuotaExceeded => StatusCode::TOO_MANY_REQUESTS,
        ErrorReason::ServerDraining
        | ErrorReason::StreamTooOld
        | ErrorReason::StorageFailed
        | ErrorReason::AuthenticationUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorReason::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        ErrorReason::MethodUnknown => StatusCode::NOT_IMPLEMENTED,
        ErrorReason::PermissionDenied => StatusCode::FORBIDDEN,
        ErrorReason::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorReason::EncodingUnsupported => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ErrorReason::RecordCorrupt | ErrorReason::Internal | ErrorReason::Unspecified => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}
