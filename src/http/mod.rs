//! mParticle's Profile API over HTTP: our lookups, with its paths and its JSON.
//!
//! - `GET|HEAD|POST /userprofile/v1/{org}/{account}/{workspace}/{mpid}?fields=…&mpid_as=string`
//! - `POST /userprofile/v1/resolve/{org}/{account}/{workspace}` with an identity in the body. So profiles of an org
//!   that is named `resolve` can be looked up over gRPC only.
//!
//! [`ops`] is for operators, on a listener of its own.
//!
//! `rate` counts requests before anything else looks at them, `query` parses them, `profile` writes the JSON, and
//! `problem` renders a refusal. This module only reads: changes go through gRPC.

pub mod ops;
mod problem;
mod profile;
mod query;
mod rate;

use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::rejection::{PathRejection, RawPathParamsRejection};
use axum::extract::{Path, RawPathParams, RawQuery, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use prost::Message;
use tokio_util::sync::CancellationToken;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::SizeAbove;
use xxhash_rust::xxh3::xxh3_128;

use crate::call::Call;
use crate::compression::Encoding;
use crate::model::{Invalid, Limits, Mask, Mpid, ProfileKey, Workspace};
use crate::proto::v1::Profile;
use crate::refusal::Refusal;
use crate::store::{Found, Store, StoreError};
pub use problem::NoRoomForBody;
use problem::Problem;
use query::{Query, Resolve};
use rate::Rates;

const LOOKUP: &str = "/userprofile/v1/{org}/{account}/{workspace}/{mpid}";
const RESOLVE: &str = "/userprofile/v1/resolve/{org}/{account}/{workspace}";
/// What the body of a request may be compressed with.
const ENCODINGS: [&str; 3] = ["identity", "gzip", "zstd"];
/// The size from which a response is compressed, in bytes. Below it, compression costs more than it saves.
const COMPRESS_FROM: u64 = 1024;
/// How long to wait for the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// A profile belongs to one person and may change at any time. So only the caller's own cache may keep it, and that
/// cache must ask again before it uses it.
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("private, no-cache");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What the handlers share.
#[derive(Debug)]
struct Api {
    store: Arc<Store>,
    limits: Limits,
    /// How often requests may come. `None` for no limit.
    rates: Option<Rates>,
    /// Cancelled when the server shuts down.
    stop: CancellationToken,
}

/// The routes. `requests_per_second` is the rate of each workspace, and of all requests that name no workspace that
/// exists and that the caller may use; 0 for no limit. Bodies are not waited for once `stop` is cancelled.
pub fn router(store: Arc<Store>, limits: Limits, requests_per_second: u32, stop: CancellationToken) -> Router {
    let rates = NonZeroU32::new(requests_per_second).map(Rates::new);
    routes(Arc::new(Api { store, limits, rates, stop }))
}

fn routes(api: Arc<Api>) -> Router {
    Router::new()
        .route(RESOLVE, post(resolve))
        .route(LOOKUP, get(lookup).post(lookup))
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .fallback(|| async { Problem::no_such_resource() })
        .layer(CompressionLayer::new().compress_when(SizeAbove::new(COMPRESS_FROM)))
        .layer(from_fn(encodings))
        .layer(from_fn_with_state(Arc::clone(&api), limit_rate))
        .with_state(api)
}

/// Counts every request of the API, before any part of it but the path is parsed.
async fn limit_rate(
    State(api): State<Arc<Api>>,
    path: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    if let Some(rates) = &api.rates {
        let workspace = path.ok().as_ref().and_then(named_workspace).filter(|workspace| may_use(&request, workspace));
        rates.check(workspace.and_then(|workspace| api.store.workspace_id(&workspace)))?;
    }
    Ok(next.run(request).await)
}

/// Whether the caller may use a workspace. If not, its requests must not use up the rate of that workspace, nor tell
/// whether it exists.
fn may_use(request: &Request, workspace: &Workspace) -> bool {
    let call = request.extensions().get::<Arc<Call>>();
    call.and_then(|call| call.caller()).is_some_and(|caller| caller.may_use(workspace))
}

/// The workspace that a path names; `None` if it names none, or not a valid one.
fn named_workspace(path: &RawPathParams) -> Option<Workspace> {
    let part = |wanted: &str| path.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value);
    let parts = [part("org")?, part("account")?, part("workspace")?];
    Workspace::parse(&parts.join("/")).ok()
}

/// Refuses a body whose encoding is not known, and weakens the etag of a response that was compressed: the etag is of
/// the plain bytes.
async fn encodings(mut request: Request, next: Next) -> Response {
    let mut encodings = request.headers().get_all(header::CONTENT_ENCODING).iter();
    if let Some(encoding) = encodings.next() {
        let is_only = encodings.next().is_none();
        let known =
            ENCODINGS.iter().find(|known| is_only && encoding.as_bytes().eq_ignore_ascii_case(known.as_bytes()));
        let Some(known) = known else {
            return Problem::from(Refusal::content_encoding_unsupported()).into_response();
        };
        // The routes know only lower case.
        request.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(known));
    }
    let mut response = next.run(request).await;
    if response.headers().contains_key(header::CONTENT_ENCODING)
        && let Some(etag) = response.headers().get(header::ETAG)
        && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", etag.as_bytes()].concat())
    {
        response.headers_mut().insert(header::ETAG, weak);
    }
    response
}

/// A status as metrics name it.
#[must_use]
pub fn status_name(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200 => "200",
        204 => "204",
        304 => "304",
        400 => "400",
        401 => "401",
        403 => "403",
        404 => "404",
        405 => "405",
        408 => "408",
        409 => "409",
        413 => "413",
        415 => "415",
        429 => "429",
        500 => "500",
        501 => "501",
        503 => "503",
        504 => "504",
        _ => "other",
    }
}

/// The response to a request that is refused before it reaches a route. `status` is what the reason's would be, unless
/// it is given.
#[must_use]
pub fn refused(refusal: Refusal, status: Option<StatusCode>) -> Response {
    Problem::with_status(refusal, status).into_response()
}

async fn lookup(
    State(api): State<Arc<Api>>,
    Extension(call): Extension<Arc<Call>>,
    path: Result<Path<[String; 4]>, PathRejection>,
    RawQuery(query): RawQuery,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Path([org, account, workspace, mpid]) = path.map_err(not_text)?;
    let workspace = Workspace::parse(&[org, account, workspace].join("/"))?;
    let query = Query::parse(query.as_deref())?;
    let key = ProfileKey::Mpid(parse_mpid(&mpid)?);
    let (etag, body) = api.find(&call, &workspace, &key, &query)?;
    let conditional = method != Method::POST;
    if conditional && headers.get_all(header::IF_NONE_MATCH).iter().any(|condition| matches(condition, &etag)) {
        // A stream, and not an empty body: that would say `content-length: 0`, which is not the length of the profile.
        let nothing = Body::from_stream(stream::empty::<Result<Bytes, Infallible>>());
        return Ok((StatusCode::NOT_MODIFIED, validators(etag), nothing).into_response());
    }
    Ok((validators(etag), [(header::CONTENT_TYPE, JSON)], body).into_response())
}

async fn resolve(
    State(api): State<Arc<Api>>,
    Extension(call): Extension<Arc<Call>>,
    path: Result<Path<[String; 3]>, PathRejection>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, Problem> {
    let Path(workspace) = path.map_err(not_text)?;
    let workspace = Workspace::parse(&workspace.join("/"))?;
    let query = Query::parse(query.as_deref())?;
    let body = api.read_body(request).await?;
    call.counts(body.len());
    let key = Resolve::parse(&body, &api.limits)?;
    key.check_within("identity", call.grant())?;
    let (etag, body) = api.find(&call, &workspace, &key, &query)?;
    Ok((validators(etag), [(header::CONTENT_TYPE, JSON)], body).into_response())
}

/// `str::parse` would take `+7`, which is not how an mpid is written.
fn parse_mpid(text: &str) -> Result<Mpid, Invalid> {
    let written = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    let mpid = text.parse().ok().filter(|_| written);
    Mpid::parse("mpid", mpid.ok_or_else(|| Invalid::field("mpid", "must be a 64-bit integer"))?)
}

fn validators(etag: HeaderValue) -> [(HeaderName, HeaderValue); 2] {
    [(header::ETAG, etag), (header::CACHE_CONTROL, CACHE_CONTROL)]
}

fn not_text(_: PathRejection) -> Invalid {
    Invalid::field("path", "must be UTF-8 when its escapes are decoded")
}

impl Api {
    /// Reads the body. A body whose length is over the limit is refused at once.
    async fn read_body(&self, request: Request) -> Result<Bytes, Problem> {
        let limit = self.limits.request_bytes;
        let encoding = request.headers().get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes);
        let encoding = encoding.and_then(Encoding::named);
        let body = request.into_body();
        if body.size_hint().lower() > limit as u64 {
            return Err(Refusal::body_too_large(limit).into());
        }
        let body = tokio::select! {
            body = axum::body::to_bytes(body, limit) => body.map_err(|error| Problem::body_refused(&error, limit))?,
            () = tokio::time::sleep(BODY_TIMEOUT) => return Err(Problem::body_too_slow()),
            () = self.stop.cancelled() => return Err(Refusal::draining().into()),
        };
        let Some(encoding) = encoding else { return Ok(body) };
        let mut plain = Vec::new();
        match encoding.inflate(&body, limit, &mut plain) {
            Ok(length) if length > limit => Err(Refusal::body_too_large(limit).into()),
            Ok(_) => Ok(plain.into()),
            Err(_) => Err(Problem::body_malformed()),
        }
    }

    /// The profile as JSON, and its etag.
    fn find(
        &self,
        call: &Call,
        workspace: &Workspace,
        key: &ProfileKey,
        query: &Query,
    ) -> Result<(HeaderValue, Vec<u8>), Refusal> {
        call.within(workspace).map_err(|refusal| call.refuse(refusal))?;
        query.check_within(call.grant())?;
        let visible = Mask::parse(None, Vec::new(), call.grant())?;
        let decode = |found: Found<'_>| Profile::decode(&*visible.profile(found.profile)?);
        let profile = self.store.find(workspace, key, decode);
        let profile = profile.and_then(|profile| profile.map_err(|_| StoreError::corrupt("profile")));
        let profile = profile.map_err(|error| call.refuse(error))?;
        let body = profile::to_json(&profile, query, call.grant());
        Ok((etag(&body), body))
    }
}

/// The etag of the bytes of a response. So it also changes when a membership expires, and the profile's own etag does
/// not.
fn etag(body: &[u8]) -> HeaderValue {
    HeaderValue::try_from(format!("\"{:032x}\"", xxh3_128(body))).expect("hexadecimal digits are a header's value")
}

/// Whether a line of `If-None-Match` names the etag, by the weak comparison of RFC 9110.
fn matches(condition: &HeaderValue, etag: &HeaderValue) -> bool {
    let (condition, etag) = (condition.to_str().unwrap_or_default(), etag.to_str().unwrap_or_default());
    let mut tags = condition.split(',').map(str::trim).map(|tag| tag.strip_prefix("W/").unwrap_or(tag));
    condition.trim() == "*" || tags.any(|tag| tag == etag)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use tower::ServiceExt;

    use super::*;
    use crate::config::Config;

    /// Made-up names share one rate. A rate for each name would let a flood of names take any amount of memory.
    #[tokio::test]
    async fn a_made_up_workspace_takes_no_memory() {
        const NAMES: usize = 300;
        let dir = TempDir::new().unwrap();
        let mut config = Config::default().store;
        config.data_dir = dir.path().to_owned();
        let store = Arc::new(Store::open(&config, |_, _| {}).unwrap());
        let rates = NonZeroU32::new(1).map(Rates::new);
        let (limits, stop) = (Limits::default(), CancellationToken::new());
        let api = Arc::new(Api { store, limits, rates, stop });
        let mut refused = 0;
        for name in 0..NAMES {
            let request = Request::get(format!("/userprofile/v1/acme/main/w{name}/1")).body(Body::empty()).unwrap();
            let response = routes(Arc::clone(&api)).oneshot(request).await.unwrap();
            refused += usize::from(response.status() == StatusCode::TOO_MANY_REQUESTS);
        }
        assert!(refused > 0, "the names share a rate");
        assert_eq!(api.rates.as_ref().unwrap().workspaces(), 0);
        api.store.close().await;
    }
}
