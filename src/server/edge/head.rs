//! What the head of a request must be before anything looks at its body.

use http::header::{CONTENT_TYPE, HOST};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Version};

use crate::refusal::Refusal;

const GRPC: [&str; 2] = ["application/grpc", "application/grpc+proto"];
/// What the headers of a usual request weigh at most. It is not counted.
pub(super) const USUAL_WEIGHT: usize = 3 << 10;
/// What a header takes in memory beside its name and its value.
const HEADER_COST: usize = 100;
const GRPC_WEB: [&str; 4] = [
    "application/grpc-web",
    "application/grpc-web+proto",
    "application/grpc-web-text",
    "application/grpc-web-text+proto",
];

/// Who serves a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Grpc,
    GrpcWeb,
    /// The Profile API, and paths that lead nowhere.
    Http,
}

/// Why a request fits none of the protocols. It is refused over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreign {
    /// gRPC uses POST only.
    Method,
    /// The content type is not one of gRPC's.
    ContentType,
    /// gRPC needs HTTP/2.
    Version,
}

/// Finds the protocol of a request, by its path and its content type.
///
/// A browser lets any web page send us requests of the common content types without asking first. None of them reaches
/// a gRPC service.
pub(super) fn protocol<B>(request: &Request<B>, preflights: bool) -> Result<Protocol, Foreign> {
    let kind = media_type(request.headers().get(CONTENT_TYPE));
    let is = |kinds: &[&str]| kind.is_some_and(|kind| kinds.iter().any(|known| kind.eq_ignore_ascii_case(known)));
    let is_grpc = is(&GRPC);
    if !is_grpc && !is_service(request.uri().path()) {
        return Ok(Protocol::Http);
    }
    if preflights && request.method() == Method::OPTIONS {
        return Ok(Protocol::GrpcWeb);
    }
    if request.method() != Method::POST {
        return Err(Foreign::Method);
    }
    if is(&GRPC_WEB) {
        return Ok(Protocol::GrpcWeb);
    }
    if !is_grpc {
        return Err(Foreign::ContentType);
    }
    if request.version() == Version::HTTP_2 { Ok(Protocol::Grpc) } else { Err(Foreign::Version) }
}

/// Whether a refusal must be a status of gRPC: the client spoke gRPC over HTTP/2.
pub(super) fn speaks_grpc<B>(request: &Request<B>) -> bool {
    let kind = media_type(request.headers().get(CONTENT_TYPE)).unwrap_or_default();
    request.version() == Version::HTTP_2 && GRPC.iter().any(|known| kind.eq_ignore_ascii_case(known))
}

/// Writes the content type of gRPC-Web as tonic-web knows it: lower case, without parameters.
pub(super) fn normalise<B>(request: &mut Request<B>) {
    let kind = media_type(request.headers().get(CONTENT_TYPE)).unwrap_or_default();
    if let Some(known) = GRPC_WEB.iter().find(|known| kind.eq_ignore_ascii_case(known)) {
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(known));
    }
}

/// Whether a path belongs to a gRPC service: `/package.Service/Method`.
pub(super) fn is_service(path: &str) -> bool {
    path.split('/').nth(1).is_some_and(|service| service.contains('.'))
}

fn media_type(value: Option<&HeaderValue>) -> Option<&str> {
    let value = value?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim())
}

/// What the headers of a request take in memory, in bytes.
pub(super) fn weight(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| HEADER_COST + name.as_str().len() + value.len()).sum()
}

/// Which hosts a request may name.
#[derive(Debug, Clone)]
pub(in crate::server) enum Hosts {
    Any,
    /// Loopback names and addresses, and these.
    LoopbackAnd(Vec<String>),
}

impl Hosts {
    /// Checks that a request names one host, and one that is served.
    ///
    /// A web page can have its own domain point to a loopback address (DNS rebinding). The browser then takes this
    /// server for the page's own, but it still names the domain as the host.
    pub fn check<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let host = host(request)?;
        let Self::LoopbackAnd(more) = self else { return Ok(()) };
        let is_named = |authority: &Authority| is_allowed(authority, more);
        let is_host = |host: &HeaderValue| host.as_bytes().try_into().is_ok_and(|host| is_named(&host));
        // One of them is there.
        if request.uri().authority().is_none_or(is_named) && host.is_none_or(is_host) {
            Ok(())
        } else {
            Err(Refusal::host_not_served())
        }
    }
}

/// The Host header. HTTP/1.1 must have exactly one; HTTP/2 has `:authority` instead, or both.
fn host<B>(request: &Request<B>) -> Result<Option<&HeaderValue>, Refusal> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let first = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::host_invalid("the request has more than one Host"));
    }
    if first.is_none() && request.uri().authority().is_none() {
        return Err(Refusal::host_invalid("the request has no Host"));
    }
    if first.is_none() && request.version() < Version::HTTP_2 {
        return Err(Refusal::host_invalid("the request has no Host"));
    }
    Ok(first)
}

fn is_allowed(authority: &Authority, more: &[String]) -> bool {
    if authority.as_str().contains('@') {
        return false; // A user's name could look like a host.
    }
    let host = authority.host();
    let host = host.strip_suffix('.').unwrap_or(host);
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let address = address.parse::<std::net::IpAddr>();
    address.is_ok_and(|address| address.to_canonical().is_loopback())
        || host.eq_ignore_ascii_case("localhost")
        || host.to_ascii_lowercase().ends_with(".localhost")
        || more.iter().any(|allowed| allowed.eq_ignore_ascii_case(host))
}
