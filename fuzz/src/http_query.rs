//! Target: any HTTP request to the Profile API, written as HTTP writes it: a line with the method and the path with its
//! query, lines with headers, an empty line, and the body.
//!
//! - Nothing panics, and no request takes long.
//! - No request is a failure of the server.
//! - What is returned is JSON, and a profile has an etag.

use axum::body::Body;
use http::header::{CONTENT_ENCODING, ETAG};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};

use super::service::SERVICE;

pub fn run(input: &[u8]) {
    let Some(request) = parse(input) else { return };
    let is_head = request.method() == Method::HEAD;
    let (response, body) = SERVICE.http(request);

    let status = response.status();
    let is_unchanged = status == StatusCode::NOT_MODIFIED;
    assert!(!status.is_server_error(), "{status}");
    assert_eq!(response.headers().contains_key(ETAG), status.is_success() || is_unchanged, "{status}");
    if is_unchanged || is_head {
        assert!(body.is_empty(), "it has no body");
    } else if !response.headers().contains_key(CONTENT_ENCODING) {
        let json: serde_json::Value = serde_json::from_slice(&body).expect("it is JSON");
        assert!(json.is_object(), "{json}");
    }
}

/// `None` if no client can send it.
fn parse(input: &[u8]) -> Option<Request<Body>> {
    let (head, body) = halves(input);
    let mut lines = head.split(|byte| *byte == b'\n');
    let first = lines.next()?;
    let space = first.iter().position(|byte| *byte == b' ')?;
    let mut request = Request::new(Body::from(body.to_vec()));
    *request.method_mut() = Method::from_bytes(&first[..space]).ok()?;
    *request.uri_mut() = Uri::try_from(&first[space + 1..]).ok()?;
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        request.headers_mut().append(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?);
    }
    Some(request)
}

/// What is before the first empty line, and what is after it.
fn halves(input: &[u8]) -> (&[u8], &[u8]) {
    match input.windows(2).position(|two| two == b"\n\n") {
        Some(end) => (&input[..end], &input[end + 2..]),
        None => (input, &[]),
    }
}
