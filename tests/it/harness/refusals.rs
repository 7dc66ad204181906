//! What an error says.

use std::fmt::Debug;

use tonic::{Code, Status};
use tonic_types::{RpcStatusExt, StatusExt};

/// The domain of every reason.
const DOMAIN: &str = "cameo";

/// The reason of a failed call.
pub fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, DOMAIN);
    info.reason
}

/// The reason of an error inside a response.
pub fn reason_of(error: &tonic_types::pb::Status) -> String {
    let info = error.get_details_error_info().expect("ErrorInfo");
    assert_eq!(info.domain, DOMAIN);
    info.reason
}

/// The value under a key of the error's metadata; empty if there is none.
pub fn metadata(status: &Status, key: &str) -> String {
    status.get_details_error_info().unwrap().metadata.get(key).cloned().unwrap_or_default()
}

/// The field that a refusal names.
#[track_caller]
pub fn violated_field(status: &Status) -> String {
    let violations = status.get_details_bad_request().map(|details| details.field_violations).unwrap_or_default();
    let [violation] = &*violations else { panic!("it should name one field: {status:?}") };
    violation.field.clone()
}

/// Asserts the code and the reason, and that the details name `field` unless that is empty.
#[track_caller]
pub fn assert_refused<T: Debug>(response: Result<T, Status>, code: Code, expected: &str, field: &str) {
    let status = response.expect_err("it should be refused");
    assert_eq!((status.code(), &*reason(&status)), (code, expected), "{status:?}");
    let violations = status.get_details_bad_request().map(|details| details.field_violations).unwrap_or_default();
    let named: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert!(field.is_empty() || named == [field], "{named:?} instead of {field}: {status:?}");
}
