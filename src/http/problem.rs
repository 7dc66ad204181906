//! A refusal as a problem document (RFC 9457), made of the status that gRPC would answer.

use std::collections::BTreeMap;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use http_body_util::LengthLimitError;
use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::grpc::status;
use crate::model::Invalid;
use crate::store::StoreError;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Why a request is refused.
pub(super) struct Problem {
    status: StatusCode,
    cause: Status,
}

/// What stands in the document. `reason`, `metadata` and `errors` are extensions: the `ErrorInfo` and `BadRequest` of
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
        Self { status: StatusCode::NOT_FOUND, cause: status::method_unknown("no such resource") }
    }

    pub fn method_not_allowed() -> Self {
        Self {
            status: StatusCode::METHOD_NOT_ALLOWED,
            cause: status::method_unknown("the resource has no such method"),
        }
    }

    pub fn body_too_slow() -> Self {
        let cause = status::deadline_exceeded("the body did not arrive in time");
        Self { status: StatusCode::REQUEST_TIMEOUT, cause }
    }

    pub fn body_too_large(limit: usize) -> Self {
        Self { status: StatusCode::PAYLOAD_TOO_LARGE, cause: status::body_too_large(limit) }
    }

    /// It went on past the limit, or ended before its end.
    pub fn body_refused(error: &axum::Error, limit: usize) -> Self {
        let too_large = std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<LengthLimitError>);
        if too_large { Self::body_too_large(limit) } else { Invalid::field("body", "is malformed or cut short").into() }
    }
}

impl From<Status> for Problem {
    fn from(cause: Status) -> Self {
        Self { status: http_status(cause.code()), cause }
    }
}

impl From<Invalid> for Problem {
    fn from(error: Invalid) -> Self {
        Status::from(error).into()
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Status::from(error).into()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let details = self.cause.get_error_details();
        let info = details.error_info();
        let metadata = info.into_iter().flat_map(|info| &info.metadata);
        let errors = details.bad_request().into_iter().flat_map(|bad| &bad.field_violations);
        let document = Document {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            detail: self.cause.message(),
            reason: info.map_or("", |info| &info.reason),
            metadata: metadata.map(|(key, value)| (key.as_str(), value.as_str())).collect(),
            errors: errors.map(|error| FieldError { field: &error.field, description: &error.description }).collect(),
        };
        let body = serde_json::to_vec(&document).expect("keys are strings, and a Vec takes any length");
        let headers = [(header::CONTENT_TYPE, PROBLEM_JSON), (header::CACHE_CONTROL, NO_STORE)];
        let mut response = (self.status, headers, body).into_response();
        let retry = details.retry_info().and_then(|retry| retry.retry_delay);
        if let Some(delay) = retry {
            let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, seconds.max(1).into());
        }
        response
    }
}

/// As google.rpc.Code maps them.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded | Code::Cancelled => StatusCode::GATEWAY_TIMEOUT,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
