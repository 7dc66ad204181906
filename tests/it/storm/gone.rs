//! How a call fails when the server is restarted under it.

use std::error::Error;
use std::iter::successors;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Whether the server has gone: it says that it drains, or the connection failed. Any other refusal is a fault.
pub fn is_gone(status: &Status) -> bool {
    match status.get_details_error_info() {
        Some(said) => said.reason == "SERVER_DRAINING",
        None => is_of_the_connection(status),
    }
}

/// What tonic's client makes of a connection that ends.
fn is_of_the_connection(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::Unknown | Code::Cancelled => true,
        // A call that begins while GOAWAY arrives: the client's HTTP/2 has room for it, and then refuses to send it.
        Code::Internal => has_left_in_order(status),
        _ => false,
    }
}

/// Whether the server left with a GOAWAY that names no error.
fn has_left_in_order(status: &Status) -> bool {
    let causes = successors(status.source(), |cause| (**cause).source());
    let mut reasons = causes.filter_map(|cause| cause.downcast_ref::<h2::Error>()).filter(|error| error.is_go_away());
    reasons.any(|error| error.reason() == Some(h2::Reason::NO_ERROR))
}
